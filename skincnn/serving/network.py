"""Networks for export: Keras models that return logits and the OOD distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import ops

from skincnn.config import Config
from skincnn.inference.load import load_model
from skincnn.inference.ood import MIN_NORM, OOD_FILE, ReferenceFeatures
from skincnn.inference.run_dir import RunInfo, read_run
from skincnn.model.classifier import POOLING_LAYER


@dataclass(frozen=True)
class Network:
    """A network to export.

    Attributes:
        model: Maps images, float32 [batch, height, width, 3] in 0..255, to a dictionary of
            `logits` [batch, num_classes] and `ood_distance` [batch]. With clinical
            metadata, the input is a dictionary of `images` and `metadata`, float32
            [batch, len(CLINICAL_FEATURES)].
        config: The configuration of the run.
    """

    model: keras.Model
    config: Config


@dataclass(frozen=True)
class RunNetwork(Network):
    """The network of an evaluated run, with the content of its run.json."""

    info: RunInfo


def use_clinical_metadata(networks: Sequence[Network]) -> bool:
    """Returns whether any of the networks requires clinical metadata."""
    return any(network.config.model.clinical_metadata for network in networks)


def load_network(workdir: Path) -> RunNetwork:
    """Returns the network of an evaluated run.

    Raises:
        ConfigError: The directory contains no finished run, or the run was not evaluated.
        DataError: The model file has changed or cannot be loaded.
    """
    info, config = read_run(workdir)
    references = ReferenceFeatures.read(workdir / OOD_FILE)
    classifier = load_model(workdir, info)
    return RunNetwork(add_ood_distance(classifier, references), config, info)


def add_ood_distance(classifier: keras.Model, references: ReferenceFeatures) -> keras.Model:
    """Returns the classifier with `ood_distance` as a second output.

    The distance is that of `ReferenceFeatures.distances`. The similarities are the outputs
    of a dense layer, which every runtime supports.
    """
    compare = keras.layers.Dense(
        len(references.references),
        use_bias=False,
        name="references",
        trainable=False,
        dtype="float32",
    )
    features = ops.cast(classifier.get_layer(POOLING_LAYER).output, "float32")
    square = ops.sum(ops.square(features), axis=-1, keepdims=True)
    similarities = compare(features * ops.rsqrt(ops.maximum(square, MIN_NORM**2)))
    compare.set_weights([references.references.T])
    nearest, _ = ops.top_k(similarities, references.num_neighbors)
    distance = 1 - nearest[:, -1]
    return keras.Model(
        classifier.input, {"logits": classifier.output, "ood_distance": distance}
    )
