"""Layers for training; a saved `model.keras` does not contain these layers."""

from __future__ import annotations

import functools
from typing import Any

import keras


@keras.saving.register_keras_serializable("skincnn")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization that trains with TensorFlow's fused kernel.

    On a CPU, the kernel is two to three times as fast as the separate operations of Keras.
    Weights, outputs and gradients equal those of `keras.layers.BatchNormalization` up to
    rounding. In all other cases, such as inference, frozen layers, mixed precision and
    other backends, this layer uses the operations of Keras.
    """

    frozen_statistics = False
    """Whether training uses the moving statistics and updates only scale and offset."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns normalized `inputs` [batch, height, width, channels]."""
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
        # The kernel returns the unbiased variance (n - 1); Keras tracks the biased one (n).
        count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
        for moving, batch in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * (count - 1) / count),
        ):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


@keras.saving.register_keras_serializable("skincnn")
class FreezableDropout(keras.layers.Dropout):
    """Dropout that runs in inference mode if `trainable` is False, like BatchNormalization.

    `fit` calls all layers with `training=True`. With `keras.layers.Dropout`, the features
    of a frozen network would therefore be random.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns `inputs`, with dropout in training if the layer is trainable."""
        return super().call(inputs, training=training and self.trainable)


def training_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns a new layer for training that has the configuration of `layer`.

    The weights are not copied. BatchNormalization and Dropout layers are replaced by the
    layers of this module; other layers keep their type. In EfficientNet, Dropout layers
    implement stochastic depth (Huang et al., 2016, arXiv:1603.09382). If `layer` is a model
    of another package, its dropout and stochastic depth layers are made to run in inference
    mode if they are not trainable; its other layers are unchanged.
    """
    replacements: dict[Any, Any] = {
        keras.layers.BatchNormalization: FusedBatchNormalization,
        keras.layers.Dropout: FreezableDropout,
    }
    copy = replacements.get(type(layer), type(layer)).from_config(layer.get_config())
    if isinstance(copy, keras.Model):
        for part in copy._flatten_layers():
            if "Drop" in type(part).__name__:
                part.call = functools.partial(_call_if_trainable, part, part.call)
    return copy


def _call_if_trainable(
    layer: keras.layers.Layer, call: Any, inputs: Any, training: bool | None = None
) -> Any:
    return call(inputs, training=training and layer.trainable)
