"""A model of any form, and what it says of files of pictures."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from skincnn.clinical_metadata import CLINICAL_COLUMNS, UNKNOWN, encode_clinical_metadata
from skincnn.config import DataConfig
from skincnn.data.preprocessing_spec import PREPROCESSING_VERSION
from skincnn.errors import ConfigError, DataError
from skincnn.files import read_sealed_json, sha256
from skincnn.inference.predictions import PROBABILITY_PREFIX
from skincnn.inference.run_dir import read_report
from skincnn.serving.export import MODEL_NAME, ExportSpec, read_networks, read_rules
from skincnn.serving.images import MAX_BYTES, READ, UNREADABLE, read_images
from skincnn.serving.postprocessing import DecisionRule, answer
from skincnn.serving.runtimes import RUNTIMES, Floats, Outputs, require
from skincnn.serving.saved_model import BYTES_SIGNATURE

EXPORT_AGAIN = "Export the run again (scripts/export.py)."
Answers = dict[str, npt.NDArray[Any]]
COLUMNS = (
    "class_name",
    "malignant_probability",
    "refer",
    "unknown",
    "distance",
)


@dataclass(frozen=True)
class Predictor:
    """A model that is ready.

    Attributes:
        kind: "saved_model", "keras" or a name of `RUNTIMES`.
        rules: What its answers depend on besides the network.
        data: How it reads pictures; of several networks, how the first does.
        synthetic: Whether it was trained on synthetic pictures.
        told: Whether it is told of patients.
        ask: From files, string [batch], and a table of `CLINICAL_COLUMNS` with a row for
            each to what `answers.answer` returns, and `status`. Several threads may ask.
    """

    kind: str
    rules: DecisionRule
    data: DataConfig
    synthetic: bool
    told: bool
    ask: Callable[[Sequence[bytes], pd.DataFrame], Answers]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return self.rules.class_names


def load_predictor(path: Path) -> Predictor:
    """Returns the model at a path, which is told by what it is.

    Args:
        path: A SavedModel, or a folder of its versions; a run's folder, or its
            model.keras; a LiteRT or ONNX file of scripts/export.py.

    Raises:
        ConfigError: It is none of these, or packages are missing.
        DataError: A file has changed since it was written, or the export of a run or an
            ensemble is of other models than its report.
    """
    saved_model = _find_saved_model(path)
    if saved_model is not None:
        if any((path / name).is_file() for name in ("model.keras", "report.json")):
            _check_folder(saved_model, path)
        return _load_saved_model(saved_model)
    if path.is_dir() and (path / "model.keras").is_file():
        return _load_run(path)
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(b"PK") and (path.parent / "model.keras").is_file():
            # Another file beside it would be answered for by the run's.
            _check(path, sha256(path.parent / "model.keras"))
            return _load_run(path.parent)
        if path.with_name(f"{path.name}.json").is_file():
            return _load_copy(path)
    raise ConfigError(
        "MODEL must be a SavedModel, a run's folder or model.keras, or a LiteRT or ONNX "
        f"file of scripts/export.py with its .json beside it. Received: {path}."
    )


def require_told(predictor: Predictor, patients: Path | None) -> None:
    """Checks that a table of patients is given only where it changes the answers.

    Raises:
        ConfigError: The model is told of none.
    """
    if patients is not None and not predictor.told:
        raise ConfigError(
            f"--clinical-metadata {patients}: the model sees pictures alone, and is told of no "
            "patient. Leave the flag out, or give a model of --model.clinical-metadata True."
        )


def predict(
    predictor: Predictor,
    paths: Sequence[Path],
    contents: Sequence[bytes | str],
    patients: pd.DataFrame,
) -> pd.DataFrame:
    """Returns a row for each file.

    Args:
        predictor: The model.
        paths: Where the files are, for their names.
        contents: From `read_files`. What cannot be opened, is too large or is damaged gets
            a row that says so.
        patients: From `find_patients`.

    Returns:
        `columns`.
    """
    files = [content if isinstance(content, bytes) else b"" for content in contents]
    found = predictor.ask(files, patients)
    told = zip(contents, _texts(found["status"]), strict=True)
    table = pd.DataFrame(
        {
            "file": [str(path) for path in paths],
            "image_id": [path.stem for path in paths],
            "status": [text if isinstance(one, bytes) else one for one, text in told],
        }
    )
    for number, name in enumerate(predictor.class_names):
        table[f"{PROBABILITY_PREFIX}{name}"] = found["probabilities"][:, number]
    for name in COLUMNS:
        table[name] = _texts(found[name]) if name == "class_name" else found[name]
    return table


def columns(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the columns of answers.

    They are file, image_id (the file's name without its ending), status, a probability for
    each class, and `COLUMNS`.
    """
    probabilities = (f"{PROBABILITY_PREFIX}{name}" for name in class_names)
    return ("file", "image_id", "status", *probabilities, *COLUMNS)


