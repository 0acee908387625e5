"""A run made ready for others: its model in a form that answers without this package.

Each form is written under another name and compared with the run's table of predictions;
only then does it get its name.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import keras
import numpy as np
import pandas as pd
import psutil
import tensorflow as tf

from skincnn.clinical_metadata import CLINICAL_FEATURES, REGION_OF, SEXES, UNKNOWN
from skincnn.config import Config
from skincnn.data import datasets, pipeline
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.splits import require_classes
from skincnn.files import SCHEMA, sha256, write_sealed_json, write_text
from skincnn.inference.predictions import DISTANCE, arrays, read_predictions
from skincnn.inference.run_dir import read_report, read_run
from skincnn.model.orientations import ORIENTATIONS
from skincnn.serving.clinical_metadata import SIGNATURE as PATIENT_INPUTS
from skincnn.serving.network import Network, are_told, read_network
from skincnn.serving.parity import (
    agreement,
    choose_compared,
    decide,
    same_decisions,
    tell,
)
from skincnn.serving.postprocessing import DEFAULT_POINT, DecisionRule
from skincnn.serving.runtimes import BATCH_SIZE
from skincnn.serving.saved_model import BYTES_SIGNATURE, write_saved_model
from skincnn.serving.warmup import write_warmup

TOLERANCE = 1e-5
"""In probability, where the same kind of device evaluated the run and serves it."""
TOLERANCE_OF_DEVICES = 1e-3
"""Of other devices, whose arithmetic differs; and of distances, in shares of the limit."""
MODEL_NAME = "skincnn"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What is served, and with which table it is compared.

    Attributes:
        workdir: The folder of the run, or of the ensemble, with its report and tables.
        runs: The folders of the networks: `workdir` alone, or the runs of the ensemble.
        tta: A kind of `ORIENTATIONS` with which it was evaluated, or "".
        refer_at: The operating point of malignant lesions by which pictures are referred.
    """

    workdir: Path
    runs: tuple[Path, ...] = ()
    tta: str = ""
    operating_point: str = DEFAULT_POINT

    @property
    def table(self) -> Path:
        """The table of predictions that the export must give again."""
        suffix = f"_{self.tta}" if self.tta else ""
        return self.workdir / "predictions" / f"test{suffix}.csv"

    @property
    def form(self) -> str:
        """How the report and the card call its SavedModel."""
        return f"saved_model_{self.tta}" if self.tta else "saved_model"

    @property
    def folder(self) -> Path:
        """Where its versions lie."""
        suffix = f"_{self.tta}" if self.tta else ""
        return self.workdir / "export" / f"{MODEL_NAME}{suffix}"


def export_saved_model(served: ExportSpec, data_dir: Path | None = None) -> Path:
    """Writes export/skincnn/<next version> and returns it.

    The folder is written under another name, loaded again, and compared with the table of
    predictions on pictures of the test fold; only then does it get its version.
    Where Keras has another backend, a process with TensorFlow does it.

    Args:
        served: What is served.
        data_dir: Where TFDS keeps built datasets.

    Raises:
        ConfigError: A folder holds no evaluated run, or not what is asked for.
        DataError: The exported model does not give the answers that were evaluated.
    """
    rules = read_rules(served)
    if keras.backend.backend() != "tensorflow":
        return _export_by_tensorflow(served, data_dir)
    networks = read_networks(served, rules)
    orientations = ORIENTATIONS[served.tta]
    served.folder.mkdir(parents=True, exist_ok=True)
    _remove_stale(served.folder)
    temporary = served.folder / f".tmp-{os.getpid()}"
    try:
        with writing(temporary):
            write_saved_model(networks, orientations, rules, temporary)
        contents, table = read_checked(served, networks[0], data_dir)
        answers = _ask_saved_model(temporary, contents, table, told=are_told(networks))
        differences = _compare(answers, table, rules, networks)
        write_warmup(temporary, served.folder.name, patients=are_told(networks))
        described = {
            **describe(served, networks, rules),
            "largest_difference": differences,
            "files": _hashes(temporary),
        }
        size = sum((temporary / name).stat().st_size for name in described["files"])
        found = {**_agree(answers, table, rules), "bytes": size}
        tell(served.workdir, served.form, found, _first_config(served, networks))
        write_sealed_json(temporary / "assets.extra" / "metadata.json", described)
        version = _rename_to_next_version(temporary, served.folder)
        write_text(usage_path(served), render_usage(described, served))
        return version
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says what to do where a model cannot be written.

    Raises:
        ConfigError: The disk is full, or the folder may not be written to.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        cause = str(error).strip().splitlines()[-1]
        raise ConfigError(
            f"{path} could not be written: {cause}. Nothing that was exported before has "
            "changed: make room, and give the same command again."
        ) from error


