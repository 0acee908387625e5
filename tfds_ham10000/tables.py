"""Reading the published tables: CSV or tab-separated, plain, zipped or in a folder."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath

from tfds_ham10000.records import SourceError, some

Row = tuple[str, dict[str, str]]
"""The file and line of a row, and its cells by column."""


def read_rows(path: Path, *columns: Sequence[str]) -> list[Row]:
    """Returns the rows of a table.

    Args:
        path: A file of comma- or tab-separated values with a header, in UTF-8; or a zip
            archive or a folder that holds exactly one `.csv`.
        columns: The columns that it must have, or one of several such sets; whatever else
            it has is returned too.

    Raises:
        SourceError: It cannot be read, or lacks a column.
    """
    try:
        text = _read_table(path).decode("utf-8-sig")
        # Harvard Dataverse serves ingested tables with tabs, whatever their suffix.
        delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
        reader = csv.DictReader(
            io.StringIO(text, newline=""), delimiter=delimiter, strict=True
        )
        _require_columns(reader.fieldnames or (), columns, path)
        return list(_rows(reader, path))
    # zlib: a damaged archive; RuntimeError: an encrypted one.
    except (
        UnicodeDecodeError,
        csv.Error,
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
    ) as error:
        raise SourceError(
            f"{path} cannot be read as a CSV file in UTF-8 ({error}). Download it again."
        ) from error


def one_hot_label(row: Row, columns: Mapping[str, str]) -> str:
    """Returns the label of a row in which one column holds 1 and the others 0.

    Args:
        row: A row of a ground truth of the ISIC challenges.
        columns: The label of each column.

    Raises:
        SourceError: A cell is neither 0 nor 1, or not exactly one is 1.
    """
    where, cells = row
    try:
        ones = [label for name, label in columns.items() if _as_bit(cells[name])]
    except ValueError as error:
        raise SourceError(
            f"{where}: the label of {cells['image']} must be made of 0 and 1 ({error})."
        ) from error
    if len(ones) != 1:
        raise SourceError(
            f"{where}: {cells['image']} has {len(ones)} labels "
            f"({', '.join(ones) or 'all are 0'}). Expected a single 1 in the columns "
            f"{', '.join(columns)}."
        )
    return ones[0]


def _require_columns(
    found: Sequence[str], alternatives: Sequence[Sequence[str]], path: Path
) -> None:
    if any(set(columns) <= set(found) for columns in alternatives):
        return
    columns = alternatives[0]
    raise SourceError(
        f"{path} lacks the column(s) "
        f"{', '.join(name for name in columns if name not in found)}. Expected: "
        f"{' or '.join(', '.join(columns) for columns in alternatives)}. "
        f"Found: {some(list(found)) or 'an empty file'}."
    )


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[Row]:
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        # A long row has its further cells under the key None; a short one has None cells.
        if None in row:
            raise SourceError(f"{where}: more cells than the header has columns.")
        yield where, {name: cell or "" for name, cell in row.items()}


def _as_bit(cell: str) -> bool:
    value = float(cell)
    if value not in (0.0, 1.0):
        raise ValueError(f"{cell!r}")
    return value == 1.0


def _read_table(path: Path) -> bytes:
    # macOS adds hidden copies of each file under __MACOSX/._name.
    if path.is_dir():
        names = [str(p.relative_to(path)) for p in path.rglob("*") if _is_csv(p)]
        return (path / _only(names, path)).read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if _is_csv(PurePosixPath(n))]
            return archive.read(_only(names, path))
    return path.read_bytes()


def _is_csv(path: PurePath) -> bool:
    return path.suffix.lower() == ".csv" and not path.name.startswith(".")


def _only(names: Sequence[str], path: Path) -> str:
    if len(names) != 1:
        raise SourceError(
            f"{path} holds {len(names)} tables{': ' if names else ''}"
            f"{some(sorted(names))}. Expected exactly one .csv."
        )
    return names[0]
