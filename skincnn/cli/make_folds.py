"""Makes the published folds of HAM10000 again, from the published files."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from skincnn.files import write_text
from tfds_ham10000 import folds, sources
from tfds_ham10000.near_duplicates import find_similar, perceptual_hashes
from tfds_ham10000.pictures import CheckedImages, refuse_bad


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Groups HAM10000's lesions by near-duplicate pictures and deals them to ten folds.

    The package reads the published file and no other; this script shows how it was made.

    Example: python scripts/make_folds.py --manual-dir DIR --output folds.csv
    """

    manual_dir: Path
    """The folder with HAM10000's published files."""
    output: Path = Path("folds_isic2018.csv")
    """The CSV to write: image_id, lesion_id, group_id, fold."""


def command() -> None:
    """Parses, hashes every picture, and writes the CSV."""
    arguments = tyro.cli(Arguments)
    source = sources.read_source(arguments.manual_dir, "isic2018")
    records = source.splits["train"]
    ids = [record.image_id for record in records]
    with tempfile.TemporaryDirectory() as folder:
        images = CheckedImages(source.images, ids, Path(folder), look=perceptual_hashes)
        refuse_bad(images.bad, len(ids), "fail")
    similar = find_similar(images.seen)
    places = folds.place(records, similar, published={})
    text = folds.to_csv(records, places)
    write_text(arguments.output, text)
    groups = len({place.group_id for place in places.values()})
    lesions = len({record.lesion_id for record in records})
    print(f"{len(similar)} pairs of pictures show one lesion")
    print(f"{len(records)} pictures, {lesions} lesions, {groups} groups")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    same = sha256 == folds.PUBLISHED_SHA256
    print(f"{arguments.output}: SHA-256 {sha256}")
    print("It is the published file." if same else "It is NOT the published file.")
