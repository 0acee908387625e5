"""What is served of a picture: from logits and distances to named answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from skincnn import classes
from skincnn.errors import ConfigError
from skincnn.evaluation.triage import DEFAULT_POINT as DEFAULT_POINT
from skincnn.evaluation.triage import TARGET
from skincnn.metrics.operating_points import find_targets

NO_THRESHOLD = "This model has no threshold for malignant lesions."


@dataclass(frozen=True)
class DecisionRule:
    """What was fixed on validation, and is served with the network.

    Attributes:
        class_names: In order.
        temperature: By which logits are divided.
        point: The operating point by which pictures are referred, as "90 % sensitivity".
        threshold: From this probability of a malignant class on a picture is referred;
            NaN where there is none.
        limit: The distance beyond which a picture is none of those that are known.
    """

    class_names: tuple[str, ...]
    temperature: float
    point: str
    threshold: float
    limit: float

    @property
    def chosen(self) -> str:
        """What the threshold is, in words."""
        return f"the threshold that was chosen for {self.point} on validation"

    @property
    def referral(self) -> str:
        """When a picture is referred, in words."""
        others = "where it is unknown or was not read"
        if math.isnan(self.threshold):
            return f"{others}. {NO_THRESHOLD}"
        return (
            f"from a malignant probability of {self.threshold:.4g} on, {self.chosen}; and "
            f"{others}"
        )

    @classmethod
    def of(cls, report: dict[str, Any], point: str = DEFAULT_POINT) -> DecisionRule:
        """Returns the rules that a report holds.

        Args:
            report: The content of report.json, or one of its `variants` with the
                `class_names` and what is said of `unknown` pictures.
            point: The operating point.

        Raises:
            ConfigError: The report has no such operating point, or says nothing of
                unknown pictures.
        """
        points = report["thresholds"].get(TARGET, {})
        if points and point not in points:
            raise ConfigError(
                f"--operating-point must be one of: {', '.join(points)}. Received: {point}."
            )
        if report["unknown"] is None:
            raise ConfigError(
                "The report says nothing of unknown pictures, on which referral depends. "
                "Evaluate all runs again."
            )
        threshold = points.get(point)
        return cls(
            tuple(report["class_names"]),
            report["temperature"],
            point,
            math.nan if threshold is None else threshold,
            report["unknown"]["threshold"],
        )


def answer(
    logits: Sequence[tf.Tensor],
    distances: Sequence[tf.Tensor],
    is_read: tf.Tensor,
    rules: DecisionRule,
) -> dict[str, tf.Tensor]:
    """Returns the answers of a model, or of several together, for a batch of pictures.

    Probabilities are the mean of all, as in `evaluation.predictions.mean_predictions`,
    and then calibrated. A picture is referred to somebody who knows more where a malignant
    class is likely enough, where it is like none that are known, and where it cannot be
    read.

    Args:
        logits: Of each model or view, float32 [batch, num_classes].
        distances: Of each that has one, float32 [batch].
        is_read: Which pictures could be read, bool [batch]. The others have NaN for
            numbers, and no class.
        rules: See `Rules`.

    Returns:
        Of each picture: probabilities, calibrated, float32 [num_classes];
        uncalibrated_probabilities, as in tables of predictions; class_names, the same for
        all; class_name; malignant_probability (NaN with classes of which it is not
        known); refer; distance; and unknown: whether that is beyond the limit.
    """
    log_mean = tf.reduce_logsumexp(
        [tf.nn.log_softmax(part) for part in logits], axis=0
    ) - math.log(len(logits))
    uncalibrated = tf.exp(log_mean)
    probabilities = tf.nn.softmax(log_mean / rules.temperature)
    distance = tf.reduce_mean(tf.stack(distances), axis=0)
    malignant = tf.linalg.matvec(probabilities, _malignant(rules.class_names))
    found = tf.linalg.matvec(probabilities, _to_be_found(rules.class_names))
    unknown = distance > rules.limit
    names = tf.constant(rules.class_names)
    best = tf.gather(names, tf.argmax(probabilities, axis=-1))
    return {
        "probabilities": tf.where(is_read[:, None], probabilities, math.nan),
        "uncalibrated_probabilities": tf.where(is_read[:, None], uncalibrated, math.nan),
        "class_names": tf.tile(names[None], (tf.size(is_read), 1)),
        "class_name": tf.where(is_read, best, ""),
        "malignant_probability": tf.where(is_read, malignant, math.nan),
        "refer": ~is_read | unknown | (found >= rules.threshold),
        "distance": tf.where(is_read, distance, math.nan),
        "unknown": is_read & unknown,
    }


def _malignant(class_names: Sequence[str]) -> tf.Tensor:
    """Returns 1 for malignant classes, 0 for benign ones, NaN where it is not known."""
    described = classes.describe(class_names).values()
    return tf.constant(
        [np.nan if one.malignant is None else float(one.malignant) for one in described],
        tf.float32,
    )


def _to_be_found(class_names: Sequence[str]) -> tf.Tensor:
    """Returns 1 for the classes on whose sum the threshold was chosen, else 0."""
    target = find_targets(class_names).get(TARGET)
    numbers = target.classes if target else ()
    return tf.constant([float(i in numbers) for i in range(len(class_names))], tf.float32)
