"""Conformal prediction sets: sets of classes that contain the true class with a coverage.

The sets are class-conditional (Mondrian): the coverage holds for each class. Vovk,
Conditional validity of inductive conformal predictors (2012), arXiv:1209.2673; Sadinle, Lei
and Wasserman, Least Ambiguous Set-Valued Classifiers with Bounded Error Levels (2019),
arXiv:1609.00451.
"""

from __future__ import annotations

import math

import numpy as np

from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.sample import Floats, Labels
from skincnn.records import Part

ERROR = 0.1
"""Share of the images of each class whose prediction set may lack the class, 0..1."""


class PredictionSetScores(Part):
    """Scores of the prediction sets of a split.

    Attributes:
        coverage: Intended share of the images of each class whose set contains the class.
        thresholds: See `choose_set_thresholds`.
        covered: Share of the images of each class whose set contains the class, by class.
        mean_size: Mean number of classes in a set.
        empty: Share of the images whose set is empty.
    """

    coverage: float
    thresholds: tuple[float, ...]
    covered: dict[str, Estimate]
    mean_size: Estimate
    empty: Estimate


def choose_set_thresholds(
    y_true: Labels, y_prob: Floats, error: float = ERROR
) -> tuple[float, ...]:
    """Returns the smallest probability with which each class is in a prediction set.

    Of n images of a class, fewer than floor((n + 1) * error) have a probability of the
    class below its threshold. If another image of the class is exchangeable with them, the
    probability that its set lacks the class is then at most `error`. With fewer than
    1 / error - 1 images, no threshold ensures this: it is 0, and the class is in every set.
    Images of one lesion are counted as if they were independent, and the coverage for given
    validation images varies around its mean.

    A threshold is 0.1 % below a probability, but at most halfway to the next lower one, so
    that rounding errors do not change the sets.

    Args:
        y_true: Integer labels, [num_images].
        y_prob: Calibrated probabilities, [num_images, num_classes].
        error: See `ERROR`.
    """
    thresholds = []
    for index in range(y_prob.shape[1]):
        own = np.sort(y_prob[y_true == index, index])
        # Rounding: 0.1 is not an exact binary fraction.
        num_below = math.floor(round((len(own) + 1) * error, 9))
        if num_below == 0:
            thresholds.append(0.0)
            continue
        smallest = own[num_below - 1]
        below = own[own < smallest].max(initial=0.0)
        thresholds.append(float(max((smallest + below) / 2, 0.999 * smallest)))
    return tuple(thresholds)
