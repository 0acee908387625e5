"""Building, opening and reading the TFDS datasets on disk, and their class names."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import json_format
from pydantic import ValidationError

import tfds_ham10000
from skincnn.classes import LesionClass, describe
from skincnn.commands import command_line
from skincnn.errors import ConfigError, DataError
from skincnn.files import require_writable_folder
from skincnn.lookup import look_up
from skincnn.paths import real_path, require_usable_path, to_path
from skincnn.progress import logged_step
from skincnn.records import describe_error
from skincnn.write_errors import describe_cause
from tfds_ham10000 import sources
from tfds_ham10000.configs import OWN_SOURCES, Ham10000Config, own_config
from tfds_ham10000.table.options import TableOptions

OnBadImage = Literal["fail", "skip"]
NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Valid values of --name, which are also names of directories."""
TABLE_COLUMNS = (
    *("image_id", "lesion_id", "patient_id", "group_id", "label"),
    *("dx_type", "age", "sex", "localization", "dataset", "skin_type"),
)
STORED_IN = "stored_in"
"""Column with the TFDS split of an image in its dataset, such as "fold_3"."""


def class_names(dataset: str, data_dir: Path | None = None) -> tuple[str, ...]:
    """Returns the class names of a dataset, in the order of the labels.

    A dataset that is read from class directories or with a table (the user's own, or a
    published one) must be built first; others need not.

    Raises:
        ConfigError: No dataset has this name, or `data_dir` cannot be used.
        DataError: The dataset must be built first, but has not been, or it is damaged.
    """
    builder = _builder(dataset, data_dir)
    if builder.builder_config.own:
        builder = open_dataset(dataset, data_dir)
    return tuple(builder.info.features["label"].names)


def declared_classes(builder: tfds.core.DatasetBuilder) -> dict[str, LesionClass]:
    """Returns the classes that a built dataset declares, by name.

    If the dataset does not declare the malignancy of a class, `describe` determines it.
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
            different names can be in one `data_dir`. By default, it is the value of
            `dataset` or, for a table, the name of the published dataset that is recognized
            in `manual_dir`.
        on_bad_image: What to do with images that cannot be read or decoded or are too
            large. "fail" raises an error. "skip" omits them, but raises an error if they
            are more than 1 % of all images.
        table_options: How to read a table, if `dataset` is "table".

    Raises:
        ConfigError: `tfds_ham10000` has no config of this name, `name` is not valid or is
            given for a dataset with a fixed name, the dataset cannot be written to
            `data_dir`, or (if `dataset` is "folder" or "table") it has already been built
            from another `manual_dir` or with other options.
        DataError: The dataset has not been built and cannot be downloaded, but `manual_dir`
            is None; or the dataset exists, but is damaged.
        SourceError, ValueError: See `tfds_ham10000.Builder.download_and_prepare`.
    """
    _check_root(data_dir)
    config = look_up(_configs(), dataset, "--config")
    if name is None and config.source == "table" and manual_dir is not None:
        name = sources.find_name(manual_dir, table_options)
    if name is not None and name != config.name:
        _check_name(name, config)
        config = own_config(name, config.source)
    builder = _open_builder(
        config, data_dir, on_bad_image=on_bad_image, table_options=table_options
    )
    if builder.is_prepared():
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
    """Returns the sorted names of the datasets built by this version of the builder.

    Raises:
        ConfigError: `data_dir` cannot be used.
    """
    _check_root(data_dir)
    folder = _folder_of("_", data_dir)
    paths = folder.parents[1].glob(f"*/{folder.name}")
    return sorted(path.parent.name for path in paths)


def open_dataset(dataset: str, data_dir: Path | None = None) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of a built dataset.

    Synthetic datasets are built if necessary.

    Raises:
        ConfigError: No dataset has this name, `data_dir` cannot be used, or a synthetic
            dataset cannot be written.
        DataError: The dataset is not synthetic and has not been built, or is damaged.
    """
    builder = _builder(dataset, data_dir)
    if builder.is_prepared():
        return builder
    if not builder.builder_config.synthetic:
        if data_dir is not None and _builder(dataset, data_dir.parent).is_prepared():
            raise DataError(
                f"The dataset {dataset!r} is in {data_dir.parent}, and not in {data_dir}. "
                f"Use --data-dir {shlex.quote(str(data_dir.parent))}"
            )
        raise DataError(
            f"The dataset {dataset!r} has not been built in {builder.data_dir}. Build it "
            f"once: {_build_command(Path(builder.data_dir))}"
        )
    return prepare_dataset(dataset, data_dir)


def read_rows(builder: tfds.core.DatasetBuilder, splits: Collection[str]) -> pd.DataFrame:
    """Returns a table with one row for each image in some TFDS splits, without the images.

    The columns are `TABLE_COLUMNS` (`label` is the index of the label), `STORED_IN` and
    `sha256` (the SHA-256 of the stored image file). The order is that of `splits`.

    Raises:
        DataError: See `explain_read_errors`; or a label has no name.
    """
    with explain_read_errors(builder):
        rows = [
            {**row, "sha256": hashlib.sha256(row.pop("image")).hexdigest()}
            for row in (tfds.as_numpy(read_records(builder, splits)) if splits else ())
        ]
    table = pd.DataFrame(rows, columns=[*TABLE_COLUMNS, "sha256"])
    if len(table) and table["label"].max() >= builder.info.features["label"].num_classes:
        raise _unreadable(Path(builder.data_dir), "label.labels.txt has too few names")
    for name in set(TABLE_COLUMNS) - {"label", "age"}:
        table[name] = table[name].map(bytes.decode)
    sizes = [builder.info.splits[name].num_examples for name in splits]
    return table.assign(**{STORED_IN: np.repeat(np.array([*splits], object), sizes)})


def iterate_files(
    builder: tfds.core.DatasetBuilder, image_ids: Iterable[str], splits: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Yields each of `image_ids` and its image file as bytes.

    Only the TFDS splits `splits` are searched, as far as they exist. The order is that in
    which the dataset stores the images.

    Raises:
        DataError: The dataset lacks an image; see also `explain_read_errors`.
    """
    missing = set(image_ids)
    splits = [name for name in splits if name in builder.info.splits]
    with explain_read_errors(builder):
        rows = tfds.as_numpy(read_records(builder, splits)) if missing and splits else ()
        for row in rows:
            image_id = row["image_id"].decode()
            if image_id in missing:
                missing.remove(image_id)
                yield image_id, row["image"]
            if not missing:
                return
    if missing:
        raise DataError(
            f"{builder.data_dir} lacks {len(missing)} required image(s), such as "
            f"{min(missing)}. Delete this directory and build the dataset again from all "
            "images, or use the --data-dir of the training run."
        )


