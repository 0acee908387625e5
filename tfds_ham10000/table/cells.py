"""Reading the cells of a table: CSV in any common form, Excel or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tfds_ham10000.records import SourceError

CSV_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
EXCEL_SUFFIXES = (".xlsx", ".xlsm")
PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *EXCEL_SUFFIXES, *PARQUET_SUFFIXES)
DELIMITERS = ",;\t|"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-16."""

Rows = Iterator[tuple[int, Sequence[str]]]
"""The number of a row in the file, counted from 1, and its cells."""


@dataclass(frozen=True)
class Table:
    """The cells of a table as text.

    Attributes:
        path: The file.
        names: The names of the columns.
        notes: Messages for the user.
        rows: The rows, which can be read once.
    """

    path: Path
    names: list[str]
    notes: list[str]
    rows: Rows

    def select(self, columns: Sequence[str]) -> pd.DataFrame:
        """Returns some columns without surrounding whitespace; "" for missing cells.

        The index is the number of the row in the file. Empty rows are left out.

        Raises:
            SourceError: A row has too many cells, or there are no rows.
        """
        positions = [self.names.index(name) for name in columns]
        numbers: list[int] = []
        cells: list[list[str]] = []
        try:
            for number, row in self.rows:
                if not any(cell.strip() for cell in row):
                    continue
                if any(cell.strip() for cell in row[len(self.names) :]):
                    raise SourceError(
                        f"{self.path}, row {number} has more cells than the header has "
                        "columns. Put text that contains the separator in quotes."
                    )
                numbers.append(number)
                cells.append([row[i].strip() if i < len(row) else "" for i in positions])
        except csv.Error as error:
            raise SourceError(f"{self.path} is not a valid CSV file: {error}.") from error
        if not cells:
            raise SourceError(f"{self.path} has no rows. Expected one row per image.")
        return pd.DataFrame(cells, index=numbers, columns=list(columns), dtype=str)


def open_table(path: Path) -> Table:
    """Opens a table; the first row contains the names of the columns.

    The format is recognized by the suffix. A CSV file may be separated by commas,
    semicolons, tabs or vertical bars, and encoded in UTF-8, UTF-16 or Windows-1252.

    Raises:
        SourceError: The file cannot be read as a table.
    """
    suffix = path.suffix.lower()
    if suffix in (*EXCEL_SUFFIXES, *PARQUET_SUFFIXES):
        frame, notes = _read_frame(path)
        columns = [_to_text(frame.iloc[:, i]) for i in range(frame.shape[1])]
        rows = enumerate(zip(*columns, strict=True), 2)
        return Table(path, [str(name).strip() for name in frame.columns], notes, rows)
    try:
        text, notes = _decode(path.read_bytes(), path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}.") from error
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=lambda mark: len(_split(header, mark)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise SourceError(f"{path} is not a valid CSV file: {error}.") from error
    while names and not names[-1]:  # a separator at the end of each row
        names.pop()
    return Table(path, names, notes, ((reader.line_num, row) for row in reader))


def _decode(content: bytes, path: Path) -> tuple[str, list[str]]:
    if content.startswith(UTF_16):
        return content.decode("utf-16", errors="replace"), []
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        if b"\0" in content:
            raise SourceError(
                f"{path} is not a text file. Expected a table: {', '.join(TABLE_SUFFIXES)}."
            ) from None
        note = f"{path.name} is not encoded in UTF-8; it was read as Windows-1252"
        return content.decode("cp1252", errors="replace"), [note]


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _read_frame(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Reads an Excel or Parquet file; integers stay integers if cells are missing."""
    notes: list[str] = []
    try:
        if path.suffix.lower() in PARQUET_SUFFIXES:
            return pd.read_parquet(path, dtype_backend="numpy_nullable"), notes
        with pd.ExcelFile(path, engine="openpyxl") as book:
            if len(book.sheet_names) > 1:
                notes.append(
                    f"{path.name}: only the sheet {book.sheet_names[0]!r} was read"
                )
            return pd.read_excel(book, dtype=object, na_filter=False), notes
    # Both libraries raise various exceptions for damaged files.
    except Exception as error:
        raise SourceError(
            f"{path} cannot be read: {error}. Open it and save it as CSV UTF-8."
        ) from error


def _to_text(column: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else str(value) for value in column]
