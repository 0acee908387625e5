"""What the folder of a run says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from skincnn.config import Config, read_config
from skincnn.data.reading import describe_preprocessing
from skincnn.errors import ConfigError
from skincnn.files import require_schema

TRAIN_AGAIN = "Expected what scripts/train.py wrote; train again with --overwrite."
METADATA_KEYS = (
    "class_names",
    "synthetic",
    "dataset",
    "audit",
    "data_fingerprint",
    "best_epoch",
    "num_parameters",
    "seconds",
    "sha256",
)
"""What a run's metadata.json holds, and is used; `schema` and `preprocessing` as well."""


def read_run(workdir: Path) -> tuple[dict[str, Any], Config]:
    """Returns the metadata and the configuration of a finished run.

    Raises:
        ConfigError: A file is missing, the metadata cannot be read or are of another
            schema, or pictures were read in another way in the training.
    """
    for name in ("config.json", "metadata.json", "model.keras", "history.csv"):
        if not (workdir / name).is_file():
            raise ConfigError(
                f"{workdir} holds no finished run: {name} is missing. Expected a "
                "--workdir of scripts/train.py."
            )
    path = workdir / "metadata.json"
    metadata = _read_object(path, METADATA_KEYS, TRAIN_AGAIN)
    config = read_config(workdir / "config.json")
    now = describe_preprocessing(config.data)
    if "schema" not in metadata:
        # The first runs of 0.1 have no number. What they lack to schema 1 is known: there
        # was one way to read pictures.
        metadata = {"schema": 1, "preprocessing": {**now, "version": 1}, **metadata}
    require_schema(path, metadata, TRAIN_AGAIN)
    if metadata["preprocessing"] != now:
        raise ConfigError(
            f"{path} says that pictures were read as {metadata['preprocessing']}. Expected "
            f"{now}, which is what config.json and this version of skincnn come to. "
            f"{TRAIN_AGAIN}"
        )
    return metadata, config


def read_history(workdir: Path) -> pd.DataFrame:
    """Returns the rows of a run's history.csv, one for each epoch.

    Raises:
        ConfigError: It is missing, empty or damaged.
    """
    path = workdir / "history.csv"
    try:
        history = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. {TRAIN_AGAIN}") from error
    if history.empty or not {"epoch", "loss"} <= set(history):
        columns = ", ".join(map(str, history))
        raise ConfigError(
            f"{path} must have the columns epoch and loss and a row for each epoch. "
            f"Received: {len(history)} rows of {columns or 'nothing'}. "
            f"{TRAIN_AGAIN}"
        )
    return history


def read_report(workdir: Path, *keys: str) -> dict[str, Any]:
    """Returns the content of a run's report.json.

    Args:
        workdir: The folder of an evaluated run.
        keys: What it must hold.

    Raises:
        ConfigError: It is missing, no JSON object, or lacks one of the keys.
    """
    return _read_object(
        workdir / "report.json", keys, f"Make it with scripts/evaluate.py {workdir}."
    )


def _read_object(path: Path, keys: tuple[str, ...], cure: str) -> dict[str, Any]:
    """Returns a JSON file that holds an object with all the keys."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. {cure}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} must hold a JSON object. Received: {type(content).__name__}. {cure}"
        )
    missing = [key for key in keys if key not in content]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}. {cure}")
    return content
