"""The model of a run, the pictures that it is tested on, and what is said of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import tensorflow_datasets as tfds

from skincnn.config import Config
from skincnn.data import pipeline
from skincnn.data.leakage import count_shared
from skincnn.data.splits import make_splits, one_image_per_lesion
from skincnn.errors import ConfigError, DataError
from skincnn.files import sha256
from skincnn.metrics.bootstrap import INTERVALS

SPLITS = ("val", "test")


def load_model(workdir: Path, metadata: dict[str, Any]) -> keras.Model:
    """Returns a run's model, after checking that its file is the one that was written.

    Code that a file brings with it (a Lambda layer) is never run: Keras's safe mode stays.

    Raises:
        DataError: The file has changed, holds what Keras does not load, or has not an
            output for each class.
    """
    path = workdir / "model.keras"
    expected = metadata["sha256"]["model.keras"]
    if sha256(path) != expected:
        raise DataError(
            f"{path} has changed since it was written: its SHA-256 is not {expected}."
        )
    try:
        model = keras.saving.load_model(path, compile=False)
    except (OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be loaded. Expected the model of scripts/train.py, of Keras's "
            f"own layers and without code (Lambda). Received: {error}"
        ) from error
    names = metadata["class_names"]
    if model.output_shape[-1] != len(names):
        raise DataError(
            f"{path} has {model.output_shape[-1]} outputs. Expected one for each class of "
            f"metadata.json: {', '.join(names)}."
        )
    return model


def require_classes(
    found: Sequence[str], metadata: dict[str, Any], workdir: Path, where: str
) -> None:
    """Checks that classes are those of a run, in the order of its model's outputs.

    Args:
        found: Names of classes.
        metadata: The run's.
        workdir: The run's folder, for the message.
        where: What has these classes, for the message.

    Raises:
        DataError: They are others, or in another order.
    """
    names = metadata["class_names"]
    if list(found) != list(names):
        raise DataError(
            f"{where} has the classes {', '.join(found)}. Expected those of {workdir} in "
            f"the order of its model's outputs: {', '.join(names)}."
        )


def name_splits(asked: Sequence[str], config: Config) -> tuple[str, ...]:
    """Returns the splits that are asked for, the test fold called "test" and each once.

    Raises:
        ConfigError: One is validation, which is reported anyway and is no headline; or a
            part of the test.
    """
    tests = [pipeline.stored_name(fold) for fold in config.data.test_folds]
    found = []
    for split in asked:
        if split == "val":
            raise ConfigError(
                "--split val: validation is always reported, and choices were made on it. "
                "Give a test set, such as test or test_official."
            )
        if config.data.split_by == "lesion" and split in tests:
            if len(tests) > 1:
                raise ConfigError(
                    f"--split {split} is one of the folds of test: {', '.join(tests)}. "
                    "They are reported together, as test."
                )
            split = "test"
        found.append(split)
    return tuple(dict.fromkeys(found))


def read_splits(
    builder: tfds.core.DatasetBuilder,
    config: Config,
    metadata: dict[str, Any],
    workdir: Path,
    others: Sequence[str],
) -> dict[str, pd.DataFrame]:
    """Returns the rows of validation, test and other splits of a run, val first.

    Args:
        builder: The dataset.
        config: The run's.
        metadata: The run's, with the fingerprints of its splits.
        workdir: The run's folder, for messages.
        others: Names of more splits of the dataset, from `name_splits`.

    Raises:
        ConfigError: A split is not there, or was trained on.
        DataError: The dataset is not the one of the training.
    """
    tables = make_splits(builder, config.data, SPLITS)
    for split, table in tables.items():
        if pipeline.fingerprint(table) != metadata["data_fingerprint"][split]:
            raise DataError(
                f"{split} of {builder.info.full_name} is not the one that {workdir} was "
                "trained with. Expected the same pictures and labels; train again, or "
                "give the --data-dir of the training."
            )
    for split in others:
        if split not in tables:
            table = pipeline.read_table(builder, [_find_split(split, builder, config)])
            if config.data.one_image_per_lesion in ("evaluation", "all"):
                table = one_image_per_lesion(table).reset_index(drop=True)
            tables[split] = table
    return tables


def audit_others(
    builder: tfds.core.DatasetBuilder, config: Config, tables: Mapping[str, pd.DataFrame]
) -> dict[str, dict[str, int]]:
    """Returns `leakage.count_shared` of each split but val and test.

    Those two are audited before every training; what else is stored is not.

    Args:
        builder: The dataset.
        config: The run's.
        tables: Split to its rows, "val" among them.
    """
    others = [name for name in tables if name not in SPLITS]
    if not others:
        return {}
    train = make_splits(builder, config.data, ("train",))["train"]
    known = pd.concat([train, tables["val"]])
    return {name: count_shared(known, tables[name]) for name in others}


def _find_split(split: str, builder: tfds.core.DatasetBuilder, config: Config) -> int | str:
    """Returns what `pipeline.read_table` calls a split that is neither val nor test."""
    trained = {pipeline.stored_name(fold) for fold in config.data.train_folds}
    if config.data.split_by == "image":
        trained = {name for name in builder.info.splits if name.startswith("fold_")}
    used = dict.fromkeys(map(pipeline.stored_name, config.data.validation_folds))
    why = dict.fromkeys(used, ", on which choices were made: it is val")
    why |= dict.fromkeys(trained, ", which was trained on")
    tests = {pipeline.stored_name(fold) for fold in config.data.test_folds}
    stored = [name for name in builder.info.splits if name not in why and name not in tests]
    there = ["test", *stored]
    if split not in there:
        raise ConfigError(
            f"--split must be one of: {', '.join(there)}. Received: {split}"
            f"{why.get(split, '')}."
        )
    return int(split.removeprefix("fold_")) if split.startswith("fold_") else split


def stored_in(split: str, config: Config) -> str:
    """Returns where the pictures of a split are stored."""
    folds = {"val": config.data.validation_folds, "test": config.data.test_folds}
    if split not in folds:
        return split.replace("_", " ")
    numbers = ", ".join(map(str, folds[split]))
    return f"fold{'s' if len(folds[split]) > 1 else ''} {numbers}"


def describe_run(metadata: dict[str, Any], config: Config) -> dict[str, Any]:
    """Returns what the report says of the training."""
    return {
        "synthetic": metadata["synthetic"],
        "dataset": metadata["dataset"],
        "folds": {
            "train": list(config.data.train_folds),
            "val": list(config.data.validation_folds),
            "test": list(config.data.test_folds),
        },
        "split_by": config.data.split_by,
        "one_image_per_lesion": config.data.one_image_per_lesion,
        "audit": metadata["audit"],
        "class_names": metadata["class_names"],
        "best_epoch": metadata["best_epoch"],
        "monitor": config.train.monitor,
        "training_seconds": metadata["seconds"],
        "provenance": metadata.get("provenance"),  # there was none once
        "num_parameters": metadata["num_parameters"],
        "interval": {
            "confidence": config.evaluate.confidence,
            "method": INTERVALS,
            "resamples": config.evaluate.num_bootstrap,
        },
    }


def describe_protocol(
    metadata: dict[str, Any], config: Config, assessed: dict[str, Any]
) -> str:
    """Returns what was trained on what, and where the choices were made."""
    audit, splits = metadata["audit"], assessed["splits"]
    tested = " and ".join(
        content["fold"] for name, content in splits.items() if name != "val"
    )
    return (
        f"Trained on {audit['num_train_images']} pictures of {audit['num_train_lesions']} "
        f"lesions (folds {', '.join(map(str, config.data.train_folds))}). Epoch "
        f"{metadata['best_epoch']} was chosen on {splits['val']['fold']} by its "
        f"{config.train.monitor.replace('_', ' ')}, so the scores there flatter; no choice "
        f"of this run was made on {tested}."
    )
