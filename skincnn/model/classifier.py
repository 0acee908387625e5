"""The classifier, which maps images in 0..255 to logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from skincnn.clinical_metadata import CLINICAL_FEATURES
from skincnn.config import ModelConfig
from skincnn.errors import ConfigError
from skincnn.model.backbones import build_backbone, find_backbone
from skincnn.model.keras_hub_backbone import CONSTANT_VARIABLES, block_of_layers
from skincnn.model.layers import FusedBatchNormalization, training_layer
from skincnn.model.networks import clone, is_opaque
from skincnn.model.reproducibility import seeded

IMAGES_LAYER = "images"
BACKBONE_LAYER = "backbone"
POOLING_LAYER = "pooling"
METADATA_UNITS = 32
METADATA_DROPOUT = 0.5
PROBE_SIZE = 512
"""Image size in pixels for which the output resolution of each layer is computed."""


def build_classifier(
    config: ModelConfig,
    num_classes: int,
    *,
    seed: int = 0,
    fused: bool = False,
    image_size: int | None = None,
) -> keras.Model:
    """Returns a model that maps images to logits.

    The images are [batch, height, width, 3] in 0..255, of any size that the backbone
    accepts; the model includes their normalization. With `config.clinical_metadata`, the
    input is a dictionary of `images` and `metadata` [batch, len(CLINICAL_FEATURES)], as
    returned by `encode_clinical_metadata`. The logits are float32 [batch, num_classes].

    Args:
        config: All fields except `batch_norm` are used.
        num_classes: Number of logits.
        seed: Seed of the random initial weights and of dropout.
        fused: Whether to use the layers from `training_layer` in the backbone. The order of
            the weights is unchanged. A saved model with these layers can be loaded only
            with this package.
        image_size: Size of most images in pixels. Backbones of KerasHub with a fixed input
            size are built for `image_size`, or for the size of their preset if `image_size`
            is None or they support no other size. The classifier then resizes images of
            other sizes.

    Raises:
        ConfigError: The backbone or its weights cannot be used; see `build_backbone`.
    """
    with seeded(seed):
        network = _copy_backbone(config, fused, image_size)
        images = inputs = keras.Input((None, None, 3), name=IMAGES_LAYER)
        scaling = find_backbone(config.backbone).scaling.with_statistics(
            config.channel_mean, config.channel_std
        )
        channels = ops.flip(images, axis=-1) if scaling.bgr else images
        if None not in network.input_shape[1:]:
            # keras.layers.Resizing would put custom layers after it into training mode.
            channels = ops.image.resize(channels, network.input_shape[1:3])
        # In half precision, rounding errors of rescaling would add up.
        rescaling = keras.layers.Rescaling(scaling.scale, scaling.offset, dtype="float32")
        pooling = keras.layers.GlobalAveragePooling2D(name=POOLING_LAYER)
        features = pooling(network(rescaling(channels)))
        features = keras.layers.Dropout(config.dropout, seed=seed)(features)
        if config.clinical_metadata:
            metadata = keras.Input((len(CLINICAL_FEATURES),), name="metadata")
            inputs = {"images": images, "metadata": metadata}
            features = keras.layers.Concatenate()([features, _encode(metadata, seed)])
        logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")(features)
        return keras.Model(inputs, logits, name="classifier")


def _copy_backbone(config: ModelConfig, fused: bool, image_size: int | None) -> keras.Model:
    network = build_backbone(
        config.backbone, config.width_multiplier, config.weights, image_size
    )
    try:
        network = clone(network, training_layer if fused else None)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ConfigError(
            f"`model.backbone` {config.backbone}: a layer cannot be copied by its "
            f"get_config() and from_config(): {error}. Correct these methods."
        ) from error
    network.name = BACKBONE_LAYER
    _freeze_constants(network)
    for layer in _batch_norms(network):
        layer.momentum = config.batch_norm_momentum
    return network


def set_trainable(
    classifier: keras.Model, blocks: int | None, batch_norm: str = "train"
) -> None:
    """Makes only the head and the last `blocks` blocks of the backbone trainable.

    A block consists of consecutive layers with the same downsampling, like a stage of a
    ResNet. For Transformers and other networks with custom layers of KerasHub, see
    `skincnn.model.keras_hub_backbone.block_of_layers`. BatchNorm layers in frozen blocks
    run in inference mode, as do dropout and stochastic depth if the classifier is `fused`.

    Args:
        classifier: A model from `build_classifier`. Compile it after this call.
        blocks: Number of trainable blocks; 0 for only the head, None for all layers.
        batch_norm: Mode of BatchNorm in trainable blocks; see `ModelConfig.batch_norm`.

    Raises:
        ConfigError: `blocks` is negative or exceeds the number of blocks of the backbone;
            or `batch_norm` is "frozen_statistics" and `blocks` is not 0, but the backbone
            has BatchNorm layers and the classifier is not `fused`, or a BatchNorm layer is
            inside a custom layer, such as one of KerasHub.
    """
    network = classifier.get_layer(BACKBONE_LAYER)
    if blocks == 0:
        network.trainable = False
        return
    block_of = {} if blocks is None else _block_of_layers(network)
    if blocks is not None and not 0 < blocks <= max(block_of.values()):
        raise ConfigError(
            f"The number of trainable blocks must be in 0..{max(block_of.values())} for "
            f"this backbone. Received: {blocks} blocks."
        )
    for layer in network._flatten_layers():
        layer.trainable = True
    for layer, block in block_of.items():
        layer.trainable = block <= (blocks or 0)
    _freeze_constants(network)
    for layer in _batch_norms(network):
        if batch_norm == "frozen":
            layer.trainable = False
        if isinstance(layer, FusedBatchNormalization):
            layer.frozen_statistics = batch_norm == "frozen_statistics"
        elif batch_norm == "frozen_statistics":
            raise ConfigError(
                "`model.batch_norm` frozen_statistics requires build_classifier(fused="
                "True), and a backbone whose BatchNorm layers are not inside custom "
                "layers, such as those of KerasHub. Use train or frozen."
            )


def num_blocks(classifier: keras.Model) -> int:
    """Returns the number of blocks of the backbone; see `set_trainable`."""
    return max(_block_of_layers(classifier.get_layer(BACKBONE_LAYER)).values())


def block_maps(network: keras.Model) -> list[Any]:
    """Returns the last feature map of each block of a backbone, beginning with the first.

    The maps are symbolic tensors [batch, height, width, channels]; the last one is the
    output of the backbone. A Transformer, or another network with custom layers of
    KerasHub, has only this one.
    """
    maps = {}
    if not any(map(_is_transformer, network.layers)):
        for layer, block in _block_of_layers(network).items():
            output = _output(layer)
            # Squeeze and excitation has maps of one pixel.
            if len(output.shape) == 4 and output.shape[1] != 1:
                maps[block] = output
    maps[1] = network.output
    return [maps[block] for block in sorted(maps, reverse=True)]


def block_of_variables(classifier: keras.Model) -> dict[str, int]:
    """Returns the block of each variable by the `path` of the variable.

    The head is block 0. The last block of the backbone is 1, the preceding block 2.
    """
    network = classifier.get_layer(BACKBONE_LAYER)
    block_of = {variable.path: 0 for variable in classifier.weights}
    block_of.update({variable.path: 1 for variable in network.weights})
    for layer, block in _block_of_layers(network).items():
        block_of.update({variable.path: block for variable in layer.weights})
    return block_of


def _block_of_layers(network: keras.Model) -> dict[keras.layers.Layer, int]:
    """Returns the block of each layer. The last block is 1, the preceding block 2.

    Layers with the same downsampling, rounded to a power of 2, form a block. Layers without
    a spatial output (squeeze and excitation) belong to the block of the preceding layer.
    For Transformers, see `block_of_layers`.
    """
    layers = network.layers
    for layer in layers:
        if _is_transformer(layer):
            return block_of_layers(layer)
    shapes = keras.Model(
        network.inputs, [_output(layer) for layer in layers]
    ).compute_output_shape((1, PROBE_SIZE, PROBE_SIZE, 3))
    halvings, last = {}, 0
    for layer, shape in zip(layers, shapes, strict=True):
        if len(shape) == 4 and shape[1] > 1:
            last = round(math.log2(PROBE_SIZE / shape[1]))
        halvings[layer] = last
    # A resolution at which no layer has weights does not form a block.
    levels = sorted({halvings[layer] for layer in layers if layer.weights})
    return {
        layer: max(1, sum(level >= halving for level in levels))
        for layer, halving in halvings.items()
    }


def _is_transformer(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.Model) and is_opaque(layer)


def _output(layer: keras.layers.Layer) -> Any:
    # For a nested model, `layer.output` is not the output of the call in the network.
    return layer._inbound_nodes[0].output_tensors[0]


def _batch_norms(network: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer


def _freeze_constants(network: keras.Model) -> None:
    for variable in network.weights:
        if variable.name in CONSTANT_VARIABLES:
            variable.trainable = False


def _encode(metadata: Any, seed: int) -> Any:
    """Returns features [batch, METADATA_UNITS] of the encoded clinical metadata.

    In training, all these features of an image are dropped together with probability 0.5,
    so that the model does not rely on the metadata alone.

    References:
        Neverova et al., ModDrop (2014), arXiv:1501.00102; Pacheco and Krohling, The impact
        of patient clinical information (2019), arXiv:1909.12912.
    """
    hidden = keras.layers.Dense(METADATA_UNITS, "relu", name="metadata_hidden")(metadata)
    dropout = keras.layers.Dropout(
        METADATA_DROPOUT, noise_shape=(None, 1), seed=seed, name="metadata_dropout"
    )
    return dropout(hidden)
