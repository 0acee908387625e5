"""What spoilt pictures cost a model: its scores under each corruption and severity."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.special
from matplotlib.figure import Figure
from tqdm import tqdm

from skincnn.config import AugmentConfig
from skincnn.errors import DataError
from skincnn.inference.corruptions import CORRUPTIONS, NUM_SEVERITIES, corrupt
from skincnn.inference.predictions import arrays
from skincnn.inference.synthetic_artifacts import Pictures
from skincnn.metrics.bootstrap import bootstrap, estimate, lesions_of_rates
from skincnn.metrics.calibration import apply_temperature
from skincnn.metrics.classification import Floats, Labels, Scores, balanced_accuracy
from skincnn.metrics.operating_points import Target, find_targets, score_operating_point

Predict = Callable[[Pictures, slice], npt.NDArray[np.float32]]
"""From uint8 [n, height, width, 3], and the rows of the predictions table that they are,
to logits, float32 [n, num_classes]."""
CHUNK = 128
"""Pictures that are spoilt and predicted at a time."""
SAME_PROBABILITY = 0.05
"""How far the probabilities of a picture may be from those of the table, in the mean."""
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
"""A corruption to the part of the augmentation that does the like, and its strength. The
corruptions begin where the default strengths end, but what was trained is no surprise."""
MELANOMA_RATES = ("sensitivity", "specificity")


@dataclass(frozen=True)
class _Protocol:
    """What all rows are scored with; see `score_corruptions`."""

    y_true: Labels
    lesion_ids: Sequence[str]
    weights: Floats
    confidence: float
    temperature: float
    threshold: float | None
    melanoma: Target | None

    def score(self, y_prob: Floats) -> tuple[dict[str, Any], Scores]:
        """Returns the scores, and the balanced accuracy of each resample."""
        functions = {"balanced_accuracy": balanced_accuracy}
        values = bootstrap(functions, self.y_true, y_prob, self.weights)
        found = values["balanced_accuracy"]
        lesions = lesions_of_rates(self.lesion_ids, self.y_true, y_prob)
        scores: dict[str, Any] = {
            "balanced_accuracy": self.interval(found, lesions["balanced_accuracy"])
        }
        scores |= dict.fromkeys(f"melanoma_{rate}" for rate in MELANOMA_RATES)
        if self.melanoma is None or self.threshold is None:
            return scores, found
        rates = score_operating_point(
            self.melanoma.positive(self.y_true),
            self.melanoma.score(apply_temperature(y_prob, self.temperature)),
            self.threshold,
            self.weights,
            self.confidence,
            self.lesion_ids,
        )
        told = {f"melanoma_{n}": dataclasses.asdict(rates[n]) for n in MELANOMA_RATES}
        return scores | told, found

    def interval(
        self, values: Scores, num_lesions: npt.NDArray[np.intp] | None = None
    ) -> dict[str, float | None]:
        """Returns {value, low, high} of what `bootstrap` returned."""
        return dataclasses.asdict(estimate(values, self.confidence, num_lesions)[0])


def trained_corruptions(config: AugmentConfig) -> list[str]:
    """Returns the corruptions of which a model saw the like in training.

    Args:
        config: The augmentation of its training.
    """
    return [
        name
        for name, (part, strength) in TRAINED_BY.items()
        if part in config.parts and config.strength(strength) > 0
    ]


def score_corruptions(
    predict: Predict,
    images: Pictures,
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    temperature: float,
    threshold: float | None,
    weights: Floats,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Returns a model's scores on a split whose pictures are spoilt in every way.

    Nothing is chosen here: temperature and threshold are those of validation, on pictures
    as they are.

    Args:
        predict: What made `predictions`, from pictures to logits; it is given 128 pictures
            at most.
        images: uint8 [num_images, height, width, 3], as the model is shown them; an array
            or a memory map.
        predictions: The predictions table of these pictures, in the same order.
        class_names: The names of the labels, in order.
        temperature: Of the calibrated probabilities.
        threshold: On the calibrated probability of melanoma, at "90 % specificity"; None
            where there is none.
        weights: From `lesion_weights`, [resamples, num_images].
        confidence: Coverage, between 0 and 1.
        seed: Seed of the corruptions.

    Returns:
        num_images; `clean`, the scores of the pictures as they are; `rows`, for each
        corruption and severity its name, severity, scores, and `difference`, by how much
        the balanced accuracy exceeds that of clean pictures, on the same resamples. The
        scores are balanced_accuracy, melanoma_sensitivity and melanoma_specificity, each
        {value, low, high}; the last two are None without melanoma or a threshold.

    Raises:
        DataError: Pictures and predictions do not belong together.
    """
    y_true, y_prob = arrays(predictions, class_names)
    if len(images) != len(predictions):
        raise DataError(
            f"There are {len(images)} pictures and {len(predictions)} predictions. "
            "Expected the pictures of the predictions table, in its order."
        )
    targets = find_targets(class_names)
    protocol = _Protocol(
        y_true,
        predictions["lesion_id"].tolist(),
        weights,
        confidence,
        temperature,
        threshold,
        targets.get("melanoma"),
    )
    cases = list(itertools.product(CORRUPTIONS, range(1, NUM_SEVERITIES + 1)))
    total = (1 + len(cases)) * len(images)
    with tqdm(total=total, desc="Spoiling pictures", unit="img") as progress:
        clean_prob = _predict_all(predict, images, lambda chunk, first: chunk, progress)
        _check_same(clean_prob, y_prob)
        clean, clean_values = protocol.score(clean_prob)
        rows = []
        for name, severity in cases:
            spoil = functools.partial(corrupt, name=name, severity=severity, seed=seed)
            spoilt_prob = _predict_all(predict, images, spoil, progress)
            scores, values = protocol.score(spoilt_prob)
            difference = protocol.interval(values - clean_values)
            rows.append(
                {"name": name, "severity": severity, **scores, "difference": difference}
            )
    return {"num_images": len(images), "clean": clean, "rows": rows}


