"""The model that the service uses, its description, and its clinical metadata."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from skincnn.clinical_metadata import CLINICAL_COLUMNS, FIELDS, FORM_VALUES
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.files import sha256
from skincnn.inference.run_dir import MODEL_FILE, RUN_FILE, read_run_info
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.metrics.operating_points import HEADLINE_POINT
from skincnn.serving.decision import explain_rule
from skincnn.serving.explain import Explainer
from skincnn.serving.export_info import read_export_info
from skincnn.serving.predictor import Predictor, find_model, load_predictor
from skincnn.serving.web.batching import ClinicalMetadata
from skincnn.serving.web.form import MAX_IMAGES
from skincnn.serving.web.schemas import (
    ClassInfo,
    ClinicalFields,
    ModelInfo,
    ModelScores,
    ModelVersion,
)
from tfds_ham10000.records import MAX_AGE
from tfds_ham10000.table.values import PARSERS

MODEL_CARD = "README.md"


@dataclass(frozen=True)
class ServedModel:
    """The model that the service uses.

    Attributes:
        predictor: Predicts images.
        explainer: Draws Grad-CAM overlays; None if the model does not support Grad-CAM.
        info: The description of the model.
    """

    predictor: Predictor
    explainer: Explainer | None
    info: ModelInfo

    @property
    def clinical_fields(self) -> tuple[str, ...]:
        """The names of the form fields for clinical metadata."""
        return CLINICAL_COLUMNS if self.predictor.clinical_metadata else ()


def load_served_model(path: Path) -> ServedModel:
    """Loads a model (see `load_predictor`), with Grad-CAM if the model supports it.

    The model predicts an unreadable file once, because the first prediction is slow.
    """
    predictor = load_predictor(path)
    predictor.predict([b""], pd.DataFrame([parse_clinical_metadata({})]))
    try:
        explainer = Explainer(path)
    except ConfigError as error:
        logging.getLogger(__name__).warning("Grad-CAM is not available: %s", error)
        explainer = None
    version = identify_model(path, predictor.format)
    workdir = path.parent if path.name == MODEL_FILE else path
    has_scores = (workdir / RUN_FILE).is_file()
    info = describe_model(
        predictor,
        version,
        workdir=workdir if has_scores else None,
        grad_cam=explainer is not None,
    )
    return ServedModel(predictor, explainer, info)


def describe_model(
    predictor: Predictor, version: ModelVersion, *, workdir: Path | None, grad_cam: bool
) -> ModelInfo:
    """Returns the description of a model.

    `workdir` is the run directory with its scores, and `grad_cam` whether the model
    supports Grad-CAM.
    """
    rule = predictor.rule
    card = workdir and workdir / MODEL_CARD
    fields = ClinicalFields(max_age=MAX_AGE, **FORM_VALUES)
    return ModelInfo(
        model=version,
        classes=tuple(
            ClassInfo(name=name, full_name=lesion.full_name, malignant=lesion.malignant)
            for name, lesion in rule.described.items()
        ),
        rule=rule,
        rule_text=explain_rule(rule),
        image_size=predictor.data.image_size,
        clinical_metadata=fields if predictor.clinical_metadata else None,
        grad_cam=grad_cam,
        max_images=MAX_IMAGES,
        synthetic=predictor.synthetic,
        scores=read_scores(workdir, rule) if workdir else None,
        model_card=card.read_text(encoding="utf-8") if card and card.is_file() else "",
    )


def identify_model(path: Path, format_name: str) -> ModelVersion:
    """Returns the name, version and hashes of the model at a path."""
    model = find_model(path)
    if format_name == "keras":
        hashes: tuple[str, ...] = (sha256(model),)
    else:
        hashes = read_export_info(model).models_sha256
    version = model.resolve().name if format_name == "saved_model" else ""
    return ModelVersion(
        name=path.resolve().name,
        version=version if version.isdecimal() else "",
        format=format_name,
        sha256=hashes,
    )


def read_scores(workdir: Path, rule: DecisionRule) -> ModelScores:
    """Returns the scores of a run or ensemble on its test split.

    The shares of images that are referred are known only for the referral rule of the
    evaluation. They are None if `rule`, which is that of the run or of an export of it, has
    another operating point or was exported without OOD detection.
    """
    result = read_result(workdir, "test", SplitResult)
    melanoma, triage = result.targets.get("melanoma"), result.triage
    if triage and (
        rule.operating_point != triage.operating_point
        or (rule.max_distance is None) != (triage.max_distance is None)
    ):
        triage = None
    point = melanoma and melanoma.operating_points.get(HEADLINE_POINT.key)
    return ModelScores(
        dataset=read_run_info(workdir).dataset,
        stored_in=result.stored_in,
        num_images=result.num_images,
        balanced_accuracy=result.metrics["balanced_accuracy"],
        melanoma_sensitivity=point.rates.get("sensitivity") if point else None,
        melanoma_referred=triage.melanoma_referred if triage else None,
        referred=triage.referred if triage else None,
        confidence=result.confidence,
    )


def parse_clinical_metadata(fields: Mapping[str, str]) -> ClinicalMetadata:
    """Returns a value for each of `CLINICAL_COLUMNS` from form fields.

    Missing and empty fields mean unknown.

    Raises:
        DataError: The age is not in 0..`MAX_AGE`, or the sex or localization is not a valid
            word.
    """
    row: ClinicalMetadata = {}
    for name in CLINICAL_COLUMNS:
        parse, expected = PARSERS[FIELDS[name]]
        text = fields.get(name, "").strip()
        try:
            row[name] = parse(text)
        except ValueError as error:
            raise DataError(
                f"The field {name} must be {expected}. Received: {text!r}."
            ) from error
    return row
