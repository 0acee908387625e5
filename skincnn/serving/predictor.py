"""Loads a model of any format and predicts image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.config import DataConfig
from skincnn.data.preprocessing_spec import PREPROCESSING_VERSION
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.files import sha256
from skincnn.inference.predictions import PROBABILITY_PREFIX
from skincnn.inference.run_dir import MODEL_FILE, RUN_FILE, advise_run_below
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.export import (
    MODEL_NAME,
    ExportSpec,
    find_current_export,
    list_versions,
    load_networks,
    read_rule,
)
from skincnn.serving.export_info import EXPORT_AGAIN, info_path, read_export_info
from skincnn.serving.images import OK, convert_file, read_images
from skincnn.serving.network import LOGITS, OOD_DISTANCE
from skincnn.serving.postprocessing import postprocess
from skincnn.serving.runtimes import Infer, Inputs, Outputs, find_runtime
from skincnn.serving.saved_model import (
    Predict,
    Predictions,
    decode_strings,
    open_saved_model,
)

REFERRAL_COLUMNS = ("malignant_probability", "refer")
"""Columns of models whose classes are known to be malignant or benign."""
SAVED_MODEL_FILE = "saved_model.pb"
PART_BYTES = 200 << 20
"""Size of the converted files that are predicted together, unless one file is larger."""


@dataclass(frozen=True)
class Predictor:
    """A loaded model.

    Attributes:
        format: "saved_model", "keras" or a key of `RUNTIMES`.
        rule: Class names, calibration and the referral rule.
        data: Preprocessing of the images; for an ensemble, that of the first network.
        synthetic: Whether the model was trained on synthetic images.
        clinical_metadata: Whether the model requires clinical metadata.
        predict: Thread-safe prediction function.
    """

    format: str
    rule: DecisionRule
    data: DataConfig
    synthetic: bool
    clinical_metadata: bool
    predict: Predict


def load_predictor(path: Path) -> Predictor:
    """Loads the model at a path. The format is detected from the content.

    Args:
        path: A SavedModel, a directory of SavedModel versions, the directory of a run or an
            ensemble, the model.keras of a run, or a LiteRT or ONNX file.

    Raises:
        ConfigError: The path contains no model, the run was not evaluated, the metadata of
            an export are missing or invalid, or required packages are not installed.
        DataError: A file is missing or has changed since it was written, or an ensemble
            was evaluated again after its export.
    """
    model = find_model(path)
    if (model / SAVED_MODEL_FILE).is_file():
        if (path / RUN_FILE).is_file() and not (path / MODEL_FILE).is_file():
            _check_ensemble(model, path)
        return _load_export(model)
    if model.is_file() and model.name == MODEL_FILE:
        return _load_run(model.parent)
    if model.is_file() and info_path(model).is_file():
        return _load_export(model)
    raise ConfigError(
        "MODEL must be a SavedModel, a run directory or its model.keras, or a LiteRT or "
        f"ONNX file from scripts/export.py with its .json file. Received: {path}. "
        f"{advise_run_below(path)}".rstrip()
    )


def check_clinical_metadata(predictor: Predictor, path: Path | None) -> None:
    """Raises a `ConfigError` if `path` is given but the model uses images only."""
    if path is not None and not predictor.clinical_metadata:
        raise ConfigError(
            f"--clinical-metadata {path}: this model uses images only. Omit the flag, or "
            "use a model that was trained with --model.clinical-metadata True."
        )


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    contents: Sequence[bytes | str],
    clinical_metadata: pd.DataFrame,
) -> pd.DataFrame:
    """Returns a table of predictions with one row per file; see `columns`.

    The files at `paths` are not opened. `contents` is the content of each file, or the
    reason why it could not be read. `clinical_metadata` contains the `CLINICAL_COLUMNS`,
    one row per file.
    """
    files = [content if isinstance(content, bytes) else b"" for content in contents]
    predictions = predictor.predict(files, clinical_metadata)
    statuses = decode_strings(predictions["status"])
    for index, content in enumerate(contents):
        if isinstance(content, str):
            statuses[index] = content
    files_read, image_ids = map(str, paths), [path.stem for path in paths]
    table = pd.DataFrame({"file": files_read, "image_id": image_ids, "status": statuses})
    for index, name in enumerate(predictor.rule.class_names):
        table[f"{PROBABILITY_PREFIX}{name}"] = predictions["probabilities"][:, index]
    names = np.array(predictor.rule.class_names, object)
    sets = ["; ".join(names[row]) for row in predictions["in_prediction_set"]]
    converted: dict[str, Any] = {
        "predicted_class": decode_strings(predictions["predicted_class"]),
        "prediction_set": sets,
        "out_of_distribution": _find_ood(predictions, predictor.rule),
    }
    for name in columns(predictor.rule):
        if name not in table:
            table[name] = converted[name] if name in converted else predictions[name]
    return table


def _find_ood(predictions: Predictions, rule: DecisionRule) -> pd.Series:
    """Returns which images are OOD; NA if this is not checked, and for unreadable files."""
    if rule.max_distance is None:
        return pd.Series(pd.NA, range(len(predictions["status"])), "boolean")
    is_ood = pd.Series(predictions["out_of_distribution"], dtype="boolean")
    return is_ood.where(predictions["status"] == OK.encode())


def columns(rule: DecisionRule) -> tuple[str, ...]:
    """Returns the column names of the table from `predict_files` for a model."""
    probabilities = (f"{PROBABILITY_PREFIX}{name}" for name in rule.class_names)
    return (
        *("file", "image_id", "status", *probabilities, "predicted_class"),
        *("prediction_set", *(REFERRAL_COLUMNS if rule.target else ())),
        *("out_of_distribution", "ood_distance"),
    )


def find_model(path: Path) -> Path:
    """Returns the file or the SavedModel that `load_predictor` loads for a path.

    For a run directory, this is the SavedModel of its current model and results, or else
    model.keras; for other directories, the latest SavedModel; otherwise, `path`.
    """
    if (path / MODEL_FILE).is_file():
        return find_current_export(path) or path / MODEL_FILE
    for folder in (path, path / "export" / MODEL_NAME):
        for version in (folder, *reversed(list_versions(folder))):
            if (version / SAVED_MODEL_FILE).is_file():
                return version
    return path


def _check_ensemble(saved_model: Path, workdir: Path) -> None:
    """Raises a `DataError` unless an export has the predictions of its ensemble."""
    expected = read_result(workdir, "test", SplitResult).predictions_sha256
    if read_export_info(saved_model).predictions_sha256 != expected:
        raise DataError(
            f"{saved_model} was exported from a different predictions table than {workdir} "
            f"contains now. {EXPORT_AGAIN} Or use a version in {saved_model.parent} as "
            "MODEL."
        )


def _load_run(workdir: Path) -> Predictor:
    spec = ExportSpec(workdir=workdir)
    rule = read_rule(spec)
    (network,) = load_networks(spec, rule)
    data, clinical_metadata = network.config.data, network.config.model.clinical_metadata

    def infer(inputs: Inputs) -> Outputs:
        call_inputs = dict(inputs) if clinical_metadata else inputs["images"]
        outputs = network.model(call_inputs, training=False)
        return {name: np.asarray(values) for name, values in outputs.items()}

    predict = _predict_with(infer, data, rule, clinical_metadata=clinical_metadata)
    synthetic = network.info.synthetic
    predict = _converting_files(predict)
    return Predictor("keras", rule, data, synthetic, clinical_metadata, predict)


def _load_export(path: Path) -> Predictor:
    """Loads a SavedModel directory, or a LiteRT or ONNX file."""
    info = read_export_info(path)
    for name, expected in info.files.items():
        _check_hash(path / name if path.is_dir() else path, expected)
    rule, with_metadata = info.rule, info.clinical_metadata
    data, version = info.preprocessing[0].data_config(), info.preprocessing[0].version
    if path.is_dir():
        predict = open_saved_model(path, rule.class_names, clinical_metadata=with_metadata)
    else:
        # The file does not contain the preprocessing.
        if version != PREPROCESSING_VERSION:
            raise ConfigError(
                f"{path} was exported for version {version} of the preprocessing. Expected "
                f"version {PREPROCESSING_VERSION}. {EXPORT_AGAIN}"
            )
        infer = find_runtime(info.format).open(path)
        predict = _predict_with(infer, data, rule, clinical_metadata=with_metadata)
    predict = _converting_files(predict)
    return Predictor(info.format, rule, data, info.synthetic, with_metadata, predict)


def _predict_with(
    infer: Infer, data: DataConfig, rule: DecisionRule, *, clinical_metadata: bool
) -> Predict:
    """Returns a function that predicts files from `convert_file` with `infer`."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def read(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return read_images(contents, data, converted=True)

    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        images, is_readable = read(tf.constant(list(contents), tf.string))
        inputs = {"images": np.asarray(images, np.float32)}
        if clinical_metadata:
            inputs["metadata"] = encode_clinical_metadata(metadata)
        outputs = infer(inputs)
        distances = [outputs[OOD_DISTANCE]] if OOD_DISTANCE in outputs else []
        predictions = postprocess([outputs[LOGITS]], distances, is_readable, rule)
        return {name: value.numpy() for name, value in predictions.items()}

    return predict


