"""PH2: a text file with two vertical bars between its columns, and an Excel file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

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
"""Columns of the Excel file in which an X marks the class, in the order of `CLASSES`."""


def read_ph2(tables: Sequence[TableFile], _: Sequence[TableFile]) -> Table:
    """Returns the names and diagnoses from the text file, or else from the Excel file.

    Raises:
        SourceError: The file has no rows, or an image does not have exactly one class.
    """
    path = min((table.path for table in tables), key=lambda p: p.name.endswith("x"))
    if isinstance(path, Path) and path.suffix.lower() in EXCEL_SUFFIXES:
        return _to_table(path, _read_excel(path))
    lines = path.read_text(encoding="latin-1").splitlines()
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
    """Returns the image and the number of the class of each row below the header."""
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
            cells[number] = (row[columns["Image Name"]], "".join(marks))
    return cells


def _to_table(path: TablePath, cells: dict[int, tuple[str, str]]) -> Table:
    for number, (name, diagnosis) in cells.items():
        if diagnosis not in CLASSES:
            raise SourceError(
                f"{path}, row {number}: {name} must have exactly one of the classes "
                f"{', '.join(CLASSES.values())}. Received: {diagnosis!r}."
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
