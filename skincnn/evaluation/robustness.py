"""Scores on corrupted images, for each corruption and severity."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.special

from skincnn.config import AugmentConfig, Config
from skincnn.data.cache import Images
from skincnn.errors import DataError
from skincnn.evaluation.resampled import Resampled
from skincnn.evaluation.results import SplitResult
from skincnn.inference.corruptions import CORRUPTIONS, NUM_SEVERITIES, corrupt
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.classification import balanced_accuracy
from skincnn.metrics.operating_points import HEADLINE_POINT
from skincnn.metrics.sample import Floats, Scores
from skincnn.progress import ProgressBar
from skincnn.records import Part, Record

Predict = Callable[[Images, slice], npt.NDArray[np.float32]]
"""Returns the logits [num_images, num_classes] of images, uint8 [num_images, height, width,
3]. The second argument is the slice of their rows in the predictions table."""
CHUNK = 128
"""Number of images that are corrupted and predicted at a time."""
SAME_PROBABILITY = 0.05
"""Maximum mean absolute difference between predicted and stored probabilities of a class;
larger than the rounding errors of float16."""
TRAINED_BY = {
    "brightness": {"light": "brightness", "jitter": "brightness"},
    "contrast": {"light": "contrast", "jitter": "contrast"},
    "color_cast": {"color": "color_cast"},
    "blur": {"blur": "blur"},
    "defocus": {"blur": "blur"},
    "zoom": {"zoom": "zoom", "crop": "crop"},
    "hairs": {"hair": "hairs"},
    "ruler": {"ruler": "ruler_share"},
}
"""The augmentations that resemble each corruption, and for each augmentation the field of
`AugmentConfig` that sets its strength. Corruptions that no augmentation resembles are left
out. Custom augmentations are not considered."""


class CorruptionScores(Part):
    """Scores on corrupted or clean images.

    Attributes:
        melanoma_sensitivity: Sensitivity at the threshold chosen for `HEADLINE_POINT` on
            clean validation images; None if no class is melanoma or `choose_threshold`
            finds no threshold.
        melanoma_specificity: Specificity at the same threshold; None in the same cases.
    """

    balanced_accuracy: Estimate
    melanoma_sensitivity: Estimate | None
    melanoma_specificity: Estimate | None


class CorruptionRow(Part):
    """Scores for one corruption at one severity in 1..5.

    `difference` is the paired difference in balanced accuracy, corrupted minus clean.
    """

    name: str
    severity: int
    scores: CorruptionScores
    difference: Estimate


class CorruptionResult(Record):
    """results/<split>.corruptions.json: scores for each corruption and severity.

    `trained` contains the corruptions that resemble an augmentation used in training; see
    `TRAINED_BY`.
    """

    split: str
    num_images: int
    clean: CorruptionScores
    rows: tuple[CorruptionRow, ...]
    trained: tuple[str, ...]


def trained_corruptions(config: AugmentConfig) -> tuple[str, ...]:
    """Returns the corruptions that resemble an augmentation used in training."""
    return tuple(
        name
        for name, augmentations in TRAINED_BY.items()
        if any(
            part in config.parts and config.strength(strength) > 0
            for part, strength in augmentations.items()
        )
    )


def score_corruptions(
    predict: Predict,
    images: Images,
    predictions: pd.DataFrame,
    clean: SplitResult,
    config: Config,
) -> CorruptionResult:
    """Returns a model's scores on the corrupted images of a split.

    The calibration and the threshold are those chosen on clean validation images.

    Args:
        predict: See `Predict`; called with at most `CHUNK` images at a time.
        images: uint8 [num_images, height, width, 3], preprocessed for the model.
        predictions: The model's predictions table of these images, in the same order.
        clean: The result of the predictions table.
        config: Configuration of the run; its seed is also the seed of the corruptions.

    Raises:
        DataError: The images do not match the predictions table.
    """
    if len(images) != len(predictions):
        raise DataError(
            f"There are {len(images)} images and {len(predictions)} predictions. Expected "
            "one image for each row of the predictions table, in the same order."
        )
    sample = Resampled(predictions, config.evaluate)
    cases = list(itertools.product(CORRUPTIONS, range(1, NUM_SEVERITIES + 1)))
    total = (1 + len(cases)) * len(images)
    rows = []
    with ProgressBar(total=total, desc="Corrupting images", unit="img") as progress:
        clean_prob = _predict_all(predict, images, lambda chunk, first: chunk, progress)
        _check_same(clean_prob, sample.arrays[1])
        clean_scores, clean_values = _score(sample, clean_prob, clean)
        for name, severity in cases:
            change = functools.partial(
                corrupt, name=name, severity=severity, seed=config.seed
            )
            y_prob = _predict_all(predict, images, change, progress)
            scores, values = _score(sample, y_prob, clean)
            rows.append(
                CorruptionRow(
                    name=name,
                    severity=severity,
                    scores=scores,
                    difference=sample.estimate_difference(
                        values - clean_values,
                        sample.supports()["balanced_accuracy"][0],
                    ),
                )
            )
    return CorruptionResult(
        split=clean.split,
        num_images=len(images),
        clean=clean_scores,
        rows=tuple(rows),
        trained=trained_corruptions(config.augment),
    )


def _score(
    sample: Resampled, y_prob: Floats, clean: SplitResult
) -> tuple[CorruptionScores, Scores]:
    """Returns the scores, and the values [1 + num_resamples] of the balanced accuracy."""
    values = sample.bootstrap({"": balanced_accuracy}, y_prob)[""]
    rates: dict[str, Estimate] = {}
    if melanoma := sample.targets.get("melanoma"):
        score = melanoma.score(clean.calibration_map.apply(y_prob))
        threshold = clean.thresholds["melanoma"][HEADLINE_POINT.key]
        rates = sample.rates(melanoma.positive(sample.arrays[0]), score, threshold)
    scores = CorruptionScores(
        balanced_accuracy=sample.estimate(
            values, sample.supports(y_prob)["balanced_accuracy"][0]
        ),
        melanoma_sensitivity=rates.get("sensitivity"),
        melanoma_specificity=rates.get("specificity"),
    )
    return scores, values


def _predict_all(
    predict: Predict,
    images: Images,
    change: Callable[..., Images],
    progress: ProgressBar,
) -> Floats:
    """Returns the probabilities [num_images, num_classes] of the images after `change`."""
    logits = []
    for first in range(0, len(images), CHUNK):
        chunk = np.asarray(images[first : first + CHUNK])
        rows = slice(first, first + len(chunk))
        logits.append(predict(change(chunk, first=first), rows))
        progress.update(len(chunk))
    return np.asarray(scipy.special.softmax(np.concatenate(logits), axis=1), np.float64)


def _check_same(y_prob: Floats, expected: Floats) -> None:
    """Checks that the probabilities of each class are close to the stored ones."""
    difference = float(np.abs(y_prob - expected).mean(axis=0).max())
    if difference > SAME_PROBABILITY:
        raise DataError(
            "The predictions table does not match these images and this model. Expected "
            "rows in the order of the images, and a mean absolute difference between "
            f"predicted and stored probabilities of at most {SAME_PROBABILITY}. Received: "
            f"{difference:.3f}. Recreate the table with `skincnn evaluate`."
        )
