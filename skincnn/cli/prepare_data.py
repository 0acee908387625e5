"""Builds a dataset for training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from skincnn.cli import common
from skincnn.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Builds a dataset on disk: checks all images and writes ten folds.

    The layout of --manual-dir is recognized by its file names: HAM10000 from Harvard
    Dataverse or Kaggle, the ISIC challenges of 2018 and 2019, or one directory of images
    per class. Archives need not be unpacked.

    Example: python scripts/prepare_data.py --config isic2018 --manual-dir DIR
    """

    config: str = "demo"
    """demo, demo_tiny: synthetic images; isic2018: HAM10000; isic2019: ISIC 2019;
    isic2019_without_ham10000: the images of isic2019 that are not in HAM10000; folder: your
    own images, with one directory per class and a separate --data-dir for each dataset. The
    suffix _256 or _400 of an ISIC dataset limits the longest side in pixels."""
    manual_dir: Path | None = None
    """Directory of the published files or of your own images. If omitted, the files of
    isic2018 are downloaded (3 GB)."""
    data_dir: Path | None = None
    """Directory of the built datasets; by default, the data directory of TFDS."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """What to do if images cannot be decoded. fail: list these images and exit; skip: list
    and omit these images, and fail only if they are more than 1 % of all images."""
    verify: bool = False
    """Verify the checksums of the published files in --manual-dir."""


def command() -> None:
    """Builds the dataset, and prints its directory, its splits and a report."""
    arguments = tyro.cli(Arguments)
    common.load_tensorflow()
    from skincnn.data.datasets import is_built, prepare_dataset
    from tfds_ham10000 import download

    if arguments.verify:
        if arguments.manual_dir is None:
            raise ConfigError(
                "--verify requires --manual-dir, the directory of the files to verify. "
                "Downloaded files are always verified."
            )
        names = ", ".join(download.verify(arguments.manual_dir))
        print(f"Checksums verified: {names}")
    already_built = is_built(arguments.config, arguments.data_dir)
    builder = prepare_dataset(
        arguments.config,
        arguments.data_dir,
        arguments.manual_dir,
        on_bad_image=arguments.on_bad_image,
    )
    if already_built:
        print("The dataset already exists. To build it again, delete its directory first.")
    if builder.builder_config.synthetic:
        print("SYNTHETIC images: their scores have no medical meaning.")
    print(f"{builder.info.full_name} is in {builder.data_dir}")
    for name, split in builder.info.splits.items():
        print(f"  {name}: {split.num_examples} images")
    report = builder.read_report()
    if report.source is not None:
        print(f"Built from {report.source}")
        print(f"  {report.changed} image(s) are not stored byte for byte")
    for image_id, reason in report.left_out.items():
        print(f"  skipped {image_id}: {reason}")
    for note in report.notes:
        print(f"  note: {note}")
    missing = ", ".join(f"{name} {count}" for name, count in report.missing.items())
    print(f"  missing values: {missing}")
