"""Layers of the copy of a network that is trained; none is in a saved `model.keras`."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("skincnn")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization that trains by TensorFlow's fused kernel, two to three times
    as fast on a CPU as the separate operations of Keras.

    The same weights, outputs and gradients as `keras.layers.BatchNormalization`. Falls
    back to it where there is no such kernel: other backends, other axes than the last,
    mixed precision, inference.

    Attributes:
        frozen_statistics: Whether training, too, uses the moving statistics and leaves
            them as they are; scale and shift still train.
    """  # noqa: D205

    frozen_statistics = False

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalises `inputs` [batch, height, width, channels]."""
        training = training and not self.frozen_statistics
        if not (
            training
            and self.trainable
            and mask is None
            and keras.backend.backend() == "tensorflow"
            and self.compute_dtype == "float32"
            and self.axis in (-1, 3)
            and len(inputs.shape) == 4
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


@keras.saving.register_keras_serializable("skincnn")
class FreezableDropout(keras.layers.Dropout):
    """Dropout that rests while `trainable` is False, as BatchNormalization does.

    `fit` calls a frozen network with `training=True`, too, so that Keras's own Dropout
    would make its features random.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drops a share of `inputs` in training; scales the others up."""
        return super().call(inputs, training=training and self.trainable)


def training_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns a new layer like `layer`, without its weights, for a network that is trained.

    BatchNormalization becomes fused and Dropout freezable; EfficientNet's stochastic depth
    (Huang et al., 2016, arXiv:1603.09382) is such a Dropout. Others stay what they are.
    """
    kind = type(layer)
    if kind is keras.layers.BatchNormalization:
        kind = FusedBatchNormalization
    elif kind is keras.layers.Dropout:
        kind = FreezableDropout
    return kind.from_config(layer.get_config())
