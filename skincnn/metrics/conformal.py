"""Conformal prediction sets, which contain the true class with a chosen probability.

This probability is the coverage. The sets are class-conditional (Mondrian): the coverage
holds for each class. Vovk, Conditional validity of inductive conformal predictors (2012),
arXiv:1209.2673; Sadinle, Lei and Wasserman, Least Ambiguous Set-Valued Classifiers with
Bounded Error Levels (2019), arXiv:1609.00451.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.sample import Floats, Labels, Scores
from skincnn.records import Part

ERROR = 0.1
"""Intended maximum share of the images of a class whose prediction set lacks the class.

Each group of images counts once; see `group_shares`."""


class PredictionSetScores(Part):
    """Scores of the prediction sets of a split.

    Attributes:
        coverage: Intended minimum of `covered`: 1 - `ERROR`.
        thresholds: See `choose_set_thresholds`.
        covered: Share of the images of each class whose set contains the class, by class.
            Each group of images counts once; see `group_shares`.
        mean_size: Mean number of classes in a set.
        empty: Share of the images whose set is empty.
    """

    coverage: float
    thresholds: tuple[float, ...]
    covered: dict[str, Estimate]
    mean_size: Estimate
    empty: Estimate


def group_shares(y_true: Labels, group_ids: Sequence[str]) -> Scores:
    """Returns 1 / the number of images of the same class and group, [num_images]."""
    rows = pd.DataFrame({"label": y_true, "group": group_ids})
    counts = rows.groupby(["label", "group"])["label"].transform("size")
    return 1 / counts.to_numpy(np.float64)


def choose_set_thresholds(
    y_true: Labels, y_prob: Floats, group_ids: Sequence[str], error: float = ERROR
) -> tuple[float, ...]:
    """Returns the threshold of each class, at or above which the class is in the set.

    Images of one group (a patient, or a lesion with its near-duplicates) are not
    independent, so each group counts once: an image is weighted by its `group_shares`. For
    a class with n groups, those of its images whose probability of the class is below the
    threshold have a total weight of at most (n + 1) * error - 1. The probability that the
    prediction set of an image of a new, exchangeable group lacks the true class is then at
    most `error`: Lee, Barber and Willett, Distribution-free inference with hierarchical
    data (2023), arXiv:2306.06342. With fewer than 1 / error - 1 groups, no positive
    threshold ensures this; the threshold is then 0, and the class is in every set. The
    bound holds on average over validation splits; the coverage of the thresholds from a
    given validation split can be higher or lower.

    A threshold is 0.1 % below a probability, but at most halfway to the next lower one, so
    that rounding errors do not change the sets.

    Args:
        y_true: Integer labels, [num_images].
        y_prob: Calibrated probabilities, [num_images, num_classes].
        group_ids: ID of the group of each image, [num_images].
        error: See `ERROR`.
    """
    shares = group_shares(y_true, group_ids)
    thresholds = []
    for index in range(y_prob.shape[1]):
        rows = y_true == index
        values, inverse = np.unique(y_prob[rows, index], return_inverse=True)
        at_value = np.bincount(inverse, shares[rows], len(values))
        below = np.cumsum(at_value) - at_value
        most = (at_value.sum() + 1) * error - 1
        # Rounding: 0.1 is not an exact binary fraction.
        last = int((np.round(below, 9) <= round(most, 9)).sum()) - 1
        if last < 0:
            thresholds.append(0.0)
            continue
        smallest, previous = values[last], values[last - 1] if last else 0.0
        thresholds.append(float(max((smallest + previous) / 2, 0.999 * smallest)))
    return tuple(thresholds)
