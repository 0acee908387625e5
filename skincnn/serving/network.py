"""A trained run as one Keras model: images in, logits and OOD distance out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from skincnn.config import Config
from skincnn.inference.load import load_model
from skincnn.inference.ood import OOD_FILE, FeatureGaussian
from skincnn.inference.run_dir import RunInfo, read_run
from skincnn.model.classifier import POOLING_LAYER


@dataclass(frozen=True)
class Network:
    """A network as it is exported.

    Attributes:
        model: Maps images, float32 [batch, height, width, 3] in 0..255 (with clinical
            metadata a dictionary of `images` and `metadata`), to a dictionary of `logits`
            [batch, num_classes] and `ood_distance` [batch].
        config: Its configuration.
    """

    model: keras.Model
    config: Config


@dataclass(frozen=True)
class RunNetwork(Network):
    """The network of an evaluated run.

    Attributes:
        info: The run's run.json.
    """

    info: RunInfo


def use_clinical_metadata(networks: Sequence[Network]) -> bool:
    """Returns whether any of the networks has clinical metadata as input."""
    return any(network.config.model.clinical_metadata for network in networks)


def load_network(workdir: Path) -> RunNetwork:
    """Returns the network of an evaluated run.

    Raises:
        ConfigError: The directory holds no finished run, or the run was not evaluated.
        DataError: The model file has changed.
    """
    info, config = read_run(workdir)
    gaussian = FeatureGaussian.read(workdir / OOD_FILE)
    classifier = load_model(workdir, info)
    return RunNetwork(add_ood_distance(classifier, gaussian), config, info)


def add_ood_distance(classifier: keras.Model, gaussian: FeatureGaussian) -> keras.Model:
    """Returns the classifier with `ood_distance` as a second output.

    The squared Mahalanobis distance is the squared norm of the whitened features: a dense
    layer, which every runtime supports, and which is never negative.

    Args:
        classifier: A model of `build_classifier`.
        gaussian: The Gaussian of its features.
    """
    # Features that are always 0 leave the precision without full rank.
    eigenvalues, eigenvectors = np.linalg.eigh(gaussian.precision)
    root = eigenvectors * np.sqrt(eigenvalues.clip(0))
    whiten = keras.layers.Dense(len(root), use_bias=False, name="whiten", trainable=False)
    # Subtracted before whitening: the difference of two large numbers would be inexact.
    features = classifier.get_layer(POOLING_LAYER).output
    whitened = whiten(features - gaussian.mean.astype(np.float32))
    whiten.set_weights([root])
    distance = ops.mean(ops.square(whitened), axis=-1)
    return keras.Model(
        classifier.input, {"logits": classifier.output, "ood_distance": distance}
    )
