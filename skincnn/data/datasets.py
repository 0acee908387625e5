"""Building, opening and reading the TFDS datasets on disk, and their class names."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds

import tfds_ham10000
from skincnn.classes import LesionClass, describe
from skincnn.commands import command_line
from skincnn.errors import ConfigError, DataError
from skincnn.files import require_writable_folder
from skincnn.lookup import look_up
from skincnn.paths import real_path, require_usable_path, to_path
from skincnn.progress import logged_step
from skincnn.write_errors import describe_cause
from tfds_ham10000 import sources
from tfds_ham10000.configs import OWN_SOURCES, Ham10000Config, own_config
from tfds_ham10000.table.options import TableOptions

OnBadImage = Literal["fail", "skip"]
NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Valid names of the user's own datasets, which are names of directories."""
TABLE_COLUMNS = (
    *("image_id", "lesion_id", "patient_id", "group_id", "label"),
    *("dx_type", "age", "sex", "localization", "dataset", "skin_type"),
)
STORED_IN = "stored_in"
"""Column with the TFDS split of an image in its dataset, such as "fold_3"."""


def class_names(dataset: str, data_dir: Path | None = None) -> tuple[str, ...]:
    """Returns the class names of a dataset, in the order of the labels.

    Published and synthetic datasets need not be built first; the user's own datasets must.

    Raises:
        ConfigError: There is no dataset of this name.
        DataError: The dataset is the user's own, and has not been built.
    """
    builder = _builder(dataset, data_dir)
    if builder.builder_config.own:
        builder = open_dataset(dataset, data_dir)
    return tuple(builder.info.features["label"].names)


def declared_classes(builder: tfds.core.DatasetBuilder) -> dict[str, LesionClass]:
    """Returns the classes that a built dataset declares, by name.

    If it only declares the full name of a class, the malignancy is that of `describe`.
    """
    classes = {}
    for each in builder.read_report().classes:
        known = describe([each.name])[each.name]
        malignant = known.malignant if each.malignant is None else each.malignant
        classes[each.name] = dataclasses.replace(
            known, full_name=each.full_name, malignant=malignant
        )
    return classes


def prepare_dataset(
    dataset: str,
    data_dir: Path | None = None,
    manual_dir: Path | None = None,
    *,
    name: str | None = None,
    on_bad_image: OnBadImage = "fail",
    table_options: TableOptions = sources.NO_OPTIONS,
) -> tfds.core.DatasetBuilder:
    """Builds a dataset on disk if necessary, and returns its TFDS builder.

    Args:
        dataset: The name of a config of `tfds_ham10000`, such as "demo" or "isic2018".
        data_dir: The directory of built datasets; None for the default of TFDS.
        manual_dir: The directory of the source files; ignored for synthetic datasets.
            If None, HAM10000 is downloaded, unless TFDS's manual directory contains it.
        name: The name of the dataset, if `dataset` is "folder" or "table". Datasets with
            different names can be in one `data_dir`. By default, it is "folder" or "table",
            or the name of the published dataset that is recognized in `manual_dir`.
        on_bad_image: What to do with images that cannot be decoded. "fail" raises an error.
            "skip" omits them, but raises an error if they are more than 1 % of all images.
        table_options: How to read a table, if `dataset` is "table".

    Raises:
        ConfigError: `tfds_ham10000` has no config of this name, `name` is not valid, the
            dataset cannot be written to `data_dir`, or the user's own dataset was built
            from another `manual_dir` or with other options.
        DataError: `manual_dir` is None, but the dataset cannot be downloaded.
        SourceError: The source files are missing or invalid, or the download failed.
    """
    _check_root(data_dir)
    config = look_up(_configs(), dataset, "--config")
    if name is None and config.source == "table" and manual_dir is not None:
        name = sources.find_name(manual_dir, table_options)
    if name is not None and name != config.name:
        _check_name(name, config)
        config = own_config(name, config.source)
    builder = tfds_ham10000.Builder(
        config=config,
        data_dir=data_dir,
        on_bad_image=on_bad_image,
        table_options=table_options,
    )
    if _is_prepared(builder):
        if config.own and manual_dir is not None:
            _require_same_source(builder, manual_dir, table_options)
        return builder
    if data_dir is not None:
        require_writable_folder(data_dir, "--data-dir")
    if config.synthetic:
        manual_dir = None
    elif manual_dir is not None:
        # Report invalid source files before TFDS starts to write.
        sources.read_source(manual_dir, config.source, table_options)
    elif not config.downloadable:
        raise DataError(
            f"The dataset {config.name!r} cannot be downloaded automatically. Use "
            "--manual-dir DIR with a directory that contains one of:\n"
            f"{sources.download_instructions(config.source)}"
        )
    tfds.disable_progress_bar()  # the builder has its own
    _build(builder, manual_dir)
    return builder


def built_datasets(data_dir: Path | None = None) -> list[str]:
    """Returns the sorted names of the datasets that have been built."""
    _check_root(data_dir)
    # `data_dir` of a builder is <root>/<name>/<config>/<version>.
    folder = Path(tfds_ham10000.Builder(config="demo", data_dir=data_dir).data_dir)
    paths = folder.parents[1].glob(f"*/{folder.name}")
    return sorted(path.parent.name for path in paths)


