"""The model that is trained: augmentation, mixing, and the classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from skincnn.model.random_ops import Tensor

IMAGES = "images"
"""The name of the pictures where inputs are a dictionary."""


@keras.saving.register_keras_serializable("skincnn")
class AugmentedClassifier(keras.Model):
    """A classifier whose training pictures are varied and, with `mixing`, mixed.

    Inputs are the pictures, [batch, height, width, 3] in 0..255; or a tuple or list whose
    first element they are; or a dictionary that holds them under "images". What else
    there is, float [batch, ...], goes to the classifier, mixed as the pictures are.

    The output is the classifier's logits [batch, num_classes], except in training with
    `mixing`: then a dictionary of `logits`, `partner` and `share` (see `Mixing`).
    """

    def __init__(
        self,
        augmentation: keras.layers.Layer,
        classifier: keras.Model,
        mixing: keras.layers.Layer | None = None,
        **kwargs: Any,
    ):
        """Stores the parts.

        Args:
            augmentation: Pictures in, float32 pictures out: `Augmentation`.
            classifier: From what `call` is given to logits.
            mixing: `Mixing`, or None. With it integer labels become soft ones, and the
                loss must take [batch, num_classes].
            **kwargs: Passed to `keras.Model`.
        """
        # A half precision here would round the pictures before they are varied; the
        # classifier has a policy of its own.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.augmentation = augmentation
        self.classifier = classifier
        self.mixing = mixing

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns logits; in training with `mixing`, what they are the logits of."""
        images = self.augmentation(_images(inputs), training=training)
        if self.mixing is None or not training:
            return self.classifier(_with(inputs, images), training=training)
        images, partner, share = self.mixing(images, training=training)

        def mixed(values: Tensor) -> Tensor:
            return _mixed(ops.cast(values, "float32"), partner, share)

        logits = self.classifier(_with(inputs, images, mixed), training=training)
        return {"logits": logits, "partner": partner, "share": share}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Returns the loss; with `mixing`, that of soft labels.

        Args:
            x: Not used.
            y: Integer labels [batch], or soft ones [batch, num_classes].
            y_pred: What `call` returned.
            sample_weight: A weight for each picture.
            training: Whether this is a training step.
        """
        if self.mixing is not None:
            y = _soft_labels(y, y_pred)
        return super().compute_loss(x, y, _logits(y_pred), sample_weight, training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Returns the metrics of the logits against the labels as they were given."""
        return super().compute_metrics(x, y, _logits(y_pred), sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "name": self.name,
            **{
                name: keras.saving.serialize_keras_object(getattr(self, name))
                for name in ("augmentation", "classifier", "mixing")
            },
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> AugmentedClassifier:
        """Returns the model that `get_config` described."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("augmentation", "classifier", "mixing")
        }
        return cls(**{**config, **parts})


def _images(inputs: Any) -> Tensor:
    if isinstance(inputs, dict):
        return inputs[IMAGES]
    return inputs[0] if isinstance(inputs, list | tuple) else inputs


def _with(
    inputs: Any, images: Tensor, other: Callable[[Tensor], Tensor] = lambda values: values
) -> Any:
    """Returns `inputs` with other pictures, and `other` of what is not pictures."""
    if isinstance(inputs, dict):
        return {
            name: images if name == IMAGES else other(values)
            for name, values in inputs.items()
        }
    if isinstance(inputs, list | tuple):
        return type(inputs)([images, *map(other, inputs[1:])])
    return images


def _logits(outputs: Any) -> Tensor:
    return outputs["logits"] if isinstance(outputs, dict) else outputs


def _soft_labels(labels: Tensor, outputs: Any) -> Tensor:
    """Returns the labels of what `outputs` belong to, float32 [batch, num_classes]."""
    num_classes = _logits(outputs).shape[-1]
    if len(labels.shape) < 2 or labels.shape[-1] != num_classes:
        labels = ops.one_hot(ops.reshape(labels, (-1,)), num_classes)
    labels = ops.cast(labels, "float32")
    if not isinstance(outputs, dict):
        return labels
    return _mixed(labels, outputs["partner"], outputs["share"])


def _mixed(values: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Returns `share` of each of `values` [batch, ...] and the rest of its partner's."""
    share = ops.reshape(share, (-1,) + (1,) * (len(values.shape) - 1))
    return share * values + (1 - share) * ops.take(values, partner, axis=0)
