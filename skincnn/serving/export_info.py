"""The metadata file of an export, and its usage instructions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pandas as pd

from skincnn.clinical_metadata import REGIONS, encode_clinical_metadata
from skincnn.config import DataConfig
from skincnn.data.preprocessing_spec import FIELDS
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.records import Part, Record, read_record
from skincnn.reporting.templates import environment
from skincnn.serving.decision import explain_rule

SAVED_MODEL = "saved_model"
"""Name of the format that is not in `RUNTIMES`."""
EXPORT_AGAIN = "Export the run again (`skincnn export`)."
OOD_FAILED = "it missed too many unsuitable images in the evaluation"
OOD_LEFT_OUT = "it was left out of the export"
"""Reasons for `ExportInfo.ood_off`."""


class Preprocessing(Part):
    """The preprocessing of a network; see `DataConfig` for the other fields.

    Attributes:
        version: Version of the preprocessing code.
        stored_longest_side: Longest side in pixels to which larger images of the training
            datasets were downsized; None for no limit, and if it differs between datasets.
        decode: Supported file formats and how they are decoded.
        resize: Antialiasing and data type of resized images.
    """

    version: int
    image_size: int
    resize_mode: str
    resize_method: str
    crop_height: float
    crop_width: float
    crop_border: bool
    color_constancy: bool
    stored_longest_side: int | None
    decode: str = "JPEG, PNG; accurate inverse DCT, EXIF orientation, no color profiles"
    resize: str = "antialiased if bilinear, uint8"

    def data_config(self) -> DataConfig:
        """Returns a `DataConfig` with this preprocessing."""
        return DataConfig(**{name: getattr(self, name) for name in FIELDS})


class ExportInfo(Record):
    """The metadata of an export.

    Attributes:
        format: A format of `skincnn export`, such as "saved_model" or "litert".
        synthetic: Whether all training images are synthetic.
        dataset: Full names of the TFDS datasets.
        rule: Class names, calibration and thresholds of the referral rule.
        variant: Inference variant that is part of the export; see `SplitResult.variant`.
        logit_adjustment: Strength of the logit adjustment of each network; empty for
            variants without adjustment.
        ood_off: Why out-of-distribution detection is switched off; "" if it is on.
        attribution: Credits of the training images; see `RunInfo.attribution`.
        preprocessing: The preprocessing of each network.
        clinical_features: `CLINICAL_FEATURES`; empty for a model without them.
        models_sha256: SHA-256 of the model.keras of each network.
        predictions_sha256: SHA-256 of the predictions table that the export reproduces.
        files: SHA-256 of each file that is verified before loading, by relative path.
    """

    format: str
    synthetic: bool
    dataset: str
    rule: DecisionRule
    variant: str
    logit_adjustment: tuple[float, ...]
    ood_off: str
    attribution: str
    preprocessing: tuple[Preprocessing, ...]
    clinical_features: tuple[str, ...]
    models_sha256: tuple[str, ...]
    predictions_sha256: str
    files: dict[str, str]
    not_a_medical_device: Literal[True] = True

    @property
    def clinical_metadata(self) -> bool:
        """Whether the model requires clinical metadata."""
        return bool(self.clinical_features)


def info_path(path: Path) -> Path:
    """Returns the path of the metadata file of a SavedModel, LiteRT or ONNX export."""
    if path.is_dir():
        return path / "assets.extra" / "metadata.json"
    return path.with_name(f"{path.name}.json")


def read_export_info(path: Path) -> ExportInfo:
    """Returns the metadata of the SavedModel, LiteRT or ONNX export at a path.

    Raises:
        ConfigError: The metadata file is missing or damaged, or has a different schema
            version.
    """
    return read_record(info_path(path), ExportInfo, EXPORT_AGAIN)


def render_usage(info: ExportInfo, name: str) -> str:
    """Returns usage instructions in Markdown for a SavedModel, LiteRT and ONNX files.

    `info` is that of the SavedModel. `name` is the name of the model on the server, and of
    the files without their suffix.
    """
    example = pd.DataFrame({"age": [50], "sex": ["female"], "localization": ["back"]})
    features = encode_clinical_metadata(example)[0].tolist()
    metadata = {"metadata": features} if info.clinical_metadata else {}
    row = {"image_bytes": {"b64": "%s"}, **metadata}
    template = environment("skincnn.serving", autoescape=False).get_template("usage.md.j2")
    return template.render(
        info=info,
        rule=info.rule,
        left_out=OOD_LEFT_OUT,
        size=info.preprocessing[0].image_size,
        rule_text=explain_rule(info.rule),
        name=name,
        regions="; ".join(f"{name}: {', '.join(sites)}" for name, sites in REGIONS.items()),
        body=json.dumps({"instances": [row]}),
    )