def open_dataset(dataset: str, data_dir: Path | None = None) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of a built dataset.

    Synthetic datasets are built if necessary.

    Raises:
        ConfigError: No dataset has this name, or a synthetic dataset cannot be written.
        DataError: The dataset is not synthetic and has not been built.
    """
    builder = _builder(dataset, data_dir)
    if _is_prepared(builder):
        return builder
    if not builder.builder_config.synthetic:
        where = () if data_dir is None else ("--data-dir", data_dir)
        if data_dir is not None and _is_prepared(_builder(dataset, data_dir.parent)):
            raise DataError(
                f"The dataset {dataset!r} is in {data_dir.parent}, and not in {data_dir}. "
                f"Use --data-dir {shlex.quote(str(data_dir.parent))}"
            )
        flags = ("--config", dataset, "--manual-dir", "DIR", *where)
        raise DataError(
            f"The dataset {dataset!r} has not been built in {builder.data_dir}. Build it "
            f"once: {command_line('prepare_data', *flags)}"
        )
    return prepare_dataset(dataset, data_dir)


def read_rows(builder: tfds.core.DatasetBuilder, splits: Collection[str]) -> pd.DataFrame:
    """Returns a table with one row for each image in some TFDS splits, without the images.

    The columns are `TABLE_COLUMNS` (`label` is the index of the label), `STORED_IN` and
    `sha256` (the SHA-256 of the stored image file). The order is that of `splits`.
    """
    rows = [
        {**row, "sha256": hashlib.sha256(row.pop("image")).hexdigest()}
        for row in (tfds.as_numpy(read_records(builder, splits)) if splits else ())
    ]
    table = pd.DataFrame(rows, columns=[*TABLE_COLUMNS, "sha256"])
    for name in set(TABLE_COLUMNS) - {"label", "age"}:
        table[name] = table[name].map(bytes.decode)
    sizes = [builder.info.splits[name].num_examples for name in splits]
    return table.assign(**{STORED_IN: np.repeat(np.array([*splits], object), sizes)})


def iterate_files(
    builder: tfds.core.DatasetBuilder, image_ids: Iterable[str], splits: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Yields the image_id and the bytes of the image file of images in some TFDS splits.

    The order is that of the dataset.
    """
    missing = set(image_ids)
    if not missing:
        return
    for row in tfds.as_numpy(read_records(builder, splits)):
        image_id = row["image_id"].decode()
        if image_id in missing:
            missing.remove(image_id)
            yield image_id, row["image"]
        if not missing:
            return


def read_records(
    builder: tfds.core.DatasetBuilder, splits: Iterable[str]
) -> tf.data.Dataset:
    """Returns the records of TFDS splits, one after the other, with encoded images."""
    options = tf.data.Options()
    options.autotune.enabled = False  # stopping the tuner often takes seconds
    records = builder.as_dataset(
        split="+".join(splits),
        decoders={"image": tfds.decode.SkipDecoding()},
        # Files are read one at a time to keep the order of the splits. Automatic caching
        # would keep the images of a small dataset in memory.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    return records.with_options(options)


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    # TFDS logs a warning if the directory does not exist.
    return Path(builder.data_dir).is_dir() and bool(builder.is_prepared())


def _require_same_source(
    builder: tfds.core.DatasetBuilder, manual_dir: Path, table_options: TableOptions
) -> None:
    report = builder.read_report()
    advice = "Use another --name, or delete that dataset first."
    if report.source != str(real_path(manual_dir)):
        raise ConfigError(
            f"{builder.data_dir} was built from {report.source}. Received: --manual-dir "
            f"{manual_dir}. {advice}"
        )
    if report.table_options != table_options:
        raise ConfigError(
            f"{builder.data_dir} was built with other options of the table: "
            f"{report.table_options!r}. Received: {table_options!r}. {advice}"
        )


def _check_name(name: str, config: Ham10000Config) -> None:
    if not config.own:
        raise ConfigError(
            f"--name can be used with the configs {' and '.join(OWN_SOURCES)} only. "
            f"Received: --config {config.name}."
        )
    if not NAME.fullmatch(name):
        raise ConfigError(
            "--name must consist of lower-case letters, digits and underscores, and begin "
            f"with a letter. Received: {name!r}."
        )
    if name in _configs():
        raise ConfigError(
            f"--name must not be the name of a published dataset. Received: {name!r}."
        )


def _build(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    try:
        with logged_step(f"Building {builder.info.full_name}"):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(
                    manual_dir=None if manual_dir is None else real_path(manual_dir)
                )
            )
    except (OSError, tf.errors.OpError, RuntimeError) as error:
        # The disk or quota is full, or permission is denied. TFDS wraps some of the errors.
        cause = error.__cause__ if type(error) is RuntimeError else error
        if not isinstance(cause, OSError | tf.errors.OpError):
            raise
        raise ConfigError(
            f"The dataset cannot be written to {builder.data_dir}: {error}. The incomplete "
            "dataset was deleted. Use another --data-dir, or run the command again. "
            f"{describe_cause(cause)}".rstrip()
        ) from error


def _check_root(data_dir: Path | None) -> None:
    """Raises a `ConfigError` if `data_dir`, or the default of TFDS, cannot be used."""
    if data_dir is not None:
        require_usable_path(data_dir, "--data-dir")
    elif root := os.environ.get("TFDS_DATA_DIR"):
        require_usable_path(to_path(root), "TFDS_DATA_DIR")


def _builder(dataset: str, data_dir: Path | None) -> tfds.core.DatasetBuilder:
    # A built dataset is read in the same way, whether it was built with or without a table.
    own = {name: own_config(name, "table") for name in built_datasets(data_dir)}
    configs = {**own, **_configs()}
    config = look_up(configs, dataset, "The dataset (--data.datasets or --config)")
    return tfds_ham10000.Builder(config=config, data_dir=data_dir)


def _configs() -> dict[str, Ham10000Config]:
    return {config.name: config for config in tfds_ham10000.Builder.BUILDER_CONFIGS}
