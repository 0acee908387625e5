"""Builds a dataset once, so that training starts at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from skincnn import cli


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Builds a dataset on disk: checks every picture, then writes ten folds.

    Example: python scripts/prepare_data.py --config isic2018 --manual-dir DIR
    """

    config: str = "demo"
    """demo and demo_tiny (made-up pictures), or isic2018 (HAM10000 as published)."""
    manual_dir: Path | None = None
    """The folder with the two HAM10000 archives and HAM10000_metadata.csv."""
    data_dir: Path | None = None
    """Where built datasets lie; TFDS's own folder by default."""


def command() -> None:
    """Parses, builds, and says where the dataset is."""
    arguments = tyro.cli(Arguments)
    cli.load_tensorflow()
    from skincnn.data.pipeline import is_built, prepare_dataset

    before = is_built(arguments.config, arguments.data_dir)
    builder = prepare_dataset(arguments.config, arguments.data_dir, arguments.manual_dir)
    if before:
        print("It was built before; to build it again, delete its folder first.")
    if builder.builder_config.made_up:
        print("MADE-UP pictures: scores on them say nothing about skin lesions.")
    print(f"{builder.info.full_name} is built: {builder.data_dir}")
    for name, split in builder.info.splits.items():
        print(f"  {name}: {split.num_examples} pictures")


if __name__ == "__main__":
    cli.main(command)
