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
from skincnn.files import replacing, sha256
from skincnn.inference.predictions import arrays
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.reporting.parity_result import write_parity
from skincnn.serving import parity
from skincnn.serving.export import (
    MODEL_NAME,
    ExportSpec,
    explain_write_errors,
    export_saved_model,
    load_networks,
    read_parity_images,
    read_rule,
)
from skincnn.serving.export_info import describe_export, info_path, write_export_info
from skincnn.serving.images import read_image
from skincnn.serving.network import RunNetwork
from skincnn.serving.runtimes import (
    BATCH_SIZE,
    Infer,
    Inputs,
    Runtime,
    find_runtime,
    with_fixed_size,
)

NUM_CALIBRATION_IMAGES = 128
"""Maximum number of images used to calibrate quantized formats."""


def export(
    spec: ExportSpec, formats: Sequence[str], data_dir: Path | None = None
) -> Iterator[tuple[str, Path]]:
    """Exports a run or ensemble to each of the formats.

    A SavedModel is written by `export_saved_model`. In `spec.workdir`, other formats are
    written to export/skincnn<suffix>, and their metadata to export/skincnn<suffix>.json.

    Args:
        spec: The model to export. Formats other than "saved_model" support only a single
            run without test-time augmentation.
        formats: Any of "saved_model" and the keys of `RUNTIMES`; "saved_model" comes first.
        data_dir: Directory of the built TFDS datasets; None for the default of TFDS.

    Yields:
        The name of each format and the path of its export, as soon as it is written.

    Raises:
        ConfigError: As for `export_saved_model`; or a format is unknown, does not support
            the model, or requires packages that are not installed.
        DataError: As for `export_saved_model`.
    """
    runtimes = {name: find_runtime(name) for name in formats if name != "saved_model"}
    if runtimes and (spec.runs or spec.tta):
        raise ConfigError(
            "LiteRT and ONNX files contain one network without test-time augmentation. "
            f"Received: --formats {' '.join(runtimes)} with "
            f"{'--ensemble' if spec.runs else '--tta'}. Use --formats saved_model."
        )
    if "saved_model" in formats:
        yield "saved_model", export_saved_model(spec, data_dir)
    if not runtimes:
        return
    rule = read_rule(spec)
    (network,) = load_networks(spec, rule)
    data = network.config.data
    contents, table = read_parity_images(spec, network, data_dir)
    images = [np.asarray(read_image(tf.constant(content), data)) for content in contents]
    inputs = {"images": np.stack(images).astype(np.float32)}
    if network.config.model.clinical_metadata:
        inputs["metadata"] = encode_clinical_metadata(table)
    for name, runtime in runtimes.items():
        yield name, _convert(spec, name, runtime, network, rule, inputs, table)


def _convert(
    spec: ExportSpec,
    format_name: str,
    runtime: Runtime,
    network: RunNetwork,
    rule: DecisionRule,
    inputs: Inputs,
    table: pd.DataFrame,
) -> Path:
    """Exports a network to one format, checks the export, and returns its path."""
    path = spec.folder.with_name(f"{MODEL_NAME}{runtime.suffix}")
    calibration = {name: array[:NUM_CALIBRATION_IMAGES] for name, array in inputs.items()}
    with replacing(path) as temporary:
        with explain_write_errors(path):
            model = with_fixed_size(network.model, network.config.data.image_size)
            runtime.write(model, calibration, temporary)
        reference = parity.table_output(table, rule)
        export = _predict(runtime.open(temporary), inputs, rule)
        y_true, num_bytes = arrays(table, rule.class_names)[0], temporary.stat().st_size
        result = parity.measure_parity(
            y_true, reference, export, rule, format_name=format_name, num_bytes=num_bytes
        )
        parity.require_parity(result, reference, export, runtime.tolerance)
    write_parity(spec.workdir, result)
    info = describe_export(
        [network],
        rule,
        format_name=format_name,
        predictions_sha256=sha256(spec.predictions),
        files={path.name: sha256(path)},
    )
    # Written last, because the file cannot be loaded without its metadata.
    write_export_info(info_path(path), info)
    return path


def _predict(infer: Infer, inputs: Inputs, rule: DecisionRule) -> parity.Output:
    batches = [
        infer({name: array[start : start + BATCH_SIZE] for name, array in inputs.items()})
        for start in range(0, len(inputs["images"]), BATCH_SIZE)
    ]
    logits = np.concatenate([batch["logits"] for batch in batches]).astype(np.float64)
    distances = np.concatenate([batch["ood_distance"] for batch in batches])
    return parity.decide(np.asarray(scipy.special.softmax(logits, axis=1)), distances, rule)
