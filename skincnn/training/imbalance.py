"""What training does about unequal classes: a strategy returns a `Plan`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skincnn.config import ImbalanceConfig


@dataclass(frozen=True)
class Plan:
    """What `training.run` applies; it knows no strategy's name.

    Attributes:
        class_weights: The weight of each class in the loss, [num_classes]; its mean over
            the training pictures is 1, so that learning rates keep their meaning.
    """

    class_weights: npt.NDArray[np.float32]


def none(counts: npt.NDArray[np.int64], config: ImbalanceConfig) -> Plan:
    """Every class weighs 1."""
    return Plan(np.ones(len(counts), np.float32))


def class_weights(counts: npt.NDArray[np.int64], config: ImbalanceConfig) -> Plan:
    """A class with n pictures weighs in proportion to n ** -power.

    Power 1 gives each class the same total weight, 1/2 the square-root rule, 0 none.
    """
    weights = counts.astype(np.float64) ** -config.power
    return Plan((weights * counts.sum() / (weights @ counts)).astype(np.float32))


STRATEGIES: dict[str, Callable[[npt.NDArray[np.int64], ImbalanceConfig], Plan]] = {
    "none": none,
    "class_weights": class_weights,
}
"""Each takes the number of training pictures of each class, all at least 1."""