def _converting_files(predict: Predict) -> Predict:
    """Returns a prediction function that first converts the files with `convert_file`.

    The function predicts all formats that the dataset builder reads, from the same pixels.
    Small files can be large after the conversion, so the files are predicted in parts of
    about `PART_BYTES`.
    """

    def predict_part(files: Sequence[bytes | str], metadata: pd.DataFrame) -> Predictions:
        readable = [file if isinstance(file, bytes) else b"" for file in files]
        predictions = predict(readable, metadata)
        status = np.array(predictions["status"], object)
        for index, file in enumerate(files):
            if isinstance(file, str):
                status[index] = file.encode()
        return {**predictions, "status": status}

    def convert_and_predict(
        contents: Sequence[bytes], metadata: pd.DataFrame
    ) -> Predictions:
        parts: list[Predictions] = []
        files: list[bytes | str] = []
        first = 0
        for number, content in enumerate(contents, 1):
            files.append(convert_file(content))
            if sum(map(len, files)) >= PART_BYTES or number == len(contents):
                parts.append(predict_part(files, metadata.iloc[first:number]))
                first, files = number, []
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return convert_and_predict


def _check_hash(path: Path, expected: str) -> None:
    if not path.is_file() or sha256(path) != expected:
        raise DataError(
            f"{path} is missing or has changed since it was exported. Expected the SHA-256 "
            f"{expected}. {EXPORT_AGAIN}"
        )