def read_files(paths: Sequence[Path]) -> list[bytes | str]:
    """Returns files; for one that cannot be opened, the reason.

    It is nothing for one that is larger than any may be. Pipes and devices are not opened.
    Of a file that grows meanwhile no more is read than any may have.
    """
    return [_read(path) for path in paths]


def find_patients(paths: Sequence[Path], patients: pd.DataFrame | None) -> pd.DataFrame:
    """Returns `CLINICAL_COLUMNS` for each file; what is not there is not known.

    Args:
        paths: The files.
        patients: The columns by image_id; None where nothing is known.
    """
    names = [path.stem for path in paths]
    known = pd.DataFrame(index=names, columns=list(CLINICAL_COLUMNS), dtype=object)
    if patients is not None:
        known = patients.reindex(names)
    return known.assign(
        age=pd.to_numeric(known["age"]),
        **{name: known[name].fillna(UNKNOWN) for name in ("sex", "localization")},
    )


def _read(path: Path) -> bytes | str:
    try:
        about = path.stat()
        # To open a pipe is to wait for a writer; a device says that it has no bytes.
        if not stat.S_ISREG(about.st_mode):
            return "not read: expected a file. Received: a folder, a pipe or a device"
        if about.st_size > MAX_BYTES:
            return b""
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # the latter of a name with a NUL in it
        return f"not read: {getattr(error, 'strerror', None) or error}"
    return content if len(content) <= MAX_BYTES else b""


def _texts(values: npt.NDArray[Any]) -> list[str]:
    return [value.decode() for value in values.tolist()]


def _find_saved_model(path: Path) -> Path | None:
    """Returns the SavedModel at a path, or the newest version that is in a folder."""
    for folder in (path, path / "export" / MODEL_NAME):
        if (folder / "saved_model.pb").is_file():
            return folder
        versions = [
            one
            for one in folder.glob("*")
            if one.name.isdecimal() and (one / "saved_model.pb").is_file()
        ]
        if versions:
            return max(versions, key=lambda one: int(one.name))
    return None


def _check_folder(saved_model: Path, workdir: Path) -> None:
    """Checks that an export is of the model and the report that lie in its folder.

    The folder of an ensemble has no model: the report's table tells of which models it is.
    """
    described = read_sealed_json(
        saved_model / "assets.extra" / "metadata.json", EXPORT_AGAIN
    )
    rules = read_rules(ExportSpec(workdir=workdir, operating_point=described["point"]))
    model = workdir / "model.keras"
    if model.is_file():
        what, instead = "model", "Or give one of the two: that folder, or model.keras."
        same = described["sha256"] == [sha256(model)]
    else:
        what, instead = "table of predictions", "Or give that folder itself."
        table = read_report(workdir)["splits"].get("test", {})
        same = described["table_sha256"] == table.get("sha256")
    # Evaluating again gives the same numbers, but for the last digits.
    there = _read_described(described)[0]
    here, exported = ((one.temperature, one.threshold, one.limit) for one in (rules, there))
    same_rules = rules.class_names == there.class_names and np.allclose(
        here, exported, rtol=1e-4, equal_nan=True
    )
    if not (same and same_rules):
        raise DataError(
            f"{saved_model} was exported from another {'report' if same else what} than "
            f"lies in {workdir}. {EXPORT_AGAIN} {instead}"
        )


def _load_saved_model(path: Path) -> Predictor:
    described = read_sealed_json(path / "assets.extra" / "metadata.json", EXPORT_AGAIN)
    for name, expected in described["files"].items():
        _check(path / name, expected)
    rules, data, synthetic, told = _read_described(described)
    return open_saved_model(path, rules, data, synthetic=synthetic, told=told)


