"""The JSON objects of the HTTP API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from skincnn import __version__
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.records import Part
from skincnn.serving.decision import (
    Prediction,
    Reason,
    explain_decision,
    find_reason,
)
from skincnn.serving.images import OK
from skincnn.serving.saved_model import Predictions


class Problem(Part):
    """An error, as application/problem+json.

    References:
        RFC 9457, Problem Details for HTTP APIs.
    """

    type: Literal["about:blank"] = "about:blank"
    title: str
    status: int
    detail: str


class ModelVersion(Part):
    """Identifies a model.

    Attributes:
        name: Name of the file or directory that is served.
        version: Version of the SavedModel in its directory; "" for other models.
        format: "saved_model", "keras" or a key of `RUNTIMES`.
        sha256: SHA-256 of the model.keras of each network.
        skincnn: Version of this package.
    """

    name: str
    version: str
    format: str
    sha256: tuple[str, ...]
    skincnn: str = __version__


class ImagePrediction(Part):
    """The prediction for an image. The numbers of an unreadable file are None.

    Attributes:
        file: Name of the file, as received.
        status: "ok", or why the file is unreadable.
        probabilities: Calibrated probability by class name.
        predicted_class: Class with the highest probability before calibration.
        prediction_set: Classes in the prediction set.
        malignant_probability: Sum of the probabilities of the malignant classes; None if
            they are not known.
        refer: Whether a dermatologist should examine the lesion; None if the malignant
            classes are not known.
        reason: The reason for this decision.
        explanation: The decision and its reason as a sentence.
        out_of_distribution: Whether the distance exceeds the OOD limit; None if OOD
            detection is switched off, and for an unreadable file.
        ood_distance: Distance of the features from those of the validation images.
    """

    file: str
    status: str
    probabilities: dict[str, float] | None
    predicted_class: str | None
    prediction_set: tuple[str, ...]
    malignant_probability: float | None
    refer: bool | None
    reason: Reason
    explanation: str
    out_of_distribution: bool | None
    ood_distance: float | None


class PredictResponse(Part):
    """The predictions for the images of a request, in their order."""

    model: ModelVersion
    predictions: tuple[ImagePrediction, ...]
    not_a_medical_device: Literal[True] = True


class ClassInfo(Part):
    """A class; `malignant` is None if this is unknown."""

    name: str
    full_name: str
    malignant: bool | None


class ModelScores(Part):
    """Scores of the model on its test split, with confidence intervals.

    Attributes:
        stored_in: The part of the dataset that contains the images, such as "folds 8, 9".
        balanced_accuracy: Balanced accuracy.
        melanoma_sensitivity: Share of the melanoma images above the threshold for 90 %
            specificity; None without melanoma or a threshold.
        melanoma_referred: Share of the melanoma images that are referred; None without
            melanoma or referral rule.
        referred: Share of all images that are referred; None without a referral rule.
        confidence: Confidence level of the intervals, 0..1.
    """

    dataset: str
    stored_in: str
    num_images: int
    balanced_accuracy: Estimate
    melanoma_sensitivity: Estimate | None
    melanoma_referred: Estimate | None
    referred: Estimate | None
    confidence: float


class ClinicalFields(Part):
    """Valid values of the form fields for clinical metadata; all may be omitted."""

    max_age: int
    sex: tuple[str, ...]
    localization: tuple[str, ...]


class ModelInfo(Part):
    """The model that is served.

    Attributes:
        rule: Calibration, thresholds and OOD limit.
        rule_text: Which images are referred and how the threshold was chosen, as text.
        image_size: Height and width of the model input in pixels.
        clinical_metadata: The form fields; None for a model that uses images only.
        grad_cam: Whether /v1/explain is available.
        max_images: Maximum number of images in a request.
        synthetic: Whether the model was trained on synthetic images.
        scores: Scores of the model; None unless a run directory is served.
        model_card: The model card in Markdown; "" unless a run directory is served.
    """

    model: ModelVersion
    classes: tuple[ClassInfo, ...]
    rule: DecisionRule
    rule_text: str
    image_size: int
    clinical_metadata: ClinicalFields | None
    grad_cam: bool
    max_images: int
    synthetic: bool
    scores: ModelScores | None
    model_card: str
    not_a_medical_device: Literal[True] = True


class Status(Part):
    """The state of the service."""

    status: Literal["ok"] = "ok"


def to_predictions(
    names: Sequence[str], outputs: Predictions, rule: DecisionRule
) -> tuple[ImagePrediction, ...]:
    """Returns the predictions for the files with these names from the model's outputs."""
    return tuple(
        _to_prediction(name, {key: values[row] for key, values in outputs.items()}, rule)
        for row, name in enumerate(names)
    )


def _to_prediction(name: str, output: Prediction, rule: DecisionRule) -> ImagePrediction:
    values = map(float, output["probabilities"])
    probabilities = dict(zip(rule.class_names, values, strict=True))
    in_set = zip(rule.class_names, output["in_prediction_set"], strict=True)
    status = output["status"].decode()
    checked = status == OK and rule.max_distance is not None
    return ImagePrediction(
        file=name,
        status=status,
        probabilities=probabilities if status == OK else None,
        predicted_class=output["predicted_class"].decode() or None,
        prediction_set=tuple(class_name for class_name, inside in in_set if inside),
        malignant_probability=_finite(output.get("malignant_probability", math.nan)),
        refer=None if rule.target is None else bool(output["refer"]),
        reason=find_reason(output, rule),
        explanation=explain_decision(output, rule),
        out_of_distribution=bool(output["out_of_distribution"]) if checked else None,
        ood_distance=_finite(output["ood_distance"]),
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
