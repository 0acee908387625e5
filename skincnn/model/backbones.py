"""Backbones of Keras Applications, each with its own scaling and its weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras

from skincnn.errors import ConfigError
from skincnn.lookup import look_up


@dataclass(frozen=True)
class Backbone:
    """A network that turns pictures into feature maps.

    Attributes:
        build: A function of Keras Applications.
        scale: The network was trained on `image * scale + offset`, image in 0..255.
        offset: See `scale`.
        native_size: Height and width in pixels for which ImageNet weights were trained.
        min_size: Smallest height and width that the network accepts.
        widths: Width multipliers that have ImageNet weights.
    """

    build: Callable[..., keras.Model]
    scale: float
    offset: float
    native_size: int
    min_size: int
    widths: tuple[float, ...]


BACKBONES = {
    "mobilenet": Backbone(
        keras.applications.MobileNet, 1 / 127.5, -1.0, 224, 32, (0.25, 0.5, 0.75, 1.0)
    ),
    "mobilenet_v2": Backbone(
        keras.applications.MobileNetV2,
        1 / 127.5,
        -1.0,
        224,
        32,
        (0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
    ),
}
"""Howard et al., MobileNets (2017), arXiv:1704.04861; Sandler et al., MobileNetV2 (2018),
arXiv:1801.04381. Scaling as in their `preprocess_input` of Keras Applications."""


def build_backbone(name: str, width: float, weights: str) -> keras.Model:
    """Returns a backbone without its top, for pictures of any size, scaled inputs.

    Args:
        name: Name of `BACKBONES`.
        width: Width multiplier.
        weights: "imagenet" (downloaded by Keras Applications into KERAS_HOME, or taken
            from there), "none", or the path of a weights file.

    Raises:
        ConfigError: The name is unknown, or the weights cannot be had or do not fit.
    """
    backbone = look_up(BACKBONES, name, "`model.backbone`")
    network = backbone.build(
        alpha=width, include_top=False, weights=None, input_shape=(None, None, 3)
    )
    if weights == "imagenet":
        network.set_weights(_imagenet(backbone, name, width).get_weights())
    elif weights != "none":
        _load(network, Path(weights).expanduser())
    return network


def _imagenet(backbone: Backbone, name: str, width: float) -> keras.Model:
    """Builds at the native size: for others, some families name files of their own."""
    if width not in backbone.widths:
        raise ConfigError(
            f"`model.width` of {name} must be one of {backbone.widths}, which have "
            f"ImageNet weights. Received: {width}. Any other width needs "
            "--model.weights none or --model.weights PATH."
        )
    size = backbone.native_size
    try:
        return backbone.build(
            alpha=width,
            include_top=False,
            weights="imagenet",
            input_shape=(size,) * 2 + (3,),
        )
    # Keras raises a bare Exception when a download fails.
    except Exception as error:
        raise ConfigError(
            f"The ImageNet weights of {name} {width} could not be loaded: {error}. Give "
            "--model.weights none|PATH (with none also --train.head-epochs 0), or set "
            "KERAS_HOME to a folder whose models/ holds them."
        ) from error


def _load(network: keras.Model, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(
            "`model.weights` must be imagenet, none, or the path of a weights file "
            f"(.h5 or .weights.h5). Received: {path}, which is no file."
        )
    try:
        with warnings.catch_warnings():
            # Keras warns of layers that it does not find and leaves them at random.
            warnings.simplefilter("error", UserWarning)
            network.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise ConfigError(
            f"`model.weights`: {path} does not hold the weights of {network.name} "
            f"without its top: {error}"
        ) from error
