"""A small CNN, and conversions of the networks of Keras Applications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from skincnn.config import IMAGENET_MEAN, IMAGENET_STD
from skincnn.errors import ConfigError


def small_cnn(size: int | None, width: float, weights: str | None) -> keras.Model:
    """Returns a VGG-like network for training from scratch.

    The network has four stages of 32, 64, 128 and 256 filters times `width`, with 2x2 max
    pooling between the stages. Each stage consists of two 3x3 convolutions with BatchNorm
    and ReLU. With width 1, the network has 1.2 million parameters. `size` is the height and
    width of the images in pixels, or None for any. `weights` is ignored.

    References:
        Simonyan and Zisserman, Very deep convolutional networks (2014), arXiv:1409.1556;
        Ioffe and Szegedy, Batch normalization (2015), arXiv:1502.03167.
    """
    inputs = features = keras.Input((size, size, 3))
    for stage in range(4):
        if stage:
            features = keras.layers.MaxPooling2D(name=f"stage{stage}_pool")(features)
        for part in "ab":
            name = f"stage{stage + 1}{part}"
            features = keras.layers.Conv2D(
                max(1, round(32 * 2**stage * width)),
                3,
                padding="same",
                use_bias=False,
                kernel_initializer="he_normal",
                name=f"{name}_conv",
            )(features)
            features = keras.layers.BatchNormalization(name=f"{name}_bn")(features)
            features = keras.layers.ReLU(name=f"{name}_relu")(features)
    return keras.Model(inputs, features, name="small_cnn")


def clone(
    network: keras.Model,
    convert: Callable[[keras.layers.Layer], keras.layers.Layer] | None = None,
    **options: Any,
) -> keras.Model:
    """Returns a copy of a functional or sequential model with the same weights.

    `convert` maps each layer, also in nested models of Keras, to a new one with the same
    name and weight shapes; the last two axes of a weight may be swapped. See
    `keras.models.clone_model` for `options`.

    Raises:
        NotImplementedError, TypeError, ValueError: A layer of a custom backbone cannot be
            copied by its `get_config` and `from_config`.
    """
    clone_model = keras.models.clone_model
    convert = convert or (lambda layer: type(layer).from_config(layer.get_config()))

    def convert_nested(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model) and not is_opaque(layer):
            return clone_model(layer, clone_function=convert_nested)
        return convert(layer)

    copy = clone_model(network, clone_function=convert_nested, **options)
    for layer in copy.layers:
        if layer.weights:
            weights = network.get_layer(layer.name).get_weights()
            layer.set_weights(
                [
                    old if old.shape == tuple(new.shape) else old.swapaxes(-1, -2)
                    for old, new in zip(weights, layer.weights, strict=True)
                ]
            )
    return copy


def is_opaque(*layers: keras.layers.Layer) -> bool:
    """Returns whether any of the layers is of a class that is not part of Keras.

    If such a layer is a model, its parts cannot be rebuilt one by one: their `get_config`
    is often incomplete, such as that of `ViTEncoderBlock` in KerasHub.
    """
    return any(type(layer).__module__.split(".")[0] != "keras" for layer in layers)


def set_imagenet_normalization(network: keras.Model) -> keras.Model:
    """Sets the normalization of an EfficientNet to that of ImageNet; returns the network.

    Without ImageNet weights, Keras normalizes with mean 0 and variance 1.
    """
    # The ImageNet weights contain the standard deviation in place of the variance. Keras
    # compensates for this with a layer that divides by the square root of the standard
    # deviation, but only for ImageNet weights (tensorflow/tensorflow issue 49930).
    _normalization(network).set_weights(
        [np.array(IMAGENET_MEAN), np.array(IMAGENET_STD), np.array(0)]
    )
    return network


def remove_normalization(network: keras.Model) -> keras.Model:
    """Returns an EfficientNet without its rescaling and normalization layers.

    Keras builds these layers differently with and without ImageNet weights.

    Raises:
        ConfigError: The normalization layer does not have the values of ImageNet.
    """
    mean, variance, _ = _normalization(network).get_weights()
    if not np.allclose([mean, variance], [IMAGENET_MEAN, IMAGENET_STD], atol=1e-3):
        raise ConfigError(
            f"The weights of {network.name} were trained with a different normalization. "
            f"Expected that of ImageNet: mean {IMAGENET_MEAN}, variance {IMAGENET_STD} "
            "(Keras stores the standard deviation as variance). "
            f"Received: mean {mean}, variance {variance}. Use other --model.weights."
        )
    normalization = keras.layers.Rescaling | keras.layers.Normalization

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if isinstance(layer, normalization) else layer(*args, **kwargs)

    return clone(network, call_function=call)


def accept_any_size(network: keras.Model) -> keras.Model:
    """Returns a copy of a network, changed to accept any image size.

    The padding remains that for the original image size.
    """
    return clone(network, input_tensors=keras.Input((None, None, 3)))


def use_depthwise_convolutions(network: keras.Model) -> keras.Model:
    """Returns a ConvNeXt with DepthwiseConv2D instead of grouped Conv2D layers.

    On a CPU, TensorFlow computes DepthwiseConv2D much faster.
    """

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if type(layer) is not keras.layers.Conv2D or config["groups"] == 1:
            return type(layer).from_config(config)
        kept = {"name", "dtype", "kernel_size", "strides", "padding", "use_bias"}
        return keras.layers.DepthwiseConv2D(**{key: config[key] for key in kept})

    return clone(network, convert)


def _normalization(network: keras.Model) -> keras.layers.Normalization:
    (layer,) = (
        layer for layer in network.layers if isinstance(layer, keras.layers.Normalization)
    )
    return layer
