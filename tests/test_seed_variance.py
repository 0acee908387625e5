from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.intervals import estimate_difference
from skincnn.metrics.seed_variance import (
    SeedVariance,
    estimate_recipe_difference,
    pool_seed_variance,
)


def constant(scores: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Returns runs whose scores are the same in each resample."""
    return [{"f1": np.full(101, score)} for score in scores]


def test_without_variance_over_images_the_interval_is_that_of_a_t_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.7, 0.02, 5), rng.normal(0.72, 0.02, 3)
    variance = pool_seed_variance([constant(first), constant(second)])
    assert variance is not None
    assert (variance.num_runs, variance.num_recipes) == (8, 2)
    difference = np.full(101, second.mean() - first.mean())
    result = estimate_recipe_difference("f1", difference, variance, (3, 5), 0.9)
    expected = scipy.stats.ttest_ind(second, first)
    ends = tuple(expected.confidence_interval(0.9))
    assert (result.estimate.low, result.estimate.high) == pytest.approx(ends, abs=1e-6)
    assert result.p_value == pytest.approx(expected.pvalue)


def test_the_variance_is_pooled_within_recipes() -> None:
    rng = np.random.default_rng(1)
    recipes = [rng.random(4), rng.random(2), rng.random(1)]
    variance = pool_seed_variance([constant(scores) for scores in recipes])
    assert variance is not None
    # The single run of the third recipe has no variance.
    assert (variance.num_runs, variance.num_recipes) == (6, 2)
    squares = sum(((scores - scores.mean()) ** 2).sum() for scores in recipes)
    assert variance.standard_deviation("f1") == pytest.approx(np.sqrt(squares / 4))
    assert variance.within["f1"] == pytest.approx(0, abs=1e-12)
    assert pool_seed_variance([constant(np.array([0.5]))] * 2) is None


def test_an_undefined_variance_leaves_the_difference_without_an_interval() -> None:
    variance = SeedVariance({"f1": 0.1}, {"f1": math.nan}, 4, 2)
    values = np.array([0.25, 0.1, 0.2])
    result = estimate_recipe_difference("f1", values, variance, (2, 2), 0.95)
    assert (result.estimate, result.p_value) == (Estimate(0.25, None, None), None)


def test_variance_that_resampling_explains_is_not_counted_twice() -> None:
    """Runs that differ only because they err on different images have no seed effect."""
    rng = np.random.default_rng(2)
    runs = [{"f1": rng.normal(0.6, 0.02, 20_001)} for _ in range(4)]
    variance = pool_seed_variance([runs[:2], runs[2:]])
    assert variance is not None
    for run in runs:
        run["f1"][0] = 0.6
    same = pool_seed_variance([runs[:2], runs[2:]])
    assert same is not None
    assert same.within["f1"] == pytest.approx(0.02**2, rel=0.05)
    difference = runs[0]["f1"] - runs[2]["f1"]
    on_images = estimate_difference(difference, 0.95).estimate
    width = np.subtract(on_images.high, on_images.low)
    # If runs differ less than the resamples explain, the variance is smaller, but at
    # least half of that of the difference on the images.
    for deviation, ratio in ((0.02, 1), (0.01, 5 / 8), (0, 1 / 2)):
        variance = SeedVariance({"f1": deviation**2}, {"f1": 0.02**2}, 10**6, 2)
        result = estimate_recipe_difference("f1", difference, variance, (2, 2), 0.95)
        expected = width * math.sqrt(ratio)
        assert result.estimate.high - result.estimate.low == pytest.approx(
            expected, rel=0.03
        )


def test_an_undefined_difference_has_no_interval() -> None:
    variance = SeedVariance({"f1": 0.01}, {"f1": np.nan}, 4, 2)
    values = np.array([0.1, *[np.nan] * 100])
    result = estimate_recipe_difference("f1", values, variance, (2, 2), 0.95)
    assert (result.estimate.low, result.p_value) == (None, None)


@pytest.mark.parametrize("seed_deviation", [0.0, 0.02])
def test_the_interval_covers_the_difference_of_the_recipes(seed_deviation: float) -> None:
    """The scores vary with the sampled images, the seeds, and their interaction."""
    rng = np.random.default_rng(3)
    shared, own = 0.015, 0.01  # of a recipe, and of a run, on the sampled images
    covered = []
    for _ in range(400):
        recipes, means = [], []
        for _ in range(2):
            effect = rng.normal(0, shared)
            resampled = rng.normal(0, shared, 200)
            scores = [
                rng.normal(0.6, seed_deviation) + effect + rng.normal(0, own)
                for _ in range(3)
            ]
            runs = [
                np.array([score, *(score + resampled + rng.normal(0, own, 200))])
                for score in scores
            ]
            recipes.append([{"f1": run} for run in runs])
            means.append(np.mean(runs, axis=0))
        variance = pool_seed_variance(recipes)
        assert variance is not None
        difference = means[1] - means[0]
        result = estimate_recipe_difference("f1", difference, variance, (3, 3), 0.95)
        covered.append(result.estimate.low < 0 < result.estimate.high)
    assert 0.915 <= np.mean(covered) <= 0.985
