"""Reproduces the published folds of HAM10000, and the search for its near-duplicates."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from skincnn.cli.help.text import parse_arguments
from skincnn.files import require_writable_file, require_writable_folder, write_text
from tfds_ham10000 import folds, sources
from tfds_ham10000.image_decoding import CheckedImages, require_valid
from tfds_ham10000.image_files import Images
from tfds_ham10000.near_duplicates import (
    FeatureFile,
    extract_features,
    find_near_duplicates,
)
from tfds_ham10000.records import Record

PAIRS_PER_SHEET = 14


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Groups lesions of HAM10000 by near-duplicates, and assigns the groups to ten folds.

    The package always uses the published folds, which this command reproduces from the
    published pairs of near-duplicates. With --search, it also searches for near-duplicates.

    Example: skincnn make-folds --manual-dir DIR --search near_duplicates
    """

    manual_dir: Path
    """Directory with the published files of HAM10000."""
    output: Path = Path("folds_isic2018.csv")
    """CSV file to write, with the columns image_id, lesion_id, group_id and fold."""
    search: Path | None = None
    """Also search for near-duplicates, and write the results to this directory: the pairs
    with different lesion_ids (pairs.csv), and contact sheets of those pairs that have not
    been judged by eye yet. The share of the pairs of images with the same lesion_id that
    the search finds is printed."""


def command() -> None:
    """Writes the CSV file, and compares it with the published one.

    With --search, also searches for near-duplicates.
    """
    arguments = parse_arguments(Arguments)
    require_writable_file(arguments.output, "--output")
    if arguments.search is not None:
        require_writable_folder(arguments.search, "--search")
    source = sources.read_source(arguments.manual_dir, "isic2018")
    records = source.splits["train"]
    pairs = folds.judged_pairs().query("judgment != 'different'")
    joined = pairs[["image_id_1", "image_id_2"]].itertuples(index=False, name=None)
    assignments = folds.assign_images(records, joined, published={})
    text = folds.to_csv(records, assignments)
    write_text(arguments.output, text)
    num_groups = len({assignment.group_id for assignment in assignments.values()})
    num_lesions = len({record.lesion_id for record in records})
    print(f"{len(pairs)} pairs of near-duplicates with different lesion_ids")
    print(f"{len(records)} images, {num_lesions} lesions, {num_groups} groups")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    print(f"{arguments.output}: SHA-256 {sha256}")
    equal = sha256 == folds.PUBLISHED_SHA256
    print(f"The file is {'equal to' if equal else 'DIFFERENT from'} the published file.")
    if arguments.search is not None:
        _search(records, source.images, arguments.search)


def _search(records: Sequence[Record], images: Images, folder: Path) -> None:
    """Searches for near-duplicates, and writes pairs.csv and the contact sheets."""
    lesion_of = {record.image_id: record.lesion_id for record in records}
    with tempfile.TemporaryDirectory() as spool:
        features = FeatureFile(Path(spool))
        checked = CheckedImages(
            images,
            [*lesion_of],
            Path(spool),
            inspect=extract_features,
            store=features.add,
        )
        require_valid(checked.errors, len(lesion_of), "fail")
        found = pd.DataFrame(find_near_duplicates(features))
    lesions = [found[side].map(lesion_of) for side in ("first", "second")]
    across = found[lesions[0] != lesions[1]]
    known = folds.count_known_pairs(lesion_of, lesion_of)
    num_found = len(found) - len(across)
    print(
        f"Found {num_found} of {known} pairs of images with the same lesion_id "
        f"({num_found / known:.1%}), and {len(across)} pairs with different lesion_ids."
    )
    across = across.rename(columns={"first": "image_id_1", "second": "image_id_2"})
    judged = folds.judged_pairs()[["image_id_1", "image_id_2", "judgment"]]
    across = across.merge(judged, "left").fillna({"judgment": "not judged"})
    write_text(folder / "pairs.csv", across.to_csv(index=False, lineterminator="\n"))
    print(across["judgment"].value_counts().to_string())
    new = across[across["judgment"] == "not judged"]
    for start in range(0, len(new), PAIRS_PER_SHEET):
        path = folder / f"sheet_{start // PAIRS_PER_SHEET:03d}.png"
        _draw_sheet(new.iloc[start : start + PAIRS_PER_SHEET], images, path)
    print(f"{folder / 'pairs.csv'} and contact sheets of {len(new)} pairs")


def _draw_sheet(pairs: pd.DataFrame, images: Images, path: Path) -> None:
    """Draws pairs of images with their image_ids, the method and the number of inliers."""
    figure = Figure(figsize=(14, 2.4 * PAIRS_PER_SHEET / 2), layout="constrained")
    axes = figure.subplots(PAIRS_PER_SHEET // 2, 4).reshape(-1, 2)
    for axis in axes.ravel():
        axis.set_axis_off()
    for row, pair in zip(axes, pairs.to_dict("records"), strict=False):
        for axis, side in zip(row, ("image_id_1", "image_id_2"), strict=True):
            axis.imshow(Image.open(io.BytesIO(images.read(pair[side]))))
            title = f"{pair[side]}  {pair['method']} {pair['num_inliers']}"
            axis.set_title(title, fontsize=9)
    figure.savefig(path)