@contextlib.contextmanager
def explain_read_errors(builder: tfds.core.DatasetBuilder) -> Iterator[None]:
    """Raises a `DataError` if the records of a dataset cannot be read inside the block."""
    try:
        yield
    except tf.errors.OpError as error:
        raise _unreadable(Path(builder.data_dir), error.message) from error


def read_records(
    builder: tfds.core.DatasetBuilder, splits: Iterable[str]
) -> tf.data.Dataset:
    """Returns the records of TFDS splits, one after the other, with encoded images."""
    options = tf.data.Options()
    options.autotune.enabled = False  # stopping the autotuner often takes seconds
    records = builder.as_dataset(
        split="+".join(splits),
        decoders={"image": tfds.decode.SkipDecoding()},
        # Files are read one at a time to keep the order of the splits. Automatic caching
        # would keep the images of a small dataset in memory.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    return records.with_options(options)


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
            f"{builder.data_dir} was built with other table options: "
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
            f"--name must not be the name of another config: {', '.join(_configs())}. "
            f"Received: {name!r}."
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
        # For example, the disk is full or read-only. TFDS wraps some of the errors.
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
    else:
        root = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        require_usable_path(to_path(root, "TFDS_DATA_DIR"), "TFDS_DATA_DIR")


def _builder(dataset: str, data_dir: Path | None) -> tfds.core.DatasetBuilder:
    # A built dataset is read in the same way, whether it was built with or without a table.
    own = {name: own_config(name, "table") for name in built_datasets(data_dir)}
    configs = {**own, **_configs()}
    config = look_up(configs, dataset, "The dataset (--data.datasets or --config)")
    if data_dir is not None:  # the working directory may change before images are read
        data_dir = data_dir.absolute()
    return _open_builder(config, data_dir)


def _open_builder(
    config: Ham10000Config, data_dir: Path | None, **options: Any
) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of a dataset, and checks the metadata files if it is built.

    `options` are further arguments of `tfds_ham10000.Builder`.

    Raises:
        DataError: A file of the built dataset is missing or damaged.
    """
    file = "dataset_info.json"
    try:
        builder = tfds_ham10000.Builder(config=config, data_dir=data_dir, **options)
        folder = Path(builder.data_dir)
        if not folder.is_dir():
            return builder
        if not builder.is_prepared():
            raise _unreadable(folder, "dataset_info.json is missing")
        if not builder.info.features["label"].num_classes:
            raise _unreadable(folder, "label.labels.txt is missing or has no valid names")
        file = "build.json"
        builder.read_report()
    except DataError:
        raise
    except (OSError, ValueError, AssertionError, json_format.ParseError) as error:
        text = describe_error(error) if isinstance(error, ValidationError) else str(error)
        problem = f"{file}: {text.rstrip('.')}"
        raise _unreadable(_folder_of(config.name, data_dir), problem) from error
    return builder


def _folder_of(name: str, data_dir: Path | None) -> Path:
    """Returns the directory of a dataset, <root>/ham10000/<name>/<version>.

    The directory need not exist; no file in it is read.
    """
    # The name of a dataset never begins with an underscore; see `NAME`.
    other = tfds_ham10000.Builder(config=own_config("_", "folder"), data_dir=data_dir)
    folder = Path(other.data_dir)
    return folder.parents[1] / name / folder.name


def _unreadable(folder: Path, problem: str) -> DataError:
    """Returns an error that says what to do if the files of a built dataset are damaged."""
    return DataError(
        f"The dataset in {folder} cannot be read: {problem}. If a file is missing or "
        "damaged, delete that directory, and build the dataset again with the same flags "
        f"as before: {_build_command(folder)}"
    )


def _build_command(folder: Path) -> str:
    """Returns the command that builds a dataset, with placeholders such as DIR."""
    root, name = folder.parents[2], folder.parent.name
    config = _configs().get(name)
    flags = ("--config", name) if config else ("--config", "CONFIG", "--name", name)
    source = () if config and config.synthetic else ("--manual-dir", "DIR")
    return command_line("prepare-data", *flags, *source, "--data-dir", root)


def _configs() -> dict[str, Ham10000Config]:
    return {config.name: config for config in tfds_ham10000.Builder.BUILDER_CONFIGS}
