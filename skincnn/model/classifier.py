"""The classifier: pictures in 0..255 to logits."""

from __future__ import annotations

from typing import Any

import keras

from skincnn.config import ModelConfig
from skincnn.model.backbones import BACKBONES, build_backbone

BACKBONE_LAYER = "backbone"


def build_classifier(
    config: ModelConfig, num_classes: int, *, seed: int = 0, fused: bool = False
) -> keras.Model:
    """Returns a model from pictures to logits.

    Input: [batch, height, width, 3] in 0..255, any size that the backbone accepts; the
    backbone's own scaling is inside. Output: float32 logits [batch, num_classes].

    Args:
        config: The backbone, its weights and the dropout.
        num_classes: Number of logits.
        seed: Seed of the head's first weights and of dropout.
        fused: Whether BatchNorm layers are `FusedBatchNormalization`. Such a model has
            the same weights in the same order; it is faster to train, and its saved
            file needs this package to be read.

    Raises:
        ConfigError: The backbone or its weights are not to be had.
    """
    keras.utils.set_random_seed(seed)
    network = _with_batch_norm(
        build_backbone(config.backbone, config.width, config.weights),
        FusedBatchNormalization if fused else keras.layers.BatchNormalization,
        config.batch_norm_momentum,
    )
    entry = BACKBONES[config.backbone]
    inputs = keras.Input((None, None, 3), name="images")
    features = keras.layers.Rescaling(entry.scale, entry.offset)(inputs)
    features = keras.layers.GlobalAveragePooling2D()(network(features))
    features = keras.layers.Dropout(config.dropout, seed=seed)(features)
    logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")(features)
    return keras.Model(inputs, logits, name="classifier")


def set_trainable(
    classifier: keras.Model, *, backbone: bool, batch_norm: str = "train"
) -> None:
    """Chooses what trains: the head alone, or the backbone as well.

    Args:
        classifier: A model of `build_classifier`; compile it after this call.
        backbone: Whether the backbone's weights train.
        batch_norm: With "frozen", BatchNorm layers keep their moving statistics and
            their weights even when the backbone trains.
    """
    # `training=False` at the call would be overridden by fit(); a BatchNorm layer whose
    # `trainable` is False runs in inference mode.
    network = classifier.get_layer(BACKBONE_LAYER)
    network.trainable = backbone
    if backbone and batch_norm == "frozen":
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False


@keras.saving.register_keras_serializable("skincnn")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization that trains by TensorFlow's fused kernel, two to three times
    as fast on a CPU as the separate operations of Keras.

    The same weights, outputs and gradients as `keras.layers.BatchNormalization`. Falls
    back to it where there is no such kernel: other backends, other axes than the last,
    mixed precision, inference.
    """  # noqa: D205

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalises `inputs` [batch, height, width, channels]."""
        if not (
            training
            and self.trainable
            and mask is None
            and keras.backend.backend() == "tensorflow"
            and self.compute_dtype == "float32"
            and self.axis in (-1, 3)
            and self.scale
            and self.center
        ):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        # The kernel returns the unbiased variance (n - 1); Keras keeps the biased one.
        count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
        for moving, batch in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * (count - 1) / count),
        ):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


def _with_batch_norm(
    network: keras.Model, kind: type[keras.layers.BatchNormalization], momentum: float
) -> keras.Model:
    """Returns a copy of `network` with other BatchNorm layers and the same weights."""

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            return kind.from_config({**config, "momentum": momentum})
        return type(layer).from_config(config)

    copy = keras.models.clone_model(network, clone_function=clone)
    copy.set_weights(network.get_weights())
    copy.name = BACKBONE_LAYER
    return copy
