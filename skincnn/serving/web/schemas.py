"""The JSON objects of the HTTP API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from skincnn import __version__
from skincnn.classes import LesionClass
from skincnn.evaluation.results import SplitResult
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.records import Part
from skincnn.serving.decision import Prediction, Reason, explain_decision, find_reason
from skincnn.serving.images import OK
from skincnn.serving.saved_model import Predictions


class Problem(Part):
    """An error, as application/problem+json (RFC 9457)."""

    type: Literal["about:blank"] = "about:blank"
    title: str
    status: int
    detail: str


class ModelVersion(Part):
    """Identifies a model.

    Attributes:
        name: Name of the file or directory that is served.
        version: Version of the SavedModel: the name of its directory, such as "1". "" if
            this name is not a number, and for other formats.
        format: "keras" for model.keras, or a format of `skincnn export`, such as "litert".
        sha256: SHA-256 of the model.keras of each network.
        skincnn: Version of this package.
    """

    name: str
    version: str
    format: str
    sha256: tuple[str, ...]
    skincnn: str = __version__


class ImagePrediction(Part):
    """The prediction for an image.

    For an unreadable file, the numbers, `probabilities` and `predicted_class` are None, and
    `prediction_set` is empty.

    Attributes:
        file: Name of the file, as received.
        status: "ok", or why the file is unreadable.
        probabilities: Calibrated probability by class name.
        predicted_class: Class with the highest probability before calibration.
        prediction_set: Classes in the prediction set.
        malignant_probability: Sum of the probabilities of the malignant classes; None
            unless it is known for each class whether it is malignant, and there are classes
            of both kinds.
        refer: Whether a dermatologist should examine the lesion; None for a model without
            `malignant_probability`.
        reason: The reason for the referral decision.
        explanation: The referral decision and its reason as a sentence.
        out_of_distribution: Whether the distance exceeds the OOD limit; None if OOD
            detection is switched off, and for an unreadable file.
        ood_distance: Distance of the features from those of the validation images; None for
            an export without OOD distances.
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


class ClinicalFields(Part):
    """Values of the form fields for clinical metadata, all of which may be omitted.

    Ages are 0 to `max_age` years. Synonyms of the listed words are valid, too.
    """

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
        synthetic: Whether all training images are synthetic.
        dataset: Full names of the TFDS datasets of the run; "" if there are no scores.
        scores: Result of the test split; None unless the directory of a run or an ensemble,
            or model.keras, is served.
        model_card: The model card of the run in Markdown; "" if there is none.
    """

    model: ModelVersion
    classes: tuple[LesionClass, ...]
    rule: DecisionRule
    rule_text: str
    image_size: int
    clinical_metadata: ClinicalFields | None
    grad_cam: bool
    max_images: int
    synthetic: bool
    dataset: str
    scores: SplitResult | None
    model_card: str
    not_a_medical_device: Literal[True] = True


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
