"""Recomputes the published folds of HAM10000 from the published files."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from skincnn.files import write_text
from tfds_ham10000 import folds, sources
from tfds_ham10000.image_decoding import CheckedImages, require_valid
from tfds_ham10000.near_duplicates import find_near_duplicates, perceptual_hashes


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Groups lesions of HAM10000 by near-duplicates, and assigns the groups to ten folds.

    The package always uses the published folds, which this command reproduces.

    Example: python scripts/make_folds.py --manual-dir DIR --output folds.csv
    """

    manual_dir: Path
    """Directory with the published files of HAM10000."""
    output: Path = Path("folds_isic2018.csv")
    """CSV file to write, with the columns image_id, lesion_id, group_id and fold."""


def command() -> None:
    """Hashes all images, writes the CSV file, and compares it with the published file."""
    arguments = tyro.cli(Arguments)
    source = sources.read_source(arguments.manual_dir, "isic2018")
    records = source.splits["train"]
    ids = [record.image_id for record in records]
    with tempfile.TemporaryDirectory() as folder:
        images = CheckedImages(source.images, ids, Path(folder), inspect=perceptual_hashes)
        require_valid(images.errors, len(ids), "fail")
    pairs = find_near_duplicates(images.inspected)
    assignments = folds.assign_images(records, pairs, published={})
    text = folds.to_csv(records, assignments)
    write_text(arguments.output, text)
    num_groups = len({assignment.group_id for assignment in assignments.values()})
    num_lesions = len({record.lesion_id for record in records})
    print(f"{len(pairs)} pairs of near-duplicates")
    print(f"{len(records)} images, {num_lesions} lesions, {num_groups} groups")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    print(f"{arguments.output}: SHA-256 {sha256}")
    equal = sha256 == folds.PUBLISHED_SHA256
    print(f"The file is {'equal to' if equal else 'DIFFERENT from'} the published file.")
