from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.seed_variance import add_seed_variance, pool_seed_variance


def test_without_variance_over_lesions_the_interval_is_that_of_a_t_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.7, 0.02, 5), rng.normal(0.72, 0.02, 3)
    variance = pool_seed_variance(
        [[{"f1": x} for x in scores] for scores in (first, second)]
    )
    assert variance is not None
    assert (variance.num_runs, variance.num_recipes) == (8, 2)
    difference = float(second.mean() - first.mean())
    result = add_seed_variance(
        Estimate(difference, difference, difference), variance.half_width("f1", 3, 5, 0.9)
    )
    expected = scipy.stats.ttest_ind(second, first).confidence_interval(0.9)
    assert (result.low, result.high) == pytest.approx(tuple(expected), abs=1e-6)


def test_the_variance_is_pooled_within_recipes() -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"recipe": [*"aaaabbc"], "accuracy": rng.random(7)})
    variance = pool_seed_variance(
        [
            [{"accuracy": score} for score in scores]
            for _, scores in table.groupby("recipe")["accuracy"]
        ]
    )
    assert variance is not None
    # The single run of recipe c has no variance.
    assert (variance.num_runs, variance.num_recipes) == (6, 2)
    centred = table["accuracy"] - table.groupby("recipe")["accuracy"].transform("mean")
    assert variance.standard_deviations["accuracy"] == pytest.approx(
        math.sqrt((centred**2).sum() / (6 - 2))
    )
    assert pool_seed_variance([[{"accuracy": 0.5}], [{"accuracy": 0.6}]]) is None


def test_without_seed_variance_the_interval_is_the_one_over_lesions() -> None:
    difference = Estimate(0.03, 0.01, 0.06)
    assert add_seed_variance(difference, 0.0) == difference
    wider = add_seed_variance(difference, 0.04)
    assert wider == Estimate(0.03, round(0.03 - math.hypot(0.02, 0.04), 6), 0.08)


@pytest.mark.parametrize(
    ("difference", "half_width"),
    [
        (Estimate(None, None, None), 0.1),
        (Estimate(0.1, None, None), 0.1),
        (Estimate(0.1, 0.0, 0.2), math.nan),
    ],
)
def test_an_undefined_difference_has_no_interval(
    difference: Estimate, half_width: float
) -> None:
    assert add_seed_variance(difference, half_width) == Estimate(
        difference.value, None, None
    )


def test_the_interval_covers_the_difference_of_the_recipes() -> None:
    """The measured difference varies with the sampled lesions and with the seeds."""
    rng = np.random.default_rng(2)
    seed_deviation, lesion_deviation, true = 0.02, 0.015, 0.01
    covered = []
    for _ in range(2000):
        first, second = (
            rng.normal(0.6, seed_deviation, 5),
            rng.normal(0.6 + true, seed_deviation, 3),
        )
        variance = pool_seed_variance(
            [[{"f1": x} for x in runs] for runs in (first, second)]
        )
        assert variance is not None
        value = second.mean() - first.mean() + rng.normal(0, lesion_deviation)
        half = 1.96 * lesion_deviation
        result = add_seed_variance(
            Estimate(value, value - half, value + half),
            variance.half_width("f1", 3, 5, 0.95),
        )
        assert result.low is not None
        assert result.high is not None
        covered.append(result.low < true < result.high)
    assert 0.94 <= np.mean(covered) <= 0.98
