"""What another seed does to a score, and intervals that count it in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from skincnn.metrics.bootstrap import Estimate


@dataclass(frozen=True)
class Spread:
    """How far the scores of runs that differ by their seed alone lie apart.

    Attributes:
        deviations: Name of a score to its standard deviation, pooled over the recipes.
        num_runs: Of how many runs, two or more of each recipe.
        num_recipes: Of how many recipes.
    """

    deviations: dict[str, float]
    num_runs: int
    num_recipes: int

    def half_width(self, name: str, first: int, second: int, confidence: float) -> float:
        """Returns by how much the means of two recipes may differ through their seeds.

        That is Student's two-sample interval, with the pooled deviation.

        Args:
            name: Of the score.
            first: Runs of one recipe.
            second: Runs of the other.
            confidence: Coverage, between 0 and 1.
        """
        freedom = self.num_runs - self.num_recipes
        quantile = scipy.stats.t.ppf((1 + confidence) / 2, freedom)
        return float(quantile * self.deviations[name] * math.sqrt(1 / first + 1 / second))


def pooled_spread(recipes: Sequence[Sequence[Mapping[str, float]]]) -> Spread | None:
    """Returns the spread within recipes; None where each has one run.

    Args:
        recipes: Of each the scores of each of its runs: name to score.
    """
    several = [runs for runs in recipes if len(runs) > 1]
    if not several:
        return None
    num_runs = sum(map(len, several))
    deviations = {}
    for name in several[0][0]:
        squares = [
            np.var([run[name] for run in runs], ddof=1) * (len(runs) - 1)
            for runs in several
        ]
        deviations[name] = math.sqrt(sum(squares) / (num_runs - len(several)))
    return Spread(deviations, num_runs, len(several))


def count_seeds_in(difference: Estimate, half_width: float) -> Estimate:
    """Returns a difference whose interval tells of other seeds as well as other lesions.

    The two distances from the difference to an end, the one by the lesions and the one by
    the seeds, are added as the sides of a right triangle are: Zou and Donner, Construction
    of confidence limits about effect measures (2008), doi:10.1002/sim.3095. What a seed
    does to some lesions and not to others is in both, so it is rather too wide.

    Args:
        difference: Of two recipes, with its paired interval over lesions.
        half_width: From `Spread.half_width`; NaN where the scores are not known.
    """
    value, low, high = difference.value, difference.low, difference.high
    if value is None or low is None or high is None or math.isnan(half_width):
        return Estimate(value, None, None)
    return Estimate(
        value,
        round(value - math.hypot(value - low, half_width), 6),
        round(value + math.hypot(high - value, half_width), 6),
    )
