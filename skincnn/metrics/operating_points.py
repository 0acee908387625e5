"""Operating points: decision thresholds, their error rates, and decision curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from skincnn.classes import describe
from skincnn.lookup import look_up
from skincnn.metrics.bootstrap import Estimate, count_groups, estimate
from skincnn.metrics.sample import Flags, Floats, Labels, Scores, divide, roc_points


@dataclass(frozen=True)
class Target:
    """A set of classes to detect, such as "melanoma": their name and their indices."""

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
    """Selects a threshold: `metric` reaches `minimum`, and the other one is maximized."""

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
"""The operating point of summaries."""
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
    return look_up(points, key, "the operating point")


def find_targets(class_names: Sequence[str]) -> dict[str, Target]:
    """Returns the targets that exist among these classes: melanoma, malignant."""
    classes = describe(class_names)
    melanoma = [i for i, name in enumerate(class_names) if classes[name].name == "mel"]
    malignant = [i for i, name in enumerate(class_names) if classes[name].malignant]
    indices = {"melanoma": melanoma, "malignant": malignant}
    return {name: Target(name, tuple(of)) for name, of in indices.items() if of}


def choose_threshold(positive: Flags, score: Scores, point: OperatingPoint) -> float | None:
    """Returns the threshold of an operating point.

    It lies halfway between two scores, so that rounding errors change no decision.

    Args:
        positive: Whether each image is positive, [num_images].
        score: Probability of the target, [num_images].
        point: The operating point.

    Returns:
        An image is predicted positive if its score is at least this threshold. None if no
        threshold gives true positives at the operating point, or if there are no positive
        or no negative images.
    """
    thresholds, true, false = roc_points(positive, score, np.ones(len(score)))
    if not true[-1] or not false[-1]:
        return None
    if point.metric == "specificity":
        index = int(np.flatnonzero(1 - false / false[-1] >= point.minimum)[-1])
    else:
        index = int(np.flatnonzero(true / true[-1] >= point.minimum)[0])
    if index == 0:
        return None
    below = thresholds[index + 1] if index + 1 < len(thresholds) else 0.0
    return float((thresholds[index] + below) / 2)


def rates(
    positive: Flags, score: Scores, threshold: float, weights: Floats
) -> dict[str, Scores]:
    """Returns each of `RATES`, [num_resamples]; NaN if its denominator is 0.

    See `score_operating_point`.
    """
    predicted = score >= threshold
    true_positives = weights @ (predicted & positive).astype(float)
    true_negatives = weights @ (~predicted & ~positive).astype(float)
    return {
        "sensitivity": divide(true_positives, weights @ positive.astype(float)),
        "specificity": divide(true_negatives, weights @ (~positive).astype(float)),
        "ppv": divide(true_positives, weights @ predicted.astype(float)),
        "npv": divide(true_negatives, weights @ (~predicted).astype(float)),
    }


def score_operating_point(
    positive: Flags,
    score: Scores,
    threshold: float,
    weights: Floats,
    confidence: float,
    group_ids: Sequence[str],
) -> dict[str, Estimate]:
    """Returns each of `RATES` with its interval.

    Args:
        positive: Whether each image is positive, [num_images].
        score: Probability of the target, [num_images].
        threshold: From `choose_threshold`, on the validation split.
        weights: From `bootstrap_weights`, [num_resamples, num_images].
        confidence: Coverage, between 0 and 1.
        group_ids: The lesion or patient of each image, [num_images], for the intervals of
            rates of 0 and 1.
    """
    all_images = np.ones((1, len(score)))
    values = rates(positive, score, threshold, np.concatenate([all_images, weights]))
    predicted = score >= threshold
    # In the order of `RATES`.
    denominators = np.stack([positive, ~positive, predicted, ~predicted], axis=1)
    counts = dict(zip(RATES, count_groups(group_ids, denominators), strict=True))
    return {
        name: estimate(value, confidence, counts[name][None])[0]
        for name, value in values.items()
    }


def decision_curve(positive: Flags, score: Scores) -> dict[str, Scores]:
    """Returns the net benefit of treating images above each threshold of 0.01..0.99.

    net benefit = (true positives - false positives * odds(threshold)) / images

    Vickers and Elkin, Decision curve analysis (2006). The scores must be calibrated; the
    prevalence is that of the given images.

    Returns:
        Arrays [99]: `threshold`, `model`, and `all`, which treats every image.
    """
    thresholds = np.arange(1, 100) / 100
    odds = thresholds / (1 - thresholds)
    predicted = score[:, None] >= thresholds
    true_positives = (predicted & positive[:, None]).mean(axis=0)
    false_positives = (predicted & ~positive[:, None]).mean(axis=0)
    treat_all = positive.mean() - (~positive).mean() * odds
    model = true_positives - false_positives * odds
    return {"threshold": thresholds, "model": model, "all": treat_all}
