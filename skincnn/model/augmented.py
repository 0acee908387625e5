"""The model for training: augmentation, mixing and the classifier."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from skincnn.model.classifier import IMAGES_LAYER
from skincnn.model.random_ops import Tensor

PARTS = ("augmentation", "classifier", "mixing")
"""Constructor arguments of `AugmentedClassifier` that are Keras objects."""


@keras.saving.register_keras_serializable("skincnn")
class AugmentedClassifier(keras.Model):
    """A classifier that augments its training images and, with `mixing`, mixes them.

    Inputs are images [batch, height, width, 3] in 0..255, or a dictionary of `images` and
    other inputs, [batch, ...]. Mixing also averages the other inputs of two images, with
    the weights `share` and 1 - `share`.

    The output is the classifier's logits [batch, num_classes]. In training with `mixing`,
    the output is a dictionary of `logits`, `partner` and `share` (see `Mixing`). With
    `mixing`, the loss must accept soft labels [batch, num_classes], also in validation.
    """

    def __init__(
        self,
        augmentation: keras.layers.Layer,
        classifier: keras.Model,
        mixing: keras.layers.Layer | None = None,
        **kwargs: Any,
    ):
        # Half precision would round float inputs before augmentation. The classifier has a
        # separate dtype policy.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.augmentation = augmentation
        self.classifier = classifier
        self.mixing = mixing

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the output; see `AugmentedClassifier`."""
        is_dict = isinstance(inputs, dict)
        others, pairs = dict(inputs) if is_dict else {}, {}
        images = others.pop(IMAGES_LAYER) if is_dict else inputs
        images = self.augmentation(images, training=training)
        if self.mixing is not None and training:
            images, partner, share = self.mixing(images, training=training)
            pairs = {"partner": partner, "share": share}
            others = {
                name: _mix(ops.cast(values, "float32"), partner, share)
                for name, values in others.items()
            }
        classifier_inputs = {IMAGES_LAYER: images, **others} if is_dict else images
        logits = self.classifier(classifier_inputs, training=training)
        return {"logits": logits, **pairs} if pairs else logits

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Returns the loss for labels [batch] or, in distillation, targets.

        Targets are [batch, num_targets]; see `skincnn.training.distillation.make_targets`.
        With `mixing`, labels become soft labels, and in training, labels and targets are
        mixed like the images.
        """
        if self.mixing is not None:
            y = _soft_labels(y, y_pred)
        return super().compute_loss(x, y, _logits(y_pred), sample_weight, training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Returns the metrics of the logits, computed with the labels before mixing."""
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
        """Returns a model with the configuration that `get_config` returned."""
        deserialize = keras.saving.deserialize_keras_object
        parts = {name: deserialize(config[name]) for name in PARTS}
        return cls(**{**config, **parts})


def _logits(outputs: Any) -> Tensor:
    return outputs["logits"] if isinstance(outputs, dict) else outputs


def _soft_labels(labels: Tensor, outputs: Any) -> Tensor:
    """Returns soft labels, mixed like the inputs, float32 [batch, num_classes].

    Targets [batch, num_targets] are mixed without one-hot encoding.
    """
    if len(labels.shape) < 2 or labels.shape[-1] == 1:
        labels = ops.one_hot(ops.reshape(labels, (-1,)), _logits(outputs).shape[-1])
    labels = ops.cast(labels, "float32")
    if not isinstance(outputs, dict):
        return labels
    return _mix(labels, outputs["partner"], outputs["share"])


def _mix(values: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Returns share * values + (1 - share) * values[partner], [batch, ...]."""
    share = ops.reshape(share, (-1,) + (1,) * (len(values.shape) - 1))
    return share * values + (1 - share) * ops.take(values, partner, axis=0)
