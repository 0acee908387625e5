"""Backbones: networks from pictures to feature maps, their scaling and their weights.

`BACKBONES` holds every network of Keras Applications and a small one of our own; any other
is given as `package.module:function`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import applications
from keras.src.backend.config import keras_home  # there is no public name

from skincnn.errors import ConfigError
from skincnn.lookup import import_function, look_up
from skincnn.model.networks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    for_any_size,
    normalised,
    small_cnn,
    with_depthwise,
    without_scaling,
)

Build = Callable[[int | None, float, str | None], keras.Model]
"""From a size in pixels (None: any), a width and weights (None or "imagenet")."""


@dataclass(frozen=True)
class Scaling:
    """How pictures in 0..255 become what a network was trained on.

    Attributes:
        scale: The result is `image * scale + offset`; a number, or one for each channel.
        offset: See `scale`.
        bgr: Whether blue, green and red is the order of the channels, before `scale`.
    """

    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    bgr: bool = False


UNSCALED = Scaling()
SYMMETRIC = Scaling(1 / 127.5, -1.0)
SYMMETRIC_128 = Scaling(1 / 128, -1.0)
STANDARDISED = Scaling(
    tuple(1 / 255 / std for std in IMAGENET_STD),
    tuple(-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)),
)
CENTRED_BGR = Scaling(1.0, (-103.939, -116.779, -123.68), bgr=True)
"""The kinds of Keras Applications: "tf", EfficientNetV2-S's to -L's, "torch", "caffe"."""


@dataclass(frozen=True)
class Backbone:
    """A network that turns pictures into feature maps.

    Attributes:
        build: Returns it without its top.
        scaling: What it was trained on.
        native_size: Height and width in pixels for which ImageNet weights were trained; 0
            where there are none.
        min_size: Smallest height and width that the network accepts.
        step: Other sizes than the native one are multiples of this.
        widths: Width multipliers that have ImageNet weights; None where all may.
        has_width: Whether there is a width multiplier.
        adapt: Turns the network with its weights into one that trains or runs better, or
            that takes any size, and is the same function.
    """

    build: Build
    scaling: Scaling
    native_size: int = 224
    min_size: int = 32
    step: int = 1
    widths: tuple[float, ...] | None = (1.0,)
    has_width: bool = False
    adapt: Callable[[keras.Model], keras.Model] | None = None


def _keras(function: Callable[..., keras.Model], **options: object) -> Build:
    def build(size: int | None, width: float, weights: str | None) -> keras.Model:
        shape = (size, size, 3)
        return function(include_top=False, weights=weights, input_shape=shape, **options)

    return build


def _with_alpha(function: Callable[..., keras.Model], **options: object) -> Build:
    def build(size: int | None, width: float, weights: str | None) -> keras.Model:
        return _keras(function, alpha=width, **options)(size, width, weights)

    return build


def _efficientnet(function: Callable[..., keras.Model], size: int) -> Backbone:
    def build(size: int | None, width: float, weights: str | None) -> keras.Model:
        network = _keras(function)(size, width, weights)
        return network if weights else normalised(network)

    return Backbone(build, STANDARDISED, size, adapt=without_scaling)


def _efficientnet_v2(
    function: Callable[..., keras.Model], size: int, scaling: Scaling
) -> Backbone:
    return Backbone(_keras(function, include_preprocessing=False), scaling, size)


def _nasnet(function: Callable[..., keras.Model], size: int) -> Backbone:
    # Keras can only build it for one size, whose halvings decide on paddings.
    def build(_: int | None, width: float, weights: str | None) -> keras.Model:
        return _keras(function)(size, width, weights)

    return Backbone(build, SYMMETRIC, size, step=32, adapt=for_any_size)


def _convnext(function: Callable[..., keras.Model]) -> Backbone:
    build = _keras(function, include_preprocessing=False)
    return Backbone(build, STANDARDISED, adapt=with_depthwise)


BACKBONES = {
    "small_cnn": Backbone(small_cnn, SYMMETRIC, 0, widths=(), has_width=True),
    # He et al., Deep residual learning (2015), arXiv:1512.03385.
    "resnet50": Backbone(_keras(applications.ResNet50), CENTRED_BGR),
    "resnet101": Backbone(_keras(applications.ResNet101), CENTRED_BGR),
    "resnet152": Backbone(_keras(applications.ResNet152), CENTRED_BGR),
    # He et al., Identity mappings in deep residual networks (2016), arXiv:1603.05027.
    "resnet50_v2": Backbone(_keras(applications.ResNet50V2), SYMMETRIC),
    "resnet101_v2": Backbone(_keras(applications.ResNet101V2), SYMMETRIC),
    "resnet152_v2": Backbone(_keras(applications.ResNet152V2), SYMMETRIC),
    # Simonyan and Zisserman, Very deep convolutional networks (2014), arXiv:1409.1556.
    "vgg16": Backbone(_keras(applications.VGG16), CENTRED_BGR),
    "vgg19": Backbone(_keras(applications.VGG19), CENTRED_BGR),
    # Howard et al., MobileNets (2017), arXiv:1704.04861.
    "mobilenet": Backbone(
        _with_alpha(applications.MobileNet),
        SYMMETRIC,
        widths=(0.25, 0.5, 0.75, 1.0),
        has_width=True,
    ),
    # Sandler et al., MobileNetV2 (2018), arXiv:1801.04381.
    "mobilenet_v2": Backbone(
        _with_alpha(applications.MobileNetV2),
        SYMMETRIC,
        widths=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
        has_width=True,
    ),
    # Howard et al., Searching for MobileNetV3 (2019), arXiv:1905.02244.
    "mobilenet_v3_small": Backbone(
        _with_alpha(applications.MobileNetV3Small, include_preprocessing=False),
        SYMMETRIC,
        widths=(0.75, 1.0),
        has_width=True,
    ),
    "mobilenet_v3_large": Backbone(
        _with_alpha(applications.MobileNetV3Large, include_preprocessing=False),
        SYMMETRIC,
        widths=(0.75, 1.0),
        has_width=True,
    ),
    # Tan and Le, EfficientNet (2019), arXiv:1905.11946.
    "efficientnet_b0": _efficientnet(applications.EfficientNetB0, 224),
    "efficientnet_b1": _efficientnet(applications.EfficientNetB1, 240),
    "efficientnet_b2": _efficientnet(applications.EfficientNetB2, 260),
    "efficientnet_b3": _efficientnet(applications.EfficientNetB3, 300),
    "efficientnet_b4": _efficientnet(applications.EfficientNetB4, 380),
    "efficientnet_b5": _efficientnet(applications.EfficientNetB5, 456),
    "efficientnet_b6": _efficientnet(applications.EfficientNetB6, 528),
    "efficientnet_b7": _efficientnet(applications.EfficientNetB7, 600),
    # Tan and Le, EfficientNetV2 (2021), arXiv:2104.00298.
    "efficientnet_v2_b0": _efficientnet_v2(
        applications.EfficientNetV2B0, 224, STANDARDISED
    ),
    "efficientnet_v2_b1": _efficientnet_v2(
        applications.EfficientNetV2B1, 240, STANDARDISED
    ),
    "efficientnet_v2_b2": _efficientnet_v2(
        applications.EfficientNetV2B2, 260, STANDARDISED
    ),
    "efficientnet_v2_b3": _efficientnet_v2(
        applications.EfficientNetV2B3, 300, STANDARDISED
    ),
    "efficientnet_v2_s": _efficientnet_v2(applications.EfficientNetV2S, 384, SYMMETRIC_128),
    "efficientnet_v2_m": _efficientnet_v2(applications.EfficientNetV2M, 480, SYMMETRIC_128),
    "efficientnet_v2_l": _efficientnet_v2(applications.EfficientNetV2L, 480, SYMMETRIC_128),
    # Huang et al., Densely connected convolutional networks (2016), arXiv:1608.06993.
    "densenet121": Backbone(_keras(applications.DenseNet121), STANDARDISED),
    "densenet169": Backbone(_keras(applications.DenseNet169), STANDARDISED),
    "densenet201": Backbone(_keras(applications.DenseNet201), STANDARDISED),
    # Szegedy et al., Rethinking the Inception architecture (2015), arXiv:1512.00567.
    "inception_v3": Backbone(_keras(applications.InceptionV3), SYMMETRIC, 299, 75),
    # Szegedy et al., Inception-v4 and Inception-ResNet (2016), arXiv:1602.07261.
    "inception_resnet_v2": Backbone(
        _keras(applications.InceptionResNetV2), SYMMETRIC, 299, 75
    ),
    # Chollet, Xception (2016), arXiv:1610.02357.
    "xception": Backbone(_keras(applications.Xception), SYMMETRIC, 299, 71),
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
"""Scaling and sizes as in `preprocess_input` and the functions of Keras Applications."""


def find_backbone(name: str) -> Backbone:
    """Returns an entry of `BACKBONES`, or what `package.module:function` names.

    The module may lie in the current folder. The function returns a functional or
    sequential `keras.Model` from pictures in 0..255, [batch, height, width, 3] of any
    height and width, to feature maps [batch, height, width, channels]. It is called without
    arguments, but for those of these parameters that it has: `weights` is None or
    "imagenet", as `model.weights` says; `width` is `model.width_multiplier`.

    Raises:
        ConfigError: There is no such entry, module or function.
    """
    if ":" not in name:
        return look_up(BACKBONES, name, "`model.backbone`")
    function = import_function(name, "`model.backbone`")
    parameters = inspect.signature(function).parameters
    return Backbone(
        _from_function(name, function),
        UNSCALED,
        native_size=0,
        widths=None if "weights" in parameters else (),
        has_width="width" in parameters,
    )


def check_size(name: str, size: int) -> None:
    """Checks that a backbone takes pictures of `size` pixels.

    Raises:
        ConfigError: It does not, or there is no such backbone.
    """
    backbone = find_backbone(name)
    if size < backbone.min_size:
        raise ConfigError(
            f"{name} needs pictures of {backbone.min_size} px or more. Received: {size}."
        )
    if size != backbone.native_size and size % backbone.step:
        raise ConfigError(
            f"{name} needs pictures of {backbone.native_size} px, or a multiple of "
            f"{backbone.step}. Received: {size}."
        )


def build_backbone(name: str, width: float, weights: str) -> keras.Model:
    """Returns a backbone without its top, for pictures of any size, scaled inputs.

    Args:
        name: Name of `BACKBONES`, or `package.module:function`.
        width: Width multiplier; 1.0 where the family has none.
        weights: "imagenet" (downloaded by Keras Applications into KERAS_HOME, or taken
            from there), "none", or the path of a weights file.

    Raises:
        ConfigError: The name is unknown, or the weights cannot be had or do not fit.
    """
    backbone = find_backbone(name)
    if width != 1.0 and not backbone.has_width:
        raise ConfigError(
            f"`model.width_multiplier` must be 1.0 for {name}, which has no width multiplier. "
            f"Received: {width}."
        )
    network = backbone.build(None, width, None)
    if weights == "imagenet":
        network.set_weights(_imagenet(backbone, name, width).get_weights())
    elif weights != "none":
        return _load(backbone, network, Path(weights).expanduser())
    return backbone.adapt(network) if backbone.adapt else network


def _imagenet(backbone: Backbone, name: str, width: float) -> keras.Model:
    """Builds at the native size: for others, some families name files of their own."""
    if backbone.widths == ():
        raise ConfigError(
            f"There are no ImageNet weights of {name}. Give --model.weights none (and "
            "--train.head-epochs 0) or --model.weights PATH."
        )
    if backbone.widths is not None and width not in backbone.widths:
        raise ConfigError(
            f"`model.width_multiplier` of {name} must be one of {backbone.widths}, which have "
            f"ImageNet weights. Received: {width}. Any other width needs "
            "--model.weights none or --model.weights PATH."
        )
    folder = Path(keras_home()) / "models"
    before = set(folder.glob("*"))
    try:
        return backbone.build(backbone.native_size or None, width, "imagenet")
    # Keras raises a bare Exception when a download fails.
    except Exception as error:
        # A page of a proxy, say: Keras would take it for the weights the next time.
        for path in set(folder.glob("*")) - before:
            path.unlink()
        raise ConfigError(
            f"The ImageNet weights of {name} {width} could not be loaded: {error}. Give "
            "--model.weights none|PATH (with none also --train.scenario from_scratch), or "
            f"set KERAS_HOME to a folder whose models/ holds them; in {folder} remove a "
            "file that is damaged."
        ) from error


def _load(backbone: Backbone, network: keras.Model, path: Path) -> keras.Model:
    """Returns the adapted network with the weights of a file, made before or after that."""
    if not path.is_file():
        raise ConfigError(
            "`model.weights` must be imagenet, none, or the path of a weights file "
            f"(.h5 or .weights.h5). Received: {path}, which is no file."
        )
    if backbone.adapt is None:
        _load_weights(network, path)
        return network
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
            # Keras warns of layers that it does not find and leaves them at random.
            warnings.simplefilter("error", UserWarning)
            network.load_weights(path)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise ConfigError(
            f"`model.weights`: {path} does not hold the weights of {network.name} "
            f"without its top: {error}"
        ) from error


def _from_function(name: str, function: Callable[..., keras.Model]) -> Build:
    parameters = inspect.signature(function).parameters

    def build(size: int | None, width: float, weights: str | None) -> keras.Model:
        given = {"weights": weights, "width": width}
        try:
            network = function(**{k: v for k, v in given.items() if k in parameters})
        # Whatever a function of the user's may raise.
        except Exception as error:
            raise ConfigError(
                f"`model.backbone` {name} failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(network, keras.Model) or not getattr(network, "inputs", None):
            raise ConfigError(
                f"`model.backbone` {name} must return a functional or sequential "
                f"keras.Model. Received: {network!r}."
            )
        shapes = network.input_shape, network.output_shape
        if shapes[0] != (None, None, None, 3) or len(shapes[1]) != 4:
            raise ConfigError(
                f"`model.backbone` {name} must turn pictures (None, None, None, 3) into "
                "feature maps (None, height, width, channels); a network of one size can "
                "begin with keras.layers.Resizing. Received: from "
                f"{shapes[0]} to {shapes[1]}."
            )
        return network

    return build
