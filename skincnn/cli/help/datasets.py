"""Lists the datasets and what has been built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skincnn.cli import common
from skincnn.cli.help.text import parse_arguments
from skincnn.errors import DataError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

    from tfds_ham10000.configs import Ham10000Config


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Lists the datasets that --data.datasets can name, and which of them are built.

    For example:
      skincnn datasets
      skincnn datasets --data-dir /data/tfds
    """

    data_dir: Path | None = None
    """Directory of the built datasets; by default, that of TFDS."""


def command() -> None:
    """Prints the description of each dataset, and its size or how to build it.

    Raises:
        ConfigError: --data-dir cannot be used.
        DataError: Datasets are damaged; all others were listed.
    """
    arguments = parse_arguments(Arguments)
    common.load_tensorflow()
    from skincnn.data.datasets import built_datasets, open_dataset
    from tfds_ham10000.configs import CONFIGS, own_config

    published = {config.name: config for config in CONFIGS}
    built = built_datasets(arguments.data_dir)
    own = {name: own_config(name, "table") for name in built if name not in published}
    errors = []
    for name, config in {**published, **own}.items():
        text = f"not built: {_how_to_build(config)}"
        if name in built:
            try:
                text = _describe(open_dataset(name, arguments.data_dir))
            except DataError as error:
                text = "damaged"
                errors.append(str(error))
        print(f"{name}\n  {config.description}\n  {text}\n")
    if errors:
        raise DataError("\n".join(errors))


def _describe(builder: tfds.core.DatasetBuilder) -> str:
    images = sum(split.num_examples for split in builder.info.splits.values())
    size = builder.info.dataset_size / 1e6
    return f"built: {images} images, {size:.0f} MB, in {builder.data_dir}"


def _how_to_build(config: Ham10000Config) -> str:
    if config.synthetic:
        return "built when it is first used"
    command = f"skincnn prepare-data --config {config.name}"
    if config.downloadable:
        return f"{command} downloads 3 GB; with --manual-dir DIR, it reads existing files"
    return f"{command} --manual-dir DIR{' --name NAME' if config.own else ''}"
