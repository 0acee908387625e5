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
from skincnn.model.layers import FusedBatchNormalization, training_layer
from skincnn.model.networks import clone
from skincnn.model.reproducibility import seeded

IMAGES_LAYER = "images"
BACKBONE_LAYER = "backbone"
POOLING_LAYER = "pooling"
METADATA_UNITS = 32
METADATA_DROPOUT = 0.5
PROBE_SIZE = 512
"""Image size in pixels at which the resolution of each layer is computed."""


def build_classifier(
    config: ModelConfig, num_classes: int, *, seed: int = 0, fused: bool = False
) -> keras.Model:
    """Returns a model from images to logits.

    The images are [batch, height, width, 3] in 0..255, of any size that the backbone
    accepts; its normalization is part of the model. With `config.clinical_metadata`, the
    input is a dictionary of `images` and `metadata` [batch, len(CLINICAL_FEATURES)], as
    returned by `encode_clinical_metadata`. The logits are float32 [batch, num_classes].

    Args:
        config: The backbone, its weights and the dropout.
        num_classes: Number of logits.
        seed: Seed of the initial weights of the head and of dropout.
        fused: Whether to use the layers of `training_layer`, which have the same weights in
            the same order. A saved model with these layers can be loaded only with this
            package.

    Raises:
        ConfigError: The backbone does not exist, or its weights cannot be loaded.
    """
    with seeded(seed):
        network = build_backbone(config.backbone, config.width_multiplier, config.weights)
        network = clone(network, training_layer if fused else None)
        network.name = BACKBONE_LAYER
        for layer in _batch_norms(network):
            layer.momentum = config.batch_norm_momentum
        images = inputs = keras.Input((None, None, 3), name=IMAGES_LAYER)
        scaling = find_backbone(config.backbone).scaling
        channels = ops.flip(images, axis=-1) if scaling.bgr else images
        # Half precision cannot represent 256 gray levels.
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


def set_trainable(
    classifier: keras.Model, blocks: int | None, batch_norm: str = "train"
) -> None:
    """Makes the head and all or the last blocks of the backbone trainable.

    A block is a stage of constant spatial resolution, as in a ResNet. BatchNorm layers in
    frozen blocks run in inference mode, as do dropout and stochastic depth if the
    classifier is `fused`.

    Args:
        classifier: A model of `build_classifier`; compile it after this call.
        blocks: Number of trainable blocks in addition to the head; None for all.
        batch_norm: Mode of the BatchNorm layers in trainable blocks; see `ModelConfig`.
            "frozen_statistics" requires a `fused` classifier.

    Raises:
        ConfigError: The backbone has fewer blocks.
    """
    network = classifier.get_layer(BACKBONE_LAYER)
    if blocks == 0:
        network.trainable = False
        return
    block_of = {} if blocks is None else _block_of_layers(network)
    if blocks is not None and not 0 < blocks <= max(block_of.values()):
        raise ConfigError(
            f"The number of trainable blocks must be in 0..{max(block_of.values())}, the "
            f"number of blocks of this backbone. Received: {blocks}."
        )
    # `fit` would override `training=False` in the call of a layer, but BatchNorm layers run
    # in inference mode if they are not trainable.
    network.trainable = True
    for layer in network.layers:
        layer.trainable = blocks is None or block_of[layer.name] <= blocks
    for layer in _batch_norms(network):
        if batch_norm == "frozen":
            layer.trainable = False
        if isinstance(layer, FusedBatchNormalization):
            layer.frozen_statistics = batch_norm == "frozen_statistics"
        elif batch_norm == "frozen_statistics":
            raise ValueError("`frozen_statistics` needs build_classifier(fused=True).")


def num_blocks(classifier: keras.Model) -> int:
    """Returns the number of blocks of the backbone; see `set_trainable`."""
    return max(_block_of_layers(classifier.get_layer(BACKBONE_LAYER)).values())


def block_of_variables(classifier: keras.Model) -> dict[str, int]:
    """Maps the `path` of each variable to its block, counted from the head, which is 0.

    The last block of the backbone is 1, and the first one is `num_blocks`.
    """
    network = classifier.get_layer(BACKBONE_LAYER)
    block_of_layers = _block_of_layers(network)
    block_of = {variable.path: 0 for variable in classifier.weights}
    for layer in network.layers:
        block = block_of_layers[layer.name]
        block_of.update({variable.path: block for variable in layer.weights})
    return block_of


def _block_of_layers(network: keras.Model) -> dict[str, int]:
    """Maps the name of each layer to its block; the last block is 1.

    The height of its output determines the block of a layer. Layers without a spatial
    output (squeeze and excitation) belong to the block of the preceding layer.
    """
    layers = network.layers
    # `layer.output` of a nested model would not be the output of its call in `network`.
    outputs = [layer._inbound_nodes[0].output_tensors[0] for layer in layers]
    shapes = keras.Model(network.inputs, outputs).compute_output_shape(
        (1, PROBE_SIZE, PROBE_SIZE, 3)
    )
    halvings, last = {}, 0
    for layer, shape in zip(layers, shapes, strict=True):
        if len(shape) == 4 and shape[1] > 1:
            last = round(math.log2(PROBE_SIZE / shape[1]))
        halvings[layer.name] = last
    # Layers before the first or after the last layer with weights do not form blocks.
    levels = sorted({halvings[layer.name] for layer in layers if layer.weights})
    return {
        name: max(1, sum(level >= halving for level in levels))
        for name, halving in halvings.items()
    }


def _batch_norms(network: keras.Model) -> Iterator[keras.layers.BatchNormalization]:
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _batch_norms(layer)
        elif isinstance(layer, keras.layers.BatchNormalization):
            yield layer


def _encode(metadata: Any, seed: int) -> Any:
    """Returns features of the clinical metadata, [batch, METADATA_UNITS].

    In training, the features of half of the images are dropped. Otherwise the head would
    neglect the images, from which it is harder to learn.

    References:
        Neverova et al., ModDrop (2014), arXiv:1501.00102; Pacheco and Krohling, The impact
        of patient clinical information (2019), arXiv:1909.12912.
    """
    hidden = keras.layers.Dense(METADATA_UNITS, "relu", name="metadata_hidden")(metadata)
    dropout = keras.layers.Dropout(
        METADATA_DROPOUT, noise_shape=(None, 1), seed=seed, name="metadata_dropout"
    )
    return dropout(hidden)
