"""The model that the service uses, and its description."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from skincnn.clinical_metadata import CLINICAL_COLUMNS, FORM_VALUES
from skincnn.errors import ConfigError
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.files import sha256
from skincnn.inference.run_dir import MODEL_FILE, RUN_FILE, read_run_info
from skincnn.serving.decision import explain_rule
from skincnn.serving.explain import Explainer
from skincnn.serving.export_info import read_export_info
from skincnn.serving.predictor import Predictor, find_model, load_predictor
from skincnn.serving.web.form import MAX_IMAGES, parse_clinical_metadata
from skincnn.serving.web.schemas import ClinicalFields, ModelInfo, ModelVersion
from tfds_ham10000.records import MAX_AGE


@dataclass(frozen=True)
class ServedModel:
    """The model that the service uses.

    `explainer` draws Grad-CAM overlays; it is None if Grad-CAM is not available. `info`
    describes the model to clients.
    """

    predictor: Predictor
    explainer: Explainer | None
    info: ModelInfo

    @property
    def clinical_fields(self) -> tuple[str, ...]:
        """The names of the form fields for clinical metadata; () without metadata."""
        return CLINICAL_COLUMNS if self.predictor.clinical_metadata else ()


def load_served_model(path: Path) -> ServedModel:
    """Loads a model (see `load_predictor`), with Grad-CAM if possible (see `Explainer`).

    The model predicts an unreadable file once, because the first prediction is slow.

    Raises:
        ConfigError: See `load_predictor` and `describe_model`.
        DataError, OSError: See `load_predictor` and `Explainer`.
    """
    predictor = load_predictor(path)
    predictor.predict([b""], pd.DataFrame([parse_clinical_metadata({})]))
    try:
        explainer = Explainer(path)
    except ConfigError as error:
        logging.getLogger(__name__).warning("Grad-CAM is not available: %s", error)
        explainer = None
    model = find_model(path)
    is_keras, version = predictor.format == "keras", model.resolve().name
    identity = ModelVersion(
        name=path.resolve().name,
        version=version if version.isdecimal() else "",
        format=predictor.format,
        sha256=(sha256(model),) if is_keras else read_export_info(model).models_sha256,
    )
    workdir = path.parent if path.name == MODEL_FILE else path
    scored = workdir if (workdir / RUN_FILE).is_file() else None
    grad_cam = explainer is not None
    info = describe_model(predictor, identity, workdir=scored, grad_cam=grad_cam)
    return ServedModel(predictor, explainer, info)


def describe_model(
    predictor: Predictor, version: ModelVersion, *, workdir: Path | None, grad_cam: bool
) -> ModelInfo:
    """Returns the description of a model.

    `workdir` is the directory of the run or ensemble that is served, which contains its
    scores; None for other models. `grad_cam` states whether Grad-CAM is available.

    Raises:
        ConfigError: run.json or the result of the test split is missing or damaged.
    """
    rule = predictor.rule
    card = workdir and workdir / "README.md"
    fields = ClinicalFields(max_age=MAX_AGE, **FORM_VALUES)
    return ModelInfo(
        model=version,
        classes=tuple(
            replace(lesion, name=name) for name, lesion in rule.described.items()
        ),
        rule=rule,
        rule_text=explain_rule(rule),
        image_size=predictor.data.image_size,
        clinical_metadata=fields if predictor.clinical_metadata else None,
        grad_cam=grad_cam,
        max_images=MAX_IMAGES,
        synthetic=predictor.synthetic,
        dataset=read_run_info(workdir).dataset if workdir else "",
        scores=read_result(workdir, "test", SplitResult) if workdir else None,
        model_card=card.read_text(encoding="utf-8") if card and card.is_file() else "",
    )
