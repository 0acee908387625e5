"""Reading the published tables, which may be in a zip archive or in a directory."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tfds_ham10000.image_files import (
    ARCHIVE_ERRORS,
    describe_archive_problem,
    find_files,
    find_members,
)
from tfds_ham10000.records import SourceError, join_first

CSV = (".csv",)
DELIMITERS = (",", "\t", ";")
XLS = b"\xd0\xcf\x11\xe0"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""First bytes of .xls files, and of UTF-16 text."""
SAVE_AS_CSV = "Open it, and save it as CSV UTF-8."
BITS = {"0": False, "0.0": False, "1": True, "1.0": True}
"""Valid cells of one-hot encoded labels, and their values."""
Row = tuple[str, dict[str, str]]
"""The file and line of a row, and its cells by column."""


def read_rows(path: Path, *columns: Sequence[str]) -> list[Row]:
    """Returns the rows of a table, with whitespace stripped from the cells.

    Args:
        path: A UTF-8 file of values with a header, separated by commas, tabs or
            semicolons, or a zip archive or directory with exactly one .csv file.
        columns: Alternative sets of required columns. Rows also contain other columns.

    Raises:
        SourceError: The table cannot be read, no set of columns is complete, or a row has
            too many cells.
    """
    try:
        content = _read_table(path)
        text = content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig")
        # Some tables of Harvard Dataverse are tab-separated, regardless of their suffix.
        # Excel writes semicolons in many countries.
        header = text.partition("\n")[0]
        delimiter = max(DELIMITERS, key=header.count)
        reader = csv.DictReader(
            io.StringIO(text, newline=""), delimiter=delimiter, strict=True
        )
        _require_columns(reader.fieldnames or (), columns, path)
        return list(_rows(reader, path))
    except (UnicodeDecodeError, csv.Error, *ARCHIVE_ERRORS) as error:
        raise SourceError(
            f"{path} cannot be read as a UTF-8 CSV file: {error}. Download it again."
        ) from error


def one_hot_label(row: Row, columns: Mapping[str, str]) -> str:
    """Returns the label of a one-hot encoded row; `columns` maps columns to labels.

    Raises:
        SourceError: A cell is neither 0 nor 1, or the row does not contain exactly one 1.
    """
    where, cells = row
    bits = [BITS.get(cells[name]) for name in columns]
    if None in bits or bits.count(True) != 1:
        received = ", ".join(f"{name}={cells[name]}" for name in columns)
        raise SourceError(
            f"{where}: invalid label for image {cells['image']}. Expected 1 in exactly one "
            f"class column and 0 in the others. Received: {received}."
        )
    return list(columns.values())[bits.index(True)]


def _require_columns(
    names: Sequence[str], alternatives: Sequence[Sequence[str]], path: Path
) -> None:
    if any(set(columns) <= set(names) for columns in alternatives):
        return
    missing = [name for name in alternatives[0] if name not in names]
    raise SourceError(
        f"{path} lacks the column(s) {', '.join(missing)}. Expected: "
        f"{'; or '.join(', '.join(columns) for columns in alternatives)}. "
        f"Received: {join_first(list(names)) or 'an empty file'}."
    )


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[Row]:
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        # `DictReader` puts extra cells under the key None, and None into missing cells.
        if None in row:
            raise SourceError(f"{where} has more cells than the header has columns.")
        yield where, {name: (cell or "").strip() for name, cell in row.items()}


def _read_table(path: Path) -> bytes:
    if path.is_dir():
        files = find_files(path, CSV).files
        _require_one([str(file.relative_to(path)) for file in files], path)
        return files[0].read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "xl/workbook.xml" in archive.namelist():
                raise SourceError(f"{path} is an Excel file. {SAVE_AS_CSV}")
            if problem := describe_archive_problem(path, archive, CSV):
                raise SourceError(problem)
            members, _ = find_members(archive, CSV)
            _require_one([str(name) for name in members.values()], path)
            return archive.read(archive.infolist()[next(iter(members))])
    content = path.read_bytes()
    if content.startswith(XLS):
        raise SourceError(f"{path} is an Excel file. {SAVE_AS_CSV}")
    return content


def _require_one(names: Sequence[str], path: Path) -> None:
    if len(names) != 1:
        raise SourceError(
            f"{path} contains {len(names)} tables{': ' if names else ''}"
            f"{join_first(sorted(names))}. Expected exactly one .csv file."
        )