def read_rules(served: ExportSpec) -> DecisionRule:
    """Returns what the report says of what is served.

    Raises:
        ConfigError: It was not evaluated so.
    """
    report = read_report(served.workdir)
    if not served.tta:
        return DecisionRule.of(report, served.operating_point)
    found = [one for one in report["variants"] if one["name"] == served.tta]
    if (
        not found
        or served.tta not in ORIENTATIONS
        or found[0]["num_views"] != len(ORIENTATIONS[served.tta])
    ):
        raise ConfigError(
            f"{served.workdir} was not evaluated with all views of --tta {served.tta}, "
            "against which the export is compared. First: python scripts/evaluate.py "
            f"{served.workdir} --tta {served.tta}"
        )
    return DecisionRule.of({**report, **found[0]}, served.operating_point)


def read_networks(served: ExportSpec, rules: DecisionRule) -> list[Network]:
    """Returns the networks of what is served.

    Raises:
        ConfigError: A folder holds no finished run, or one that was not evaluated.
        DataError: A file has changed, or a network's classes are not those of the report.
    """
    networks = []
    for run in served.runs or (served.workdir,):
        networks.append(read_network(run))
        where = f"{served.workdir / 'report.json'}"
        require_classes(rules.class_names, networks[-1].metadata, run, where)
    return networks


def read_checked(
    served: ExportSpec, network: Network, data_dir: Path | None
) -> tuple[list[bytes], pd.DataFrame]:
    """Returns files of the test fold, and their rows in the table of predictions.

    They are those of `choose_compared`.
    """
    builder = datasets.open_dataset(network.config.data.dataset, data_dir)
    table = read_predictions(served.table)
    table = table.iloc[choose_compared(table["label"])].reset_index(drop=True)
    return pipeline.read_files(builder, table), table


def describe(
    served: ExportSpec, networks: Sequence[Network], rules: DecisionRule
) -> dict[str, Any]:
    """Returns what stands in the metadata.json of each form."""
    first = networks[0]
    known = {name: getattr(rules, name) for name in ("temperature", "point", "limit")}
    return {
        "schema": SCHEMA,
        "class_names": list(rules.class_names),
        "synthetic": first.metadata["synthetic"],
        "dataset": first.metadata["dataset"],
        **known,
        "threshold": None if np.isnan(rules.threshold) else rules.threshold,
        "tta": served.tta,
        "preprocessing": [
            {
                "decode": "JPEG, PNG, GIF, BMP or WebP to RGB, accurate inverse DCT",
                "turn": "by EXIF (JPEG, PNG, WebP)",
                "resize": "bilinear, antialiased, uint8",
                "stored_longest_side": network.metadata["stored_longest_side"],
                **describe_preprocessing(network.config.data),
            }
            for network in networks
        ],
        **_describe_inputs(are_told(networks)),
        "sha256": [network.metadata["sha256"]["model.keras"] for network in networks],
        "table_sha256": sha256(served.table),
        "not_a_medical_device": True,
    }


def usage_path(served: ExportSpec) -> Path:
    """Returns where it stands how a model is asked: each name of a model has its own."""
    name = served.folder.name
    file = "README.md" if name == MODEL_NAME else f"README_{name}.md"
    return served.folder.parent / file


def render_usage(described: dict[str, Any], served: ExportSpec) -> str:
    """Returns how a model server is asked, as Markdown.

    Args:
        described: The content of metadata.json.
        served: What is served.
    """
    patient = {"age": 50.0, "sex": "female", "localization": "back"}
    patient = patient if "age" in described["inputs"] else {}
    row = {"image_bytes": {"b64": "%s"}, **patient}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skincnn.serving", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        autoescape=False,
    )
    return environment.get_template("usage.md.j2").render(
        **described,
        name=served.folder.name,
        patient=patient,
        body=json.dumps({"instances": [row]}),
    )


def find_saved_model(workdir: Path) -> Path | None:
    """Returns the newest version that was exported of a run's model, if there is one."""
    metadata, _ = read_run(workdir)
    parent = ExportSpec(workdir=workdir).folder
    for version in sorted(_versions(parent), reverse=True):
        path = parent / str(version)
        found = json.loads((path / "assets.extra" / "metadata.json").read_text())
        if found.get("schema") == SCHEMA and found["sha256"] == [
            metadata["sha256"]["model.keras"]
        ]:
            return path
    return None


def _export_by_tensorflow(served: ExportSpec, data_dir: Path | None) -> Path:
    """Exports in a process whose Keras runs on TensorFlow, as the model's graph must."""
    # The GPU, whose memory this process may hold, is not needed.
    other = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    before = dict(os.environ)
    os.environ.update(other)
    try:
        with concurrent.futures.ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn")
        ) as executor:
            return executor.submit(export_saved_model, served, data_dir).result()
    finally:
        for name in other:
            os.environ.pop(name)
        os.environ.update(before)


