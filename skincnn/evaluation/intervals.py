"""Confidence intervals by a bootstrap over lesions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.evaluation.metrics import Floats, Labels, Sample, Scores

BLOCK_CELLS = 50_000
"""Weights that are handled at a time: what is made of them should stay in the cache."""
Functions = Mapping[str, Callable[[Sample], Scores]]


@dataclass(frozen=True)
class Estimate:
    """A score with its interval; None in the place of what cannot be known.

    Attributes:
        value: The score on all pictures; None where it needs a class that is not there.
        low: The lower end; None where fewer than half of the resamples have a value.
        high: The upper end.
    """

    value: float | None
    low: float | None
    high: float | None


def lesion_weights(
    lesion_ids: Sequence[str], resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Returns how often each picture counts in each resample of the lesions.

    A resample draws as many lesions as there are, with replacement, and takes all
    pictures of each: pictures of a lesion are not independent of each other.

    Returns:
        [resamples, num_images], whole numbers.
    """
    codes, lesions = pd.factorize(np.asarray(lesion_ids))
    rng = np.random.default_rng(seed)
    chances = np.full(len(lesions), 1 / len(lesions))
    return rng.multinomial(len(lesions), chances, size=resamples)[:, codes].astype(float)


def bootstrap(
    functions: Functions, y_true: Labels, y_prob: Floats, weights: Floats
) -> dict[str, Scores]:
    """Returns each function of all pictures and, after it, of each resample.

    Args:
        functions: Name to a function of `metrics`.
        y_true: Integer labels [num_images].
        y_prob: Probabilities [num_images, num_classes].
        weights: From `lesion_weights`, [resamples, num_images].

    Returns:
        Name to [1 + resamples] or [1 + resamples, num_classes].
    """
    count = max(1, weights.size // BLOCK_CELLS)
    blocks = [np.ones((1, len(y_true))), *np.array_split(weights, min(count, len(weights)))]
    values: dict[str, list[Scores]] = {name: [] for name in functions}
    for block in blocks:
        sample = Sample(y_true, y_prob, block)
        for name, function in functions.items():
            values[name].append(function(sample))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def estimate(values: Scores, confidence: float = 0.95) -> list[Estimate]:
    """Returns a score with its percentile interval: one, or one for each class.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. A resample
    that has lost a class on which the score depends has no value, and is left out.

    Args:
        values: From `bootstrap`, or the difference of two of its results with the same
            weights: what makes a resample hard for both then cancels out.
        confidence: Coverage, between 0 and 1.
    """
    tail = (1 - confidence) / 2
    found = []
    for value, *resampled in values.reshape(len(values), -1).T:
        known = np.array(resampled)[~np.isnan(resampled)]
        ends: tuple[float, ...] = (math.nan, math.nan)
        if not np.isnan(value) and 0 < len(resampled) <= 2 * len(known):
            ends = tuple(np.quantile(known, (tail, 1 - tail)))
        found.append(Estimate(*map(_number, (value, *ends))))
    return found


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
