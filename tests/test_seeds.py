from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.seed_variance import count_seeds_in, pooled_spread


def test_without_an_interval_over_lesions_it_is_that_of_student() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.7, 0.02, 5), rng.normal(0.72, 0.02, 3)
    spread = pooled_spread([[{"f1": x} for x in scores] for scores in (first, second)])
    assert spread is not None
    assert (spread.num_runs, spread.num_recipes) == (8, 2)
    difference = float(second.mean() - first.mean())
    found = count_seeds_in(
        Estimate(difference, difference, difference), spread.half_width("f1", 3, 5, 0.9)
    )
    expected = scipy.stats.ttest_ind(second, first).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-6)


def test_the_spread_is_that_within_recipes() -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"recipe": [*"aaaabbc"], "accuracy": rng.random(7)})
    spread = pooled_spread(
        [
            [{"accuracy": score} for score in scores]
            for _, scores in table.groupby("recipe")["accuracy"]
        ]
    )
    assert spread is not None
    assert (spread.num_runs, spread.num_recipes) == (6, 2)  # one run has no spread
    centred = table["accuracy"] - table.groupby("recipe")["accuracy"].transform("mean")
    assert spread.deviations["accuracy"] == pytest.approx(
        math.sqrt((centred**2).sum() / (6 - 2))
    )
    assert pooled_spread([[{"accuracy": 0.5}], [{"accuracy": 0.6}]]) is None


def test_without_a_spread_it_is_that_over_lesions() -> None:
    difference = Estimate(0.03, 0.01, 0.06)
    assert count_seeds_in(difference, 0.0) == difference
    wider = count_seeds_in(difference, 0.04)
    assert wider == Estimate(0.03, round(0.03 - math.hypot(0.02, 0.04), 6), 0.08)


@pytest.mark.parametrize(
    ("difference", "half_width"),
    [
        (Estimate(None, None, None), 0.1),
        (Estimate(0.1, None, None), 0.1),
        (Estimate(0.1, 0.0, 0.2), math.nan),
    ],
)
def test_what_is_not_known_has_no_interval(difference: Estimate, half_width: float) -> None:
    assert count_seeds_in(difference, half_width) == Estimate(difference.value, None, None)


def test_the_interval_covers_the_difference_of_the_recipes() -> None:
    """Both a draw of lesions and one of seeds move what is measured."""
    rng = np.random.default_rng(2)
    of_seed, of_lesions, true = 0.02, 0.015, 0.01
    covered = []
    for _ in range(2000):
        first, second = rng.normal(0.6, of_seed, 5), rng.normal(0.6 + true, of_seed, 3)
        spread = pooled_spread([[{"f1": x} for x in runs] for runs in (first, second)])
        assert spread is not None
        value = second.mean() - first.mean() + rng.normal(0, of_lesions)
        half = 1.96 * of_lesions
        found = count_seeds_in(
            Estimate(value, value - half, value + half),
            spread.half_width("f1", 3, 5, 0.95),
        )
        assert found.low is not None
        assert found.high is not None
        covered.append(found.low < true < found.high)
    assert 0.94 <= np.mean(covered) <= 0.98
