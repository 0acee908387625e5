"""Variance of scores between training runs that differ only by their seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from skincnn.metrics.bootstrap import Estimate


@dataclass(frozen=True)
class SeedVariance:
    """The standard deviation of each score across seeds, pooled over recipes.

    A recipe is a training configuration without its seed.

    Attributes:
        standard_deviations: Pooled standard deviation of each score, by name.
        num_runs: Total number of runs of the recipes that have several runs.
        num_recipes: Number of recipes that have several runs.
    """

    standard_deviations: dict[str, float]
    num_runs: int
    num_recipes: int

    def half_width(self, name: str, first: int, second: int, confidence: float) -> float:
        """Returns the half-width of the interval for the difference between two recipes.

        This is Student's two-sample interval for the difference in the mean of score
        `name`. `first` and `second` are the numbers of runs of the recipes.
        """
        quantile = scipy.stats.t.ppf((1 + confidence) / 2, self.num_runs - self.num_recipes)
        deviation = self.standard_deviations[name]
        return float(quantile * deviation * math.sqrt(1 / first + 1 / second))


def pool_seed_variance(
    recipes: Sequence[Sequence[Mapping[str, float]]],
) -> SeedVariance | None:
    """Returns the variance between the runs of a recipe, pooled over recipes.

    `recipes` contains the scores of each run of each recipe, by name. Returns None if no
    recipe has several runs.
    """
    repeated = [runs for runs in recipes if len(runs) > 1]
    if not repeated:
        return None
    num_runs = sum(map(len, repeated))
    deviations = {}
    for name in repeated[0][0]:
        squares = [
            np.var([run[name] for run in runs], ddof=1) * (len(runs) - 1)
            for runs in repeated
        ]
        deviations[name] = math.sqrt(sum(squares) / (num_runs - len(repeated)))
    return SeedVariance(deviations, num_runs, len(repeated))


def add_seed_variance(difference: Estimate, half_width: float) -> Estimate:
    """Returns a difference with an interval that includes the variance between seeds.

    On each side, the two half-widths are added in quadrature: Zou and Donner, Construction
    of confidence limits about effect measures (2008), doi:10.1002/sim.3095. Both intervals
    include the interaction of seeds and lesions, so the result is conservative.

    Args:
        difference: Difference with an interval for the sampling of lesions.
        half_width: From `SeedVariance.half_width`. If it is NaN, there is no interval.
    """
    value, low, high = difference.value, difference.low, difference.high
    if value is None or low is None or high is None or math.isnan(half_width):
        return Estimate(value, None, None)
    return Estimate(
        value,
        round(value - math.hypot(value - low, half_width), 6),
        round(value + math.hypot(high - value, half_width), 6),
    )
