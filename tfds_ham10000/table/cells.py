"""Reading the cells of a table: CSV in any common form, Excel or Parquet."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tfds_ham10000.image_files import ARCHIVE_ERRORS
from tfds_ham10000.records import SourceError, compose, join_first
from tfds_ham10000.table.images import StoredImage

CSV_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
EXCEL_SUFFIXES = (".xlsx", ".xlsm", ".xls")
PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *EXCEL_SUFFIXES, *PARQUET_SUFFIXES)
DELIMITERS = ",;\t|"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-16."""
XLS, PARQUET = b"\xd0\xcf\x11\xe0", b"PAR1"
"""First bytes of Excel files of old versions or with a password, and of Parquet."""
HTML = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)
SAVE_AS_CSV = "Open it, and save it as CSV UTF-8."

HEADER_BYTES = 1 << 16
"""Number of bytes at the beginning of a file in which the header is expected."""
Rows = Iterator[tuple[int | str, Sequence[str]]]
"""For each row, its number in the file, and its cells. In a CSV file, the number is that of
the last line of the row, counted from 1. In an Excel or Parquet file, the first row below
the names of the columns has the number 2. Rows of arrays are counted from 0. If the rows
are from several files, the number is text such as "5 of a.csv"."""
TablePath = Path | zipfile.Path
"""A file, or a member of a zip archive."""


@dataclass(frozen=True)
class Table:
    """The cells of a table as text.

    Attributes:
        path: The file, or the first of several; see `Rows`.
        names: The names of the columns.
        notes: Messages for the user.
        rows: The rows, which can be read once.
        images: The images that the file itself contains, by the name in the cells.
        ignored: The names of columns that contain lists, structs or binary data, such as
            images in a Parquet file. They are not in `names`.
    """

    path: TablePath
    names: list[str]
    notes: list[str]
    rows: Rows
    images: Mapping[str, StoredImage] = field(default_factory=dict)
    ignored: Sequence[str] = ()

    def select(self, columns: Sequence[str]) -> pd.DataFrame:
        """Returns the cells of some columns, after `clean`.

        The index contains the row numbers; see `Rows`. Missing cells are "". Empty rows are
        left out.

        Raises:
            SourceError: A column is missing, a row has too many cells or another separator
                than the header, the file is not valid CSV, or there are no rows.
        """
        missing = [name for name in columns if name not in self.names]
        if missing:
            raise SourceError(
                f"{self.path} lacks the columns {', '.join(missing)}. Received: "
                f"{self.describe_names()}."
            )
        positions = [self.names.index(name) for name in columns]
        numbers: list[int | str] = []
        cells: list[list[str]] = []
        for number, row in self.rows:
            if not any(cell.strip() for cell in row):
                continue
            self._check_separator(number, row)
            numbers.append(number)
            cells.append([clean(row[i]) if i < len(row) else "" for i in positions])
        if not cells:
            raise SourceError(f"{self.path} has no rows. Expected one row per image.")
        return pd.DataFrame(cells, index=numbers, columns=list(columns), dtype=str)

    def select_all(self) -> pd.DataFrame:
        """Returns the cells of all columns; see `select`, also for the errors."""
        return self.select(list(dict.fromkeys(self.names)))

    def describe_names(self) -> str:
        """Returns what was received as names of columns, for an error message.

        If columns are ignored, if the first line is a comment, or if there is only one
        column, the text also says how to correct the table.
        """
        if self.ignored:
            return (
                f"{join_first(self.names, limit=60) or 'no columns'}; and, with cells that "
                f"are neither text nor numbers, {join_first(self.ignored)}. Write images "
                "to files, and their names to a column"
            )
        if self.names and self.names[0].startswith("#"):
            return f"{self.names[0]!r}. Delete the lines before the names of the columns"
        if len(self.names) == 1:
            return (
                f"only one column, {self.names[0]!r}. Separate columns with commas, "
                "semicolons, tabs or vertical bars"
            )
        return join_first(self.names, limit=60) or "an empty file"

    def _check_separator(self, number: int | str, row: Sequence[str]) -> None:
        if any(cell.strip() for cell in row[len(self.names) :]):
            raise SourceError(
                f"{self.path}, row {number} has more cells than the header has columns. "
                "Put text that contains the separator in quotes."
            )
        if len(row) == 1 < len(self.names):
            counts = [len(_split(row[0], mark)) for mark in DELIMITERS]
            if max(counts) == len(self.names):
                raise SourceError(
                    f"{self.path}, row {number} is separated by "
                    f"{DELIMITERS[counts.index(max(counts))]!r}, unlike the header. Use "
                    "the same separator in all rows."
                )


def open_table(path: TablePath) -> Table:
    """Opens a table, whose first row contains the names of the columns; see `parse_table`.

    Raises:
        SourceError: The file cannot be read as a table.
    """
    try:
        return parse_table(path.read_bytes(), path)
    except ARCHIVE_ERRORS as error:
        raise SourceError(f"{path} cannot be read: {error}.") from error


