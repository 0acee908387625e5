"""Confidence intervals of scores and of paired differences, from bootstrap resamples.

The interval of a score with a `Support` is computed from the variance of the score over the
resamples. Intervals between percentiles of the resamples would be too narrow for classes
with few images. For scores without support, see `estimate`. docs/coverage.md contains the
measured coverage of each interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

from skincnn.metrics.bootstrap import Estimate, count_groups
from skincnn.metrics.sample import Floats, Labels, Scores

SMALLEST_VARIANCE = 1e-20
"""Resamples with a smaller variance differ by rounding errors only."""
AUC_PRIOR_FREEDOM = 20
"""Weight of the variance of normal scores in the interval of an AUC (`_auc_interval`).

The value was chosen by simulation: with it, the coverage is between .93 and .97 for each
class of `benchmarks/coverage`, of which the rarest has about 9 groups.
"""


@dataclass(frozen=True)
class Support:
    """The numbers of groups from which a score in 0..1 is estimated.

    Attributes:
        kind: "rate": the share of the images with a property. "auc": the area under an
            ROC curve. "mean": another score, or a mean over classes.
        sizes: For a rate, the number of groups in its denominator; for an AUC, those of
            positive and of negative images; for a mean over classes, those of each class;
            for another score, the number of groups from which it is estimated.
    """

    kind: Literal["rate", "auc", "mean"]
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Effective number of groups if all resamples have the same value.

        For a rate, it is the number of groups in the denominator; for an AUC, that of the
        positive images. A mean over K classes with n or more groups each counts as a rate
        of K n groups. The reason: the observed mean is 1 only if the observed rate of every
        class is 1. With the true rates p1, ..., pK, this has a probability of at most
        (p1 ... pK)^n, which does not exceed mean(p)^(K n) (inequality of arithmetic and
        geometric means). The same holds for a mean of 0.
        """
        return self.sizes[0] if self.kind == "auc" else len(self.sizes) * min(self.sizes)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the variance; see `degrees_of_freedom`.

        The variance of the rate of a class with n groups is assumed to be proportional to
        1 / n. For an AUC, n is the number of groups of positive images.
        """
        sizes = self.sizes[:1] if self.kind == "auc" else self.sizes
        return degrees_of_freedom([(1 / size, size - 1) for size in sizes])

    @property
    def correction(self) -> float:
        """Factor of the resampled variance of a mean: n / (n - 1) for each class.

        As in `freedom`, the variance of a class is taken to be proportional to 1 / n.
        Resamples of skewed scores of few groups vary too little. In the simulation of
        docs/coverage.md, the factor raises the coverage of balanced accuracy from .934 to
        .942. Paired differences are less skewed and are not corrected.
        """
        total = sum(1 / size for size in self.sizes)
        return sum(1 / (size - 1) for size in self.sizes) / total


@dataclass(frozen=True)
class Difference:
    """A difference with its interval, and the p-value of the hypothesis that it is 0.

    The p-value is two-sided; it is None if there is no interval.
    """

    estimate: Estimate
    p_value: float | None


def degrees_of_freedom(variances: Sequence[tuple[float, float]]) -> float:
    """Returns the degrees of freedom of the sum of estimated variances.

    Satterthwaite, An approximate distribution of estimates of variance components (1946),
    doi:10.2307/3002019. The result is at least the smallest degrees of freedom of a part.

    Args:
        variances: Each variance, which is negative if it is subtracted, with its degrees of
            freedom.
    """
    total = sum(variance for variance, _ in variances)
    uncertainty = sum(variance**2 / freedom for variance, freedom in variances)
    smallest = min(freedom for _, freedom in variances)
    return max(smallest, total**2 / uncertainty) if uncertainty else smallest


def find_supports(
    group_ids: Sequence[str], y_true: Labels, y_prob: Floats
) -> dict[str, list[Support]]:
    """Returns the `Support` of each score by name: a list of one, or of one per class.

    The ECE, custom metrics and scores that are not in 0..1 have no support.

    Args:
        group_ids: ID of the group of each image, [num_images].
        y_true: Integer labels, [num_images].
        y_prob: Probabilities, [num_images, num_classes].
    """
    classes = np.arange(y_prob.shape[1])
    positive = y_true[:, None] == classes
    predicted = y_prob.argmax(axis=1)[:, None] == classes
    num_positive = count_groups(group_ids, positive).tolist()
    num_negative = count_groups(group_ids, ~positive).tolist()
    num_predicted = count_groups(group_ids, predicted).tolist()
    total = len(set(group_ids))
    overall = Support("mean", (total,))
    mean = Support("mean", tuple(size for size in num_positive if size))
    means = ("balanced_accuracy", "isic_score", "macro_f1", "macro_precision", "macro_auc")
    curves = ("average_precision", "auc_above_80_sensitivity")
    per_class = [Support("mean", (size,)) for size in num_positive]
    pairs = zip(num_positive, num_negative, strict=True)
    return {
        "accuracy": [Support("rate", (total,))],
        **{name: [mean] for name in (*means, *(f"macro_{curve}" for curve in curves))},
        **{name: [overall] for name in ("weighted_precision", "weighted_f1")},
        "recall": [Support("rate", (size,)) for size in num_positive],
        "specificity": [Support("rate", (size,)) for size in num_negative],
        "precision": [Support("mean", (size,)) for size in num_predicted],
        "auc": [Support("auc", sizes) for sizes in pairs],
        **dict.fromkeys(("f1", *curves), per_class),
    }


def estimate(
    values: Scores,
    confidence: float = 0.95,
    supports: Sequence[Support | None] | None = None,
) -> list[Estimate]:
    """Returns one score, or one for each class, with intervals.

    The interval of a rate is the score interval of Wilson, Probable inference, the law of
    succession, and statistical inference (1927), for the effective number of groups: the
    number for which a binomial proportion has the variance of the resamples. Franco et al.,
    Comparative study of confidence intervals for proportions in complex sample surveys
    (2019), doi:10.1093/jssam/smy019. A mean has the same interval, but its variance is
    multiplied by `Support.correction`, and the quantile is that of Student's t distribution
    with `Support.freedom` degrees of freedom. If all resamples have the same value, the
    effective number of groups is `Support.count`. For an AUC, see `_auc_interval`.

    The interval of a score without support is as wide as the percentile interval, but
    centered on the score, and is clipped to the range of the resamples: Efron and
    Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. The percentile interval
    itself is not used, because resamples repeat the bias of a biased score.

    Resamples in which a score is undefined (NaN) are left out. There is no interval if the
    score is undefined on all images or in more than half of the resamples, if one of
    `Support.sizes` is below 2, or if a score without support has the same value in all
    resamples.

    Args:
        values: Values from `bootstrap`, [1 + num_resamples] or
            [1 + num_resamples, num_classes].
        confidence: Confidence level of the interval, between 0 and 1.
        supports: The support of each score, or None for a score without support. By
            default, no score has support.
    """
    return [
        _estimate(value, resampled, confidence, support)
        for value, resampled, support in _columns(values, supports)
    ]


def estimate_difference(
    values: Scores,
    confidence: float = 0.95,
    support: Support | None = None,
    further: Sequence[tuple[float, float]] = (),
) -> Difference:
    """Returns a paired difference with an interval from Student's t distribution.

    The degrees of freedom are `Support.freedom`, combined with those of `further` (see
    `degrees_of_freedom`). A score without support has infinite degrees of freedom: without
    `further`, its interval is from the normal distribution.

    If two models differ in no group, the difference is 0 in all resamples. Unless `further`
    adds a variance, the interval is then that of Tango, Equivalence test and confidence
    interval for the difference in proportions for the paired-sample design (1998), from
    -z^2 / (n + z^2) to z^2 / (n + z^2), where n is `support.count` and z the quantile of
    the normal distribution. In this case, a score without support has no interval. There is
    also no interval if all resamples have the same difference other than 0 and `further`
    adds no variance, if the difference is undefined on all images or in more than half of
    the resamples, or if one of `Support.sizes` is below 2.

    Args:
        values: The difference between two results of `bootstrap` on the same resamples,
            [1 + num_resamples].
        confidence: Confidence level of the interval, between 0 and 1.
        support: The support of the score, or None.
        further: Variances to add to that of the resamples; see `degrees_of_freedom`.
    """
    value, resampled = float(values[0]), _defined(values[1:])
    rounded = None if math.isnan(value) else round(value, 6)
    if rounded is None or not len(resampled) or (support and min(support.sizes) < 2):
        return Difference(Estimate(rounded, None, None), None)
    freedom = math.inf if support is None else support.freedom
    variances = [(float(np.var(resampled)), freedom), *further]
    variance = sum(part for part, _ in variances)
    if variance < SMALLEST_VARIANCE:
        return _no_difference(value, confidence, support)
    freedom, error = degrees_of_freedom(variances), math.sqrt(variance)
    half = _quantile(confidence, freedom) * error
    ends = round(value - half, 6), round(value + half, 6)
    p_value = 2 * float(scipy.stats.t.sf(abs(value) / error, freedom))
    return Difference(Estimate(rounded, *ends), p_value)


def _no_difference(value: float, confidence: float, support: Support | None) -> Difference:
    """Returns the `Difference` for a value that is the same in all resamples."""
    rounded = round(value, 6)
    if support is None or value:
        return Difference(Estimate(rounded, None, None), None)
    margin = round(_wilson(0.0, 0.0, _quantile(confidence), support.count)[1], 6)
    return Difference(Estimate(rounded, -margin, margin), 1.0)


def _columns(
    values: Scores, supports: Sequence[Support | None] | None
) -> Iterator[tuple[float, Scores, Support | None]]:
    """Yields the score, its resamples and its support, for each column."""
    columns = values.reshape(len(values), -1).T
    every = supports or [None for _ in columns]
    for column, support in zip(columns, every, strict=True):
        yield float(column[0]), _defined(column[1:]), support


def _defined(resampled: Scores) -> Scores:
    """Returns the resamples without NaN; empty if more than half are NaN."""
    defined = resampled[~np.isnan(resampled)]
    return defined if len(resampled) <= 2 * len(defined) else defined[:0]


def _estimate(
    value: float, resampled: Scores, confidence: float, support: Support | None
) -> Estimate:
    few = support is not None and min(support.sizes, default=0) < 2
    if support is None and len(resampled):
        few = resampled.min() == resampled.max()  # such as those of a single group
    if math.isnan(value) or not len(resampled) or few:
        return Estimate(None if math.isnan(value) else round(value, 6), None, None)
    if support is None:
        tail = (1 - confidence) / 2
        ends = np.quantile(resampled, (tail, 1 - tail), method="weibull")
        half = float(np.diff(ends)[0]) / 2
        low, high = max(value - half, resampled.min()), min(value + half, resampled.max())
    else:
        variance = float(np.var(resampled))
        if support.kind == "auc":
            low, high = _auc_interval(value, variance, confidence, support)
        elif support.kind == "rate":
            low, high = _wilson(value, variance, _quantile(confidence), support.count)
        else:
            quantile = _quantile(confidence, support.freedom)
            variance *= support.correction
            low, high = _wilson(value, variance, quantile, support.count)
    return Estimate(round(value, 6), round(float(low), 6), round(float(high), 6))


def _quantile(confidence: float, freedom: float = math.inf) -> float:
    """Returns the two-sided quantile of Student's t, or of a normal distribution."""
    return float(scipy.stats.t.ppf((1 + confidence) / 2, freedom))


