"""Backbones, which map images to feature maps, and their weights.

`BACKBONES` contains all networks of Keras Applications, EfficientNet-Lite0 to Lite2, and a
small CNN. Other networks are image backbones of KerasHub, `keras_hub:PRESET`, or custom
backbones, `package.module:function`. The classifier normalizes images as the network
expects; custom backbones receive images in 0..255, and contain their normalization.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import applications
from keras.src.backend.config import keras_home  # no public alternative

from skincnn.config import IMAGENET_MEAN, IMAGENET_STD
from skincnn.errors import ConfigError
from skincnn.lookup import look_up
from skincnn.model import keras_hub_backbone
from skincnn.model.efficientnet_lite import efficientnet_lite
from skincnn.model.networks import (
    accept_any_size,
    remove_normalization,
    set_imagenet_normalization,
    small_cnn,
    use_depthwise_convolutions,
)
from skincnn.parts import CustomPart, find_custom, is_custom
from skincnn.paths import to_path
from tfds_ham10000.download import permit_md5

Channels = tuple[float, float, float]
Build = Callable[[int | None, float, str | None], keras.Model]
"""Returns a network for an image size in pixels (None for any size), a width multiplier and
weights ("imagenet", or None for random weights)."""


@dataclass(frozen=True)
class Scaling:
    """The normalization that a network expects: `image * scale + offset`.

    Images are in 0..255. `scale` and `offset` are numbers or have one value per channel. If
    `bgr` is True, the channels are first reordered from RGB to BGR.
    """

    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    bgr: bool = False

    def with_statistics(self, mean: Channels, std: Channels) -> Scaling:
        """Returns the normalization for images with other statistics than ImageNet.

        Each channel is transformed linearly, so that its mean and standard deviation become
        those of ImageNet, and is then normalized by `self`. `mean` and `std` are those of
        the red, green and blue channels, for values in 0..1.
        """
        if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
            return self
        order = -1 if self.bgr else 1
        old = np.array([IMAGENET_MEAN, IMAGENET_STD])[:, ::order]
        new = np.array([mean, std])[:, ::order]
        ratio = old[1] / new[1]
        scale = ratio * self.scale
        offset = 255 * (old[0] - ratio * new[0]) * self.scale + self.offset
        return Scaling(tuple(scale.tolist()), tuple(offset.tolist()), self.bgr)


# Modes in Keras Applications: SYMMETRIC "tf", STANDARDIZED "torch", CENTERED_BGR "caffe".
UNSCALED = Scaling()
SYMMETRIC = Scaling(1 / 127.5, -1.0)
SYMMETRIC_128 = Scaling(1 / 128, -1.0)
CENTERED_128 = Scaling(1 / 128, -127 / 128)
STANDARDIZED = Scaling(
    tuple(1 / 255 / std for std in IMAGENET_STD),
    tuple(-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)),
)
CENTERED_BGR = Scaling(1.0, (-103.939, -116.779, -123.68), bgr=True)


@dataclass(frozen=True)
class Backbone:
    """A network that maps normalized images to feature maps, and its requirements.

    Attributes:
        build: Returns the network without the classification head.
        scaling: The normalization that the network expects.
        native_size: Image size in pixels at which ImageNet weights are loaded; 0 for any.
        min_size: Minimum image size in pixels.
        size_multiple: Number of pixels of which each image size other than `native_size`
            must be a multiple.
        imagenet_widths: Width multipliers that have ImageNet weights; () if there are no
            such weights, None if unknown.
        has_width: Whether the network has a width multiplier.
        one_size: Whether the network may accept only one image size. It is then built for
            that of the data if possible, and the classifier resizes images of other sizes.
        adapt: Modifies the network from `build`: removes layers that normalize the input,
            replaces slow layers, or makes the network accept any image size.
    """

    build: Build
    scaling: Scaling
    native_size: int = 224
    min_size: int = 32
    size_multiple: int = 1
    imagenet_widths: tuple[float, ...] | None = (1.0,)
    has_width: bool = False
    one_size: bool = False
    adapt: Callable[[keras.Model], keras.Model] = lambda network: network


def _build(function: Callable[..., keras.Model]) -> Build:
    parameters = inspect.signature(function).parameters

    def build(size: int | None, width: float, weights: str | None) -> keras.Model:
        options = {"alpha": width, "include_preprocessing": False}
        options = {name: value for name, value in options.items() if name in parameters}
        shape = (size, size, 3)
        return function(include_top=False, weights=weights, input_shape=shape, **options)

    return build


def _keras(
    function: Callable[..., keras.Model], scaling: Scaling, *sizes: Any, **fields: Any
) -> Backbone:
    return Backbone(_build(function), scaling, *sizes, **fields)


def _mobilenet(function: Callable[..., keras.Model], *widths: float) -> Backbone:
    return _keras(function, SYMMETRIC, imagenet_widths=widths, has_width=True)


def _efficientnet(function: Callable[..., keras.Model], size: int) -> Backbone:
    build_network = _build(function)

    def build(size: int | None, width: float, weights: str | None) -> keras.Model:
        network = build_network(size, width, weights)
        return network if weights else set_imagenet_normalization(network)

    return Backbone(build, STANDARDIZED, size, adapt=remove_normalization)


def _efficientnet_lite(name: str, size: int) -> Backbone:
    def build(size: int | None, width: float, weights: str | None) -> keras.Model:
        return efficientnet_lite(name, size, weights)

    return Backbone(build, CENTERED_128, size)


def _nasnet(function: Callable[..., keras.Model], size: int) -> Backbone:
    build_network = _build(function)

    # The network is always built at the native size, which determines the padding.
    def build(_: int | None, width: float, weights: str | None) -> keras.Model:
        return build_network(size, width, weights)

    return Backbone(build, SYMMETRIC, size, size_multiple=32, adapt=accept_any_size)


def _convnext(function: Callable[..., keras.Model]) -> Backbone:
    return _keras(function, STANDARDIZED, adapt=use_depthwise_convolutions)


BACKBONES = {
    "small_cnn": Backbone(small_cnn, SYMMETRIC, 0, imagenet_widths=(), has_width=True),
    # He et al., Deep residual learning (2015), arXiv:1512.03385.
    "resnet50": _keras(applications.ResNet50, CENTERED_BGR),
    "resnet101": _keras(applications.ResNet101, CENTERED_BGR),
    "resnet152": _keras(applications.ResNet152, CENTERED_BGR),
    # He et al., Identity mappings in deep residual networks (2016), arXiv:1603.05027.
    "resnet50_v2": _keras(applications.ResNet50V2, SYMMETRIC),
    "resnet101_v2": _keras(applications.ResNet101V2, SYMMETRIC),
    "resnet152_v2": _keras(applications.ResNet152V2, SYMMETRIC),
    # Simonyan and Zisserman, Very deep convolutional networks (2014), arXiv:1409.1556.
    "vgg16": _keras(applications.VGG16, CENTERED_BGR),
    "vgg19": _keras(applications.VGG19, CENTERED_BGR),
    # Howard et al., MobileNets (2017), arXiv:1704.04861.
    "mobilenet": _mobilenet(applications.MobileNet, 0.25, 0.5, 0.75, 1.0),
    # Sandler et al., MobileNetV2 (2018), arXiv:1801.04381.
    "mobilenet_v2": _mobilenet(applications.MobileNetV2, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
    # Howard et al., Searching for MobileNetV3 (2019), arXiv:1905.02244.
    "mobilenet_v3_small": _mobilenet(applications.MobileNetV3Small, 0.75, 1.0),
    "mobilenet_v3_large": _mobilenet(applications.MobileNetV3Large, 0.75, 1.0),
    # Tan and Le, EfficientNet (2019), arXiv:1905.11946.
    "efficientnet_b0": _efficientnet(applications.EfficientNetB0, 224),
    "efficientnet_b1": _efficientnet(applications.EfficientNetB1, 240),
    "efficientnet_b2": _efficientnet(applications.EfficientNetB2, 260),
    "efficientnet_b3": _efficientnet(applications.EfficientNetB3, 300),
    "efficientnet_b4": _efficientnet(applications.EfficientNetB4, 380),
    "efficientnet_b5": _efficientnet(applications.EfficientNetB5, 456),
    "efficientnet_b6": _efficientnet(applications.EfficientNetB6, 528),
    "efficientnet_b7": _efficientnet(applications.EfficientNetB7, 600),
    # EfficientNet-Lite, without squeeze-and-excitation, for phones (efficientnet_lite.py).
    "efficientnet_lite0": _efficientnet_lite("efficientnet_lite0", 224),
    "efficientnet_lite1": _efficientnet_lite("efficientnet_lite1", 240),
    "efficientnet_lite2": _efficientnet_lite("efficientnet_lite2", 260),
    # Tan and Le, EfficientNetV2 (2021), arXiv:2104.00298.
    "efficientnet_v2_b0": _keras(applications.EfficientNetV2B0, STANDARDIZED, 224),
    "efficientnet_v2_b1": _keras(applications.EfficientNetV2B1, STANDARDIZED, 240),
    "efficientnet_v2_b2": _keras(applications.EfficientNetV2B2, STANDARDIZED, 260),
    "efficientnet_v2_b3": _keras(applications.EfficientNetV2B3, STANDARDIZED, 300),
    "efficientnet_v2_s": _keras(applications.EfficientNetV2S, SYMMETRIC_128, 384),
    "efficientnet_v2_m": _keras(applications.EfficientNetV2M, SYMMETRIC_128, 480),
    "efficientnet_v2_l": _keras(applications.EfficientNetV2L, SYMMETRIC_128, 480),
    # Huang et al., Densely connected convolutional networks (2016), arXiv:1608.06993.
    "densenet121": _keras(applications.DenseNet121, STANDARDIZED),
    "densenet169": _keras(applications.DenseNet169, STANDARDIZED),
    "densenet201": _keras(applications.DenseNet201, STANDARDIZED),
    # Szegedy et al., Rethinking the Inception architecture (2015), arXiv:1512.00567.
    "inception_v3": _keras(applications.InceptionV3, SYMMETRIC, 299, 75),
    # Szegedy et al., Inception-v4 and Inception-ResNet (2016), arXiv:1602.07261.
    "inception_resnet_v2": _keras(applications.InceptionResNetV2, SYMMETRIC, 299, 75),
    # Chollet, Xception (2016), arXiv:1610.02357.
    "xception": _keras(applications.Xception, SYMMETRIC, 299, 71),
    # Zoph et al., Learning transferable architectures (2017), arXiv:1707.07012.
    "nasnet_mobile": _nasnet(applications.NASNetMobile, 224),
    "nasnet_large": _nasnet(applications.NASNetLarge, 331),
    # Liu et al., A ConvNet for the 2020s (2022), arXiv:2201.03545.
    "convnext_tiny": _convnext(applications.ConvNeXtTiny),
    "convnext_small": _convnext(applications.ConvNeXtSmall),
    "convnext_base": _convnext(applications.ConvNeXtBase),
    "convnext_large": _convnext(applications.ConvNeXtLarge),
    "convnext_xlarge": _convnext(applications.ConvNeXtXLarge),
}


def find_backbone(name: str) -> Backbone:
    """Returns the backbone with this name: from `BACKBONES`, from KerasHub, or custom.

    `keras_hub:PRESET` is an image backbone from KerasHub. Its inputs are normalized as in
    the preset; see `keras_hub_backbone`.

    A custom backbone is a function, `package.module:function`. It returns a functional or
    sequential `keras.Model` that maps images in 0..255, [batch, height, width, 3] of any
    height and width, to feature maps [batch, rows, columns, channels]. The function may
    have the parameters `weights` (None or "imagenet") and `width` (the width multiplier).

    Raises:
        ConfigError: The name is not in `BACKBONES`, or the preset or the custom backbone
            cannot be loaded.
    """
    if name.startswith(keras_hub_backbone.PREFIX):
        return _from_keras_hub(name.removeprefix(keras_hub_backbone.PREFIX))
    if is_custom(name):
        return _from_part(find_custom(name, "`model.backbone`", returns=keras.Model))
    return look_up(BACKBONES, name, "`model.backbone`")


def check_size(name: str, size: int, setting: str) -> None:
    """Raises a `ConfigError` unless the backbone exists and accepts images of `size` px.

    `setting` is the name of the setting that gives the size. The multiples that a backbone
    of KerasHub requires are checked by `build_backbone` instead.
    """
    backbone = find_backbone(name)
    if size < backbone.min_size:
        raise ConfigError(
            f"{setting} must be >= {backbone.min_size} for {name}. Received: {size}."
        )
    if size != backbone.native_size and size % backbone.size_multiple:
        raise ConfigError(
            f"{setting} must be {backbone.native_size} or a multiple of "
            f"{backbone.size_multiple} for {name}. Received: {size}."
        )


def build_backbone(
    name: str, width: float, weights: str, image_size: int | None = None
) -> keras.Model:
    """Returns a backbone without the classification head, for normalized images.

    Args:
        name: Key of `BACKBONES`, `keras_hub:PRESET`, or `package.module:function`.
        width: Width multiplier; 1.0 if the backbone has none.
        weights: "imagenet" (Keras Applications downloads the weights to KERAS_HOME; those
            of EfficientNet-Lite are in packages, those of KerasHub in the preset), "none",
            or the path of a weights file.
        image_size: Size of most images in pixels, used only for a backbone with `one_size`;
            None for the size of its preset.

    Raises:
        ConfigError: The backbone does not exist or cannot be loaded, a custom backbone is
            not valid, `width` or `image_size` is not supported, or the weights cannot be
            loaded.
    """
    backbone = find_backbone(name)
    if width != 1.0 and not backbone.has_width:
        raise ConfigError(
            f"`model.width_multiplier` must be 1.0 for {name}, which has no width "
            f"multiplier. Received: {width}."
        )
    network = backbone.build(image_size if backbone.one_size else None, width, None)
    if weights == "imagenet":
        size = image_size if backbone.one_size else backbone.native_size or None
        network.set_weights(_imagenet(backbone, name, width, size).get_weights())
    elif weights != "none":
        return _load(backbone, network, to_path(weights))
    return backbone.adapt(network)


def _imagenet(backbone: Backbone, name: str, width: float, size: int | None) -> keras.Model:
    """Returns the backbone with ImageNet weights.

    At other sizes than the native size, Keras loads different weights for some networks.
    """
    fix = "Use --model.weights PATH, or none with --train.scenario from_scratch."
    if backbone.imagenet_widths == ():
        raise ConfigError(f"{name} has no ImageNet weights. {fix}")
    if backbone.imagenet_widths is not None and width not in backbone.imagenet_widths:
        raise ConfigError(
            f"`model.width_multiplier` of {name} with ImageNet weights must be one of "
            f"{backbone.imagenet_widths}. Received: {width}. {fix}"
        )
    folder = Path(keras_home()) / "models"
    before = set(folder.glob("*"))
    try:
        with permit_md5():
            return backbone.build(size, width, "imagenet")
    except ConfigError:
        raise
    except Exception as error:  # Keras raises a bare Exception if a download fails.
        # Remove new files: they may be incomplete downloads, which Keras would load again.
        for path in set(folder.glob("*")) - before:
            path.unlink()
        raise ConfigError(
            f"The ImageNet weights of {name}, width {width}, could not be loaded: {error}. "
            "Use --model.weights PATH or --model.weights none (with --train.scenario "
            "from_scratch), or set KERAS_HOME to a directory that contains the weights in "
            f"models/. Delete damaged files in {folder}."
        ) from error


def _load(backbone: Backbone, network: keras.Model, path: Path) -> keras.Model:
    """Adapts a network, and loads its weights or those of the network before adaptation."""
    if not path.is_file():
        raise ConfigError(
            "`model.weights` must be imagenet, none, or the path of a weights file "
            f"(.h5 or .weights.h5). Received: {path}, which is not a file."
        )
    try:
        _load_weights(network, path)
    except ConfigError:
        network = backbone.adapt(network)
        _load_weights(network, path)
        return network
    return backbone.adapt(network)


def _load_weights(network: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # Keras only warns if the file lacks a layer, which then keeps random weights.
            warnings.simplefilter("error", UserWarning)
            network.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise ConfigError(
            f"`model.weights`: {path} is damaged, or the weights do not match "
            f"{network.name} without the classification head (include_top=False): {error}"
        ) from error


def _from_keras_hub(preset: str) -> Backbone:
    scaling = Scaling(*keras_hub_backbone.read_scaling(preset))

    def build(size: int | None, width: float, weights: str | None) -> keras.Model:
        return keras_hub_backbone.build(preset, size, pretrained=weights is not None)

    return Backbone(build, scaling, native_size=0, one_size=True)


def _from_part(part: CustomPart) -> Backbone:
    def build(size: int | None, width: float, weights: str | None) -> keras.Model:
        network = part(weights=weights, width=width)
        if not getattr(network, "inputs", None):
            part.fail(f"must return a functional or sequential model. Received: {network}.")
        shapes = network.input_shape, network.output_shape
        if shapes[0] != (None, None, None, 3) or len(shapes[1]) != 4:
            part.fail(
                "must map images (None, None, None, 3) to feature maps (None, height, "
                "width, channels). If the input size is fixed, start the network with "
                f"keras.ops.image.resize. Received: {shapes[0]} to {shapes[1]}."
            )
        return network

    return Backbone(
        build,
        UNSCALED,
        native_size=0,
        imagenet_widths=None if part.accepts("weights") else (),
        has_width=part.accepts("width"),
    )
