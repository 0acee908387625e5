"""DermaMNIST: HAM10000 in small arrays, and its corrected and extended versions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfds_ham10000.image_files import open_npz
from tfds_ham10000.published.layout import (
    TableFile,
    TableLayout,
    only,
    read_frame,
)
from tfds_ham10000.records import CLASS_NAMES, SourceError, join_first
from tfds_ham10000.table.cells import Table, to_table
from tfds_ham10000.table.images import ArrayImage
from tfds_ham10000.table.values import parse_column

SPLITS = ("train", "val", "test")
SPLIT_OF = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
ARRAYS = tuple(f"{split}_{part}" for split in SPLITS for part in ("images", "labels"))
ID_TABLES = {
    r"dermamnist(_\d+)?\.npz": "dermamnist_split_info.csv",
    r"dermamnist_corrected_\d+\.npz": "DermaMNIST-C.csv",
}
"""The table with the ISIC IDs of the images, by regular expression of the name of the file
of arrays; the IDs of other files are not read.

Abhishek, Jain and Hamarneh (2024), arXiv:2401.14497, publish both tables."""


def read_arrays(tables: Sequence[TableFile], others: Sequence[TableFile]) -> Table:
    """Returns the images and labels, with the ISIC IDs if their table is present.

    With ISIC IDs (`ID_TABLES`), the lesions are known, and the builder assigns the training
    images to the folds of HAM10000. Otherwise the image_id consists of the split and the
    number of the image in it, counted from 0, such as "train/00012".

    Raises:
        OptionError: There are several files of arrays.
        SourceError: The arrays cannot be read or are invalid, or the table of the IDs is
            invalid, does not fit them, or has an `index` that is not an integer.
        KeyError: The table of the IDs lacks the column `split` or `image_id`.
    """
    file = only(tables)
    path = Path(str(file.path))
    with open_npz(path, "Download it again.") as arrays:
        content = {name: arrays[name] for name in ARRAYS}
    frames = []
    for split in SPLITS:
        labels = content[f"{split}_labels"].reshape(-1)
        _check_arrays(content[f"{split}_images"], labels, f"{path}, {split}")
        names = [f"{split}/{number:05d}" for number in range(len(labels))]
        classes = [CLASS_NAMES[label] for label in labels]
        frames.append(pd.DataFrame({"image": names, "label": classes, "split": split}))
    frame = pd.concat(frames, ignore_index=True)
    for pattern, name in ID_TABLES.items():
        ids = [table for table in others if table.has_name(re.escape(name))]
        if file.has_name(pattern) and ids:
            frame = _with_ids(frame, ids[0])
    images = [image for split in SPLITS for image in content[f"{split}_images"]]
    stored = dict(zip(frame["image"], map(ArrayImage, images), strict=True))
    return replace(to_table(path, frame), images=stored)


def _check_arrays(images: npt.NDArray[Any], labels: npt.NDArray[Any], where: str) -> None:
    valid = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    if (
        not valid
        or not np.issubdtype(labels.dtype, np.integer)
        or len(images) != len(labels)
        or not np.isin(labels, range(len(CLASS_NAMES))).all()
    ):
        raise SourceError(
            f"{where}: expected images, uint8 [num_images, height, width, 3], and a label "
            f"in 0..{len(CLASS_NAMES) - 1} for each. Received: images {images.dtype} "
            f"{list(images.shape)}, labels {labels.dtype} {list(labels.shape)} with the "
            f"values {join_first([str(value) for value in np.unique(labels)])}."
        )


def _with_ids(frame: pd.DataFrame, table: TableFile) -> pd.DataFrame:
    """Returns the rows with the ISIC ID as image, and with further columns of the table."""
    ids = read_frame(table)
    ids["split"] = ids["split"].map(lambda cell: SPLIT_OF.get(cell.lower(), cell))
    if "index" in ids:
        indexes = parse_column(ids["index"], int, str(table.path), "an integer")
        ids = ids.assign(index=indexes).sort_values("index", kind="stable")
    parts = [ids[ids["split"] == split] for split in SPLITS]
    ids = pd.concat(parts, ignore_index=True)
    fits = ids["split"].tolist() == frame["split"].tolist()
    if fits and "dx" in ids:
        fits = ids["dx"].tolist() == frame["label"].tolist()
    if not fits:
        raise SourceError(
            f"{table.path} does not fit the file of arrays. Expected its rows, and their "
            "diagnoses, in the order of the images of each split."
        )
    known = ids.drop(columns=["split", "index", "dx"], errors="ignore")
    known["image"] = known.pop("image_id")
    return frame.drop(columns="image").join(known)


DERMAMNIST = TableLayout(
    title="DermaMNIST",
    name="dermamnist",
    files="dermamnist.npz (or another size), and optionally dermamnist_split_info.csv; or "
    "dermamnist_corrected_28.npz and DermaMNIST-C.csv",
    reference="Yang et al. (2023), doi:10.1038/s41597-022-01721-8",
    header=ARRAYS,
    other_tables="|".join(map(re.escape, ID_TABLES.values())),
    file_name=r"dermamnist.*\.npz",
    notes=(
        "DermaMNIST is HAM10000, and 886 of the 2,005 test images of the original version "
        "show a lesion of its training set; with the ISIC IDs of dermamnist_split_info.csv "
        "or DermaMNIST-C.csv, the lesions are known, and the training images are in the "
        "folds of HAM10000",
    ),
    read=read_arrays,
)
