"""Variance of scores between training runs that differ only by their seed.

A recipe is a training configuration without its seed. Two recipes are compared by the mean
scores of their runs on the same images. The difference varies with the sample of images and
with the seeds. Its variance is estimated as

    resampled variance + (1 / first + 1 / second) * (between - within)

and is at least half of the resampled variance. `first` and `second` are the numbers of runs
of the two recipes. The resampled variance is that of the difference over bootstrap
resamples of the images, for these runs. `between` is the variance of the scores between the
runs of a recipe. Part of it, `within`, arises because the runs err on different images; the
resampled variance already contains this part. To estimate `within`, the change of each
run's score from all images to a resample is computed. The variance of these changes between
runs is averaged over resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from skincnn.metrics.intervals import Difference, Support, estimate_difference
from skincnn.metrics.sample import Scores


@dataclass(frozen=True)
class SeedVariance:
    """The variance of each score between the runs of a recipe, pooled over recipes.

    Attributes:
        between: Variance of the scores of the runs, by name of the score.
        within: The part of `between` that comes from the sampling of images.
        num_runs: Total number of runs of the recipes that have several runs.
        num_recipes: Number of recipes that have several runs.
    """

    between: dict[str, float]
    within: dict[str, float]
    num_runs: int
    num_recipes: int

    def standard_deviation(self, name: str) -> float:
        """Returns the standard deviation of a score across seeds, on the same images."""
        return math.sqrt(self.between[name])


def pool_seed_variance(
    recipes: Sequence[Sequence[Mapping[str, Scores]]],
) -> SeedVariance | None:
    """Returns the variance between the runs of a recipe, pooled over recipes.

    Args:
        recipes: For each run of each recipe, the values of its scores by name, from
            `bootstrap`, [1 + num_resamples]. All runs have the same resamples.

    Returns:
        The variance, or None if no recipe has several runs.
    """
    repeated = [runs for runs in recipes if len(runs) > 1]
    if not repeated:
        return None
    between, within = {}, {}
    for name in repeated[0][0]:
        scores = [np.stack([run[name] for run in runs]) for runs in repeated]
        changes = [values[:, 1:] - values[:, :1] for values in scores]
        between[name] = float(_pool([values[:, :1] for values in scores])[0])
        defined = _pool(changes)
        defined = defined[~np.isnan(defined)]
        within[name] = float(defined.mean()) if len(defined) else math.nan
    return SeedVariance(between, within, sum(map(len, repeated)), len(repeated))


def estimate_recipe_difference(
    name: str,
    values: Scores,
    variance: SeedVariance,
    sizes: tuple[int, int],
    confidence: float,
    support: Support | None = None,
) -> Difference:
    """Returns the difference between two recipes, with its interval.

    The interval includes the variance between seeds. It is that of `estimate_difference`,
    with the variance that the docstring of this module defines. If the variance between the
    runs is NaN, because the score is undefined in some of them, there is no interval.

    Args:
        name: Name of the score.
        values: The difference in mean scores, from `bootstrap`, [1 + num_resamples].
        variance: The variance between the runs of a recipe.
        sizes: The numbers of runs of the two recipes.
        confidence: Confidence level of the interval, between 0 and 1.
        support: The support of the score, or None.
    """
    between, within = variance.between[name], variance.within[name]
    if math.isnan(between + within):
        return estimate_difference(np.where(np.arange(len(values)), np.nan, values))
    share = sum(1 / size for size in sizes)
    freedom = variance.num_runs - variance.num_recipes
    further = [(share * between, freedom), (-share * within, math.inf)]
    resampled = float(np.nanvar(values[1:]))
    if share * (between - within) < -resampled / 2:
        further = [(-resampled / 2, math.inf)]
    return estimate_difference(values, confidence, support, further)


def _pool(parts: Sequence[Scores]) -> Scores:
    """Returns the variance over the first axis, pooled over the parts."""
    squares = sum(np.var(part, axis=0, ddof=1) * (len(part) - 1) for part in parts)
    return np.asarray(squares / sum(len(part) - 1 for part in parts))
