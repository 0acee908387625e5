"""The splits on which a run is evaluated: names, tables, images and leakage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.config import FINAL_TEST_FOLD, Config
from skincnn.data import pipeline
from skincnn.data.cache import Cache, Images
from skincnn.data.combined import CombinedDataset, open_datasets, stored_name
from skincnn.data.leakage import SplitLeakage, count_shared
from skincnn.data.skin_tone import ITA, estimate_ita
from skincnn.data.splits import in_role, make_splits, select_lesions
from skincnn.errors import ConfigError, DataError
from skincnn.inference.load import load_model, require_classes
from skincnn.inference.predict import with_features
from skincnn.inference.predictions import predictions_table
from skincnn.inference.run_dir import RunInfo, read_run
from skincnn.lookup import suggest

SPLITS = ("val", "test")
USE_SAME_DATA = "Use the --data-dir of the training run, or train again with --overwrite."


@dataclass(frozen=True)
class Split:
    """The inputs of one split, with one row of `table` for each image.

    Attributes:
        images: Images, uint8 [num_images, size, size, 3], in the order of the table.
        metadata: Encoded clinical metadata, [num_images, num_columns]; None if not used.
    """

    table: pd.DataFrame
    images: Images
    metadata: npt.NDArray[np.float32] | None

    def batches(self) -> tf.data.Dataset:
        """Returns the inputs of the model in batches, in order."""
        return pipeline.evaluation_batches(self.images, self.metadata)


@dataclass(frozen=True)
class LoadedRun:
    """A trained model and the splits on which it is evaluated: "val", "test", and others.

    `folders` are the directories of the built datasets, by name. `feature_model` also
    returns the features of each block; see `with_features`. `leakage` does not contain
    validation and test, which were audited before training.
    """

    folders: dict[str, Path]
    info: RunInfo
    config: Config
    model: keras.Model
    feature_model: keras.Model
    splits: dict[str, Split]
    leakage: dict[str, SplitLeakage]

    def predictions_table(
        self, split: str, logits: npt.NDArray[np.float32]
    ) -> pd.DataFrame:
        """Returns the predictions table of a split for logits [num_images, num_classes]."""
        return predictions_table(self.splits[split].table, logits, self.info.class_names)


def load_run(
    workdir: Path, data_dir: Path | None, cache: Cache, others: Sequence[str]
) -> LoadedRun:
    """Loads the model of a run and reads the images of val, test and `others`.

    Args:
        workdir: The run directory.
        data_dir: Directory of the built TFDS datasets; None for the default of TFDS.
        cache: See `skincnn.data.cache.cached_images`.
        others: Names of further splits.

    Raises:
        ConfigError: See `read_run`, `name_splits`, `open_datasets`, `read_splits`,
            `load_model` and `load_split`.
        DataError: The dataset is missing, damaged or not that of the training run, or the
            model file was modified or cannot be loaded; see also `read_splits` and
            `load_split`.
        OSError: The model file exists, but is not readable; see also
            `CombinedDataset.links`.
    """
    info, config = read_run(workdir)
    names = name_splits(others, config)
    dataset = open_datasets(config.data.datasets, data_dir, config.data.label_maps)
    require_classes(dataset.class_names, info, workdir, dataset.full_name, USE_SAME_DATA)
    tables = read_splits(dataset, config, info, workdir, names)
    leakage = measure_leakage(dataset, config, tables)
    model = load_model(workdir, info)
    splits = {
        name: load_split(dataset, table, config, cache) for name, table in tables.items()
    }
    return LoadedRun(
        dataset.folders, info, config, model, with_features(model), splits, leakage
    )


def load_split(
    dataset: CombinedDataset, table: pd.DataFrame, config: Config, cache: Cache
) -> Split:
    """Returns the inputs of a run for the rows of a table.

    The images are preprocessed as in `config`. The table of the split also contains the
    estimated skin tone (`ITA`), unless the colors of the images were corrected.

    Raises:
        ConfigError: See `skincnn.data.pipeline.load_images`.
        DataError: See `skincnn.data.pipeline.load_images`; or the model uses clinical
            metadata, and those of the table are invalid.
    """
    images = pipeline.load_images(dataset, table, config.data, cache)
    metadata = None
    if config.model.clinical_metadata:
        metadata = encode_clinical_metadata(table)
    if not config.data.color_constancy:  # it changes the color of the skin
        table = table.assign(**{ITA: estimate_ita(images)})
    return Split(table, images, metadata)


def name_splits(splits: Sequence[str], config: Config) -> tuple[str, ...]:
    """Returns the names of the requested splits without duplicates.

    If the test split is a single fold, the name of this fold becomes "test".

    Raises:
        ConfigError: A split is "val" or, with `data.split_by` lesion, the fold of the final
            test (unless the run is a final test) or one of several test folds (unless a
            source is left out).
    """
    kept = stored_name(FINAL_TEST_FOLD)
    test_folds = _test_folds(config)
    names = []
    for split in splits:
        if split == "val":
            raise ConfigError(
                "The split val is not allowed: the validation split is always evaluated, "
                "and its scores are optimistic. Omit it, or use another split."
            )
        if split in test_folds:
            if len(test_folds) > 1:
                raise ConfigError(
                    f"The split {split} is one of the test folds {', '.join(test_folds)}, "
                    "which are evaluated together. Use the split test."
                )
            split = "test"
        elif config.data.split_by == "lesion" and split == kept:
            raise ConfigError(
                f"The split {kept} is not allowed: this fold is only used for training, "
                "and for the final test of a recipe (`skincnn train --final-test`). Use "
                "another split."
            )
        names.append(split)
    return tuple(dict.fromkeys(names))


def read_splits(
    dataset: CombinedDataset,
    config: Config,
    info: RunInfo,
    workdir: Path,
    others: Sequence[str],
) -> dict[str, pd.DataFrame]:
    """Returns the table of each split: validation, test and `others`.

    The names of the other splits are those returned by `name_splits`.

    Raises:
        ConfigError: A split does not exist, was used for training or validation, or has no
            images that meet the settings of `config`; see also
            `skincnn.data.splits.make_splits` and `CombinedDataset.links`.
        DataError: The dataset is damaged or not the one that the run was trained on; see
            also `skincnn.data.splits.select_lesions`.
        OSError: See `CombinedDataset.links`.
    """
    tables = make_splits(dataset, config.data, SPLITS)
    for split, table in tables.items():
        if pipeline.fingerprint(table) != info.data_fingerprint[split]:
            raise DataError(
                f"The split {split} of {dataset.full_name} differs from that of the "
                f"training run {workdir}. Expected the same images, labels, lesions and "
                f"folds. {USE_SAME_DATA}"
            )
    for split in others:
        if split not in tables:
            table = dataset.read_table([_find_split(split, dataset, config)])
            in_split = pd.Series(True, table.index)
            if config.data.leave_out:
                in_split = in_role(table, config.data.leave_out, split)
            rows = select_lesions(table, in_split, config.data, split)
            if rows.empty:
                raise ConfigError(
                    f"The split {split} has no images that meet the settings of `data` of "
                    f"{workdir}, such as `data.leave_out` and `data.label_maps`. Use "
                    "another split."
                )
            tables[split] = rows.reset_index(drop=True)
    return tables


def measure_leakage(
    dataset: CombinedDataset, config: Config, tables: Mapping[str, pd.DataFrame]
) -> dict[str, SplitLeakage]:
    """Returns the overlap of the splits in `tables` with training and validation images.

    Val and test are skipped, because they were audited before training.

    Raises:
        ConfigError: See `skincnn.data.splits.make_splits`.
        DataError: The dataset is damaged; see also `skincnn.data.splits.make_splits`.
    """
    others = [name for name in tables if name not in SPLITS]
    if not others:
        return {}
    train = make_splits(dataset, config.data, ("train",))["train"]
    seen = pd.concat([train, tables["val"]])
    return {name: count_shared(seen, tables[name]) for name in others}


def describe_storage(split: str, config: Config) -> str:
    """Returns the part of the dataset that contains a split, such as "folds 8, 9"."""
    source = config.data.leave_out
    if source and split == "test":
        return f"source {source}"
    folds = {"val": config.data.validation_folds, "test": config.data.test_folds}
    text = split.replace("_", " ")
    if split in folds:
        numbers = ", ".join(map(str, folds[split]))
        text = f"fold{'s' if len(folds[split]) > 1 else ''} {numbers}"
    return f"{text} without {source}" if source else text


def _test_folds(config: Config) -> list[str]:
    """Returns the names of the folds of which the test split consists.

    There are none in a split by image, and if a source is left out.
    """
    if config.data.split_by == "image" or config.data.leave_out:
        return []
    return list(map(stored_name, config.data.test_folds))


def _find_split(split: str, dataset: CombinedDataset, config: Config) -> str:
    """Checks the name of a TFDS split, and returns it."""
    trained = {stored_name(fold) for fold in config.data.train_folds}
    if config.data.split_by == "image":
        trained = {name for name in dataset.split_sizes if name.startswith("fold_")}
    validation = map(stored_name, config.data.validation_folds)
    reasons = dict.fromkeys(validation, ", which was used for validation")
    reasons |= dict.fromkeys(trained, ", which was used for training")
    seen = {*reasons, *_test_folds(config)}
    if config.data.split_by == "lesion":
        seen.add(stored_name(FINAL_TEST_FOLD))  # rejected by `name_splits`
    valid = ["test", *(name for name in dataset.split_sizes if name not in seen)]
    if split not in valid:
        hint = f"{reasons[split]}." if split in reasons else f".{suggest(valid, split)}"
        raise ConfigError(
            f"The split must be one of: {', '.join(valid)}. Received: {split}{hint}"
        )
    return split
