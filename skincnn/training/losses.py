"""Losses from logits, with the class weights inside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("skincnn")
class WeightedCrossEntropy(keras.losses.Loss):
    """Softmax cross-entropy of integer labels, each picture weighted by its class.

    loss(y, z) = -weights[y] * log softmax(z + shift)[y], averaged over the batch's
    pictures. With weights of 1 and no shift it is
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`.
    """

    def __init__(
        self,
        class_weights: Iterable[float],
        logit_shift: Iterable[float] | None = None,
        name: str = "loss",
        **kwargs: Any,
    ):
        """Stores the weights and the shift.

        Args:
            class_weights: The weight of each class, [num_classes], not negative.
            logit_shift: What is added to the logits, [num_classes]; None for nothing.
            name: The loss's name.
            **kwargs: Passed to `keras.losses.Loss`.
        """
        super().__init__(name=name, **kwargs)
        self.class_weights = [float(weight) for weight in class_weights]
        self.logit_shift = None if logit_shift is None else [float(x) for x in logit_shift]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each picture, [batch].

        Args:
            y_true: Integer labels [batch] or [batch, 1].
            y_pred: Logits [batch, num_classes].
        """
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        if self.logit_shift is not None:
            y_pred = y_pred + ops.convert_to_tensor(self.logit_shift, dtype=y_pred.dtype)
        losses = ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
        weights = ops.convert_to_tensor(self.class_weights, dtype=losses.dtype)
        return losses * ops.take(weights, labels)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "class_weights": self.class_weights,
            "logit_shift": self.logit_shift,
        }
