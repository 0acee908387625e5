"""Exports a run or ensemble to one or more formats, and checks each export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.special
import tensorflow as tf

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.errors import ConfigError
from skincnn.files import replacing, sha256, write_text
from skincnn.inference.predictions import DISTANCE, arrays, table_path
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.metrics.sample import Floats
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
from skincnn.serving.images import read_image
from skincnn.serving.network import LOGITS, OOD_DISTANCE, RunNetwork
from skincnn.serving.runtimes import (
    BATCH_SIZE,
    Infer,
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
    table, inputs = _read_inputs(spec.predictions, network, data_dir)
    calibration = _read_inputs(table_path(spec.workdir, "val"), network, data_dir)[1]
    for name, runtime in runtimes.items():
        yield name, _convert(spec, name, runtime, network, rule, inputs, calibration, table)


def _read_inputs(
    predictions: Path, network: RunNetwork, data_dir: Path | None
) -> tuple[pd.DataFrame, Inputs]:
    """Returns rows from `read_parity_images`, and their inputs to the network."""
    contents, table = read_parity_images(predictions, network, data_dir)
    data = network.config.data
    images = [np.asarray(read_image(tf.constant(content), data)) for content in contents]
    inputs = {"images": np.stack(images).astype(np.float32)}
    if network.config.model.clinical_metadata:
        inputs["metadata"] = encode_clinical_metadata(table)
    return table, inputs


def _convert(
    spec: ExportSpec,
    format_name: str,
    runtime: Runtime,
    network: RunNetwork,
    rule: DecisionRule,
    inputs: Inputs,
    calibration: Inputs,
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
        outputs = _predict(runtime.open(temporary), inputs)
        export, export_rule = parity.decide(*outputs, rule), rule
        fault = parity.find_ood_fault(reference, export, rule)
        if fault:
            export_rule = rule.model_copy(update={"max_distance": None})
            export = parity.decide(*outputs, export_rule)
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


def _predict(infer: Infer, inputs: Inputs) -> tuple[Floats, Floats | None]:
    """Returns the probabilities before calibration, and the OOD distances.

    The shapes are [num_images, num_classes] and [num_images]. The distances are None if the
    file does not return them.
    """
    batches = [
        infer({name: array[start : start + BATCH_SIZE] for name, array in inputs.items()})
        for start in range(0, len(inputs["images"]), BATCH_SIZE)
    ]
    logits = np.concatenate([batch[LOGITS] for batch in batches]).astype(np.float64)
    probabilities = np.asarray(scipy.special.softmax(logits, axis=1))
    if OOD_DISTANCE not in batches[0]:
        return probabilities, None
    return probabilities, np.concatenate([batch[OOD_DISTANCE] for batch in batches])