def _describe_inputs(metadata: bool) -> dict[str, Any]:
    """Returns what the signatures take, and how a patient is encoded in the graph."""
    inputs = {
        "image_bytes": "string [batch]: files of pictures (signature serving_default)",
        "images": "uint8 [batch, height, width, 3]: pixels (signature images)",
    }
    if not metadata:
        return {"inputs": inputs}
    return {
        "inputs": {
            **inputs,
            "age": "float32 [batch]: years; NaN where it is not known",
            "sex": "string [batch]: words of the vocabulary; any other is refused",
            "localization": "string [batch]: words of the vocabulary, likewise",
        },
        "metadata_fields": CLINICAL_FEATURES,
        "vocabularies": {
            "sex": [*SEXES, UNKNOWN, ""],
            "localization": [*REGION_OF, UNKNOWN, ""],
        },
    }


def _compare(
    served: dict[str, tf.Tensor],
    table: pd.DataFrame,
    rules: DecisionRule,
    networks: Sequence[Network],
) -> dict[str, float]:
    """Returns the largest differences from a table: of distances in shares of the limit."""
    found = {"probability": _largest(served, table, rules)}
    if DISTANCE in table:
        distances = table[DISTANCE].to_numpy()
        away = np.abs(served["distance"].numpy() - distances).max()
        found["distance"] = float(away / (rules.limit or 1))
    tolerance = TOLERANCE if all(map(_is_of_here, networks)) else TOLERANCE_OF_DEVICES
    allowed = {"probability": tolerance, "distance": TOLERANCE_OF_DEVICES}
    if not all(value <= allowed[name] for name, value in found.items()):
        raise DataError(
            f"The exported model differs from the table of predictions by {found}. "
            f"Expected at most {allowed}. Evaluate the run again."
        )
    return found


def _ask_saved_model(
    path: Path, contents: Sequence[bytes], table: pd.DataFrame, *, told: bool
) -> dict[str, tf.Tensor]:
    """Returns what a SavedModel answers about files and their rows, batch by batch."""
    # Held by a name: the signature alone does not keep the loaded model alive.
    loaded = tf.saved_model.load(str(path))
    ask = loaded.signatures[BYTES_SIGNATURE]
    inputs = {"image_bytes": tf.constant(contents)}
    for spec in PATIENT_INPUTS if told else ():
        inputs[spec.name] = tf.constant(table[spec.name], spec.dtype)
    answers = [
        ask(**{name: values[start : start + BATCH_SIZE] for name, values in inputs.items()})
        for start in range(0, len(contents), BATCH_SIZE)
    ]
    return {name: tf.concat([answer[name] for answer in answers], 0) for name in answers[0]}


def _agree(
    served: dict[str, tf.Tensor], table: pd.DataFrame, rules: DecisionRule
) -> dict[str, Any]:
    """Returns how what a SavedModel answers agrees with a table, class by class."""
    y_true, before = arrays(table, rules.class_names)
    after = served["uncalibrated_probabilities"].numpy()
    found = agreement(y_true, before, after, rules.class_names)
    if DISTANCE not in table:
        return found
    told = decide(before, table[DISTANCE].to_numpy(), rules)
    return {**found, **same_decisions(told, {what: served[what].numpy() for what in told})}


def _first_config(served: ExportSpec, networks: Sequence[Network]) -> Config:
    """Returns the configuration that the card shows: the run's, or the first model's."""
    models = read_report(served.workdir).get("models")
    runs = [run.resolve().name for run in served.runs]
    first = models[0]["name"] if models else ""
    return networks[runs.index(first) if first in runs else 0].config


def _is_of_here(network: Network) -> bool:
    """Returns whether a network was trained by TensorFlow on a CPU."""
    device = network.metadata.get("device", {})
    on_cpu = all(name.startswith("cpu") for name in device.get("devices", ()))
    return on_cpu and device.get("backend", "tensorflow") == "tensorflow"


def _hashes(saved_model: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file of the model itself, by its path in the folder."""
    names = ("saved_model.pb", "variables/*", "assets/*")
    paths = sorted(path for name in names for path in saved_model.glob(name))
    return {path.relative_to(saved_model).as_posix(): sha256(path) for path in paths}


def _largest(
    served: dict[str, tf.Tensor], table: pd.DataFrame, rules: DecisionRule
) -> float:
    expected = arrays(table, rules.class_names)[1]
    found = served["uncalibrated_probabilities"].numpy()
    return float(np.abs(found - expected).max())


def _remove_stale(parent: Path) -> None:
    """Removes what exports that were killed have left."""
    for path in parent.glob(".tmp-*"):
        process = path.name.removeprefix(".tmp-")
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _rename_to_next_version(temporary: Path, parent: Path) -> Path:
    while True:
        target = parent / str(max(_versions(parent), default=0) + 1)
        try:
            # A rename onto a folder that is not empty fails: no version is overwritten.
            return temporary.rename(target)
        except OSError:
            if not target.exists():
                raise


def _versions(parent: Path) -> list[int]:
    return [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
