"""Exports a run or ensemble to one or more formats, and checks each export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.errors import ConfigError
from skincnn.files import replacing, sha256, write_text
from skincnn.inference.predictions import DISTANCE, arrays, table_path
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.records import to_json, write_record
from skincnn.reporting.parity_result import write_parity
from skincnn.serving import parity
from skincnn.serving.export import (
    UNCHANGED,
    ExportSpec,
    describe_export,
    export_saved_model,
    load_networks,
    read_parity_images,
    read_rule,
)
from skincnn.serving.export_info import info_path
from skincnn.serving.images import read_images
from skincnn.serving.network import RunNetwork
from skincnn.serving.predictor import predict_with
from skincnn.serving.runtimes import (
    Inputs,
    Runtime,
    find_runtime,
    labels_text,
    with_fixed_size,
)
from skincnn.write_errors import explain_write_errors


def export(
    spec: ExportSpec, formats: Sequence[str], data_dir: Path | None = None
) -> Iterator[tuple[str, Path]]:
    """Exports a run or ensemble to each of the formats.

    A SavedModel is written by `export_saved_model`. In `spec.workdir`, other formats are
    written to export/<name><suffix>, their metadata to export/<name><suffix>.json, the
    class names to export/labels.txt, and the parity to results/ (see `write_parity`).

    Args:
        spec: The model to export. Formats other than "saved_model" support only a single
            run.
        formats: "saved_model" and keys of `RUNTIMES`; "saved_model" is exported first.
        data_dir: Directory of the built TFDS datasets; None for the default of TFDS.

    Yields:
        The name of each format and the path of its export, as soon as it is written.

    Raises:
        ConfigError: See `export_saved_model`; or a format is unknown, does not support the
            model, or requires packages that are not installed; or its file cannot be
            written.
        DataError, OSError: See `export_saved_model`.
    """
    runtimes = {name: find_runtime(name) for name in formats if name != "saved_model"}
    if runtimes and spec.runs:
        raise ConfigError(
            "LiteRT and ONNX files contain one network. Received: the formats "
            f"{', '.join(runtimes)} for an ensemble of {len(spec.runs)} networks. Use "
            "saved_model."
        )
    if "saved_model" in formats:
        yield "saved_model", export_saved_model(spec, data_dir)
    if not runtimes:
        return
    rule = read_rule(spec)
    (network,) = load_networks(spec, rule)
    files = read_parity_images(spec.predictions, network, data_dir)
    calibration = _read_calibration(spec, network, data_dir)
    for name, runtime in runtimes.items():
        yield name, _convert(spec, name, runtime, network, rule, calibration, *files)


def _read_calibration(
    spec: ExportSpec, network: RunNetwork, data_dir: Path | None
) -> Inputs:
    """Returns inputs of the network for images of the validation split."""
    predictions = table_path(spec.workdir, "val")
    contents, table = read_parity_images(predictions, network, data_dir)
    images, _ = read_images(tf.constant(contents), network.config.data, converted=True)
    inputs = {"images": np.asarray(images, np.float32)}
    if network.config.model.clinical_metadata:
        inputs["metadata"] = encode_clinical_metadata(table)
    return inputs


def _convert(
    spec: ExportSpec,
    format_name: str,
    runtime: Runtime,
    network: RunNetwork,
    rule: DecisionRule,
    calibration: Inputs,
    contents: list[bytes],
    table: pd.DataFrame,
) -> Path:
    """Exports a network to one format, checks the export, and returns its path."""
    path = spec.folder.with_name(f"{spec.name}{runtime.suffix}")
    with replacing(path) as temporary:
        with explain_write_errors(path, UNCHANGED):
            size = network.config.data.image_size
            model = with_fixed_size(network.model, size, rule.calibration_map)
            runtime.write(model, calibration, temporary)
        y_true, y_prob = arrays(table, rule.class_names)
        reference = parity.decide(y_prob, table[DISTANCE].to_numpy(), rule)
        export = _predict(runtime, temporary, network, rule, contents, table)
        export_rule = rule
        fault = parity.find_ood_fault(reference, export, rule)
        if fault:
            export_rule = rule.model_copy(update={"max_distance": None})
            export = parity.decide(export.probabilities, export.distances, export_rule)
        info = describe_export(
            spec, [network], export_rule, format_name=format_name, ood_fault=fault
        )
        with explain_write_errors(path, UNCHANGED):
            runtime.embed(temporary, to_json(info))
        result = parity.check_parity(
            y_true,
            reference,
            export,
            rule,
            format_name=format_name,
            variant=spec.variant,
            ood_detection=export_rule.max_distance is not None,
            num_bytes=temporary.stat().st_size,
            tolerance=runtime.tolerance,
        )
    write_parity(spec.workdir, result)
    write_text(path.with_name("labels.txt"), labels_text(rule.class_names))
    # Written last, because the file cannot be loaded without its metadata.
    files = {path.name: sha256(path)}
    write_record(info_path(path), info.model_copy(update={"files": files}))
    return path


def _predict(
    runtime: Runtime,
    path: Path,
    network: RunNetwork,
    rule: DecisionRule,
    contents: list[bytes],
    table: pd.DataFrame,
) -> parity.Output:
    """Predicts images with a file, which is closed when the function returns.

    Windows cannot rename an open file.
    """
    config = network.config
    with_metadata = config.model.clinical_metadata
    infer = runtime.open(path)
    predict = predict_with(infer, config.data, rule, clinical_metadata=with_metadata)
    return parity.predict_images(predict, contents, table)
