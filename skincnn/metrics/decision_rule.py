"""The referral (triage) rule: which images are referred to a dermatologist."""

from __future__ import annotations

import functools
import math
from typing import Any

from pydantic import Field

from skincnn.classes import LesionClass, describe
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.operating_points import Target, find_targets
from skincnn.records import Part

TARGET = "malignant"
"""The target of the rule: all malignant classes together."""
DEFAULT_OPERATING_POINT = "sensitivity=0.90"
"""The operating point of `TARGET` that exports use by default."""


class DecisionRule(Part):
    """The rule that decides which images are referred. Every export contains it.

    The calibration map, the thresholds and the maximum distance are chosen on the
    validation split.

    Attributes:
        class_names: Class names, in the order of the model's outputs.
        declared: The classes that the dataset declares, by name; see `described`.
        calibration_map: Calibrates the probabilities.
        operating_point: Operating point of `TARGET` for which the threshold was chosen; ""
            without a target.
        threshold: Probability of `TARGET`, in 0..1, at or above which an image is referred;
            None if `choose_threshold` finds none, or if there is no such target.
        max_distance: Distance above which an image is out-of-distribution; see
            `skincnn.inference.ood`. None if out-of-distribution detection is switched off.
        set_thresholds: Probability at or above which each class is in the prediction set;
            see `skincnn.metrics.conformal.choose_set_thresholds`.
    """

    class_names: tuple[str, ...]
    declared: dict[str, LesionClass] = Field(default={})
    calibration_map: CalibrationMap
    operating_point: str = DEFAULT_OPERATING_POINT
    threshold: float | None
    max_distance: float | None
    set_thresholds: tuple[float, ...]

    @property
    def described(self) -> dict[str, LesionClass]:
        """The description of each class by name; see `skincnn.classes.describe`."""
        return describe(self.class_names, self.declared)

    @property
    def target(self) -> Target | None:
        """`TARGET`; None if it does not exist. Exports then have no output `refer`."""
        return _find_target(self.class_names, tuple(self.declared.items()))

    @property
    def always_in_set(self) -> tuple[str, ...]:
        """The classes in every prediction set; validation has too few groups of them."""
        pairs = zip(self.class_names, self.set_thresholds, strict=True)
        return tuple(name for name, threshold in pairs if threshold == 0)

    def prediction_set(self, probabilities: Any) -> Any:
        """Returns whether each class is in the set, bool [num_images, num_classes].

        The calibrated probabilities are NumPy arrays or TensorFlow tensors; see `decide`.
        """
        return probabilities >= self.set_thresholds

    def decide(self, probabilities: Any, distances: Any) -> tuple[Any, Any]:
        """Returns whether each image is referred, and whether it is out-of-distribution.

        Both are bool [num_images]. An image is referred if its probability of `TARGET`
        reaches the threshold or if it is out-of-distribution. Without a threshold or a
        target, only out-of-distribution images are referred. The rule uses only operators,
        so that it works with NumPy arrays (evaluation) and TensorFlow tensors (exports).

        Args:
            probabilities: Calibrated probabilities, [num_images, num_classes].
            distances: Distances from the validation images, [num_images].
        """
        limit = math.inf if self.max_distance is None else self.max_distance
        out_of_distribution = distances > limit
        target = self.target
        if self.threshold is None or target is None:
            return out_of_distribution, out_of_distribution
        malignant = sum(probabilities[:, index] for index in target.classes)
        return out_of_distribution | (malignant >= self.threshold), out_of_distribution


@functools.lru_cache  # called several times for each served prediction
def _find_target(
    class_names: tuple[str, ...], declared: tuple[tuple[str, LesionClass], ...]
) -> Target | None:
    return find_targets(class_names, dict(declared)).get(TARGET)
