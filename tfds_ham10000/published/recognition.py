"""The published layouts, and recognizing them by the files in a directory.

To add a layout, describe it as a `TableLayout` in a module of its family, and add it to
`PUBLISHED`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from tfds_ham10000.image_files import ARCHIVE_ERRORS, find_files, find_members, open_npz
from tfds_ham10000.published.clinics import BCN20000, DDI, FITZPATRICK17K, PAD_UFES_20
from tfds_ham10000.published.derm7pt import DERM7PT
from tfds_ham10000.published.dermamnist import DERMAMNIST
from tfds_ham10000.published.isic_archive import ISIC_ARCHIVE
from tfds_ham10000.published.isic_challenges import (
    ISIC_2016,
    ISIC_2017,
    ISIC_2018_TEST,
    ISIC_2019_TEST,
    ISIC_2020,
    ISIC_2025,
)
from tfds_ham10000.published.layout import TableFile, TableLayout
from tfds_ham10000.published.ph2 import PH2
from tfds_ham10000.published.slice3d import SLICE_3D
from tfds_ham10000.records import OptionError, SourceError, join_first
from tfds_ham10000.table.cells import (
    CSV_SUFFIXES,
    PARQUET_SUFFIXES,
    TABLE_SUFFIXES,
    Table,
    TablePath,
    read_header,
)

PUBLISHED: tuple[TableLayout, ...] = (
    *(ISIC_2016, ISIC_2017, ISIC_2018_TEST, ISIC_2019_TEST, ISIC_2020),
    ISIC_2025,
    *SLICE_3D,
    *ISIC_ARCHIVE,
    *(BCN20000, PAD_UFES_20, DERM7PT, PH2, FITZPATRICK17K, DDI, DERMAMNIST),
)
"""All layouts. A table belongs to the first that includes it."""
ARRAYS = ".npz"


@dataclass(frozen=True)
class Recognized:
    """A layout in a directory.

    Attributes:
        layout: How the published dataset is read.
        tables: The files that belong to the layout.
        others: The further tables that it uses.
    """

    layout: TableLayout
    tables: list[TableFile]
    others: list[TableFile]

    @property
    def file_names(self) -> set[str]:
        """The names of the files in `tables` and `others`, without directories."""
        return {file.path.name for file in (*self.tables, *self.others)}

    def open(self) -> Table:
        """Opens the table of the layout.

        Raises:
            SourceError: A file is missing or invalid.
            OptionError: The layout permits one table, but there are several.
            ValueError: See `read_export`.
        """
        try:
            return self.layout.read(self.tables, self.others)
        except KeyError as error:
            names = join_first([str(file.path) for file in (*self.tables, *self.others)])
            raise SourceError(
                f"A table of {self.layout.title} lacks a column: {error.args[0]}. "
                f"Received: {names}. Use the published tables without changes."
            ) from error


def recognize(folder: Path, table: Path | None = None) -> Recognized | None:
    """Returns the published layout in a directory, or None.

    Args:
        folder: The directory of the tables and images.
        table: The table to read; by default, all tables in the directory are examined.

    Raises:
        OptionError: The directory contains several layouts, and `table` is None.
    """
    everything = list(_table_files(folder))
    candidates = everything
    if table is not None:
        candidates = [file for file in everything if file.path == table]
        candidates = candidates or [TableFile(table, _read_names(table))]
    matches: dict[int, list[TableFile]] = {}
    for file in candidates:
        for index, layout in enumerate(PUBLISHED):
            if layout.includes(file):
                matches.setdefault(index, []).append(file)
                break
    if len(matches) > 1:
        found = [
            f"{PUBLISHED[index].title} ({files[0].path})"
            for index, files in sorted(matches.items())
        ]
        raise OptionError(
            f"{folder} contains several published datasets: {', '.join(found)}. Use "
            "--manual-dir with the directory of one of them, or --table to name its table."
        )
    for index, files in matches.items():
        layout = PUBLISHED[index]
        others = [file for file in everything if file.has_name(layout.other_tables)]
        return Recognized(layout, files, others)
    return None


def _table_files(folder: Path) -> Iterator[TableFile]:
    """Yields the tables in a directory, and the CSV files in its zip archives.

    A file in an archive is omitted if the directory has a table of the same name.
    """
    paths = find_files(folder, (*TABLE_SUFFIXES, ARRAYS, ".zip")).files
    names = {path.name for path in paths}
    for path in paths:
        if path.suffix.lower() != ".zip":
            yield TableFile(path, _read_names(path))
            continue
        try:
            archive = zipfile.ZipFile(path)
        except ARCHIVE_ERRORS:  # reported when the images are listed
            continue
        members, _ = find_members(archive, CSV_SUFFIXES)
        for index in members:
            member = zipfile.Path(archive, archive.infolist()[index].filename)
            if member.name not in names:
                yield TableFile(member, _read_names(member))


def _read_names(path: TablePath) -> tuple[str, ...]:
    """Returns the names of the columns or arrays; () for Excel files and damaged files."""
    suffix = path.suffix.lower()
    try:
        if isinstance(path, Path) and suffix == ARRAYS:
            with open_npz(path, "") as arrays:
                return tuple(arrays)
        if isinstance(path, Path) and suffix in PARQUET_SUFFIXES:
            return tuple(pyarrow.parquet.read_schema(path).names)
        return read_header(path) if suffix in CSV_SUFFIXES else ()
    # Libraries raise various exceptions for damaged files, which are reported when read.
    except (SourceError, ValueError, *ARCHIVE_ERRORS):
        return ()
