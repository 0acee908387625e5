"""The model in training: augmentation, mixing and the classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from skincnn.model.classifier import IMAGES_LAYER
from skincnn.model.random_ops import Tensor

PARTS = ("augmentation", "classifier", "mixing")
"""Arguments of the constructor that are Keras objects."""


@keras.saving.register_keras_serializable("skincnn")
class AugmentedClassifier(keras.Model):
    """A classifier that augments and, with `mixing`, mixes its training images.

    Inputs are images [batch, height, width, 3] in 0..255; or a tuple or list with the
    images first; or a dictionary with the images under "images". Other inputs, float
    [batch, ...], are passed to the classifier and mixed like the images.

    The output is the logits of the classifier [batch, num_classes]. In training with
    `mixing` it is a dictionary of `logits`, `partner` and `share` (see `Mixing`).
    """

    def __init__(
        self,
        augmentation: keras.layers.Layer,
        classifier: keras.Model,
        mixing: keras.layers.Layer | None = None,
        **kwargs: Any,
    ):
        """Stores `Augmentation`, a model from the inputs to logits, and `Mixing` or None.

        Mixing turns integer labels into soft labels [batch, num_classes] for the loss.
        """
        # Half precision would round the images before augmentation. The classifier has its
        # own dtype policy.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.augmentation = augmentation
        self.classifier = classifier
        self.mixing = mixing

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the output described in the class."""
        images = self.augmentation(_images(inputs), training=training)
        if self.mixing is None or not training:
            return self.classifier(_replace(inputs, images), training=training)
        images, partner, share = self.mixing(images, training=training)

        def mix(values: Tensor) -> Tensor:
            return _mix(ops.cast(values, "float32"), partner, share)

        logits = self.classifier(_replace(inputs, images, mix), training=training)
        return {"logits": logits, "partner": partner, "share": share}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Returns the loss; with `mixing`, for soft labels.

        The labels `y` are integers [batch], or soft labels [batch, num_classes].
        """
        if self.mixing is not None:
            y = _soft_labels(y, y_pred)
        return super().compute_loss(x, y, _logits(y_pred), sample_weight, training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Returns the metrics of the logits for the original, unmixed labels."""
        return super().compute_metrics(x, y, _logits(y_pred), sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        serialize = keras.saving.serialize_keras_object
        parts = {name: serialize(getattr(self, name)) for name in PARTS}
        return {"name": self.name, **parts}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> AugmentedClassifier:
        """Returns the model with the given `get_config`."""
        deserialize = keras.saving.deserialize_keras_object
        parts = {name: deserialize(config[name]) for name in PARTS}
        return cls(**{**config, **parts})


def _images(inputs: Any) -> Tensor:
    if isinstance(inputs, dict):
        return inputs[IMAGES_LAYER]
    return inputs[0] if isinstance(inputs, list | tuple) else inputs


def _replace(
    inputs: Any,
    images: Tensor,
    convert: Callable[[Tensor], Tensor] = lambda values: values,
) -> Any:
    """Returns `inputs` with these images, and `convert` applied to all other inputs."""
    if isinstance(inputs, dict):
        return {
            name: images if name == IMAGES_LAYER else convert(values)
            for name, values in inputs.items()
        }
    if isinstance(inputs, list | tuple):
        return type(inputs)([images, *map(convert, inputs[1:])])
    return images


def _logits(outputs: Any) -> Tensor:
    return outputs["logits"] if isinstance(outputs, dict) else outputs


def _soft_labels(labels: Tensor, outputs: Any) -> Tensor:
    """Returns the labels of (mixed) outputs, float32 [batch, num_classes]."""
    num_classes = _logits(outputs).shape[-1]
    if len(labels.shape) < 2 or labels.shape[-1] != num_classes:
        labels = ops.one_hot(ops.reshape(labels, (-1,)), num_classes)
    labels = ops.cast(labels, "float32")
    if not isinstance(outputs, dict):
        return labels
    return _mix(labels, outputs["partner"], outputs["share"])


def _mix(values: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Returns values [batch, ...] mixed with those of their partners."""
    share = ops.reshape(share, (-1,) + (1,) * (len(values.shape) - 1))
    return share * values + (1 - share) * ops.take(values, partner, axis=0)
