"""The ISIC challenges of 2016, 2017, 2020 and 2025, and official sets of 2018 and 2019.

The official sets are the validation and test sets of 2018, and the test set of 2019.
The training sets of 2018 and 2019 are the configs isic2018 and isic2019.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from tfds_ham10000.published.layout import (
    TableFile,
    TableLayout,
    concatenate,
    find_one,
    join_metadata,
    only,
    read_frame,
)
from tfds_ham10000.records import CLASS_NAMES, ISIC2019_CLASS_NAMES, SourceError
from tfds_ham10000.table.cells import Table, TablePath, open_table, to_table
from tfds_ham10000.table.published import BITS, one_hot_label

LABEL = "label"
"""Name of the added column with the class."""
SPLIT_OF = {"training": "train", "validation": "val", "test": "test"}
"""The split by the word in the file name."""
CLASSES_2017 = ("melanoma", "seborrheic_keratosis")
"""Columns of 2017. An image that belongs to neither class is a nevus."""
PART = re.compile(r"Training|Validation|Test", re.IGNORECASE)
UNKNOWN_CLASS = "unk"
"""The class of the test images of ISIC 2019 that belong to no other class."""
TITLE_2019 = "ISIC challenge 2019, test set"
TITLE_2025 = "ISIC challenge 2025 (MILK10k)"
CLASSES_2025 = (
    *("AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA"),
    "VASC",
)


def read_2016(tables: Sequence[TableFile], _: Sequence[TableFile]) -> Table:
    """Returns the labels of the training or test set, or of both.

    The published tables have no header. The first row counts as a header only if it does
    not begin with ISIC_.

    Raises:
        SourceError: A table is invalid, or does not begin with two different cells.
    """
    frames = {}
    for table in tables:
        rows = open_table(table.path)
        first = dict.fromkeys(rows.names[:2])
        if len(first) < 2:
            raise SourceError(
                f"{table.path}: expected two columns, the image and its label. Received: "
                f"{rows.describe_names()}."
            )
        frame = rows.select(list(first)).set_axis(["image_id", LABEL], axis=1)
        if rows.names[0].startswith("ISIC_"):
            frame.loc[1] = rows.names[:2]
        frames[table.path] = frame.assign(split=_split(table))
    return to_table(tables[0].path, concatenate(frames))


def read_2017(tables: Sequence[TableFile], others: Sequence[TableFile]) -> Table:
    """Returns the labels of all splits whose table is present, with their metadata, if any.

    Raises:
        SourceError: A table is invalid.
        KeyError: The metadata lack the column `image_id`.
    """
    metadata = [read_frame(table) for table in others]
    frames = {}
    for table in tables:
        frame = read_frame(table).rename(columns={"image_id": "image"})
        rows = frame[list(CLASSES_2017)].to_numpy().tolist()
        neither = [not any(map(BITS.get, row)) for row in rows]
        frame["nevus"] = [str(int(value)) for value in neither]
        columns = {name: name for name in ("nevus", *CLASSES_2017)}
        frame[LABEL] = _one_hot(frame, columns, table.path)
        frames[table.path] = frame.assign(split=_split(table))
    frame = concatenate(frames)[["image", LABEL, "split"]]
    if metadata:
        joined = pd.concat(metadata).rename(columns={"image_id": "image"})
        frame = join_metadata(frame, joined, "image")
    return to_table(tables[0].path, frame)


def read_2018_test(tables: Sequence[TableFile], _: Sequence[TableFile]) -> Table:
    """Returns the labels of the official validation or test set of task 3, or of both.

    Raises:
        SourceError: A table is invalid.
        KeyError: A table lacks a column.
    """
    columns = {name.upper(): name for name in CLASS_NAMES}
    frames = {}
    for table in tables:
        frame = read_frame(table).rename(columns={"image_id": "image", "dx": LABEL})
        # The challenge has a column per class; Harvard Dataverse has the column dx.
        if LABEL not in frame:
            frame[LABEL] = _one_hot(frame, columns, table.path)
        frames[table.path] = frame
    return to_table(tables[0].path, concatenate(frames))


def read_2019_test(tables: Sequence[TableFile], others: Sequence[TableFile]) -> Table:
    """Returns the labels and the metadata of the official test set.

    Raises:
        OptionError: There are several tables of labels.
        SourceError: The labels are invalid, or the metadata are missing or invalid.
        KeyError: A table lacks a column.
    """
    table = only(tables)
    frame = read_frame(table)
    columns = {name.upper(): name for name in (*ISIC2019_CLASS_NAMES, UNKNOWN_CLASS)}
    frame[LABEL] = _one_hot(frame, columns, table.path)
    metadata = find_one(others, "ISIC_2019_Test_Metadata.csv", TITLE_2019)
    frame = join_metadata(frame[["image", LABEL]], read_frame(metadata), "image")
    return to_table(table.path, frame)


def read_2020(tables: Sequence[TableFile], _: Sequence[TableFile]) -> Table:
    """Returns the table with the most columns: version 2 has a lesion_id.

    Raises:
        SourceError: The table is invalid.
    """
    return open_table(max(tables, key=lambda table: len(table.names)).path)


def read_2025(tables: Sequence[TableFile], others: Sequence[TableFile]) -> Table:
    """Returns the images, with the label of their lesion; "" if it has none.

    Raises:
        OptionError: There are several tables of images.
        SourceError: The table of the images is invalid, or the labels are missing or
            invalid.
    """
    table = only(tables)
    labels = find_one(others, "MILK10k_Training_GroundTruth.csv", TITLE_2025)
    lesions = read_frame(labels, ("lesion_id", *CLASSES_2025))
    columns = {name: name for name in CLASSES_2025}
    lesions[LABEL] = _one_hot(lesions, columns, labels.path, key="lesion_id")
    lesions = lesions[["lesion_id", LABEL]]
    return to_table(table.path, join_metadata(read_frame(table), lesions, "lesion_id"))


def _split(table: TableFile) -> str:
    part = PART.search(table.path.name)
    return SPLIT_OF[part[0].lower()] if part else "train"


def _one_hot(
    frame: pd.DataFrame, columns: Mapping[str, str], path: TablePath, key: str = "image"
) -> list[str]:
    """Returns the class of each row; `columns` are the classes by column."""
    names = [key, *columns]
    labels = []
    for number, row in zip(frame.index, frame[names].to_numpy().tolist(), strict=True):
        cells = dict(zip(names, row, strict=True))
        labels.append(one_hot_label((f"{path}, row {number}", cells), columns, key))
    return labels


NO_IDS = "patients and lesions are not published"
ISIC_2016 = TableLayout(
    title="ISIC challenge 2016, part 3",
    name="isic2016",
    files="ISBI2016_ISIC_Part3_Training_GroundTruth.csv, "
    "ISBI2016_ISIC_Part3_Training_Data.zip, and the same for Test",
    reference="Gutman et al. (2016), arXiv:1605.01397",
    file_name=r"ISBI2016_ISIC_Part3B?_(Training|Test)_GroundTruth\.csv",
    columns={"label": LABEL},
    cells={LABEL: {"0.0": "benign", "1.0": "malignant"}},
    other_images=r"isic_\d+_segmentation",
    notes=(
        f"{NO_IDS}; 305 of the 379 test images are also in the training set of 2017, and "
        "353 in that of 2019",
    ),
    read=read_2016,
)
ISIC_2017 = TableLayout(
    title="ISIC challenge 2017, part 3",
    name="isic2017",
    files="ISIC-2017_Training_Part3_GroundTruth.csv, ISIC-2017_Training_Data.zip, and the "
    "same for Validation and Test_v2",
    reference="Codella et al. (2018), arXiv:1710.05006",
    file_name=r"ISIC-2017_(Training|Validation|Test(_v2)?)_Part3_GroundTruth\.csv",
    other_tables=r"ISIC-2017_.*_metadata\.csv",
    header=("image_id", *CLASSES_2017),
    columns={"label": LABEL},
    other_images=r"isic_\d+(_downsampled)?_(superpixels|segmentation)",
    notes=(
        f"{NO_IDS}; all training images, and 594 of the 600 test images, are also in the "
        "training set of ISIC 2019, many as ISIC_..._downsampled",
    ),
    read=read_2017,
)
ISIC_2018_TEST = TableLayout(
    title="ISIC challenge 2018, task 3, validation and test set",
    name="isic2018_test",
    files="ISIC2018_Task3_Test_GroundTruth.csv and ISIC2018_Task3_Test_Input.zip, or the "
    "same for Validation",
    reference="Codella et al. (2019), arXiv:1902.03368",
    file_name=r"ISIC2018_Task3_(Validation|Test)_GroundTruth\.(csv|tab)",
    columns={"label": LABEL, "image": "image"},
    notes=(
        "all images are also in the test set of ISIC 2019; the challenge does not publish "
        "their lesions, but Harvard Dataverse does for the test set",
    ),
    read=read_2018_test,
)
ISIC_2019_TEST = TableLayout(
    title=TITLE_2019,
    name="isic2019_test",
    files="ISIC_2019_Test_GroundTruth.csv, ISIC_2019_Test_Metadata.csv and "
    "ISIC_2019_Test_Input.zip",
    reference="Combalia et al. (2019), arXiv:1908.02288",
    file_name=r"ISIC_2019_Test_GroundTruth\.csv",
    other_tables=r"ISIC_2019_Test_Metadata\.csv",
    columns={"label": LABEL},
    cells={LABEL: {UNKNOWN_CLASS: None}},
    notes=(
        "lesions are not published; the images of class UNK are left out; the official "
        "test and validation sets of ISIC 2018 are part of this test set",
    ),
    read=read_2019_test,
)
ISIC_2020 = TableLayout(
    title="ISIC challenge 2020 (SIIM-ISIC)",
    name="isic2020",
    files="ISIC_2020_Training_GroundTruth_v2.csv (or train.csv of Kaggle) and the images "
    "of ISIC_2020_Training_JPEG.zip",
    reference="Rotemberg et al. (2021), doi:10.1038/s41597-021-00815-z",
    header=("image_name", "patient_id", "benign_malignant", "target"),
    columns={"label": "benign_malignant"},
    notes=(
        "the diagnosis of 27,124 benign images is unknown, so the label is "
        "benign_malignant; 425 pairs of images are published as duplicates, each of one "
        "patient",
    ),
    read=read_2020,
)
ISIC_2025 = TableLayout(
    title=TITLE_2025,
    name="milk10k",
    files="MILK10k_Training_Metadata.csv, MILK10k_Training_GroundTruth.csv and "
    "MILK10k_Training_Input.zip",
    reference="MILK study team (2025), doi:10.34970/648456",
    header=("lesion_id", "isic_id", "image_type"),
    file_name=r"MILK10k_Training_Metadata\.csv",
    other_tables=r"MILK10k_Training_GroundTruth\.csv",
    columns={"label": LABEL, "dataset": "attribution"},
    cells={LABEL: {"": None}},
    notes=(
        "each lesion has a dermatoscopic and a clinical image; patients are not published; "
        "skin_tone_class is not the Fitzpatrick skin type, and is not used",
    ),
    read=read_2025,
)
