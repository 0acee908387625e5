"""Operating points: decision thresholds, the rates at them, and decision curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from skincnn.classes import NOTHING_DECLARED, LesionClass, describe
from skincnn.lookup import look_up
from skincnn.metrics.bootstrap import map_blocks
from skincnn.metrics.sample import Flags, Floats, Labels, Scores, divide, roc_points


@dataclass(frozen=True)
class Target:
    """A set of classes to detect, with its name and the indices of the classes."""

    name: str
    classes: tuple[int, ...]

    def positive(self, y_true: Labels) -> Flags:
        """Returns whether each image belongs to the target, [num_images]."""
        return np.isin(y_true, self.classes)

    def score(self, y_prob: Floats) -> Scores:
        """Returns the probability of the target, [num_images] in 0..1."""
        return np.asarray(y_prob[:, list(self.classes)].sum(axis=1), np.float64)


@dataclass(frozen=True)
class OperatingPoint:
    """A criterion for choosing a threshold.

    Among the thresholds at which `metric` is at least `minimum` (0..1), the criterion
    selects the one that maximizes the other of the two metrics.
    """

    metric: Literal["sensitivity", "specificity"]
    minimum: float

    @property
    def key(self) -> str:
        """Name in files and flags, such as "specificity=0.90"."""
        return f"{self.metric}={self.minimum:.2f}"

    @property
    def text(self) -> str:
        """Name in reports, such as "90 % specificity"."""
        return f"{100 * self.minimum:.0f} % {self.metric}"


HEADLINE_POINT = OperatingPoint("specificity", 0.90)
"""The operating point that summaries show."""
OPERATING_POINTS = (
    HEADLINE_POINT,
    OperatingPoint("specificity", 0.95),
    OperatingPoint("sensitivity", 0.90),
    OperatingPoint("sensitivity", 0.95),
)
RATES = ("sensitivity", "specificity", "ppv", "npv")
"""Rates at a threshold; PPV and NPV are the positive and negative predictive values."""


def parse_operating_point(key: str) -> OperatingPoint:
    """Returns the operating point with a key such as "sensitivity=0.90".

    Raises:
        ConfigError: No operating point has this key.
    """
    points = {point.key: point for point in OPERATING_POINTS}
    return look_up(points, key, "The operating point")


def find_targets(
    class_names: Sequence[str], declared: Mapping[str, LesionClass] = NOTHING_DECLARED
) -> dict[str, Target]:
    """Returns, by name, those of the targets "melanoma" and "malignant" that exist.

    "melanoma" contains each class that is melanoma, and exists if there is one. "malignant"
    contains the malignant classes; it exists if the malignancy of every class is known, and
    there are both malignant and benign classes. For `declared`, see
    `skincnn.classes.describe`.
    """
    known = describe(class_names, declared)
    flags = [known[name].malignant for name in class_names]
    is_target = {*flags} == {True, False}
    classes = {
        "melanoma": [i for i, c in enumerate(class_names) if known[c].name == "mel"],
        "malignant": [i for i, flag in enumerate(flags) if flag and is_target],
    }
    return {name: Target(name, tuple(part)) for name, part in classes.items() if part}


def choose_threshold(positive: Flags, score: Scores, point: OperatingPoint) -> float | None:
    """Returns the threshold that an operating point selects on all images.

    The result is None if there is no such threshold; see `choose_thresholds`.
    """
    [threshold] = choose_thresholds(positive, score, point, np.ones((1, len(score))))
    return None if np.isnan(threshold) else float(threshold)


def choose_thresholds(
    positive: Flags, score: Scores, point: OperatingPoint, weights: Floats
) -> Scores:
    """Returns the threshold that an operating point selects on each resample.

    The thresholds are [num_resamples]. A threshold lies halfway between two scores, or
    between the lowest score and 0, so that rounding errors do not change decisions. It is
    NaN if no threshold reaches the operating point with at least one predicted positive, or
    if there are no positive or no negative images.

    Args:
        positive: Whether each image is positive, [num_images].
        score: Probability of the target, [num_images].
        point: The operating point.
        weights: Number of times each image occurs, [num_resamples, num_images].
    """
    thresholds, true, false = roc_points(positive, score, weights)
    num_true, num_false = true[:, -1:], false[:, -1:]
    if point.metric == "specificity":
        index = (1 - divide(false, num_false) >= point.minimum).sum(axis=1) - 1
    else:
        index = (divide(true, num_true) < point.minimum).sum(axis=1)
    undefined = (index <= 0) | (num_true[:, 0] == 0) | (num_false[:, 0] == 0)
    index = np.where(undefined, 1, index)
    below = np.append(thresholds, 0.0)[index + 1]
    return np.where(undefined, np.nan, (thresholds[index] + below) / 2)


def rates(
    positive: Flags, score: Scores, threshold: float | Scores, weights: npt.ArrayLike
) -> dict[str, Scores]:
    """Returns the `RATES` at a threshold by name, each [num_resamples].

    A rate is NaN if its denominator is 0 or the threshold is NaN.

    Args:
        positive: Whether each image is positive, [num_images].
        score: Probability of the target, [num_images].
        threshold: Probability at or above which an image is predicted as positive; one
            number, or one for each resample, [num_resamples].
        weights: Number of times each image occurs, [num_resamples, num_images].
    """
    limits = np.broadcast_to(threshold, len(np.asarray(weights)))
    masks = np.stack([positive, np.ones_like(positive)], axis=1).astype(float)

    def count(rows: slice, block: Scores) -> Scores:
        predicted = score >= limits[rows, None]
        return np.hstack([block @ masks, (block * predicted) @ masks])

    counts = np.concatenate(map_blocks(count, weights))
    num_positive, total, true_positives, num_predicted = counts.T
    true_negatives = total - num_positive - num_predicted + true_positives
    undefined = np.isnan(limits)
    return {
        name: np.where(undefined, np.nan, divide(numerator, denominator))
        for name, numerator, denominator in (
            ("sensitivity", true_positives, num_positive),
            ("specificity", true_negatives, total - num_positive),
            ("ppv", true_positives, num_predicted),
            ("npv", true_negatives, total - num_predicted),
        )
    }


def decision_curve(positive: Flags, score: Scores) -> dict[str, Scores]:
    """Returns the net benefit of treating each lesion whose score reaches a threshold.

    net benefit = (true positives - false positives * odds(threshold)) / num_images

    Vickers and Elkin, Decision curve analysis (2006), doi:10.1177/0272989X06295361. Each
    image counts as one lesion, and the prevalence is that of the given images.

    Args:
        positive: Whether each image is positive, [num_images].
        score: Calibrated probability of the target, [num_images].

    Returns:
        Arrays [99] by name: `threshold`, 0.01 to 0.99; `model`, the net benefit of the
        model; and `all`, the net benefit of treating all lesions.
    """
    thresholds = np.arange(1, 100) / 100
    odds = thresholds / (1 - thresholds)
    predicted = score[:, None] >= thresholds
    true_positives = (predicted & positive[:, None]).mean(axis=0)
    false_positives = (predicted & ~positive[:, None]).mean(axis=0)
    treat_all = positive.mean() - (~positive).mean() * odds
    model = true_positives - false_positives * odds
    return {"threshold": thresholds, "model": model, "all": treat_all}
