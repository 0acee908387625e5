"""A run's network as it is served: pictures to logits and the distance, in one graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from skincnn.config import Config
from skincnn.evaluation.splits import load_model
from skincnn.inference.ood import OOD_FILE, FeatureGaussian
from skincnn.inference.run_dir import read_run
from skincnn.model.classifier import POOLING_LAYER


@dataclass(frozen=True)
class Network:
    """What is served of a run.

    Attributes:
        model: From pictures, float32 [batch, height, width, 3] in 0..255 (with metadata a
            dictionary of `images` and `metadata`) to a dictionary of `logits` [batch,
            num_classes] and `distance` [batch].
        config: The run's.
        metadata: The run's.
    """

    model: keras.Model
    config: Config
    metadata: dict[str, Any]


def are_told(networks: Sequence[Network]) -> bool:
    """Returns whether any of them is told of patients."""
    return any(network.config.model.clinical_metadata for network in networks)


def read_network(workdir: Path) -> Network:
    """Returns the network of an evaluated run.

    Raises:
        ConfigError: The folder holds no finished run, or one that was not evaluated.
        DataError: The model's file has changed.
    """
    metadata, config = read_run(workdir)
    familiar = FeatureGaussian.read(workdir / OOD_FILE)
    classifier = load_model(workdir, metadata)
    return Network(with_distance(classifier, familiar), config, metadata)


def with_distance(classifier: keras.Model, familiar: FeatureGaussian) -> keras.Model:
    """Returns the classifier with the second output `distance`.

    The quadratic form of the precision is the squared length of what its root makes of
    the features: a dense layer, in any runtime, and never negative.

    Args:
        classifier: A model of `build_classifier`.
        familiar: Of its features.
    """
    # Features that are always 0 leave the precision without full rank.
    values, vectors = np.linalg.eigh(familiar.precision)
    root = vectors * np.sqrt(values.clip(0))
    whiten = keras.layers.Dense(len(root), use_bias=False, name="whiten", trainable=False)
    # The mean goes before: afterwards both would be large, and their difference all noise.
    away = classifier.get_layer(POOLING_LAYER).output - familiar.mean.astype(np.float32)
    whitened = whiten(away)
    whiten.set_weights([root])
    distance = ops.mean(ops.square(whitened), axis=-1)
    return keras.Model(
        classifier.input, {"logits": classifier.output, "distance": distance}
    )
