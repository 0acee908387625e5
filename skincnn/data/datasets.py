"""The datasets on disk: building one, opening one, and what its labels are called."""

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
    """Returns the names of a dataset's labels, in order.

    They need no data on disk, except those of "folder".

    Raises:
        ConfigError: No such dataset.
        DataError: The names are those of folders, and it was not built yet.
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
    """Builds a dataset on disk, if it is not there yet, and returns its TFDS builder.

    Args:
        dataset: The config of `tfds_ham10000`: "demo", "isic2018", ...
        data_dir: Where built datasets lie; TFDS's own folder by default.
        manual_dir: The folder that holds the published files. Without it those of
            "isic2018" are downloaded; the synthetic ones need none.
        on_bad_image: What to do about pictures that cannot be used; "skip" leaves up to
            1 % of them out.

    Raises:
        ConfigError: No such config, or `data_dir` cannot be written to.
        SourceError: The published files are missing, incomplete or damaged.
    """
    builder = _builder(dataset, data_dir, on_bad_image)
    config = builder.builder_config
    if _is_prepared(builder):
        if config.class_names is None and manual_dir is not None:
            _require_same_folder(builder, manual_dir)
        return builder
    if data_dir is not None:
        require_writable_folder(data_dir, "--data-dir")
    if config.synthetic:
        manual_dir = None
    elif manual_dir is not None:
        # Wrong files are refused before TFDS begins to write.
        sources.read_source(manual_dir, config.source)
    elif not config.downloadable:
        raise DataError(
            f"The dataset {dataset!r} needs files that this command cannot download. "
            f"Expected: --manual-dir DIR, a folder that holds one of these:\n"
            f"{sources.where_to_get(config.source)}"
        )
    if config.synthetic or manual_dir is not None:
        # The builder shows a bar of its own; TFDS would add three for each split.
        tfds.disable_progress_bar()
    _build(builder, manual_dir)
    return builder


def is_built(dataset: str, data_dir: Path | None = None) -> bool:
    """Returns whether a dataset is on disk.

    Raises:
        ConfigError: No such config.
    """
    return _is_prepared(_builder(dataset, data_dir))


def open_dataset(dataset: str, data_dir: Path | None = None) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of a dataset that is on disk; builds synthetic ones.

    Raises:
        ConfigError: No such config.
        DataError: The dataset was not built yet.
    """
    builder = _builder(dataset, data_dir)
    if _is_prepared(builder):
        return builder
    if not builder.builder_config.synthetic:
        where = "" if data_dir is None else f" --data-dir {data_dir}"
        raise DataError(
            f"The dataset {dataset!r} is not built yet in {builder.data_dir}. Build it "
            f"once: python scripts/prepare_data.py --config {dataset} --manual-dir "
            f"DIR{where}"
        )
    return prepare_dataset(dataset, data_dir)


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    # TFDS warns of a folder that is not there, as if it ought to be.
    return Path(builder.data_dir).is_dir() and bool(builder.is_prepared())


def _require_same_folder(builder: tfds.core.DatasetBuilder, manual_dir: Path) -> None:
    built_from = builder.read_report()["source"]
    if built_from != str(manual_dir.resolve()):
        raise ConfigError(
            f"{builder.data_dir} was built from {built_from}, not from {manual_dir}. Give "
            "another --data-dir, or delete that dataset first."
        )


def _build(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=None if manual_dir is None else manual_dir.resolve()
            )
        )
    except (OSError, tf.errors.OpError, RuntimeError) as error:
        # A full disk, a quota, or a folder of somebody else's; TFDS wraps some of them.
        cause = error.__cause__ if type(error) is RuntimeError else error
        if not isinstance(cause, OSError | tf.errors.OpError):
            raise
        raise ConfigError(
            f"The dataset cannot be written to {builder.data_dir} ({error}). Nothing was "
            "left there. Make room, or give another --data-dir, and run the command again."
        ) from error


def _builder(
    dataset: str, data_dir: Path | None, on_bad_image: OnBadImage = "fail"
) -> tfds.core.DatasetBuilder:
    configs = {config.name: config for config in tfds_ham10000.Builder.BUILDER_CONFIGS}
    look_up(configs, dataset, "The dataset (--data.dataset, --config)")
    return tfds_ham10000.Builder(
        config=dataset, data_dir=data_dir, on_bad_image=on_bad_image
    )