def plot_corruption_examples(image: Pictures, seed: int, title: str) -> Figure:
    """Draws a picture under each corruption, a row each, and severity, a column each.

    Args:
        image: uint8 [height, width, 3].
        seed: Seed of the draws.
        title: Which picture it is, for the heading.
    """
    height, width, _ = image.shape
    cell = 1.5 * height / width
    shape = (len(CORRUPTIONS), NUM_SEVERITIES + 1)
    figure = Figure(figsize=(1.5 * shape[1] + 0.9, cell * shape[0] + 0.7))
    figure.set_layout_engine("compressed")
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(*shape)
    for row, name in zip(grid, CORRUPTIONS, strict=True):
        row[0].set_ylabel(name.replace("_", "\n"), fontsize=11)
        for severity, axes in enumerate(row):
            shown = corrupt(image[None], name, severity, seed)[0] if severity else image
            axes.imshow(shown)
            axes.set_xticks([])
            axes.set_yticks([])
    for severity, axes in enumerate(grid[0]):
        heading = f"severity {severity}" if severity else "as it is"
        axes.set_title(heading, fontsize=11)
    return figure


def _predict_all(
    predict: Predict,
    images: Pictures,
    spoil: Callable[..., Pictures],
    progress: tqdm[NoReturn],
) -> Floats:
    """Returns the probabilities [num_images, num_classes] of spoilt pictures."""
    logits = []
    for first in range(0, len(images), CHUNK):
        chunk = np.asarray(images[first : first + CHUNK])
        rows = slice(first, first + len(chunk))
        logits.append(predict(spoil(chunk, first=first), rows))
        progress.update(len(chunk))
    return np.asarray(scipy.special.softmax(np.concatenate(logits), axis=1), np.float64)


def _check_same(y_prob: Floats, expected: Floats) -> None:
    """Raises where probabilities are not those of the table, for rounding and float16."""
    away = float(np.abs(y_prob - expected).mean(axis=0).max())
    if away > SAME_PROBABILITY:
        raise DataError(
            "The predictions table does not belong to these pictures and this model: the "
            f"probabilities of a class are {away:.3f} apart in the mean. Expected at most "
            f"{SAME_PROBABILITY}, and rows in the order of the pictures. Make the table "
            "again with scripts/evaluate.py."
        )
