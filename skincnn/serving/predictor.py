"""Loads a model of any format and predicts image files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.commands import command_line
from skincnn.config import DataConfig
from skincnn.data.preprocessing_spec import PREPROCESSING_VERSION
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.files import sha256
from skincnn.inference.predictions import PROBABILITY_PREFIX
from skincnn.inference.run_dir import MODEL_FILE, RUN_FILE, advise_run
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.export_info import (
    EXPORT_AGAIN,
    SAVED_MODEL,
    ExportInfo,
    info_path,
    read_export_info,
)
from skincnn.serving.export_spec import (
    MODEL_NAME,
    ExportSpec,
    find_current_export,
    list_versions,
    load_networks,
    read_rule,
)
from skincnn.serving.images import OK, convert_file, read_images
from skincnn.serving.network import LOGITS, OOD_DISTANCE
from skincnn.serving.postprocessing import postprocess
from skincnn.serving.runtimes import Infer, Inputs, Outputs, find_runtime
from skincnn.serving.saved_model import (
    Predict,
    Predictions,
    open_saved_model,
)

PredictFiles = Callable[[Sequence[bytes | str], pd.DataFrame], Predictions]
"""Like `Predict`, but the reason why a file could not be read may replace its content."""
PART_BYTES = 200 << 20
"""Files are predicted together as soon as their total size after the conversion reaches
this number of bytes."""


@dataclass(frozen=True)
class Predictor:
    """A loaded model.

    Attributes:
        format: "keras" for model.keras, or a format of `skincnn export`, such as "litert".
        rule: Class names, calibration and the referral rule.
        data: Preprocessing of the images; for an ensemble, that of the first network.
        synthetic: Whether all training images are synthetic.
        clinical_metadata: Whether the model requires clinical metadata.
        predict: Thread-safe prediction function; see `converting_files`.
    """

    format: str
    rule: DecisionRule
    data: DataConfig
    synthetic: bool
    clinical_metadata: bool
    predict: PredictFiles


def load_predictor(path: Path) -> Predictor:
    """Loads the model at a path, after detecting its format and verifying its hashes.

    Args:
        path: A SavedModel, a directory of SavedModel versions, the directory of a run or an
            ensemble, the model.keras of a run, or a LiteRT or ONNX file.

    Raises:
        ConfigError: The path contains no model, the run was not evaluated, the metadata of
            an export are missing or invalid, the preprocessing has another version, or a
            required package or custom module cannot be imported.
        DataError: A file is missing or has changed since it was written, a model cannot be
            loaded or has other classes than its evaluation, or an ensemble was evaluated
            again after its export.
        OSError: A file exists, but is not readable.
    """
    model = find_model(path)
    if model.is_file() and model.name == MODEL_FILE:
        return _load_run(model.parent)
    if not model.exists() or not info_path(model).is_file():
        raise ConfigError(
            "MODEL must be a SavedModel with its assets.extra/metadata.json, a finished "
            "run or its model.keras, an exported ensemble, or a LiteRT or ONNX file from "
            "`skincnn export` with its .json file. "
            f"Received: {path}. {advise_run(path)}".rstrip()
        )
    is_ensemble = (path / RUN_FILE).is_file() and not (path / MODEL_FILE).is_file()
    if is_ensemble:
        expected = read_result(path, "test", SplitResult).predictions_sha256
        if read_export_info(model).predictions_sha256 != expected:
            raise DataError(
                f"The test predictions of the ensemble {path} have changed since {model} "
                f"was exported. To use the earlier export, give {model} as MODEL. "
                f"Otherwise, run: {command_line('export', path)}, or with the directories "
                "of the runs and --ensemble, if they are elsewhere."
            )
    return _load_export(model)


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
    predictions = predictor.predict(contents, clinical_metadata)
    names = np.array(predictor.rule.class_names, object)
    # NA if OOD detection is switched off, and for unreadable files.
    is_ood = pd.Series(predictions.get("out_of_distribution"), range(len(paths)), "boolean")
    values: dict[str, Any] = {
        **predictions,
        "file": map(str, paths),
        "image_id": [path.stem for path in paths],
        "status": [status.decode() for status in predictions["status"]],
        "predicted_class": [name.decode() for name in predictions["predicted_class"]],
        "prediction_set": [
            "; ".join(names[row]) for row in predictions["in_prediction_set"]
        ],
        "out_of_distribution": is_ood.where(predictions["status"] == OK.encode()),
    }
    for name, probability in zip(names, predictions["probabilities"].T, strict=True):
        values[f"{PROBABILITY_PREFIX}{name}"] = probability
    return pd.DataFrame({name: values[name] for name in columns(predictor.rule)})


def columns(rule: DecisionRule) -> tuple[str, ...]:
    """Returns the column names of the table from `predict_files` for a model."""
    probabilities = (f"{PROBABILITY_PREFIX}{name}" for name in rule.class_names)
    referral = ("malignant_probability", "refer") if rule.target else ()
    return (
        *("file", "image_id", "status", *probabilities, "predicted_class"),
        *("prediction_set", *referral, "out_of_distribution", "ood_distance"),
    )


def find_model(path: Path) -> Path:
    """Returns the file or the SavedModel that `load_predictor` loads for a path.

    For a run directory, this is the SavedModel of its current model and results, or else
    model.keras; for other directories, the latest SavedModel; otherwise, `path`.

    Raises:
        ConfigError: See `find_current_export`.
    """
    if (path / MODEL_FILE).is_file():
        return find_current_export(path) or path / MODEL_FILE
    for folder in (path, path / "export" / MODEL_NAME):
        for version in (folder, *reversed(list_versions(folder))):
            if info_path(version).is_file():
                return version
    return path


def _load_run(workdir: Path) -> Predictor:
    spec = ExportSpec(workdir=workdir)
    rule = read_rule(spec)
    (network,) = load_networks(spec, rule)
    data, clinical_metadata = network.config.data, network.config.model.clinical_metadata

    def infer(inputs: Inputs) -> Outputs:
        outputs = network.model(dict(inputs), training=False)
        return {name: np.asarray(values) for name, values in outputs.items()}

    predict = predict_with(infer, data, rule, clinical_metadata=clinical_metadata)
    predict_files = converting_files(predict)
    synthetic = network.info.synthetic
    return Predictor("keras", rule, data, synthetic, clinical_metadata, predict_files)


def _load_export(path: Path) -> Predictor:
    """Loads a SavedModel directory, or a LiteRT or ONNX file."""
    info = read_export_info(path)
    for name, expected in info.files.items():
        file = path / name if path.is_dir() else path
        if not file.is_file() or sha256(file) != expected:
            raise DataError(
                f"{file} is missing or has changed since it was exported. Expected the "
                f"SHA-256 {expected}. {EXPORT_AGAIN}"
            )
    version = info.preprocessing[0].version
    # Only a SavedModel contains the preprocessing.
    if info.format != SAVED_MODEL and version != PREPROCESSING_VERSION:
        raise ConfigError(
            f"{path} was exported for version {version} of the preprocessing. Expected "
            f"version {PREPROCESSING_VERSION}. {EXPORT_AGAIN}"
        )
    predict = converting_files(open_export(path, info))
    data = info.preprocessing[0].data_config()
    synthetic, clinical_metadata = info.synthetic, info.clinical_metadata
    return Predictor(info.format, info.rule, data, synthetic, clinical_metadata, predict)


def open_export(path: Path, info: ExportInfo) -> Predict:
    """Loads an export without checking its hashes, and returns its prediction function.

    Raises:
        ConfigError: See `find_runtime`; or the runtime cannot load the file.
    """
    if info.format == SAVED_MODEL:
        return open_saved_model(path, info.rule.class_names)
    infer, data = find_runtime(info.format).open(path), info.preprocessing[0].data_config()
    return predict_with(infer, data, info.rule, clinical_metadata=info.clinical_metadata)


def predict_with(
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


def converting_files(predict: Predict) -> PredictFiles:
    """Returns a prediction function that first converts the files with `convert_file`.

    The function predicts files in all formats that the dataset builder reads. The status of
    an unreadable file states the reason. Small files can be large after the conversion, so
    the files are predicted in parts; see `PART_BYTES`.
    """

    def predict_part(files: Sequence[bytes | str], metadata: pd.DataFrame) -> Predictions:
        readable = [file if isinstance(file, bytes) else b"" for file in files]
        predictions = predict(readable, metadata)
        pairs = zip(files, predictions["status"], strict=True)
        status = [file.encode() if isinstance(file, str) else own for file, own in pairs]
        return {**predictions, "status": np.array(status, object)}

    def convert_and_predict(
        contents: Sequence[bytes | str], metadata: pd.DataFrame
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
