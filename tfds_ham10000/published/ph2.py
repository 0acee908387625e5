"""PH2: a text file with two vertical bars between its columns, or an Excel file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tfds_ham10000.image_files import ARCHIVE_ERRORS
from tfds_ham10000.published.layout import TableFile, TableLayout
from tfds_ham10000.records import SourceError
from tfds_ham10000.table.cells import (
    EXCEL_SUFFIXES,
    Table,
    TablePath,
    open_table,
    to_table,
)

NAME, DIAGNOSIS = "Name", "Clinical Diagnosis"
CLASSES = {"0": "common nevus", "1": "atypical nevus", "2": "melanoma"}
"""The class by number, as the legend of the text file defines it."""
MARKED = ("Common Nevus", "Atypical Nevus", "Melanoma")
"""Columns of the Excel file, in the order of `CLASSES`. A cell with any text, usually X,
marks the class."""


def read_ph2(tables: Sequence[TableFile], _: Sequence[TableFile]) -> Table:
    """Returns the names and diagnoses from the text file, or else from the Excel file.

    Raises:
        SourceError: The file is invalid, or an image does not have exactly one class.
    """
    path = min((table.path for table in tables), key=lambda p: p.name.endswith("x"))
    if isinstance(path, Path) and path.suffix.lower() in EXCEL_SUFFIXES:
        return _to_table(path, _read_excel(path))
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except ARCHIVE_ERRORS as error:
        raise SourceError(f"{path} cannot be read: {error}.") from error
    rows = {
        number: [cell.strip() for cell in line.split("||")]
        for number, line in enumerate(lines, 1)
        if line.strip().startswith("||") and "IMD" in line
    }
    if not rows:  # a copy with tabs and a header
        return open_table(path)
    cells = {number: (row[1], "".join(row[3:4])) for number, row in rows.items()}
    return _to_table(path, cells)


def _read_excel(path: Path) -> dict[int, tuple[str, str]]:
    """Returns the image and its class (see `CLASSES`), by the number of the row.

    The class is "" if none is marked, and such as "0 and 2" if several are. Rows without an
    image are left out.
    """
    try:
        sheet = pd.read_excel(path, header=None, dtype=object, na_filter=False)
    except Exception as error:  # openpyxl raises various exceptions for damaged files
        raise SourceError(f"{path} cannot be read: {error}.") from error
    lines = [[" ".join(str(cell).split()) for cell in row] for row in sheet.to_numpy()]
    start = next((i for i, row in enumerate(lines) if "Image Name" in row), None)
    if start is None or not set(MARKED) <= set(lines[start]):
        raise SourceError(
            f"{path} has no row with the names of the columns. Expected: Image Name, "
            f"{', '.join(MARKED)}."
        )
    columns = {name: lines[start].index(name) for name in ("Image Name", *MARKED)}
    cells: dict[int, tuple[str, str]] = {}
    for number, row in enumerate(lines[start + 1 :], start + 2):
        marks = [str(i) for i, name in enumerate(MARKED) if row[columns[name]]]
        if row[columns["Image Name"]]:
            cells[number] = (row[columns["Image Name"]], " and ".join(marks))
    return cells


def _to_table(path: TablePath, cells: dict[int, tuple[str, str]]) -> Table:
    for number, (name, diagnosis) in cells.items():
        if diagnosis not in CLASSES:
            raise SourceError(
                f"{path}, row {number}: {name} must have exactly one of the classes "
                f"{', '.join(f'{k} ({v})' for k, v in CLASSES.items())}. "
                f"Received: {diagnosis!r}."
            )
    frame = pd.DataFrame.from_dict(cells, orient="index", columns=[NAME, DIAGNOSIS])
    return to_table(path, frame)


PH2 = TableLayout(
    title="PH2",
    name="ph2",
    files="PH2_dataset.txt (or .xlsx) and the directory 'PH2 Dataset images'",
    reference="Mendonca et al. (2013), doi:10.1109/EMBC.2013.6610779",
    file_name=r"PH2_dataset\.(txt|xlsx)",
    columns={"image": NAME, "label": DIAGNOSIS},
    cells={DIAGNOSIS: CLASSES},
    other_images=r"imd\d+_.*",
    notes=("patients and lesions are not published; PH2Dataset.rar has to be unpacked",),
    read=read_ph2,
)
