"""Networks for export: Keras models that return logits and, optionally, OOD distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from skincnn.config import Config
from skincnn.inference.load import load_model
from skincnn.inference.ood import OOD_FILE, BlockGaussian, FeatureGaussian, inner_blocks
from skincnn.inference.predict import with_features
from skincnn.inference.run_dir import RunInfo, read_run
from skincnn.metrics.sample import Scores
from skincnn.model.classifier import IMAGES_LAYER
from skincnn.model.orientations import orient

LOGITS, OOD_DISTANCE = "logits", "ood_distance"
"""Names of the outputs of a network."""


@dataclass(frozen=True)
class Network:
    """A network to export.

    Attributes:
        model: Maps a dictionary of `images`, float32 [batch, height, width, 3] in 0..255,
            and, with clinical metadata, `metadata`, float32 [batch,
            len(CLINICAL_FEATURES)], to a dictionary of `logits` [batch, num_classes] and,
            with OOD detection, `ood_distance` [batch].
        config: The configuration of the run.
    """

    model: keras.Model
    config: Config


@dataclass(frozen=True)
class RunNetwork(Network):
    """The network of an evaluated run.

    Attributes:
        info: Content of run.json.
        logit_adjustment: Strength of the logit adjustment in `model`; None without it.
    """

    info: RunInfo
    logit_adjustment: float | None = None


def use_clinical_metadata(networks: Sequence[Network]) -> bool:
    """Returns whether any of the networks requires clinical metadata."""
    return any(network.config.model.clinical_metadata for network in networks)


def load_network(workdir: Path, *, ood: bool = True) -> RunNetwork:
    """Returns the network of an evaluated run, with or without OOD detection.

    Raises:
        ConfigError: See `read_run` and `load_model`.
        DataError: See `load_model`; or, with `ood`, the `OOD_FILE` from the evaluation is
            missing or damaged.
        OSError: See `load_model`.
    """
    info, config = read_run(workdir)
    gaussian = FeatureGaussian.read(workdir / OOD_FILE) if ood else None
    return RunNetwork(build_network(load_model(workdir, info), gaussian), config, info)


def build_network(classifier: keras.Model, gaussian: FeatureGaussian | None) -> keras.Model:
    """Returns the model of a `Network` for a classifier.

    The OOD distance is that of `gaussian.distances`; without `gaussian`, there is none.
    """
    has_metadata = isinstance(classifier.input, dict)
    inputs = classifier.input if has_metadata else {IMAGES_LAYER: classifier.input}
    if gaussian is None:
        return keras.Model(inputs, {LOGITS: classifier.output})
    logits, *features = with_features(classifier).outputs
    features = inner_blocks(features)
    blocks = [keras.Input(means.shape[1:]) for means in features]
    pairs = zip(gaussian.blocks, blocks, strict=True)
    distances = [_block_distance(*pair) for pair in pairs]
    # In a model of its own, names of layers cannot equal those of the classifier.
    largest = keras.Model(
        blocks, ops.max(ops.stack(distances, axis=-1), axis=-1), name=OOD_DISTANCE
    )
    outputs = {LOGITS: logits, OOD_DISTANCE: largest(features)}
    return keras.Model(inputs, outputs)


def _block_distance(gaussian: BlockGaussian, features: Any) -> Any:
    """Returns the distances of `BlockGaussian.distances`, [batch].

    A dense layer, which every runtime supports, multiplies by the whitening matrix.
    """
    center = keras.layers.Rescaling(1.0, (-gaussian.mean).tolist(), dtype="float32")
    whiten = keras.layers.Dense(
        len(gaussian.mean), use_bias=False, trainable=False, dtype="float32"
    )
    whitened = whiten(center(features))
    whiten.set_weights([gaussian.whitening])
    return ops.sqrt(ops.sum(ops.square(whitened), axis=-1))


def with_variant(
    model: keras.Model, orientations: Sequence[int], logit_shift: Scores | None = None
) -> keras.Model:
    """Returns the model of a `Network` with an inference variant.

    The probabilities are averaged over the orientations of the image (see `orient`), as in
    `mean_predictions`. `logit_shift` [num_classes] is then subtracted from their
    logarithms, as in `adjust`. `orientations` is a value of `ORIENTATIONS`, which begins
    with the original image. The OOD distance is that of the original image.
    """
    if len(orientations) == 1 and logit_shift is None:
        return model
    images = model.input[IMAGES_LAYER]
    views = [
        model({**model.input, IMAGES_LAYER: orient(images, number)}, training=False)
        for number in orientations
    ]
    log_prob = ops.stack([ops.log_softmax(view[LOGITS], axis=-1) for view in views])
    log_mean = ops.logsumexp(log_prob, axis=0) - math.log(len(views))
    if logit_shift is not None:
        smallest = math.log(np.finfo(np.float32).tiny)
        shift = np.asarray(logit_shift, np.float32)
        log_mean = ops.maximum(log_mean, smallest) - shift
    return keras.Model(model.input, {**views[0], LOGITS: log_mean})
