"""Confidence intervals by a bootstrap over groups of images (lesions or patients)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.stats

from skincnn.metrics.classification import MetricFunction
from skincnn.metrics.sample import Flags, Floats, Labels, Sample, Scores

Counts = npt.NDArray[np.intp]
BLOCK_CELLS = 50_000
"""Approximate number of weights in a block of resamples, to fit the CPU cache."""


@dataclass(frozen=True)
class Estimate:
    """A score with its confidence interval.

    `value` is None if the score is undefined, for example that of a class without images.
    `low` and `high` are None if the score is undefined on the full sample or in more than
    half of the resamples, or if it is a rate that is estimated from fewer than two groups.
    """

    value: float | None
    low: float | None
    high: float | None


def bootstrap_weights(
    image_ids: npt.ArrayLike, group_ids: npt.ArrayLike, num_resamples: int, seed: int = 0
) -> Scores:
    """Returns how often each image occurs in each resample, [num_resamples, num_images].

    Images of one group (lesion or patient) are not independent. Therefore, a resample draws
    as many groups as `group_ids` [num_images] contains, with replacement, and includes all
    images of each drawn group. The draws do not depend on the order of the images. The
    `image_ids` [num_images] must be unique.
    """
    order = np.argsort(np.asarray(image_ids, str))
    codes = pd.factorize(np.asarray(group_ids, str)[order])[0][np.argsort(order)]
    num_groups = codes.max() + 1
    rng = np.random.default_rng(seed)
    uniform = np.full(num_groups, 1 / num_groups)
    counts = rng.multinomial(num_groups, uniform, size=num_resamples)
    return counts[:, codes].astype(float)


def bootstrap(
    functions: Mapping[str, MetricFunction], y_true: Labels, y_prob: Floats, weights: Floats
) -> dict[str, Scores]:
    """Returns the values of each metric, first on all images, then on each resample.

    The arrays, by name, are [1 + num_resamples] or [1 + num_resamples, num_classes].

    Args:
        functions: Metrics by name.
        y_true: Integer labels, [num_images].
        y_prob: Probabilities, [num_images, num_classes].
        weights: The resamples from `bootstrap_weights`, [num_resamples, num_images].
    """
    num_blocks = min(max(1, weights.size // BLOCK_CELLS), len(weights))
    blocks = [np.ones((1, len(y_true))), *np.array_split(weights, num_blocks)]
    values: dict[str, list[Scores]] = {name: [] for name in functions}
    for block in blocks:
        sample = Sample(y_true, y_prob, block)
        for name, function in functions.items():
            values[name].append(function(sample))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def num_groups_per_rate(
    group_ids: Sequence[str], y_true: Labels, y_prob: Floats
) -> dict[str, Counts]:
    """Returns the number of groups for each rate by name, [1] or [num_classes].

    A mean over K classes is 1 only if the rate of every class is 1. If the classes have n
    or more groups each and true rates p1, ..., pK, the probability of this is at most
    (p1 ... pK)^n, which does not exceed mean(p)^(K n) (inequality of arithmetic and
    geometric means). The same holds for a mean of 0. The mean is therefore treated as a
    rate that is estimated from K n groups.

    Args:
        group_ids: ID of the group of each image, [num_images].
        y_true: Integer labels, [num_images].
        y_prob: Probabilities, [num_images, num_classes].
    """
    classes = np.arange(y_prob.shape[1])
    positive = y_true[:, None] == classes
    predicted = y_prob.argmax(axis=1)[:, None] == classes
    per_class = count_groups(group_ids, positive)
    present = per_class[per_class > 0]
    mean = np.array([len(present) * present.min(initial=len(y_true))])
    return {
        "accuracy": count_groups(group_ids, np.ones((len(y_true), 1), bool)),
        "balanced_accuracy": mean,
        "isic_score": mean,
        "recall": per_class,
        "specificity": count_groups(group_ids, ~positive),
        "precision": count_groups(group_ids, predicted),
    }


def count_groups(group_ids: Sequence[str], masks: Flags) -> Counts:
    """Returns, for each mask, the number of groups with an image in the mask, [num_masks].

    The masks are [num_images, num_masks].
    """
    groups = np.asarray(group_ids)
    return np.array([len(np.unique(groups[mask])) for mask in masks.T])


def estimate(
    values: Scores, confidence: float = 0.95, num_groups: Counts | None = None
) -> list[Estimate]:
    """Returns one score, or one for each class, with percentile intervals.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Resamples in
    which the score is undefined (NaN) are left out.

    The bootstrap cannot estimate the error of a rate that is 0 or 1 in every resample. Such
    a rate gets the exact interval for its number of groups: Clopper and Pearson, The use of
    confidence or fiducial limits illustrated in the case of the binomial (1934). A rate
    that is estimated from fewer than two groups has no interval.

    Args:
        values: Values from `bootstrap`, [1 + num_resamples] or
            [1 + num_resamples, num_classes], or the difference between two such arrays on
            the same resamples.
        confidence: Confidence level of the interval, between 0 and 1.
        num_groups: For a rate, its value in `num_groups_per_rate`; None for other scores.
    """
    columns = values.reshape(len(values), -1).T
    counts = [None] * len(columns) if num_groups is None else num_groups.tolist()
    return [
        _estimate(float(value), resampled, confidence, count)
        for (value, *resampled), count in zip(columns, counts, strict=True)
    ]


def _estimate(
    value: float, resampled: Sequence[float], confidence: float, count: int | None
) -> Estimate:
    defined = np.array(resampled)[~np.isnan(resampled)]
    too_few = not 0 < len(resampled) <= 2 * len(defined) or count in (0, 1)
    if math.isnan(value) or too_few:
        return Estimate(_rounded(value), None, None)
    if count is not None and value in (0, 1) and (defined == value).all():
        test = scipy.stats.binomtest(count if value else 0, count)
        low, high = test.proportion_ci(confidence, method="exact")
    else:
        tail = (1 - confidence) / 2
        low, high = np.quantile(defined, (tail, 1 - tail))
    return Estimate(_rounded(value), _rounded(low), _rounded(high))


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
