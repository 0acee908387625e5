"""Scores on corrupted images, for each corruption and severity."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.special
from tqdm import tqdm

from skincnn.config import AugmentConfig, Config, EvaluateConfig
from skincnn.data.cache import Images
from skincnn.errors import DataError
from skincnn.evaluation.results import (
    CorruptionResult,
    CorruptionRow,
    CorruptionScores,
    SplitResult,
)
from skincnn.inference.corruptions import CORRUPTIONS, NUM_SEVERITIES, corrupt
from skincnn.inference.predictions import arrays, class_names_of
from skincnn.metrics.bootstrap import (
    Estimate,
    bootstrap,
    bootstrap_weights,
    estimate,
    num_groups_per_rate,
)
from skincnn.metrics.calibration import apply_temperature
from skincnn.metrics.classification import balanced_accuracy
from skincnn.metrics.operating_points import (
    HEADLINE_POINT,
    Target,
    find_targets,
    score_operating_point,
)
from skincnn.metrics.sample import Floats, Labels, Scores

Predict = Callable[[Images, slice], npt.NDArray[np.float32]]
"""Takes images, uint8 [n, height, width, 3], and their rows in the predictions table, and
returns logits, float32 [n, num_classes]."""
CHUNK = 128
"""Number of images that are corrupted and predicted at a time."""
SAME_PROBABILITY = 0.05
"""Largest accepted mean difference between a class's probabilities and the table's."""
TRAINED_BY = {
    "brightness": ("light", "brightness"),
    "contrast": ("light", "contrast"),
    "color_cast": ("color", "color_cast"),
    "blur": ("blur", "blur"),
    "defocus": ("blur", "blur"),
    "zoom": ("zoom", "zoom"),
    "hairs": ("hair", "hairs"),
    "ruler": ("ruler", "ruler_share"),
}
"""Corruption to the augmentation that resembles it and the name of its strength."""


@dataclass(frozen=True)
class _Scorer:
    """Scores the probabilities of the images of one predictions table.

    Attributes:
        y_true: Integer labels, [num_images].
        lesion_ids: Lesion of each image, [num_images].
        weights: From `bootstrap_weights`, [num_bootstrap, num_images].
        confidence: Coverage of the intervals, 0..1.
        temperature: Temperature for calibration.
        threshold: Threshold of melanoma; None if the operating point is not reached.
        melanoma: The target; None if melanoma is not a class.
    """

    y_true: Labels
    lesion_ids: Sequence[str]
    weights: Floats
    confidence: float
    temperature: float
    threshold: float | None
    melanoma: Target | None

    @classmethod
    def of(
        cls, predictions: pd.DataFrame, clean: SplitResult, config: EvaluateConfig
    ) -> _Scorer:
        """Returns the scorer with the choices of a table's result."""
        class_names = class_names_of(predictions)
        return cls(
            arrays(predictions, class_names)[0],
            predictions["lesion_id"].tolist(),
            bootstrap_weights(
                predictions["image_id"], predictions["lesion_id"], config.num_bootstrap
            ),
            config.confidence,
            clean.temperature,
            clean.thresholds.get("melanoma", {}).get(HEADLINE_POINT.key),
            find_targets(class_names).get("melanoma"),
        )

    def score(self, y_prob: Floats) -> tuple[CorruptionScores, Scores]:
        """Returns the scores, and the balanced accuracy of each resample.

        Args:
            y_prob: Probabilities, [num_images, num_classes].
        """
        functions = {"balanced_accuracy": balanced_accuracy}
        values = bootstrap(functions, self.y_true, y_prob, self.weights)
        accuracies = values["balanced_accuracy"]
        lesions = num_groups_per_rate(self.lesion_ids, self.y_true, y_prob)
        rates: dict[str, Estimate] = {}
        if self.melanoma is not None and self.threshold is not None:
            rates = score_operating_point(
                self.melanoma.positive(self.y_true),
                self.melanoma.score(apply_temperature(y_prob, self.temperature)),
                self.threshold,
                self.weights,
                self.confidence,
                self.lesion_ids,
            )
        scores = CorruptionScores(
            balanced_accuracy=self.interval(accuracies, lesions["balanced_accuracy"]),
            melanoma_sensitivity=rates.get("sensitivity"),
            melanoma_specificity=rates.get("specificity"),
        )
        return scores, accuracies

    def interval(
        self, values: Scores, num_lesions: npt.NDArray[np.intp] | None = None
    ) -> Estimate:
        """Returns the estimate of a score from its values in `bootstrap`."""
        return estimate(values, self.confidence, num_lesions)[0]


def trained_corruptions(config: AugmentConfig) -> tuple[str, ...]:
    """Returns the corruptions that resemble one of the training's augmentations.

    Args:
        config: The augmentation of the training.
    """
    return tuple(
        name
        for name, (part, strength) in TRAINED_BY.items()
        if part in config.parts and config.strength(strength) > 0
    )


def score_corruptions(
    predict: Predict,
    images: Images,
    predictions: pd.DataFrame,
    clean: SplitResult,
    config: Config,
) -> CorruptionResult:
    """Returns a model's scores on a split whose images are corrupted.

    Nothing is chosen here: the temperature and the threshold are those of clean validation
    images.

    Args:
        predict: The model that made `predictions`; gets at most `CHUNK` images at a time.
        images: uint8 [num_images, height, width, 3], preprocessed for the model; an array
            or a memory map.
        predictions: The predictions table of these images, in the same order.
        clean: The result of that table.
        config: Configuration of the run: bootstrap, augmentation, seed of the corruptions.

    Raises:
        DataError: Images and predictions do not belong together.
    """
    if len(images) != len(predictions):
        raise DataError(
            f"There are {len(images)} images and {len(predictions)} predictions. Expected "
            "the images of the predictions table, in its order."
        )
    scorer = _Scorer.of(predictions, clean, config.evaluate)
    cases = list(itertools.product(CORRUPTIONS, range(1, NUM_SEVERITIES + 1)))
    total = (1 + len(cases)) * len(images)
    rows = []
    with tqdm(total=total, desc="Corrupting images", unit="img") as progress:
        clean_prob = _predict_all(predict, images, lambda chunk, first: chunk, progress)
        _check_same(clean_prob, arrays(predictions, class_names_of(predictions))[1])
        clean_scores, clean_values = scorer.score(clean_prob)
        for name, severity in cases:
            change = functools.partial(
                corrupt, name=name, severity=severity, seed=config.seed
            )
            scores, values = scorer.score(_predict_all(predict, images, change, progress))
            rows.append(
                CorruptionRow(
                    name=name,
                    severity=severity,
                    scores=scores,
                    difference=scorer.interval(values - clean_values),
                )
            )
    return CorruptionResult(
        split=clean.split,
        num_images=len(images),
        clean=clean_scores,
        rows=tuple(rows),
        trained=trained_corruptions(config.augment),
    )


def _predict_all(
    predict: Predict,
    images: Images,
    change: Callable[..., Images],
    progress: tqdm[NoReturn],
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
    """Checks that probabilities are those of the table, up to rounding and float16."""
    difference = float(np.abs(y_prob - expected).mean(axis=0).max())
    if difference > SAME_PROBABILITY:
        raise DataError(
            "The predictions table does not belong to these images and this model: The "
            f"probabilities of a class differ by {difference:.3f} on average. Expected at "
            f"most {SAME_PROBABILITY} and rows in the order of the images. Make the table "
            "again with scripts/evaluate.py."
        )
