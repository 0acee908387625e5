"""Our own small network, and what turns networks of Keras Applications into ours.

Each change keeps the function of the network: it is tested against Keras's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from skincnn.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1."""


def small_cnn(size: int | None, width: float, weights: str | None) -> keras.Model:
    """Returns a plain network to train from scratch: 1.2 million weights at width 1.

    Four stages of 32, 64, 128 and 256 filters times `width`; in each, two 3x3
    convolutions with BatchNorm and ReLU; between them, max pooling by two.

    Args:
        size: Height and width in pixels; None for any.
        width: Multiplies the number of filters.
        weights: None; there are no others.

    References:
        Simonyan and Zisserman, Very deep convolutional networks (2015), arXiv:1409.1556;
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
    """Returns a copy of a network with the same names and weights, layer by layer.

    Args:
        network: A functional or sequential model.
        convert: From a layer to a new one of the same name, for the copy; its weights may
            have other shapes if the last two axes are exchanged.
        **options: Passed to `keras.models.clone_model`.
    """
    copy = keras.models.clone_model(
        network, clone_function=convert, recursive=True, **options
    )
    for layer in copy.layers:
        if layer.weights:
            weights = network.get_layer(layer.name).get_weights()
            layer.set_weights(
                [
                    value if value.shape == tuple(new.shape) else np.swapaxes(value, -1, -2)
                    for value, new in zip(weights, layer.weights, strict=True)
                ]
            )
    return copy


def normalised(network: keras.Model) -> keras.Model:
    """Tells an EfficientNet without weights how its ImageNet weights scale pictures.

    Keras leaves that at mean 0 and variance 1, and at the file's values with a file.
    """
    layer = _normalization(network)
    # The file gives the deviation as variance, and a layer that Keras adds for ImageNet
    # weights alone divides by its root once more (tensorflow/tensorflow issue 49930).
    layer.set_weights([np.array(IMAGENET_MEAN), np.array(IMAGENET_STD), np.array(0)])
    return network


def without_scaling(network: keras.Model) -> keras.Model:
    """Returns an EfficientNet without the layers that scale its pictures.

    They differ with and without ImageNet weights, and keep the numbers in variables,
    which `set_weights` changes without effect until `finalize_state`.

    Raises:
        ConfigError: Its weights were trained with another scaling than ImageNet's.
    """
    mean, variance, _ = _normalization(network).get_weights()
    if not (
        np.allclose(mean, IMAGENET_MEAN, atol=1e-3)
        and np.allclose(variance, IMAGENET_STD, atol=1e-3)
    ):
        raise ConfigError(
            f"The weights of {network.name} were trained on pictures of another scaling. "
            f"Expected ImageNet's: mean {IMAGENET_MEAN}, variance {IMAGENET_STD} (that is "
            f"how Keras keeps it). Received: mean {mean}, variance {variance}."
        )
    scaling = keras.layers.Rescaling | keras.layers.Normalization

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if isinstance(layer, scaling) else layer(*args, **kwargs)

    return clone(network, call_function=call)


def for_any_size(network: keras.Model) -> keras.Model:
    """Returns a network of a fixed size as one that takes other sizes.

    Its paddings stay those of the fixed size.
    """
    return clone(network, input_tensors=keras.Input((None, None, 3)))


def with_depthwise(network: keras.Model) -> keras.Model:
    """Returns a ConvNeXt whose convolutions with a group per channel are depthwise ones.

    They are the same function, and much faster in TensorFlow on a CPU.
    """

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if type(layer) is not keras.layers.Conv2D or config["groups"] == 1:
            return type(layer).from_config(config)
        kept = ("name", "trainable", "dtype", "kernel_size", "strides", "padding")
        return keras.layers.DepthwiseConv2D(
            use_bias=config["use_bias"],
            **{key: config[key] for key in kept},
        )

    return clone(network, convert)


def _normalization(network: keras.Model) -> keras.layers.Normalization:
    (layer,) = (
        layer for layer in network.layers if isinstance(layer, keras.layers.Normalization)
    )
    return layer
