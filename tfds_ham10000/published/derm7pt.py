"""Derm7pt (release_v0): a dermatoscopic and a clinical image of each case."""

from __future__ import annotations

from collections.abc import Sequence

from tfds_ham10000.published.layout import (
    TableFile,
    TableLayout,
    find_one,
    read_frame,
    read_only_table,
)
from tfds_ham10000.records import SourceError
from tfds_ham10000.table.cells import Table, to_table
from tfds_ham10000.table.values import parse_column

TITLE = "Derm7pt"
SPLITS = {"train": "train", "val": "valid", "test": "test"}
"""The word in the name of the file of each split."""
NEVI = (
    *("clark nevus", "reed or spitz nevus", "dermal nevus", "blue nevus"),
    *("congenital nevus", "combined nevus", "recurrent nevus"),
)
MELANOMAS = (
    *("melanoma (in situ)", "melanoma (less than 0.76 mm)", "melanoma (0.76 to 1.5 mm)"),
    *("melanoma (more than 1.5 mm)", "melanoma metastasis"),
)


def read_cases(tables: Sequence[TableFile], others: Sequence[TableFile]) -> Table:
    """Returns the cases with their official splits.

    The table of a split contains the positions, counted from 0, of its cases in the table
    of all cases.

    Raises:
        OptionError: There are several tables of cases.
        SourceError: The table of the cases is invalid, that of a split is missing or
            invalid, or a case is not in exactly one split.
    """
    table = read_only_table(tables, others)
    frame = table.select_all()
    positions: list[int] = []
    names: list[str] = []
    for split, word in SPLITS.items():
        indexes = find_one(others, f"{word}_indexes.csv", TITLE)
        cells = read_frame(indexes, ("indexes",))["indexes"]
        rows = parse_column(cells, int, str(indexes.path), "the number of a row")
        positions += rows
        names += [split] * len(rows)
    if sorted(positions) != list(range(len(frame))):
        raise SourceError(
            f"The tables of the splits do not fit the table {table.path}. Expected each of "
            f"its {len(frame)} rows, counted from 0, in exactly one table of a split. Use "
            "the published tables without changes."
        )
    split_of = dict(zip(positions, names, strict=True))
    frame["split"] = [split_of[position] for position in range(len(frame))]
    return to_table(table.path, frame)


DERM7PT = TableLayout(
    title=TITLE,
    name="derm7pt",
    files="meta/meta.csv, meta/train_indexes.csv, valid_indexes.csv, test_indexes.csv and "
    "the directory images",
    reference="Kawahara et al. (2019), doi:10.1109/JBHI.2018.2824327",
    other_tables=r"(train|valid|test)_indexes\.csv",
    header=("derm", "clinic", "seven_point_score"),
    columns={"image": "derm", "lesion_id": "case_num"},
    image_columns=("derm", "clinic"),
    cells={
        "diagnosis": {
            **dict.fromkeys(NEVI, "nevus"),
            **dict.fromkeys(MELANOMAS, "melanoma"),
        }
    },
    notes=(
        "all nevi are one class, and all melanomas are one, as in the publication; "
        "--columns image=clinic reads the clinical images; patients are not published",
    ),
    read=read_cases,
)
