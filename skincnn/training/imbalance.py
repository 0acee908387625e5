"""What training does about unequal classes: a strategy returns a `Plan`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skincnn.config import ImbalanceConfig


@dataclass(frozen=True)
class Plan:
    """What `training.run` applies; it knows no strategy's name.

    Of both kinds of weights the mean over the training pictures is 1. A strategy changes
    one of them: balancing by the loss and by sampling at once would overshoot.

    Attributes:
        class_weights: The weight of each class in the loss, [num_classes]; the mean of 1
            lets learning rates keep their meaning.
        sampling_weights: How often, on average, a picture of each class is drawn in an
            epoch, [num_classes]; None for each picture once.
    """

    class_weights: npt.NDArray[np.float32]
    sampling_weights: npt.NDArray[np.float64] | None = None


def none(counts: npt.NDArray[np.int64], config: ImbalanceConfig) -> Plan:
    """Every class weighs 1."""
    return Plan(_ones(counts))


def class_weights(counts: npt.NDArray[np.int64], config: ImbalanceConfig) -> Plan:
    """A class with n pictures weighs in proportion to n ** -power.

    Power 1 gives each class the same total weight, 1/2 the square-root rule, 0 none.
    """
    weights = counts.astype(np.float64) ** -config.power
    return Plan(_with_mean_one(weights, counts).astype(np.float32))


def balanced_sampling(counts: npt.NDArray[np.int64], config: ImbalanceConfig) -> Plan:
    """Every class is drawn equally often."""
    return Plan(_ones(counts), _with_mean_one(1 / counts, counts))


def square_root_sampling(counts: npt.NDArray[np.int64], config: ImbalanceConfig) -> Plan:
    """A class with n pictures is drawn in proportion to the square root of n.

    References:
        Mahajan et al., Exploring the Limits of Weakly Supervised Pretraining (2018),
        arXiv:1805.00932.
    """
    return Plan(_ones(counts), _with_mean_one(counts**-0.5, counts))


def effective_number_sampling(
    counts: npt.NDArray[np.int64], config: ImbalanceConfig
) -> Plan:
    """A picture of a class with n is drawn in proportion to (1 - beta) / (1 - beta ** n).

    Its inverse is the effective number of pictures: 1 for each class with beta 0, n as
    beta nears 1. So beta 0 draws all pictures alike, and beta near 1 all classes.

    References:
        Cui et al., Class-Balanced Loss Based on Effective Number of Samples (2019),
        arXiv:1901.05555.
    """
    weights = (1 - config.beta) / (1 - config.beta**counts)
    return Plan(_ones(counts), _with_mean_one(weights, counts))


STRATEGIES: dict[str, Callable[[npt.NDArray[np.int64], ImbalanceConfig], Plan]] = {
    "none": none,
    "class_weights": class_weights,
    "balanced_sampling": balanced_sampling,
    "square_root_sampling": square_root_sampling,
    "effective_number_sampling": effective_number_sampling,
}
"""Each takes the number of training pictures of each class, all at least 1."""


def _ones(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return np.ones(len(counts), np.float32)


def _with_mean_one(
    weights: npt.NDArray[np.floating[Any]], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Returns `weights`, scaled so that their mean over the pictures is 1."""
    return np.asarray(weights * counts.sum() / (weights @ counts))