def _wilson(
    rate: float, variance: float, quantile: float, count: int
) -> tuple[float, float]:
    """Returns Wilson's interval of a rate, [low, high].

    The effective number of groups follows from the variance. If the variance is 0, it is
    `count`.
    """
    square, binomial = quantile**2, rate * (1 - rate)
    effective = binomial / variance if variance * binomial > 0 else count
    center = (rate + square / (2 * effective)) / (1 + square / effective)
    margin = math.sqrt(square * (binomial / effective + square / (4 * effective**2)))
    margin /= 1 + square / effective
    return max(0.0, center - margin), min(1.0, center + margin)


def _auc_interval(
    value: float, variance: float, confidence: float, support: Support
) -> tuple[float, float]:
    """Returns the score interval of an AUC, [low, high].

    The interval contains each AUC that differs from `value` by at most a normal quantile
    times the standard error for this AUC: that of two normal distributions of equal
    variance, corrected by the ratio of the resampled variance to theirs at `value`.
    Obuchowski and McClish, Sample size determination for diagnostic accuracy studies
    involving binormal ROC curve indices (1997),
    doi:10.1002/(SICI)1097-0258(19970715)16:13<1529::AID-SIM565>3.0.CO;2-H.

    With few groups, the resampled variance is uncertain, and far too small if the groups
    are ranked almost perfectly. Therefore the ratio is averaged with 1; the weights are one
    less than the smaller number of groups, and `AUC_PRIOR_FREEDOM`.
    """
    at_value = _binormal_variance(value, support.sizes)
    ratio = variance / at_value if at_value > 0 else 1.0
    freedom = min(support.sizes) - 1
    factor = (freedom * ratio + AUC_PRIOR_FREEDOM) / (freedom + AUC_PRIOR_FREEDOM)
    quantile = _quantile(confidence) * math.sqrt(factor)

    def excess(auc: float) -> float:
        error = math.sqrt(_binormal_variance(auc, support.sizes))
        return abs(auc - value) - quantile * error

    return _root(excess, value, 1e-9), _root(excess, value, 1 - 1e-9)


def _root(excess: Callable[[float], float], value: float, end: float) -> float:
    """Returns where `excess` becomes positive between `value` and `end`, or the end."""
    inside = min(max(value, 1e-9), 1 - 1e-9)
    if excess(end) <= 0 or excess(inside) >= 0:
        return float(round(end))
    return float(scipy.optimize.brentq(excess, inside, end))


def _binormal_variance(auc: float, sizes: tuple[int, ...]) -> float:
    """Returns the variance of the AUC of two normal distributions of equal variance.

    Owen's T function gives the probability that two standard normal variables with
    correlation 1/2 are below the same limit. This is the probability that one positive
    image scores above two negative images, or two positive images above a negative one.
    """
    if not 0 < auc < 1:
        return 0.0
    limit = float(scipy.special.ndtri(auc))
    covariance = auc * (1 - auc) - 2 * scipy.special.owens_t(limit, 1 / math.sqrt(3))
    first, second = sizes
    pairs = auc * (1 - auc) + (first + second - 2) * covariance
    return float(pairs / (first * second))
