"""Building and opening the TFDS datasets on disk, and their class names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tensorflow as tf
import tensorflow_datasets as tfds

import tfds_ham10000
from skincnn.errors import ConfigError, DataError
from skincnn.files import require_writable_folder
from skincnn.lookup import look_up
from tfds_ham10000 import sources

OnBadImage = Literal["fail", "skip"]


def class_names(dataset: str, data_dir: Path | None = None) -> tuple[str, ...]:
    """Returns the class names of a dataset, in the order of the labels.

    Only "folder" has to be built first; its classes are the names of directories.

    Raises:
        ConfigError: `tfds_ham10000` has no config of this name.
        DataError: The dataset is "folder" and has not been built.
    """
    builder = _builder(dataset, data_dir)
    if builder.builder_config.class_names is None:
        builder = open_dataset(dataset, data_dir)
    return tuple(builder.info.features["label"].names)


def prepare_dataset(
    dataset: str,
    data_dir: Path | None = None,
    manual_dir: Path | None = None,
    *,
    on_bad_image: OnBadImage = "fail",
) -> tfds.core.DatasetBuilder:
    """Builds a dataset on disk if necessary, and returns its TFDS builder.

    Args:
        dataset: The name of a config of `tfds_ham10000`, such as "demo" or "isic2018".
        data_dir: The directory of built datasets; by default the data directory of TFDS.
        manual_dir: The directory of the source files; ignored for synthetic datasets.
            If None, HAM10000 is downloaded, unless TFDS's manual directory contains it.
        on_bad_image: What to do with images that cannot be decoded. "fail" raises an error.
            "skip" omits them, but raises an error if they are more than 1 % of all images.

    Raises:
        ConfigError: `tfds_ham10000` has no config of this name, the dataset cannot be
            written to `data_dir`, or "folder" was built from another `manual_dir`.
        DataError: `manual_dir` is None, but the dataset cannot be downloaded.
        SourceError: The source files are missing or invalid, or the download failed.
    """
    builder = _builder(dataset, data_dir, on_bad_image)
    config = builder.builder_config
    if _is_prepared(builder):
        if config.class_names is None and manual_dir is not None:
            _require_same_source(builder, manual_dir)
        return builder
    if data_dir is not None:
        require_writable_folder(data_dir, "--data-dir")
    if config.synthetic:
        manual_dir = None
    elif manual_dir is not None:
        # Report invalid source files before TFDS starts to write.
        sources.read_source(manual_dir, config.source)
    elif not config.downloadable:
        raise DataError(
            f"The dataset {dataset!r} cannot be downloaded automatically. Use "
            "--manual-dir DIR with a directory that contains one of:\n"
            f"{sources.download_instructions(config.source) or '- one directory per class'}"
        )
    tfds.disable_progress_bar()  # the builder has its own
    _build(builder, manual_dir)
    return builder


def is_built(dataset: str, data_dir: Path | None = None) -> bool:
    """Returns whether a dataset has been built.

    Raises:
        ConfigError: `tfds_ham10000` has no config of this name.
    """
    return _is_prepared(_builder(dataset, data_dir))


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
        where = "" if data_dir is None else f" --data-dir {data_dir}"
        raise DataError(
            f"The dataset {dataset!r} has not been built in {builder.data_dir}. Build it "
            f"once: python scripts/prepare_data.py --config {dataset} --manual-dir "
            f"DIR{where}"
        )
    return prepare_dataset(dataset, data_dir)


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    # TFDS logs a warning if the directory does not exist.
    return Path(builder.data_dir).is_dir() and bool(builder.is_prepared())


def _require_same_source(builder: tfds.core.DatasetBuilder, manual_dir: Path) -> None:
    source = builder.read_report().source
    if source != str(manual_dir.resolve()):
        raise ConfigError(
            f"{builder.data_dir} was built from {source}. Received: --manual-dir "
            f"{manual_dir}. Use another --data-dir, or delete that dataset first."
        )


def _build(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=None if manual_dir is None else manual_dir.resolve()
            )
        )
    except (OSError, tf.errors.OpError, RuntimeError) as error:
        # The disk or quota is full, or permission is denied. TFDS wraps some of the errors.
        cause = error.__cause__ if type(error) is RuntimeError else error
        if not isinstance(cause, OSError | tf.errors.OpError):
            raise
        raise ConfigError(
            f"The dataset cannot be written to {builder.data_dir}: {error}. The incomplete "
            "dataset was deleted. Free disk space, or use another --data-dir, and run the "
            "command again."
        ) from error


def _builder(
    dataset: str, data_dir: Path | None, on_bad_image: OnBadImage = "fail"
) -> tfds.core.DatasetBuilder:
    configs = {config.name: config for config in tfds_ham10000.Builder.BUILDER_CONFIGS}
    look_up(configs, dataset, "The dataset (--data.dataset or --config)")
    return tfds_ham10000.Builder(
        config=dataset, data_dir=data_dir, on_bad_image=on_bad_image
    )
