"""Image backbones of KerasHub, named `keras_hub:PRESET`.

A preset is a name in KerasHub (`dinov2_small`), a handle (`hf://...`, `kaggle://...`), or a
directory from `save_to_preset`. KerasHub is optional and is imported only for a preset.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from skincnn.errors import ConfigError, require_packages
from skincnn.lookup import suggest
from skincnn.model.networks import accept_any_size, is_opaque

PREFIX = "keras_hub:"
Channels = float | tuple[float, ...]
"""A number, or one number per channel."""

SIZE_MULTIPLES: dict[str, Callable[[Any], int]] = {
    "DINOV2Backbone": lambda backbone: backbone.patch_size,
    "DINOV3Backbone": lambda backbone: backbone.patch_size,
    "HGNetV2Backbone": lambda backbone: 1,
    "MiTBackbone": lambda backbone: math.prod(backbone.layerwise_strides),
    "MobileNetBackbone": lambda backbone: 1,
    "SwinTransformerBackbone": lambda backbone: (
        backbone.patch_size * 2 ** (len(backbone.depths) - 1)
    ),
}
"""Backbone classes that are built for one image size, but can use the weights of their
preset at other sizes. Each function returns the number of pixels of which these sizes must
be multiples."""
LISTS_OF_LAYERS = ("encoder_layers", "layers", "stages_list")
"""Attributes in which encoders of KerasHub list their transformer layers or stages."""
CONSTANT_VARIABLES = ("mask_token", "interpolated_position_embeddings")
"""Variables of DINO that are not trained: images are not masked, and KerasHub 0.32 can lose
changes of the interpolated position embeddings when a model is saved."""


def read_scaling(preset: str) -> tuple[Channels, Channels]:
    """Returns scale and offset of the preset's image converter, for RGB in 0..255.

    Raises:
        ConfigError: KerasHub is not installed, or the preset does not exist, cannot be
            downloaded, is not an image backbone or has no image converter.
    """
    require_packages(["keras_hub"], f"`model.backbone` {PREFIX}{preset}", "hub")
    import keras_hub

    known = keras_hub.models.Backbone.presets
    images = keras_hub.layers.ImageConverter.presets
    if preset in known and preset not in images:
        raise _not_for_images(preset, suggest(images, preset))
    if preset not in known and "://" not in preset and not Path(preset).is_dir():
        raise ConfigError(
            f"`model.backbone`: {preset!r} is neither a preset of KerasHub nor a directory."
            f"{suggest(images, preset)} keras_hub.models.Backbone.presets lists all names."
        )
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except Exception as error:
        if "image_converter.json" in str(error):
            raise ConfigError(
                f"`model.backbone`: the preset {preset} has no image converter, which "
                "contains the scaling of images. Save one to the directory: "
                f"keras_hub.layers.ImageConverter(scale=...).save_to_preset({preset!r})"
            ) from error
        if "find a subclass of ImageConverter" in str(error):
            raise _not_for_images(preset) from error
        raise _not_loaded(preset, error) from error
    return _channels(converter.scale, 1.0), _channels(converter.offset, 0.0)


def build(preset: str, size: int | None, pretrained: bool) -> keras.Model:
    """Returns the backbone of a preset, which maps images to feature maps.

    Tokens of patches become a feature map [batch, rows, columns, channels]. The class
    token, if any, is appended to the channels of each position, so that global average
    pooling returns the mean patch token and the class token (Oquab et al., DINOv2, 2023,
    arXiv:2304.07193). Register and distillation tokens are omitted.

    Args:
        preset: Name, handle or directory of the preset.
        size: Image size in pixels; None for that of the preset. Networks that accept any
            size, and those with the fixed size of their preset (ViT, DeiT), ignore it.
        pretrained: Whether to load the weights of the preset.

    Raises:
        ConfigError: The preset cannot be loaded, is not an image backbone, or does not
            support `size`.
    """
    backbone = _load(preset, pretrained)
    inputs = keras.tree.flatten(backbone.input)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[-1] != 3:
        raise _not_for_images(preset)
    native = inputs[0].shape[1]
    if not is_opaque(*backbone.layers):
        network = keras.Model(inputs[0], backbone.output, name=backbone.name)
        return accept_any_size(network) if native else network
    multiple = SIZE_MULTIPLES.get(type(backbone).__name__)
    if native and size and size != native and multiple:
        if size % multiple(backbone):
            raise ConfigError(
                f"{PREFIX}{preset} requires images of {native} px or a multiple of "
                f"{multiple(backbone)} px. Received: --data.image-size {size}."
            )
        backbone = _load(preset, pretrained, image_shape=(size, size, 3))
    images = keras.Input(keras.tree.flatten(backbone.input)[0].shape[1:])
    features = backbone(keras.tree.map_structure(lambda _: images, backbone.input))
    if isinstance(features, dict) and hasattr(backbone, "stage_names"):  # HGNetV2
        features = features[backbone.stage_names[-1]]
    rank = len(getattr(features, "shape", ()))
    if rank == 3 and hasattr(backbone, "patch_size"):
        features = _feature_map(backbone, features)
    elif rank != 4:
        raise _not_for_images(preset)
    return keras.Model(images, features, name=f"{backbone.name}_features")


def block_of_layers(backbone: keras.Model) -> dict[keras.layers.Layer, int]:
    """Returns the block of each layer with weights. The last block is 1, the preceding 2.

    Each custom layer of KerasHub (such as a patch embedding, a transformer layer, a stage
    or a residual block) is a block. Layers of Keras belong to the preceding block, or to
    the first. Layers that are not in the result, such as the final normalization of an
    encoder, are trained like those of block 1.
    """
    blocks: list[list[keras.layers.Layer]] = []
    stem = True
    for layer in backbone.layers:
        lists = (getattr(layer, name, None) for name in LISTS_OF_LAYERS)
        for part in next(filter(None, lists), [layer]):
            if not part.weights:
                continue
            custom = is_opaque(part)
            if blocks and (stem or not custom):
                blocks[-1].append(part)
            else:
                blocks.append([part])
            stem = stem and not custom
    return {
        layer: len(blocks) - index for index, block in enumerate(blocks) for layer in block
    }


def _load(preset: str, pretrained: bool, **options: Any) -> keras.Model:
    import keras_hub

    load = keras_hub.models.Backbone.from_preset
    try:
        return load(preset, load_weights=pretrained, **options)
    except Exception as error:  # from KerasHub, Keras, or the client of the download
        raise _not_loaded(preset, error) from error


def _feature_map(backbone: Any, tokens: Any) -> Any:
    """Returns tokens [batch, tokens, channels] as a feature map; see `build`."""
    multiple = SIZE_MULTIPLES.get(type(backbone).__name__, lambda x: x.patch_size)
    strides = multiple(backbone)
    strides = (strides, strides) if isinstance(strides, int) else strides
    size = keras.tree.flatten(backbone.input)[0].shape[1:3]
    rows, columns = (side // stride for side, stride in zip(size, strides, strict=True))
    _, length, channels = tokens.shape
    num_others = length - rows * columns
    patches = keras.layers.Cropping1D((num_others, 0))(tokens)
    features = keras.layers.Reshape((rows, columns, channels))(patches)
    if num_others == 0:
        return features
    first = keras.layers.Cropping1D((0, length - 1))(tokens)
    class_token = keras.layers.Reshape((1, 1, channels))(first)
    everywhere = keras.layers.UpSampling2D((rows, columns))(class_token)
    return keras.layers.Concatenate()([features, everywhere])


def _channels(value: Any, default: float) -> Channels:
    if value is None:
        return default
    return float(value) if isinstance(value, int | float) else tuple(map(float, value))


def _not_for_images(preset: str, hint: str = "") -> ConfigError:
    return ConfigError(
        f"`model.backbone`: the preset {preset} is not an image backbone. Expected a "
        "network that maps one image to a feature map or to tokens of patches, such as "
        f"ViT, DINOv2 or ResNet.{hint}"
    )


def _not_loaded(preset: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"The preset {preset} of KerasHub could not be loaded: {error}. Without internet "
        "access, copy the files of the preset to a directory and use --model.backbone "
        f"{PREFIX}DIRECTORY."
    )
