"""Files of a run's network for other runtimes, kept only where they answer as it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.special
import tensorflow as tf

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.errors import ConfigError
from skincnn.files import replacing, sha256, write_sealed_json
from skincnn.inference.predictions import DISTANCE, arrays
from skincnn.lookup import look_up
from skincnn.serving.export import (
    MODEL_NAME,
    ExportSpec,
    describe,
    read_checked,
    read_networks,
    read_rules,
    writing,
)
from skincnn.serving.images import read_image
from skincnn.serving.network import Network
from skincnn.serving.parity import (
    agreement,
    decide,
    refuse_other,
    same_decisions,
    tell,
)
from skincnn.serving.runtimes import (
    RUNTIMES,
    Ask,
    Floats,
    Inputs,
    batches,
    fixed_size,
    require,
)

NUM_CALIBRATED = 128
"""The first of those compared, on which the ranges of 8-bit numbers are measured."""


def export_copies(
    served: ExportSpec, formats: Sequence[str], data_dir: Path | None = None
) -> dict[str, Path]:
    """Writes export/skincnn<suffix> for each format, and says in the card how it agrees.

    Args:
        served: What is served: a single run, asked once.
        formats: Names of `RUNTIMES`.
        data_dir: Where TFDS keeps built datasets.

    Returns:
        Name of the format to its file; what is needed beside it is in <file>.json.

    Raises:
        ConfigError: As `check_formats`; or the folder holds no evaluated run.
        DataError: A copy has lost a class, or its probabilities are others. Those before
            it are kept.
    """
    check_formats(served, formats)
    rules = read_rules(served)
    (network,) = read_networks(served, rules)
    contents, table = read_checked(served, network, data_dir)
    inputs = prepare(contents, table, network)
    y_true, before = arrays(table, rules.class_names)
    told = decide(before, table[DISTANCE].to_numpy(), rules)
    model = fixed_size(network.model, network.config.data.image_size)
    paths = {}
    for name in formats:
        runtime = RUNTIMES[name]
        path = served.workdir / "export" / f"{MODEL_NAME}{runtime.suffix}"
        few = {key: values[:NUM_CALIBRATED] for key, values in inputs.items()}
        with replacing(path) as temporary:
            with writing(path):
                runtime.write(model, few, temporary)
            after, distances = ask_all(runtime.open(temporary), inputs)
            found = {
                **agreement(y_true, before, after, rules.class_names),
                **same_decisions(told, decide(after, distances, rules)),
            }
            called = [set(prob.argmax(axis=1)) for prob in (before, after)]
            refuse_other(name, found, called, runtime.tolerance)
        found["bytes"] = path.stat().st_size
        # First, as it answers once its .json is there: none does that is not told of.
        tell(served.workdir, name, found, network.config)
        write_sealed_json(
            path.with_name(f"{path.name}.json"),
            {
                **describe(served, [network], rules),
                "format": name,
                "file_sha256": sha256(path),
                "agreement": found,
            },
        )
        paths[name] = path
    return paths


def check_formats(served: ExportSpec, formats: Sequence[str]) -> None:
    """Checks that what is served can be written in these formats.

    Args:
        served: What is served.
        formats: Names of `RUNTIMES`.

    Raises:
        ConfigError: A format is not known, or its packages are not installed; or an
            ensemble or orientations are asked for.
    """
    for name in formats:
        require(name, look_up(RUNTIMES, name, "--formats"))
    if formats and (served.runs or served.tta):
        raise ConfigError(
            "A file of LiteRT or ONNX holds one network, asked once. Ensembles and --tta "
            "are served by --formats saved_model."
        )


def prepare(
    contents: Sequence[bytes], table: pd.DataFrame, network: Network
) -> dict[str, Floats]:
    """Returns what a network is asked about files of pictures and their rows."""
    data = network.config.data
    images = [np.asarray(read_image(tf.constant(file), data)) for file in contents]
    inputs = {"images": np.stack(images).astype(np.float32)}
    if network.config.model.clinical_metadata:
        inputs["metadata"] = encode_clinical_metadata(table)
    return inputs


def ask_all(ask: Ask, inputs: Inputs) -> tuple[Floats, Floats]:
    """Returns a copy's probabilities, not calibrated, [num_images, num_classes].

    And its distances, [num_images].
    """
    found = [ask(batch) for batch in batches(inputs)]
    logits = np.concatenate([one["logits"] for one in found]).astype(np.float64)
    distances = np.concatenate([one["distance"] for one in found])
    return np.asarray(scipy.special.softmax(logits, axis=1)), distances
