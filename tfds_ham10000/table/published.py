"""Reading the tables of HAM10000 and of the ISIC challenges 2018 and 2019.

A table may be in a zip archive or in a directory. `one_hot_label` is also used for other
published datasets.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfds_ham10000.image_files import (
    ARCHIVE_ERRORS,
    describe_archive_problem,
    find_files,
    find_members,
)
from tfds_ham10000.records import SourceError, join_first
from tfds_ham10000.table.cells import Table, is_excel, parse_table

CSV = (".csv",)
BITS = {"0": False, "0.0": False, "1": True, "1.0": True}
"""Valid cells of one-hot encoded labels, and their values."""
Row = tuple[str, dict[str, str]]
"""The file and number of a row, and its cells by column."""


def read_rows(path: Path, *columns: Sequence[str]) -> list[Row]:
    """Returns the rows of a table, with whitespace stripped from the cells.

    Args:
        path: A table (see `parse_table`), or a zip archive or directory with exactly one
            .csv file.
        columns: Alternative sets of required columns. Rows also contain other columns.

    Raises:
        SourceError: The table cannot be read, a directory or archive does not have exactly
            one .csv file, no set of columns is complete, or the rows are invalid (see
            `Table.select`).
    """
    try:
        table = parse_table(_read_content(path), path)
    except ARCHIVE_ERRORS as error:
        raise SourceError(f"{path} cannot be read: {error}. Download it again.") from error
    _require_columns(table, columns)
    cells = table.select_all()
    rows = zip(cells.index, cells.to_dict("records"), strict=True)
    return [(f"{path}, row {number}", row) for number, row in rows]  # type: ignore[misc]


def one_hot_label(row: Row, columns: Mapping[str, str], key: str = "image") -> str:
    """Returns the label of a one-hot encoded row; `columns` maps columns to labels.

    `key` is the column that names the image or lesion, for the error message.

    Raises:
        SourceError: A cell is neither 0 nor 1, or the row does not contain exactly one 1.
    """
    where, cells = row
    bits = [BITS.get(cells[name]) for name in columns]
    if None in bits or bits.count(True) != 1:
        received = ", ".join(f"{name}={cells[name]}" for name in columns)
        raise SourceError(
            f"{where}: invalid label for {key} {cells[key]}. Expected 1 in exactly one "
            f"class column and 0 in the others. Received: {received}."
        )
    return list(columns.values())[bits.index(True)]


def _require_columns(table: Table, alternatives: Sequence[Sequence[str]]) -> None:
    if any(set(columns) <= set(table.names) for columns in alternatives):
        return
    missing = [name for name in alternatives[0] if name not in table.names]
    raise SourceError(
        f"{table.path} lacks the column(s) {', '.join(missing)}. Expected: "
        f"{'; or '.join(', '.join(columns) for columns in alternatives)}. "
        f"Received: {table.describe_names()}."
    )


def _read_content(path: Path) -> bytes:
    """Returns the content of a table, or of the only table in an archive or directory."""
    if path.is_dir():
        files = find_files(path, CSV).files
        _require_one([str(file.relative_to(path)) for file in files], path)
        return files[0].read_bytes()
    content = path.read_bytes()
    if is_excel(content) or not zipfile.is_zipfile(path):
        return content
    with zipfile.ZipFile(path) as archive:
        if problem := describe_archive_problem(path, archive, CSV):
            raise SourceError(problem)
        members, _ = find_members(archive, CSV)
        _require_one([str(name) for name in members.values()], path)
        return archive.read(archive.infolist()[next(iter(members))])


def _require_one(names: Sequence[str], path: Path) -> None:
    if len(names) != 1:
        raise SourceError(
            f"{path} contains {len(names)} tables{': ' if names else ''}"
            f"{join_first(sorted(names))}. Expected exactly one .csv file."
        )
