"""Checks the parity of an export with the Keras model on images of the test split."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.errors import DataError
from skincnn.metrics.classification import balanced_accuracy
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.metrics.sample import Floats, Labels, Sample
from skincnn.reporting.parity_result import ClassParity, ParityResult
from skincnn.serving.export_info import ExportInfo
from skincnn.serving.saved_model import Predict

BATCH_SIZE = 32
"""Number of images per batch in the parity check."""
NUM_IMAGES = 256
"""Maximum number of evenly spaced test images on which an export is checked."""
MIN_PER_CLASS, MAX_PER_CLASS = 20, 100
"""If a class has fewer than `MIN_PER_CLASS` of the evenly spaced images, up to
`MAX_PER_CLASS` images of the class are added."""


class Output(NamedTuple):
    """The predictions of a Keras model or an export.

    Attributes:
        probabilities: Uncalibrated probabilities [num_images, num_classes].
        distances: OOD distances [num_images]; NaN if they were not computed.
        refer: Referral decisions, bool [num_images]; arbitrary if the rule has no target.
        out_of_distribution: OOD decisions, bool [num_images].
    """

    probabilities: npt.NDArray[Any]
    distances: npt.NDArray[Any]
    refer: npt.NDArray[np.bool_]
    out_of_distribution: npt.NDArray[np.bool_]


def choose_images(labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Returns the indices of the images in a split that are used to check exports.

    The first ones, up to `NUM_IMAGES`, are evenly spaced in the split. Additional images of
    rare classes follow, so that the check detects an export that never predicts a rare
    class. `labels` contains the class of each image in the split.
    """
    names = np.asarray(labels)
    chosen = _evenly_spaced(np.arange(len(names)), NUM_IMAGES)
    for name in np.unique(names):
        if (names[chosen] == name).sum() < MIN_PER_CLASS:
            others = np.setdiff1d(np.flatnonzero(names == name), chosen)
            chosen = np.concatenate([chosen, _evenly_spaced(others, MAX_PER_CLASS)])
    return chosen


def decide(
    probabilities: npt.NDArray[Any], distances: npt.NDArray[Any], rule: DecisionRule
) -> Output:
    """Returns an `Output` with the decisions of `rule`, computed in float32 as in exports.

    See `Output` for `probabilities` and `distances`.
    """
    calibrated = rule.calibration_map.apply(probabilities).astype(np.float32)
    decisions = rule.decide(calibrated, distances.astype(np.float32))
    return Output(probabilities, distances, *decisions)


def predict_images(predict: Predict, contents: list[bytes], table: pd.DataFrame) -> Output:
    """Returns the predictions of an export for image files.

    `table` contains the `CLINICAL_COLUMNS`, one row per file, if the export requires them.
    """
    parts = [slice(i, i + BATCH_SIZE) for i in range(0, len(table), BATCH_SIZE)]
    batches = [predict(contents[part], table.iloc[part]) for part in parts]
    outputs = {
        name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]
    }
    distances = outputs["ood_distance"]
    none = np.zeros(len(distances), bool)
    decisions = (outputs.get(name, none) for name in ("refer", "out_of_distribution"))
    return Output(outputs["uncalibrated_probabilities"], distances, *decisions)


def check_parity(
    y_true: Labels,
    model: Output,
    export: Output,
    info: ExportInfo,
    *,
    num_bytes: int,
    tolerance: float | None,
    distance_tolerance: float,
) -> ParityResult:
    """Compares the predictions of an export with those of the Keras model.

    Args:
        y_true: Class indices [num_images].
        model: Outputs of the model.
        export: Outputs of the export for the same images.
        info: The metadata of the export.
        num_bytes: Size of the export in bytes.
        tolerance: Maximum difference in probability; None for no maximum.
        distance_tolerance: Maximum difference in OOD distance, as a fraction of the OOD
            limit; without this limit, distances are not compared.

    Raises:
        DataError: A difference exceeds its maximum or is NaN, or there is a class that the
            model predicts (or correctly predicts) and the export never does.
    """
    rule = info.rule
    differences = np.abs(export.probabilities - model.probabilities).max(axis=1)
    samples = (Sample(y_true, output.probabilities) for output in (model, export))
    accuracies = [float(balanced_accuracy(sample)) for sample in samples]
    result = ParityResult(
        format=info.format,
        variant=info.variant,
        num_bytes=num_bytes,
        num_images=len(y_true),
        same_class=float(np.mean(_classes(model) == _classes(export))),
        same_refer=None if rule.target is None else _share(model.refer == export.refer),
        same_out_of_distribution=_share(
            model.out_of_distribution == export.out_of_distribution
        ),
        largest_difference=float(differences.max()),
        largest_distance_difference=_distance_difference(model, export, rule),
        model_balanced_accuracy=accuracies[0],
        export_balanced_accuracy=accuracies[1],
        classes={
            name: _class_parity(index, y_true, model, export, differences)
            for index, name in enumerate(rule.class_names)
        },
    )
    _require_parity(result, model, export, tolerance, distance_tolerance)
    return result


def _require_parity(
    result: ParityResult,
    model: Output,
    export: Output,
    tolerance: float | None,
    distance_tolerance: float,
) -> None:
    missing = sorted(
        name
        for index, (name, parity) in enumerate(result.classes.items())
        if (parity.model_recall and not parity.export_recall)
        or (index in _classes(model) and index not in _classes(export))
    )
    if missing:
        raise DataError(
            f"Unlike the Keras model, the {result.name} export never predicts, or never "
            f"correctly predicts, {', '.join(missing)}. The export was rejected. Use a "
            "different format."
        )
    distance = result.largest_distance_difference or 0.0
    ood = "OOD distance (as a fraction of the OOD limit)"
    no_ood = ", or leave out OOD detection: skincnn export --no-ood"
    for quantity, difference, limit, fix in (
        ("probability", result.largest_difference, tolerance, ""),
        (ood, distance, distance_tolerance, no_ood),
    ):
        # Unlike `difference > limit`, this condition is true for NaN.
        if not difference <= (math.inf if limit is None else limit):
            expected = "a number" if limit is None else f"at most {limit}"
            raise DataError(
                f"The predictions of the {result.name} export differ from those of the "
                f"Keras model by {difference:.2g} in {quantity}. Expected {expected}. "
                f"The export was rejected. Evaluate the run and export it again{fix}."
            )


def _distance_difference(model: Output, export: Output, rule: DecisionRule) -> float | None:
    if rule.max_distance is None:
        return None
    largest = np.abs(export.distances - model.distances).max()
    return float(largest / rule.max_distance)


def _class_parity(
    index: int, y_true: Labels, model: Output, export: Output, differences: Floats
) -> ClassParity:
    of_class = y_true == index
    of_model, of_export = (_classes(part)[of_class] for part in (model, export))
    return ClassParity(
        num_images=int(of_class.sum()),
        same_class=_share(of_model == of_export),
        largest_difference=float(differences[of_class].max()) if of_class.any() else None,
        model_recall=_share(of_model == index),
        export_recall=_share(of_export == index),
    )


def _classes(output: Output) -> npt.NDArray[np.int64]:
    return np.asarray(output.probabilities.argmax(axis=1))


def _share(values: npt.NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None


def _evenly_spaced(indices: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Returns at most `count` of the indices, evenly spaced."""
    chosen = np.linspace(0, len(indices) - 1, min(count, len(indices)))
    return indices[chosen.round().astype(int)]
