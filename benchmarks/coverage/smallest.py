"""The smallest coverage that intervals from few lesions can have."""

from __future__ import annotations

import math

import numpy as np
import scipy.stats

LOWEST, HIGHEST = 0.93, 0.97
"""The range in which the coverage of an interval should be."""


def smallest_coverage(num_groups: int, rate: float) -> float:
    """Returns the smallest coverage >= `LOWEST` that an interval of a rate can have.

    With few groups, only some coverages are possible. If each of `num_groups` groups has
    one image, the number of successes is binomial with the true rate `rate`. The ends of an
    interval do not decrease with this number, so the interval misses the true rate for all
    numbers below a lower limit and for all numbers from an upper limit. The coverage is 1
    minus the probability of these numbers. Pairs of limits with a coverage below `LOWEST`
    are ignored; the result is the smallest coverage of the other pairs.
    """
    numbers = np.arange(num_groups + 1)
    few = scipy.stats.binom.cdf(numbers - 1, num_groups, rate)  # 0 for none
    many = scipy.stats.binom.sf(numbers - 1, num_groups, rate)
    ordered = np.sort(np.append(many, 0.0))
    room = 1 - LOWEST - few[few <= 1 - LOWEST]
    last = np.searchsorted(ordered, room, side="right") - 1
    return float(1 - (1 - LOWEST - room + ordered[last]).max())


def smallest_coverage_of_difference(num_discordant: int) -> float:
    """Returns the smallest coverage, of at least `LOWEST`, of a difference of 0.

    Two models with equal scores are exchangeable: given the sizes of the differences of the
    n discordant lesions, all 2^n combinations of signs are equally probable. An interval
    that treats the models alike and misses 0 also misses 0 for the opposite signs, so the
    probability that it misses 0 is a multiple of 2 / 2^n.
    """
    step = 2.0 ** (1 - num_discordant)
    return 1 - math.floor((1 - LOWEST) / step) * step
