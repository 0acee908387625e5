"""Networks for export: Keras models that return logits and the OOD distance."""

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
from skincnn.inference.ood import MIN_NORM, OOD_FILE, ReferenceFeatures
from skincnn.inference.run_dir import RunInfo, read_run
from skincnn.metrics.sample import Scores
from skincnn.model.classifier import IMAGES_LAYER, POOLING_LAYER
from skincnn.model.orientations import orient

LOGITS, OOD_DISTANCE = "logits", "ood_distance"
"""Names of the outputs of a network."""


@dataclass(frozen=True)
class Network:
    """A network to export.

    Attributes:
        model: Maps images, float32 [batch, height, width, 3] in 0..255, to a dictionary of
            `logits` [batch, num_classes] and, with OOD detection, `ood_distance` [batch].
            With clinical metadata, the input is a dictionary of `images` and `metadata`,
            float32 [batch, len(CLINICAL_FEATURES)].
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
        ConfigError: The directory contains no finished run, or the run was not evaluated.
        DataError: The model file has changed or cannot be loaded.
    """
    info, config = read_run(workdir)
    references = ReferenceFeatures.read(workdir / OOD_FILE) if ood else None
    classifier = load_model(workdir, info)
    if references is None:
        model = keras.Model(classifier.input, {LOGITS: classifier.output})
    else:
        model = add_ood_distance(classifier, references)
    return RunNetwork(model, config, info)


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
        classifier.input, {LOGITS: classifier.output, OOD_DISTANCE: distance}
    )


def with_variant(
    model: keras.Model, orientations: Sequence[int], logit_shift: Scores | None = None
) -> keras.Model:
    """Returns the model of a `Network` with another inference variant.

    The probabilities are averaged over the orientations of the image (see `orient`), as in
    `mean_predictions`. `logit_shift` [num_classes] is then subtracted from their
    logarithms, as in `adjust`. The OOD distance is that of the first orientation, which is
    the original image.
    """
    if len(orientations) == 1 and logit_shift is None:
        return model
    is_dict = isinstance(model.input, dict)
    images = model.input[IMAGES_LAYER] if is_dict else model.input
    views = []
    for number in orientations:
        inputs: Any = orient(images, number)
        if is_dict:
            inputs = {**model.input, IMAGES_LAYER: inputs}
        views.append(model(inputs, training=False))
    log_prob = ops.stack([ops.log_softmax(view[LOGITS], axis=-1) for view in views])
    log_mean = ops.logsumexp(log_prob, axis=0) - math.log(len(views))
    if logit_shift is not None:
        smallest = math.log(np.finfo(np.float32).tiny)
        shift = np.asarray(logit_shift, np.float32)
        log_mean = ops.maximum(log_mean, smallest) - shift
    return keras.Model(model.input, {**views[0], LOGITS: log_mean})