def open_saved_model(
    path: Path, rules: DecisionRule, data: DataConfig, *, synthetic: bool, told: bool
) -> Predictor:
    """Returns a SavedModel of `write_saved_model`; its files are not checked.

    Args:
        path: The folder.
        rules: Those that it was written with.
        data: How it reads pictures.
        synthetic: Whether it was trained on synthetic pictures.
        told: Whether it is told of patients.
    """
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures[BYTES_SIGNATURE]

    def ask(contents: Sequence[bytes], patients: pd.DataFrame) -> Answers:
        inputs = {"image_bytes": tf.constant(list(contents), tf.string)}
        if told:
            inputs["age"] = tf.constant(patients["age"], tf.float32)
            for name in ("sex", "localization"):
                inputs[name] = tf.constant(patients[name], tf.string)
        found = {name: value.numpy() for name, value in signature(**inputs).items()}
        for names in found["class_names"][:1]:
            if _texts(names) != list(rules.class_names):
                raise DataError(
                    f"{path} answers with the classes {', '.join(_texts(names))}. Expected "
                    f"those of its metadata.json: {', '.join(rules.class_names)}. "
                    f"{EXPORT_AGAIN}"
                )
        return found

    ask.model = loaded  # type: ignore[attr-defined]  # which its signature does not hold
    return Predictor("saved_model", rules, data, synthetic, told, ask)


def _load_run(workdir: Path) -> Predictor:
    served = ExportSpec(workdir=workdir)
    rules = read_rules(served)
    (network,) = read_networks(served, rules)
    data, told = network.config.data, network.config.model.clinical_metadata

    def infer(inputs: Mapping[str, Floats]) -> Outputs:
        asked = dict(inputs) if told else inputs["images"]
        outputs = network.model(asked, training=False)
        return {name: np.asarray(values) for name, values in outputs.items()}

    ask = _asking(infer, data, rules, told=told)
    return Predictor("keras", rules, data, network.metadata["synthetic"], told, ask)


def _load_copy(path: Path) -> Predictor:
    described = read_sealed_json(path.with_name(f"{path.name}.json"), EXPORT_AGAIN)
    _check(path, described["file_sha256"])
    made_for = described["preprocessing"][0]["version"]
    if made_for != PREPROCESSING_VERSION:  # pictures are read here, and not in the file
        raise ConfigError(
            f"{path} was made for pictures that are read as in version {made_for}. "
            f"Expected {PREPROCESSING_VERSION}. {EXPORT_AGAIN}"
        )
    runtime = RUNTIMES[described["format"]]
    require(described["format"], runtime)
    rules, data, synthetic, told = _read_described(described)
    ask = _asking(runtime.open(path), data, rules, told=told)
    return Predictor(described["format"], rules, data, synthetic, told, ask)


def _read_described(
    described: dict[str, Any],
) -> tuple[DecisionRule, DataConfig, bool, bool]:
    """Returns rules, data, synthetic and told of what `export.describe` wrote."""
    threshold = described["threshold"]
    rules = DecisionRule(
        tuple(described["class_names"]),
        described["temperature"],
        described["point"],
        math.nan if threshold is None else threshold,
        described["limit"],
    )
    fields = {
        name: described["preprocessing"][0][name]
        for name in ("image_size", "resize_mode", "crop_border", "color_constancy")
    }
    told = "age" in described["inputs"]
    return rules, DataConfig(**fields), described["synthetic"], told


def _asking(
    infer: Callable[[Mapping[str, Floats]], Outputs],
    data: DataConfig,
    rules: DecisionRule,
    *,
    told: bool,
) -> Callable[[Sequence[bytes], pd.DataFrame], Answers]:
    """Returns what answers about files, from what answers about pictures."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def read(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return read_images(contents, data)

    def ask(contents: Sequence[bytes], patients: pd.DataFrame) -> Answers:
        images, is_read = read(tf.constant(list(contents), tf.string))
        inputs = {"images": np.asarray(images, np.float32)}
        if told:
            inputs["metadata"] = encode_clinical_metadata(patients)
        found = infer(inputs)
        answers = answer([found["logits"]], [found["distance"]], is_read, rules)
        answers["status"] = tf.where(is_read, READ, UNREADABLE)
        return {name: value.numpy() for name, value in answers.items()}

    return ask


def _check(path: Path, expected: str) -> None:
    if not path.is_file() or sha256(path) != expected:
        raise DataError(
            f"{path} is not the file that was exported: its SHA-256 is not {expected}. "
            f"{EXPORT_AGAIN}"
        )
