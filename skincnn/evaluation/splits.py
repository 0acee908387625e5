"""The splits on which a run is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import tensorflow_datasets as tfds

from skincnn.config import Config
from skincnn.data import pipeline
from skincnn.data.leakage import SplitLeakage, count_shared
from skincnn.data.splits import make_splits, one_image_per_lesion
from skincnn.errors import ConfigError, DataError
from skincnn.inference.run_dir import RunInfo

SPLITS = ("val", "test")


def name_splits(splits: Sequence[str], config: Config) -> tuple[str, ...]:
    """Returns the requested splits without repetition, the test fold as "test".

    Args:
        splits: Names of splits, as "fold_9" or "test_official".
        config: The run's.

    Raises:
        ConfigError: A split is validation, or one of several test folds.
    """
    test_folds = [pipeline.stored_name(fold) for fold in config.data.test_folds]
    names = []
    for split in splits:
        if split == "val":
            raise ConfigError(
                "--split val: the validation split is always evaluated, and choices were "
                "made on it. Give a test set, such as test or test_official."
            )
        if config.data.split_by == "lesion" and split in test_folds:
            if len(test_folds) > 1:
                raise ConfigError(
                    f"--split {split} is one of the test folds {', '.join(test_folds)}. "
                    "They are evaluated together, as test."
                )
            split = "test"
        names.append(split)
    return tuple(dict.fromkeys(names))


def read_splits(
    builder: tfds.core.DatasetBuilder,
    config: Config,
    info: RunInfo,
    workdir: Path,
    others: Sequence[str],
) -> dict[str, pd.DataFrame]:
    """Returns the rows of validation, test and other splits of a run, validation first.

    Args:
        builder: The dataset.
        config: The run's.
        info: The run's, with the fingerprints of its splits.
        workdir: The run directory, for messages.
        others: Names of more splits of the dataset, from `name_splits`.

    Raises:
        ConfigError: A split does not exist or was used for training or validation.
        DataError: The dataset is not the one of the training.
    """
    tables = make_splits(builder, config.data, SPLITS)
    for split, table in tables.items():
        if pipeline.fingerprint(table) != info.data_fingerprint[split]:
            raise DataError(
                f"The split {split} of {builder.info.full_name} is not the one with which "
                f"{workdir} was trained. Expected the same images and labels; train again, "
                "or give the --data-dir of the training."
            )
    for split in others:
        if split not in tables:
            table = pipeline.read_table(builder, [_find_split(split, builder, config)])
            if config.data.one_image_per_lesion in ("evaluation", "all"):
                table = one_image_per_lesion(table).reset_index(drop=True)
            tables[split] = table
    return tables


def measure_leakage(
    builder: tfds.core.DatasetBuilder, config: Config, tables: Mapping[str, pd.DataFrame]
) -> dict[str, SplitLeakage]:
    """Returns `count_shared` for each split but val and test.

    Training audits val and test; it never sees the other splits of the dataset.

    Args:
        builder: The dataset.
        config: The run's.
        tables: Split to its rows, "val" among them.
    """
    others = [name for name in tables if name not in SPLITS]
    if not others:
        return {}
    train = make_splits(builder, config.data, ("train",))["train"]
    seen = pd.concat([train, tables["val"]])
    return {name: count_shared(seen, tables[name]) for name in others}


def describe_storage(split: str, config: Config) -> str:
    """Returns where the images of a split are stored, as "folds 8, 9"."""
    folds = {"val": config.data.validation_folds, "test": config.data.test_folds}
    if split not in folds:
        return split.replace("_", " ")
    numbers = ", ".join(map(str, folds[split]))
    return f"fold{'s' if len(folds[split]) > 1 else ''} {numbers}"


def _find_split(split: str, builder: tfds.core.DatasetBuilder, config: Config) -> int | str:
    """Returns the argument of `pipeline.read_table` for a split but val and test."""
    trained = {pipeline.stored_name(fold) for fold in config.data.train_folds}
    if config.data.split_by == "image":
        trained = {name for name in builder.info.splits if name.startswith("fold_")}
    validation = map(pipeline.stored_name, config.data.validation_folds)
    reasons = dict.fromkeys(
        validation, ", the validation split, on which choices were made"
    )
    reasons |= dict.fromkeys(trained, ", which was used for training")
    tests = {pipeline.stored_name(fold) for fold in config.data.test_folds}
    valid = [
        "test",
        *(name for name in builder.info.splits if name not in {*reasons, *tests}),
    ]
    if split not in valid:
        raise ConfigError(
            f"--split must be one of: {', '.join(valid)}. Received: {split}"
            f"{reasons.get(split, '')}."
        )
    return int(split.removeprefix("fold_")) if split.startswith("fold_") else split
