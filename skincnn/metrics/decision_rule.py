"""The referral (triage) rule: which images are referred to a dermatologist."""

from __future__ import annotations

from typing import Any

from skincnn.metrics.operating_points import find_targets
from skincnn.records import Part

TARGET = "malignant"
"""The target of the rule: all malignant classes together."""
DEFAULT_OPERATING_POINT = "sensitivity=0.90"
"""The operating point of `TARGET` that exports use by default."""


class DecisionRule(Part):
    """When an image is referred. Chosen on validation and part of every export.

    Attributes:
        class_names: In the order of the model's outputs.
        temperature: Of temperature scaling: logits are divided by it.
        operating_point: That of malignant lesions for which the threshold was chosen.
        threshold: The malignant probability from which an image is referred, 0..1; None if
            no threshold reaches the operating point on validation.
        max_distance: The Mahalanobis distance beyond which an image is
            out-of-distribution.
    """

    class_names: tuple[str, ...]
    temperature: float
    operating_point: str = DEFAULT_OPERATING_POINT
    threshold: float | None
    max_distance: float

    def decide(self, probabilities: Any, distances: Any) -> tuple[Any, Any]:
        """Returns whether each image is referred, and whether it is out-of-distribution.

        An image is referred if its malignant probability reaches the threshold or if it is
        out-of-distribution. Only operators are used, so that evaluation (NumPy arrays) and
        exports (TensorFlow tensors) share this definition.

        Args:
            probabilities: Calibrated, [num_images, num_classes].
            distances: Mahalanobis distances, [num_images].
        """
        out_of_distribution = distances > self.max_distance
        target = find_targets(self.class_names).get(TARGET)
        if self.threshold is None or target is None:
            return out_of_distribution, out_of_distribution
        malignant = sum(probabilities[:, index] for index in target.classes)
        return out_of_distribution | (malignant >= self.threshold), out_of_distribution
