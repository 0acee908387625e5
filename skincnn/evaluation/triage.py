"""Which pictures are referred as served, and how well that finds what is malignant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from skincnn.inference.predictions import DISTANCE, arrays, class_names_of
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.classification import Floats
from skincnn.metrics.operating_points import Flags, find_targets, score_operating_point

TARGET = "malignant"
DEFAULT_POINT = "90 % sensitivity"
"""The operating point of `TARGET` that is served where no other is asked for."""
ACCEPTED = 0.95
"""Share of the validation pictures that are not called unknown."""


def choose_limit(validation: pd.DataFrame) -> float:
    """Returns the distance beyond which a picture is unknown.

    Args:
        validation: Its predictions table, with distances.
    """
    return float(np.quantile(validation[DISTANCE], ACCEPTED))


def score_referral(
    predictions: pd.DataFrame,
    validation: pd.DataFrame,
    calibrated: Floats,
    thresholds: Mapping[str, Mapping[str, float | None]],
    weights: Floats,
    confidence: float,
) -> dict[str, Any] | None:
    """Returns how well `refer` finds malignant lesions, and how many pictures it is.

    `refer` is what exports answer by default (`serving.answers`): malignant enough for
    `DEFAULT_POINT`, or unknown. That a picture cannot be read does not occur in a table.

    Args:
        predictions: A predictions table.
        validation: That of validation, for the limit of the distance.
        calibrated: The probabilities of the former after the temperature,
            [num_images, num_classes].
        thresholds: Of each target, operating point to threshold, chosen on validation.
        weights: From `lesion_weights`, [resamples, num_images].
        confidence: Coverage, between 0 and 1.

    Returns:
        point, its threshold and the limit; `RATES` of malignant lesions; `referred`, the
        share of all pictures, and with melanoma among the classes `melanoma_referred`,
        that of its pictures. None without distances, or without malignant classes.
    """
    class_names = class_names_of(predictions)
    targets = find_targets(class_names)
    measured = DISTANCE in predictions and DISTANCE in validation
    if not measured or TARGET not in targets:
        return None
    limit = choose_limit(validation)
    threshold = thresholds[TARGET][DEFAULT_POINT]
    refer = predictions[DISTANCE].to_numpy() > limit
    if threshold is not None:
        refer |= targets[TARGET].score(calibrated) >= threshold

    def rates(positive: Flags) -> dict[str, Estimate]:
        lesions = predictions["lesion_id"].tolist()
        score = refer.astype(float)
        return score_operating_point(positive, score, 0.5, weights, confidence, lesions)

    y_true = arrays(predictions, class_names)[0]
    found = rates(targets[TARGET].positive(y_true))
    found["referred"] = rates(np.ones(len(refer), bool))["sensitivity"]
    if "melanoma" in targets:
        melanoma = targets["melanoma"].positive(y_true)
        found["melanoma_referred"] = rates(melanoma)["sensitivity"]
    plain = {name: dataclasses.asdict(value) for name, value in found.items()}
    return {"point": DEFAULT_POINT, "threshold": threshold, "limit": limit, **plain}
