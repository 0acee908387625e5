"""Intervals of scores and of paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.intervals import (
    Support,
    _binormal_variance,
    degrees_of_freedom,
    estimate,
    estimate_difference,
    find_supports,
)


def resamples(value: float, deviation: float, seed: int = 0) -> np.ndarray:
    """Returns a value, and 4000 resamples with exactly this standard deviation."""
    noise = np.random.default_rng(seed).normal(size=4000)
    noise = (noise - noise.mean()) / noise.std()
    return np.array([value, *(value + deviation * noise)])


@pytest.mark.parametrize(("count", "total"), [(3, 8), (7, 8), (250, 300), (0, 12), (5, 5)])
def test_the_interval_of_a_binomial_rate_is_that_of_wilson(count: int, total: int) -> None:
    rate = count / total
    values = resamples(rate, math.sqrt(rate * (1 - rate) / total))
    [result] = estimate(values, 0.9, [Support("rate", (total,))])
    expected = scipy.stats.binomtest(count, total).proportion_ci(0.9, method="wilson")
    assert result.value == pytest.approx(rate, abs=1e-6)
    assert (result.low, result.high) == pytest.approx(
        (expected.low, expected.high), abs=1e-5
    )


def test_correlated_images_count_as_fewer_groups() -> None:
    values = resamples(0.7, math.sqrt(0.7 * 0.3 / 50))
    [result] = estimate(values, 0.95, [Support("rate", (200,))])
    expected = scipy.stats.binomtest(35, 50).proportion_ci(0.95, method="wilson")
    assert (result.low, result.high) == pytest.approx(
        (expected.low, expected.high), abs=1e-5
    )


def test_degrees_of_freedom_are_those_of_welch() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 7), rng.normal(0, 3, 12)
    parts = [(part.var(ddof=1) / len(part), len(part) - 1) for part in (first, second)]
    expected = scipy.stats.ttest_ind(first, second, equal_var=False).df
    assert degrees_of_freedom(parts) == pytest.approx(expected)
    # The result is at least the smallest degrees of freedom of a part.
    assert degrees_of_freedom([(3.0, 10), (-1.0, math.inf)]) == 10
    assert degrees_of_freedom([(3.0, 10), (1.0, math.inf)]) == pytest.approx(160 / 9)
    assert degrees_of_freedom([(0.0, math.inf)]) == math.inf
    assert Support("mean", (9,)).freedom == pytest.approx(8)
    assert Support("mean", (9, 9, 9)).freedom == pytest.approx(24)
    # Large classes hardly matter beside a small one.
    assert Support("mean", (9, 10**6)).freedom == pytest.approx(8, rel=1e-3)


def test_the_variance_of_a_mean_over_classes_is_corrected_by_class() -> None:
    assert Support("mean", (9,)).correction == pytest.approx(9 / 8)
    assert Support("mean", (9, 9)).correction == pytest.approx(9 / 8)
    # Large classes hardly matter beside a small one.
    assert Support("mean", (9, 10**6)).correction == pytest.approx(9 / 8, rel=1e-3)


@pytest.mark.parametrize("count", [5, 9, 30])
def test_resamples_of_a_class_vary_as_much_as_samples(count: int) -> None:
    """Their number of groups varies too, which replaces the factor n / (n - 1)."""
    rng = np.random.default_rng(count)
    values = rng.normal(size=count)
    drawn = rng.multinomial(600, np.full(600, 1 / 600), 20_000)[:, :count]
    means = (drawn @ values)[drawn.sum(axis=1) > 0] / drawn.sum(axis=1)[
        drawn.sum(axis=1) > 0
    ]
    assert means.var() == pytest.approx(values.var(ddof=1) / count, rel=0.1)


def test_a_mean_of_perfect_classes_has_an_interval() -> None:
    result = estimate(np.ones(101), 0.95, [Support("mean", (20, 12))])[0]
    square = scipy.stats.t.ppf(0.975, Support("mean", (20, 12)).freedom) ** 2
    assert (result.value, result.high) == (1, 1)
    assert result.low == pytest.approx(24 / (24 + square), abs=1e-6)


@pytest.mark.parametrize("auc", [0.5, 0.8, 0.97])
def test_the_variance_of_the_auc_is_that_of_normal_scores(auc: float) -> None:
    rng = np.random.default_rng(0)
    shift = math.sqrt(2) * scipy.stats.norm.ppf(auc)
    positive = rng.normal(shift, 1, (20_000, 9, 1))
    negative = rng.normal(0, 1, (20_000, 1, 12))
    measured = (positive > negative).mean(axis=(1, 2)).var()
    assert _binormal_variance(auc, (9, 12)) == pytest.approx(measured, rel=0.05)


def test_the_interval_of_an_auc_contains_the_auc_and_shrinks_with_the_sizes() -> None:
    widths = []
    for sizes in ((8, 700), (80, 700), (800, 7000)):
        deviation = math.sqrt(_binormal_variance(0.9, sizes))
        [result] = estimate(resamples(0.9, deviation), 0.95, [Support("auc", sizes)])
        assert 0 < result.low < 0.9 < result.high < 1
        widths.append(result.high - result.low)
    assert widths == sorted(widths, reverse=True)
    # For many images, it is the value plus or minus 1.96 standard errors.
    error = math.sqrt(_binormal_variance(0.9, (800, 7000)))
    assert widths[-1] == pytest.approx(2 * 1.96 * error, rel=0.02)
    [perfect] = estimate(np.ones(101), 0.95, [Support("auc", (8, 700))])
    assert (perfect.value, perfect.high) == (1, 1)
    assert perfect.low < 0.9
    # With 21 groups, the variance of the resamples (4) is averaged with that of normal
    # scores (1); with many groups, that of the resamples is used.
    for sizes, expected in (((2001, 5000), 4), ((21, 5000), 2.5)):
        variance = 4 * _binormal_variance(0.7, sizes)
        [result] = estimate(
            resamples(0.7, math.sqrt(variance)), 0.95, [Support("auc", sizes)]
        )
        width = result.high - result.low
        error = math.sqrt(expected * _binormal_variance(0.7, sizes))
        assert width == pytest.approx(2 * 1.96 * error, rel=0.08)
    [wide] = estimate(resamples(0.9, 0.2), 0.95, [Support("auc", (80, 700))])
    assert wide.high - wide.low > 0.4


def test_scores_without_support_have_intervals_of_the_width_of_percentiles() -> None:
    values = resamples(0.5, 0.1)
    low, high = np.quantile(values[1:], (0.05, 0.95), method="weibull")
    values[0] = 0.45  # the resamples are biased
    [result] = estimate(values, 0.9)
    assert (result.low + result.high) / 2 == pytest.approx(0.45)
    assert result.high - result.low == pytest.approx(high - low, abs=1e-5)
    # The interval is clipped to the range of the resamples.
    positive = np.array([0.1, *np.random.default_rng(0).exponential(0.1, 1000)])
    assert estimate(positive)[0].low == pytest.approx(positive.min(), abs=1e-6)


def test_a_difference_has_the_interval_and_p_value_of_a_t_test() -> None:
    pairs = np.random.default_rng(1).normal(0.3, 1, 12)
    values = resamples(pairs.mean(), pairs.std(ddof=1) / math.sqrt(12))
    result = estimate_difference(values, 0.9, Support("mean", (12,)))
    expected = scipy.stats.ttest_1samp(pairs, 0)
    ends = tuple(expected.confidence_interval(0.9))
    assert (result.estimate.low, result.estimate.high) == pytest.approx(ends, abs=1e-6)
    assert result.p_value == pytest.approx(expected.pvalue)


def test_a_difference_without_spread_has_the_score_interval() -> None:
    result = estimate_difference(np.zeros(101), 0.95, Support("rate", (8,)))
    expected = scipy.stats.binomtest(0, 8).proportion_ci(0.95, method="wilson").high
    assert result.estimate == Estimate(0.0, -round(expected, 6), round(expected, 6))
    assert result.p_value == 1
    without = estimate_difference(np.zeros(101), 0.95)
    assert (without.estimate, without.p_value) == (Estimate(0.0, None, None), None)


def test_classes_of_a_single_group_have_no_interval() -> None:
    values = resamples(0.5, 0.1)
    for support in (Support("rate", (1,)), Support("mean", (9, 1)), Support("auc", (1, 9))):
        assert estimate(values, 0.95, [support]) == [Estimate(0.5, None, None)]
        difference = estimate_difference(values, 0.95, support)
        assert difference.estimate == Estimate(0.5, None, None)


def test_supports_count_groups() -> None:
    y_true = np.array([0, 0, 0, 1, 1, 1])
    y_prob = np.eye(3)[[0, 0, 1, 1, 1, 0]]
    supports = find_supports(["a", "a", "b", "c", "d", "d"], y_true, y_prob)
    assert supports["accuracy"] == [Support("rate", (4,))]
    assert supports["balanced_accuracy"] == [Support("mean", (2, 2))]
    assert [support.sizes for support in supports["recall"]] == [(2,), (2,), (0,)]
    assert [support.sizes for support in supports["specificity"]] == [(2,), (2,), (4,)]
    assert [support.sizes for support in supports["precision"]] == [(2,), (3,), (0,)]
    assert supports["auc"][0] == Support("auc", (2, 2))
