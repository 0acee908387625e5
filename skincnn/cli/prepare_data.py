"""Builds a dataset once, so that training starts at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from skincnn.cli import common
from skincnn.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Builds a dataset on disk: checks every picture, then writes ten folds.

    What --manual-dir holds is recognised by the names in it: HAM10000 from Harvard
    Dataverse or Kaggle, the ISIC challenges of 2018 and 2019, or a folder of pictures for
    each class. Archives may stay packed.

    Example: python scripts/prepare_data.py --config isic2018 --manual-dir DIR
    """

    config: str = "demo"
    """demo, demo_tiny: synthetic pictures. isic2018: HAM10000. isic2019: 8 classes.
    isic2019_without_ham10000. Each of these three also as ..._256 and ..._400, the longest
    side in pixels. folder: your own pictures, a folder for each class; each such dataset
    needs a --data-dir of its own."""
    manual_dir: Path | None = None
    """The folder with the published files. Without it, isic2018 is downloaded (3 GB)."""
    data_dir: Path | None = None
    """Where built datasets lie; TFDS's own folder by default."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """Whether pictures that cannot be used are an error, or are left out, listed, and an
    error only if they are more than 1 %."""
    verify: bool = False
    """Compare the published files in --manual-dir with their published checksums."""


def command() -> None:
    """Parses, builds, and says where the dataset is and what is known of it."""
    arguments = tyro.cli(Arguments)
    common.load_tensorflow()
    from skincnn.data.datasets import is_built, prepare_dataset

    if arguments.verify:
        print_verified(arguments.manual_dir)
    before = is_built(arguments.config, arguments.data_dir)
    builder = prepare_dataset(
        arguments.config,
        arguments.data_dir,
        arguments.manual_dir,
        on_bad_image=arguments.on_bad_image,
    )
    if before:
        print("It was built before; to build it again, delete its folder first.")
    if builder.builder_config.synthetic:
        print("SYNTHETIC pictures: scores on them say nothing about skin lesions.")
    print(f"{builder.info.full_name} is built: {builder.data_dir}")
    for name, split in builder.info.splits.items():
        print(f"  {name}: {split.num_examples} pictures")
    print_report(builder.read_report())


def print_verified(manual_dir: Path | None) -> None:
    """Compares published files with their checksums, and prints which were compared."""
    from tfds_ham10000 import download

    if manual_dir is None:
        raise ConfigError(
            "--verify compares the files in --manual-dir with their published checksums. "
            "Expected: --manual-dir DIR. What is downloaded is compared in any case."
        )
    print(f"Unchanged since they were published: {', '.join(download.verify(manual_dir))}")


def print_report(report: dict[str, Any]) -> None:
    """Prints what `Builder.read_report` tells of a build."""
    if "source" in report:
        print(f"Made of the files in {report['source']}")
        print(f"  {report['changed']} picture(s) are not stored byte for byte")
    for image_id, reason in report.get("left_out", {}).items():
        print(f"  left out: {image_id}: {reason}")
    for note in report.get("notes", []):
        print(f"  note: {note}")
    missing = ", ".join(f"{name} {count}" for name, count in report["missing"].items())
    print(f"  pictures without a value: {missing}")
