"""Predictive values and net benefit at other prevalences."""

from __future__ import annotations

import numpy as np
import pytest
from report_runs import sentences
from run_dirs import make_tables, score_test

from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.operating_points import decision_curve, rates
from skincnn.metrics.predictive_values import (
    PREVALENCES,
    net_benefit_at,
    npv_at,
    ppv_at,
    score_prevalences,
)


@pytest.mark.parametrize("prevalence", [0.01, 0.25])
def test_values_are_those_of_a_population(prevalence: float) -> None:
    sick, healthy = 100_000 * prevalence, 100_000 * (1 - prevalence)
    detected, false_alarms = 0.9 * sick, 0.37 * healthy
    rate = np.array([0.9]), np.array([0.63])
    assert ppv_at(*rate, prevalence) == pytest.approx(detected / (detected + false_alarms))
    cleared, missed = healthy - false_alarms, sick - detected
    assert npv_at(*rate, prevalence) == pytest.approx(cleared / (cleared + missed))
    benefit = (detected - false_alarms / 9) / 100_000
    assert net_benefit_at(*rate, prevalence, 0.1) == pytest.approx(benefit)


def test_at_the_prevalence_of_the_images_values_are_the_observed_ones() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.2
    score = np.clip(rng.normal(0.3 + 0.3 * positive, 0.2), 0, 1)
    observed = rates(positive, score, 0.3, np.ones((1, 300)))
    pair = observed["sensitivity"], observed["specificity"], positive.mean()
    assert ppv_at(*pair) == pytest.approx(observed["ppv"])
    assert npv_at(*pair) == pytest.approx(observed["npv"])
    # The decision curve uses 0.3 as the threshold of the scores and of the odds.
    expected = decision_curve(positive, score)["model"][29]
    assert net_benefit_at(*pair, 0.3) == pytest.approx(expected)


def test_without_flagged_lesions_the_ppv_is_undefined() -> None:
    assert np.isnan(ppv_at(np.zeros(1), np.ones(1), 0.1)).all()
    values = {"sensitivity": np.zeros(9), "specificity": np.ones(9)}
    limits = {
        "sensitivity": Estimate(0.0, 0.0, 0.3),
        "specificity": Estimate(1.0, 0.9, 1.0),
    }
    for scores in score_prevalences(values, limits):
        assert scores.ppv == Estimate(None, None, None)
        assert scores.npv.value == pytest.approx(1 - scores.prevalence)


def test_a_perfect_rate_has_the_limits_of_its_interval() -> None:
    rng = np.random.default_rng(0)
    values = {"sensitivity": np.ones(201), "specificity": rng.normal(0.8, 0.02, 201)}
    values["specificity"][0] = 0.8
    limits = {
        "sensitivity": Estimate(1.0, 0.7, 1.0),
        "specificity": Estimate(0.8, 0.76, 0.84),
    }
    scores = score_prevalences(values, limits)
    assert [part.prevalence for part in scores] == list(PREVALENCES)
    for part in scores:
        assert part.npv.value == part.npv.high == 1
        # The NPV does not depend on the specificity if no lesion is missed.
        low = npv_at(np.array([0.7]), np.array([0.8]), part.prevalence)[0]
        assert part.npv.low == pytest.approx(low, abs=1e-6)
        for score in (part.ppv, part.net_benefit):
            assert score.low < score.value < score.high
    limits["sensitivity"] = Estimate(1.0, None, None)
    assert score_prevalences(values, limits)[0].ppv.low is None


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.5])
def test_intervals_of_many_images_are_those_of_normal_rates(correlation: float) -> None:
    rng = np.random.default_rng(0)
    deviations = np.array([0.01, 0.002])
    covariance = np.outer(deviations, deviations)
    covariance[0, 1] *= correlation
    covariance[1, 0] *= correlation
    means = np.array([0.8, 0.9])
    drawn = np.vstack([means, rng.multivariate_normal(means, covariance, 40_000)])
    values = dict(zip(("sensitivity", "specificity"), drawn.T, strict=True))
    limits = {
        name: Estimate(mean, mean - 1.96 * deviation, mean + 1.96 * deviation)
        for name, mean, deviation in zip(values, means, deviations, strict=True)
    }
    for part in score_prevalences(values, limits):
        for function, score in (
            (ppv_at, part.ppv),
            (npv_at, part.npv),
            (net_benefit_at, part.net_benefit),
        ):
            resampled = function(*drawn[1:].T, part.prevalence)
            low, high = np.quantile(resampled, (0.025, 0.975))
            assert score.low == pytest.approx(low, abs=0.1 * (high - low))
            assert score.high == pytest.approx(high, abs=0.1 * (high - low))


def test_results_contain_the_scores_of_each_threshold() -> None:
    result = score_test(make_tables(0.6))
    points = list(result.targets["melanoma"].operating_points.values())
    assert result.triage is not None
    for part in (*points, result.triage):
        rate = [np.array([part.rates[k].value]) for k in ("sensitivity", "specificity")]
        for scores in part.by_prevalence:
            for function, score in (
                (ppv_at, scores.ppv),
                (npv_at, scores.npv),
                (net_benefit_at, scores.net_benefit),
            ):
                assert score.value == pytest.approx(
                    function(*rate, scores.prevalence)[0], abs=2e-6
                )
                assert score.low <= score.value <= score.high
            everything = scores.prevalence - (1 - scores.prevalence) / 19
            assert scores.net_benefit_of_all == pytest.approx(everything, abs=1e-6)


def test_predictive_values_are_described_in_lesions_of_100() -> None:
    [scores] = score_prevalences(
        {"sensitivity": np.full(9, 0.8), "specificity": np.full(9, 0.9)},
        {"sensitivity": Estimate(0.8, 0.7, 0.9), "specificity": Estimate(0.9, 0.85, 0.95)},
    )[2:3]
    # 1.6 of 11.4 flagged lesions are melanomas, and 0.4 of 88.6 other lesions.
    assert sentences("prevalence", "melanoma", [scores], "reach it") == (
        "If 2 of 100 lesions are melanomas, 14 [10, 25] of 100 lesions that reach it are "
        "melanomas, and so are 5 [2, 7] of 1,000 other lesions."
    )
