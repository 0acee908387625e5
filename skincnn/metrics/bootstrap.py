"""Confidence intervals by a bootstrap over lesions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.stats

from skincnn.metrics.classification import Floats, Labels, Sample, Scores

BLOCK_CELLS = 50_000
"""Weights that are handled at a time: what is made of them should stay in the cache."""
INTERVALS = (
    "percentile bootstrap over lesions; where a rate is 0 or 1 in all resamples, exact "
    "(Clopper-Pearson) of as many lesions"
)
"""How they are made, for a reader."""
Functions = Mapping[str, Callable[[Sample], Scores]]


@dataclass(frozen=True)
class Estimate:
    """A score with its interval; None in the place of what cannot be known.

    Attributes:
        value: The score on all pictures; None where it needs a class that is not there.
        low: The lower end; None where fewer than half of the resamples have a value, and
            for a rate of one lesion or none.
        high: The upper end.
    """

    value: float | None
    low: float | None
    high: float | None


def lesion_weights(
    predictions: pd.DataFrame, resamples: int, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Returns how often each picture counts in each resample of the lesions.

    A resample draws as many lesions as there are, with replacement, and takes all
    pictures of each: pictures of a lesion are not independent of each other. The same
    pictures are drawn alike whatever the order of the rows, so that a table has one
    interval in all reports, and two tables have paired ones.

    Args:
        predictions: A table with image_id, of which no two are equal, and lesion_id.
        resamples: How many.
        seed: Of the draws.

    Returns:
        [resamples, num_images], whole numbers.
    """
    order = np.argsort(predictions["image_id"].to_numpy(str))
    found, lesions = pd.factorize(predictions["lesion_id"].to_numpy()[order])
    codes = np.empty_like(found)
    codes[order] = found
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


def lesions_of_rates(
    lesion_ids: Sequence[str], y_true: Labels, y_prob: Floats
) -> dict[str, npt.NDArray[np.intp]]:
    """Returns of how many lesions each rate of `metrics` is, for `estimate`.

    A mean over classes is at 0 or 1 where all its rates are. Of K classes with n lesions or
    more, all are then told alike with a chance of at most (p1 ... pK)^n, which is at most
    the mean of the p to the power of K n (means of numbers, arithmetic and geometric): it
    counts as a rate of K n lesions.

    Args:
        lesion_ids: [num_images].
        y_true: Integer labels [num_images].
        y_prob: Probabilities [num_images, num_classes].

    Returns:
        Name of the metric to [1] or [num_classes].
    """
    numbers = np.arange(y_prob.shape[1])
    true = y_true[:, None] == numbers
    called = y_prob.argmax(axis=1)[:, None] == numbers
    of_class = count_lesions(lesion_ids, true)
    there = of_class[of_class > 0]
    mean = np.array([len(there) * there.min(initial=len(true))])
    return {
        "accuracy": count_lesions(lesion_ids, np.ones((len(true), 1), bool)),
        "balanced_accuracy": mean,
        "isic_score": mean,
        "recall": of_class,
        "specificity": count_lesions(lesion_ids, ~true),
        "precision": count_lesions(lesion_ids, called),
    }


def count_lesions(
    lesion_ids: Sequence[str], masks: npt.NDArray[np.bool_]
) -> npt.NDArray[np.intp]:
    """Returns how many lesions have a picture in each mask.

    Args:
        lesion_ids: [num_images].
        masks: [num_images, num_masks].
    """
    lesions = np.asarray(lesion_ids)
    return np.array([len(np.unique(lesions[mask])) for mask in masks.T])


def estimate(
    values: Scores,
    confidence: float = 0.95,
    num_lesions: npt.NDArray[np.intp] | None = None,
) -> list[Estimate]:
    """Returns a score with its percentile interval: one, or one for each class.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. A resample
    that has lost a class on which the score depends has no value, and is left out.

    Where a rate is 0 or 1 in all resamples the bootstrap knows nothing of its error: the
    interval is then the exact one for as many lesions (Clopper and Pearson, The use of
    confidence or fiducial limits illustrated in the case of the binomial, 1934). Of one
    lesion, or none, there is no interval.

    Args:
        values: From `bootstrap`, or the difference of two of its results with the same
            weights: what makes a resample hard for both then cancels out.
        confidence: Coverage, between 0 and 1.
        num_lesions: Of a rate, of how many lesions it is: [1] or [num_classes].
    """
    tail = (1 - confidence) / 2
    found = []
    columns = values.reshape(len(values), -1).T
    lesions = [None] * len(columns) if num_lesions is None else num_lesions.tolist()
    for (value, *resampled), count in zip(columns, lesions, strict=True):
        known = np.array(resampled)[~np.isnan(resampled)]
        ends: tuple[float, ...] = (math.nan, math.nan)
        if not np.isnan(value) and 0 < len(resampled) <= 2 * len(known):
            ends = tuple(np.quantile(known, (tail, 1 - tail)))
            if count in (0, 1):
                ends = (math.nan, math.nan)
            elif count is not None and value in (0, 1) and (known == value).all():
                test = scipy.stats.binomtest(count if value else 0, count)
                ends = test.proportion_ci(confidence, method="exact")
        found.append(Estimate(*map(_number, (value, *ends))))
    return found


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