def read_header(path: TablePath) -> tuple[str, ...]:
    """Returns the names of the columns of a CSV file, without reading the whole file.

    Raises:
        SourceError: The file cannot be read as a table.
        zipfile.BadZipFile: See `is_excel`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(HEADER_BYTES)
    except ARCHIVE_ERRORS as error:
        raise SourceError(f"{path} cannot be read: {error}.") from error
    return tuple(parse_table(content, path).names)


def to_table(path: TablePath, frame: pd.DataFrame) -> Table:
    """Returns the cells of `frame`, which are text, as a table of the file `path`.

    The index of `frame` contains the row numbers, such as 5 or "5 of a.csv".
    """
    rows = zip(frame.index, frame.to_numpy().tolist(), strict=True)
    return Table(path, list(frame.columns), [], rows)


def parse_table(content: bytes, path: TablePath) -> Table:
    """Opens a table with the given content; `path` is its file, for messages.

    The format is recognized by the content: Excel, Parquet, or text in UTF-8, UTF-16 or
    Windows-1252, separated by commas, semicolons, tabs or vertical bars.

    Raises:
        SourceError: The content is not a table.
        zipfile.BadZipFile: See `is_excel`.
    """
    if content.startswith(XLS):
        raise SourceError(
            f"{path} is an Excel file of an old version, or with a password. {SAVE_AS_CSV}"
        )
    if HTML.match(content):
        raise SourceError(
            f"{path} is a web page or an XML file, not a table. Download the table again."
        )
    if is_excel(content) or content.startswith(PARQUET):
        frame, notes = _read_frame(content, path)
        columns = [_to_text(frame.iloc[:, i]) for i in range(frame.shape[1])]
        rows = enumerate(zip(*filter(None, columns), strict=True), 2)
        names, ignored = (
            [
                clean(str(name))
                for name, column in zip(frame.columns, columns, strict=True)
                if (column is None) == is_ignored
            ]
            for is_ignored in (False, True)
        )
        if ignored:
            notes.append(
                f"{path.name}: columns whose cells are neither text nor numbers are "
                f"ignored: {join_first(ignored)}"
            )
        return Table(path, names, notes, rows, ignored=ignored)
    text, notes = _decode(content, path)
    if "\n" not in text:  # the line ends of old versions of macOS
        text = text.replace("\r", "\n")
    header, _, rest = text.partition("\n")
    delimiter = max(DELIMITERS, key=lambda mark: len(_split(header, mark)))
    skipped = 0
    if match := re.fullmatch(r"sep=(.)\s*", header):  # a line that Excel understands
        delimiter, text, skipped = match[1], rest, 1
    lines = _read_rows(text, delimiter, path, skipped)
    names = [clean(name) for name in next(lines, (0, ()))[1]]
    while names and not names[-1]:  # a separator at the end of each row
        names.pop()
    return Table(path, names, notes, lines)


def _read_rows(text: str, delimiter: str, path: TablePath, skipped: int) -> Rows:
    """Yields the rows of a CSV file; `skipped` is the number of lines before `text`.

    Raises:
        SourceError: The file is not valid CSV. The message names the first line of the row.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = skipped
    try:
        for row in reader:
            number = reader.line_num + skipped
            yield number, row
    except csv.Error as error:
        raise SourceError(
            f"{path} is not a valid CSV file: {error}, in the row that begins in line "
            f"{number + 1}. Close its quotation marks, and double those inside a cell."
        ) from error


def is_excel(content: bytes) -> bool:
    """Returns whether the content of a file is that of an Excel workbook (.xlsx).

    Raises:
        zipfile.BadZipFile: The content is a damaged zip archive.
    """
    file = io.BytesIO(content)
    if not content.startswith(b"PK") or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return "xl/workbook.xml" in archive.namelist()


def clean(text: str) -> str:
    """Returns text in the Unicode form NFC, without whitespace around it."""
    return compose(text.strip())


def _decode(content: bytes, path: TablePath) -> tuple[str, list[str]]:
    if content.startswith(UTF_16):
        return content.decode("utf-16", errors="replace"), []
    start = content[:200]
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # no byte order mark
        if start and not any(start[first::2]):
            return content.decode(encoding, errors="replace"), []
    try:
        if b"\0" not in content:
            return content.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        note = f"{path.name} is not encoded in UTF-8; it was read as Windows-1252"
        return content.decode("cp1252", errors="replace"), [note]
    raise SourceError(
        f"{path} is not a text file. Expected a table: {', '.join(TABLE_SUFFIXES)}."
    )


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _read_frame(content: bytes, path: TablePath) -> tuple[pd.DataFrame, list[str]]:
    """Reads an Excel or Parquet file; integers stay integers if cells are missing."""
    notes: list[str] = []
    file = io.BytesIO(content)
    try:
        if content.startswith(PARQUET):
            return pd.read_parquet(file, dtype_backend="numpy_nullable"), notes
        with pd.ExcelFile(file, engine="openpyxl") as book:
            if len(book.sheet_names) > 1:
                notes.append(
                    f"{path.name}: only the sheet {book.sheet_names[0]!r} was read"
                )
            return pd.read_excel(book, dtype=object, na_filter=False), notes
    # Both libraries raise various exceptions for damaged files.
    except Exception as error:
        raise SourceError(f"{path} cannot be read: {error}. {SAVE_AS_CSV}") from error


def _to_text(column: pd.Series) -> list[str] | None:
    """Returns the cells as text; None if one is a list, a struct or binary data.

    Missing cells become "". Bytes that are valid UTF-8 are decoded, because some programs
    write text to Parquet files as bytes; other bytes are binary data.
    """
    texts = []
    for value in column:
        if pd.api.types.is_list_like(value):
            return None
        try:
            text = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError:
            return None
        texts.append("" if pd.isna(text) else str(text))
    return texts
