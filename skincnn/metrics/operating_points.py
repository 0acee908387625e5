"""Thresholds on the probability of what must not be missed, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.classes import describe
from skincnn.metrics.bootstrap import Estimate, count_lesions, estimate
from skincnn.metrics.classification import Floats, Labels, Scores, roc_points

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Target:
    """What is to be found: some of the classes, told by the sum of their probabilities.

    Attributes:
        name: "melanoma" or "malignant".
        classes: The numbers of the classes.
    """

    name: str
    classes: tuple[int, ...]

    def positive(self, y_true: Labels) -> Flags:
        """Returns which pictures show it, [num_images]."""
        return np.isin(y_true, self.classes)

    def score(self, y_prob: Floats) -> Scores:
        """Returns its probability, [num_images] in 0..1."""
        return np.asarray(y_prob[:, list(self.classes)].sum(axis=1), np.float64)


@dataclass(frozen=True)
class OperatingPoint:
    """A rule by which a threshold is chosen on validation.

    Attributes:
        held: What is held at `at_least`; the other of the two is made as high as possible.
        at_least: 0..1.
    """

    held: Literal["sensitivity", "specificity"]
    at_least: float

    @property
    def key(self) -> str:
        """As "specificity=0.90"."""
        return f"{self.held}={self.at_least:.2f}"

    @property
    def text(self) -> str:
        """As "90 % specificity"."""
        return f"{100 * self.at_least:.0f} % {self.held}"


HEADLINE_POINT = OperatingPoint("specificity", 0.90)
"""The one that summaries tell of."""
OPERATING_POINTS = (
    HEADLINE_POINT,
    OperatingPoint("specificity", 0.95),
    OperatingPoint("sensitivity", 0.90),
    OperatingPoint("sensitivity", 0.95),
)
RATES = ("sensitivity", "specificity", "ppv", "npv")
"""The shares of the positive, and of the negative, that are told as such; and of those that
are told positive, or negative, the share that is."""


def find_targets(class_names: Sequence[str]) -> dict[str, Target]:
    """Returns what can be looked for among these classes: melanoma and malignant."""
    known = describe(class_names)
    melanoma = [i for i, name in enumerate(class_names) if known[name].name == "mel"]
    malignant = [i for i, name in enumerate(class_names) if known[name].malignant]
    found = {"melanoma": melanoma, "malignant": malignant}
    return {n: Target(n, tuple(numbers)) for n, numbers in found.items() if numbers}


def choose_threshold(positive: Flags, score: Scores, point: OperatingPoint) -> float | None:
    """Returns the threshold that keeps the point's promise at the least cost.

    It lies halfway between two scores, so that rounding changes no answer.

    Args:
        positive: Whether each picture is to be found, [num_images].
        score: Its probability, [num_images].
        point: What is held.

    Returns:
        A picture is called positive where its score is at least that. None where nothing
        can be found so, or where either kind of picture is missing.
    """
    thresholds, true, false = roc_points(positive, score, np.ones(len(score)))
    if not true[-1] or not false[-1]:
        return None
    if point.held == "specificity":
        corner = int(np.flatnonzero(1 - false / false[-1] >= point.at_least)[-1])
    else:
        corner = int(np.flatnonzero(true / true[-1] >= point.at_least)[0])
    if corner == 0:
        return None
    below = thresholds[corner + 1] if corner + 1 < len(thresholds) else 0.0
    return float((thresholds[corner] + below) / 2)


def rates(
    positive: Flags, score: Scores, threshold: float, weights: Floats
) -> dict[str, Scores]:
    """Returns each of `RATES`, [resamples]; NaN where nothing is of that kind.

    Args:
        positive: Whether each picture is to be found, [num_images].
        score: Its probability, [num_images].
        threshold: Where the score is at least that, it is called positive.
        weights: How often each picture counts, [resamples, num_images].
    """
    called = score >= threshold
    true_positive = weights @ (called & positive).astype(float)
    true_negative = weights @ (~called & ~positive).astype(float)
    return {
        "sensitivity": _share(true_positive, weights @ positive.astype(float)),
        "specificity": _share(true_negative, weights @ (~positive).astype(float)),
        "ppv": _share(true_positive, weights @ called.astype(float)),
        "npv": _share(true_negative, weights @ (~called).astype(float)),
    }


def score_operating_point(
    positive: Flags,
    score: Scores,
    threshold: float,
    weights: Floats,
    confidence: float = 0.95,
    lesion_ids: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Returns each of `RATES` with its interval.

    Args:
        positive: Whether each picture is to be found, [num_images].
        score: Its probability, [num_images].
        threshold: From `choose_threshold`, on validation.
        weights: From `lesion_weights`, [resamples, num_images].
        confidence: Coverage, between 0 and 1.
        lesion_ids: [num_images], for the intervals of rates of 0 and 1; by default each
            picture is a lesion of its own.
    """
    once = np.ones((1, len(score)))
    values = rates(positive, score, threshold, np.concatenate([once, weights]))
    called = score >= threshold
    masks = np.stack([positive, ~positive, called, ~called], axis=1)  # as in `RATES`
    lesions = list(map(str, range(len(score)))) if lesion_ids is None else lesion_ids
    counts = dict(zip(RATES, count_lesions(lesions, masks), strict=True))
    return {
        name: estimate(value, confidence, counts[name][None])[0]
        for name, value in values.items()
    }


def decision_curve(positive: Flags, score: Scores) -> pd.DataFrame:
    """Returns the net benefit of acting on the score, for each threshold of 1..99 %.

    True positives less false positives, each of these weighed by the odds of the threshold,
    per picture: Vickers and Elkin, Decision curve analysis (2006). The probabilities must
    be calibrated, and the share of positive pictures is that of the table.

    Returns:
        Columns threshold, model, all (everyone is treated); nobody treated has 0.
    """
    thresholds = np.arange(1, 100) / 100
    odds = thresholds / (1 - thresholds)
    called = score[:, None] >= thresholds
    gained = (called & positive[:, None]).mean(axis=0)
    lost = (called & ~positive[:, None]).mean(axis=0)
    everyone = positive.mean() - (~positive).mean() * odds
    return pd.DataFrame(
        {"threshold": thresholds, "model": gained - lost * odds, "all": everyone}
    )


def _share(part: Any, whole: Any) -> Scores:
    empty = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=empty, where=whole > 0)
