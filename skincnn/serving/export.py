"""Exports a run or ensemble to one or more formats, and checks each export."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from skincnn.clinical_metadata import CLINICAL_FEATURES, encode_clinical_metadata
from skincnn.data.combined import open_datasets
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.errors import ConfigError
from skincnn.files import replacing, sha256, write_text
from skincnn.inference.predictions import (
    DISTANCE,
    arrays,
    file_sha256,
    read_predictions,
    table_path,
)
from skincnn.inference.run_dir import MODEL_FILE, join_datasets
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.records import to_json, write_record
from skincnn.reporting.parity_result import write_parity
from skincnn.serving import parity
from skincnn.serving.export_info import (
    OOD_FAILED,
    OOD_LEFT_OUT,
    SAVED_MODEL,
    ExportInfo,
    Preprocessing,
    info_path,
    render_usage,
)
from skincnn.serving.export_spec import ExportSpec, list_versions, load_networks, read_rule
from skincnn.serving.images import read_images
from skincnn.serving.network import RunNetwork, use_clinical_metadata
from skincnn.serving.predictor import open_export
from skincnn.serving.runtimes import (
    RUNTIMES,
    Inputs,
    find_runtime,
    labels_text,
    with_fixed_size,
)
from skincnn.serving.saved_model import write_saved_model
from skincnn.startup import KERAS_SETTINGS, set_keras
from skincnn.write_errors import explain_write_errors

TOLERANCE = 1e-5
"""Maximum difference in probability between a SavedModel and a Keras model that was trained
with TensorFlow on a CPU."""
DEVICE_TOLERANCE = 1e-3
"""Maximum difference in probability for a model trained on another device or with another
backend, where rounding errors differ; and maximum difference in OOD distance of any
SavedModel, as a fraction of the OOD limit."""
FILE_DISTANCE_TOLERANCE = 0.1
"""Maximum difference in OOD distance of a LiteRT or ONNX file, as a fraction of the OOD
limit."""


@dataclass(frozen=True)
class _Source:
    """The model to export, and test images whose predictions its exports must reproduce.

    `contents` are image files, and `table` contains their rows of the predictions table.
    """

    spec: ExportSpec
    rule: DecisionRule
    networks: Sequence[RunNetwork]
    contents: list[bytes]
    table: pd.DataFrame


def export(
    spec: ExportSpec, formats: Sequence[str], data_dir: Path | None = None
) -> Iterator[tuple[str, Path]]:
    """Exports a run or ensemble to each of the formats.

    In the directory export/ of `spec.workdir`, a SavedModel is written as the next version,
    <name>/<version>, with usage instructions in README.md. Other formats are written to
    <name><suffix>, with their metadata in <name><suffix>.json and the class names in
    labels.txt. An export takes its place only after `parity.check_parity` finds that it
    reproduces the predictions table; the parity is written to results/. If the Keras
    backend is not TensorFlow, subprocesses with the TensorFlow backend export the model.

    Args:
        spec: The model to export. Formats other than "saved_model" support only a single
            run.
        formats: "saved_model" and keys of `RUNTIMES`; "saved_model" is exported first.
        data_dir: Directory of the built TFDS datasets; None for the default of TFDS.

    Yields:
        The name of each format and the path of its export, as soon as it is written.

    Raises:
        ConfigError: See `read_rule`, `load_networks` and `open_datasets`; or a format is
            unknown, does not support the model, or requires packages that are not
            installed; or an export cannot be written.
        DataError: An export does not reproduce the predictions of the Keras model; see also
            `load_networks` and `open_datasets`.
        OSError: A file of a run is not readable.
    """
    names = sorted(dict.fromkeys(formats), key=lambda name: name != SAVED_MODEL)
    others = [name for name in names if name != SAVED_MODEL]
    for name in others:
        find_runtime(name)
    if others and spec.runs:
        raise ConfigError(
            "LiteRT and ONNX files contain one network. Received: the formats "
            f"{', '.join(others)} for an ensemble of {len(spec.runs)} networks. Use "
            "saved_model."
        )
    rule = read_rule(spec)
    if keras.backend.backend() != "tensorflow":
        for name in names:
            yield name, _export_in_subprocess(spec, name, data_dir)
        return
    networks = load_networks(spec, rule)
    files = _read_images(spec.predictions, networks[0], data_dir)
    source = _Source(spec, rule, networks, *files)
    calibration = _read_calibration(source, data_dir) if others else {}
    for name in names:
        with explain_write_errors(spec.folder.parent, "Earlier exports are unchanged."):
            if name == SAVED_MODEL:
                path = _export_saved_model(source)
            else:
                path = _export_file(source, name, calibration)
        yield name, path


def export_one(spec: ExportSpec, format_name: str, data_dir: Path | None = None) -> Path:
    """Exports a run or ensemble to one format, and returns the path; see `export`."""
    ((_, path),) = export(spec, [format_name], data_dir)
    return path


def describe_export(
    spec: ExportSpec,
    networks: Sequence[RunNetwork],
    rule: DecisionRule,
    format_name: str,
) -> ExportInfo:
    """Returns the metadata of an export of these networks, without hashes of its files."""
    info = join_datasets([network.info for network in networks])
    strengths = [network.logit_adjustment for network in networks]
    ood_off = OOD_FAILED if spec.ood else OOD_LEFT_OUT
    return ExportInfo(
        format=format_name,
        synthetic=info.synthetic,
        dataset=info.dataset,
        rule=rule,
        variant=spec.variant,
        logit_adjustment=tuple(one for one in strengths if one is not None),
        ood_off=ood_off if rule.max_distance is None else "",
        attribution=info.attribution,
        preprocessing=tuple(
            Preprocessing(
                stored_longest_side=network.info.stored_longest_side,
                **describe_preprocessing(network.config.data),  # type: ignore[arg-type]
            )
            for network in networks
        ),
        clinical_features=CLINICAL_FEATURES if use_clinical_metadata(networks) else (),
        models_sha256=tuple(network.info.sha256[MODEL_FILE] for network in networks),
        predictions_sha256=file_sha256(spec.predictions),
        files={},
    )


def _read_images(
    predictions: Path, network: RunNetwork, data_dir: Path | None
) -> tuple[list[bytes], pd.DataFrame]:
    """Returns the image files that `parity.choose_images` selects, and their table rows.

    `predictions` is the path of a table of images from the datasets of `network`.
    """
    data = network.config.data
    dataset = open_datasets(data.datasets, data_dir, data.label_maps)
    table = read_predictions(predictions)
    table = table.iloc[parity.choose_images(table["label"])].reset_index(drop=True)
    return dataset.read_files(table), table


def _read_calibration(source: _Source, data_dir: Path | None) -> Inputs:
    """Returns inputs of the network for images of the validation split."""
    (network,) = source.networks
    predictions = table_path(source.spec.workdir, "val")
    contents, table = _read_images(predictions, network, data_dir)
    images, _ = read_images(tf.constant(contents), network.config.data, converted=True)
    inputs = {"images": np.asarray(images, np.float32)}
    if network.config.model.clinical_metadata:
        inputs["metadata"] = encode_clinical_metadata(table)
    return inputs


def _export_saved_model(source: _Source) -> Path:
    """Writes the next version of a SavedModel and its usage, and returns its path."""
    spec = source.spec
    spec.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=spec.folder) as temporary:
        path = Path(temporary, spec.name)
        write_saved_model(source.networks, source.rule, path)
        is_exact = all(map(_is_trained_on_cpu, source.networks))
        tolerance = TOLERANCE if is_exact else DEVICE_TOLERANCE
        info = describe_export(spec, source.networks, source.rule, SAVED_MODEL)
        _check(source, path, info, tolerance, DEVICE_TOLERANCE)
        written = sorted(file for file in path.rglob("*") if file.is_file())
        files = {file.relative_to(path).as_posix(): sha256(file) for file in written}
        write_record(info_path(path), info.model_copy(update={"files": files}))
        version = _rename_to_next_version(path, spec.folder)
    usage = f"README_{spec.name}.md" if spec.variant else "README.md"
    write_text(spec.folder.with_name(usage), render_usage(info, spec.name))
    return version


def _export_file(source: _Source, format_name: str, calibration: Inputs) -> Path:
    """Writes a LiteRT or ONNX file and its metadata, and returns its path."""
    runtime = RUNTIMES[format_name]
    if not runtime.detects_ood:
        rule = source.rule.model_copy(update={"max_distance": None})
        source = replace(source, spec=replace(source.spec, ood=False), rule=rule)
    spec, rule = source.spec, source.rule
    path = spec.folder.with_name(f"{spec.name}{runtime.suffix}")
    (network,) = source.networks
    size = network.config.data.image_size
    info = describe_export(spec, source.networks, rule, format_name)
    with replacing(path) as temporary:
        model = with_fixed_size(network.model, size, rule)
        runtime.write(model, calibration, temporary)
        runtime.embed(temporary, to_json(info))
        _check(source, temporary, info, runtime.tolerance, FILE_DISTANCE_TOLERANCE)
    write_text(path.with_name("labels.txt"), labels_text(rule.class_names))
    # Written last, because the file cannot be loaded without its metadata.
    files = {path.name: sha256(path)}
    write_record(info_path(path), info.model_copy(update={"files": files}))
    return path


def _check(
    source: _Source,
    path: Path,
    info: ExportInfo,
    tolerance: float | None,
    distance_tolerance: float,
) -> None:
    """Checks the export at a path with `parity.check_parity`, and writes its parity."""
    rule, table = source.rule, source.table
    # Without a variable for the function, because Windows cannot rename an open file.
    export = parity.predict_images(open_export(path, info), source.contents, table)
    y_true, y_prob = arrays(table, rule.class_names)
    model = parity.decide(y_prob, table[DISTANCE].to_numpy(), rule)
    files = (file for file in (path, *path.rglob("*")) if file.is_file())
    result = parity.check_parity(
        y_true,
        model,
        export,
        info,
        num_bytes=sum(file.stat().st_size for file in files),
        tolerance=tolerance,
        distance_tolerance=distance_tolerance,
    )
    write_parity(source.spec.workdir, result)


def _export_in_subprocess(
    spec: ExportSpec, format_name: str, data_dir: Path | None
) -> Path:
    """Exports in a subprocess with the TensorFlow backend of Keras."""
    # On the CPU, because this process may have allocated the GPU memory.
    overrides = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    before = dict(os.environ)
    os.environ.update(overrides)
    try:
        with concurrent.futures.ProcessPoolExecutor(
            1,
            multiprocessing.get_context("spawn"),
            initializer=set_keras,
            initargs=(KERAS_SETTINGS,),
        ) as executor:
            return executor.submit(export_one, spec, format_name, data_dir).result()
    finally:
        for name in overrides:
            os.environ.pop(name)
        os.environ.update(before)


def _is_trained_on_cpu(network: RunNetwork) -> bool:
    device = network.info.device
    return device is None or (
        device.backend == "tensorflow"
        and all(name.startswith("cpu") for name in device.devices)
    )


def _rename_to_next_version(temporary: Path, folder: Path) -> Path:
    while True:
        numbers = (int(path.name) for path in list_versions(folder))
        target = folder / str(max(numbers, default=0) + 1)
        try:
            # Never overwrites a version: renaming to a nonempty directory fails.
            return temporary.rename(target)
        except OSError:
            if not target.exists():
                raise
