"""How the layout of a published dataset is described, and helpers to read its tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from tfds_ham10000.records import OptionError, SourceError, join_first
from tfds_ham10000.table.cells import Table, TablePath, open_table


@dataclass(frozen=True)
class TableFile:
    """A table in a directory or a zip archive, or a file of arrays.

    Attributes:
        path: The file.
        names: The names of the columns, or of the arrays; empty if they are not known, as
            for Excel files.
    """

    path: TablePath
    names: tuple[str, ...]

    def has_name(self, pattern: str) -> bool:
        """Returns whether the file name matches a regular expression, ignoring case."""
        return re.fullmatch(pattern, self.path.name, re.IGNORECASE) is not None


Read = Callable[[Sequence[TableFile], Sequence[TableFile]], Table]
"""Function that reads the table of a layout; see `TableLayout.read`.

It may raise a KeyError if a column is missing; `Recognized.open` then raises a
`SourceError`."""


def only(tables: Sequence[TableFile]) -> TableFile:
    """Returns the only table.

    Raises:
        OptionError: There are several tables.
    """
    if len(tables) > 1:
        names = [str(table.path) for table in tables]
        raise OptionError(
            f"There are {len(names)} tables of the same layout: {join_first(names)}. Use "
            "--table to name one of them."
        )
    return tables[0]


def read_only_table(tables: Sequence[TableFile], _: Sequence[TableFile]) -> Table:
    """Opens the only table.

    Raises:
        OptionError: There are several tables.
        SourceError: The file cannot be read as a table.
    """
    return open_table(only(tables).path)


@dataclass(frozen=True)
class TableLayout:
    """How the table of a published dataset, or a user's own table, is read.

    A file belongs to the layout if it has the columns (or arrays) `header` and its name
    matches `file_name`.

    Attributes:
        title: The name of the dataset and of its edition; "" for a user's own table.
        name: The name of the built dataset, unless --name is given.
        files: What has to be in the directory, for messages.
        reference: The publication.
        header: Columns that the table must have; of a file of arrays, their names.
        file_name: Regular expression of the whole file name; case is ignored.
        other_tables: Regular expression of the names of further tables that `read` uses.
        columns: The column of each field for which `find_columns` finds no column or a
            wrong one; "" for a field that is left out. A column that the table lacks is
            ignored.
        cells: By column, the replacement of each cell; None leaves the image out. Other
            cells are kept. Labels are not replaced if the user gives a label map.
        image_columns: Further columns that name images of the same lesions, which are then
            not listed as unused.
        other_images: Regular expression of the names, without suffixes, of images in the
            directory that are not listed as unused, such as masks; case is ignored.
        images_may_be_missing: Whether rows whose image has no file are left out, instead
            of causing an error.
        notes: What a user has to know before using the dataset.
        read: Returns the table, from the files that belong to the layout and from
            `other_tables`.
    """

    title: str = ""
    name: str = "table"
    files: str = ""
    reference: str = ""
    header: tuple[str, ...] = ()
    file_name: str = ".*"
    other_tables: str = "(?!)"  # matches no name
    columns: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    image_columns: tuple[str, ...] = ()
    other_images: str = ""
    images_may_be_missing: bool = False
    notes: tuple[str, ...] = ()
    read: Read = read_only_table

    def includes(self, table: TableFile) -> bool:
        """Returns whether a file belongs to this layout."""
        return set(self.header) <= set(table.names) and table.has_name(self.file_name)


def read_frame(table: TableFile, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Returns the cells of a table as text, by default of all columns.

    Raises:
        SourceError: The table is invalid, or lacks one of `columns`.
    """
    opened = open_table(table.path)
    return opened.select(columns) if columns else opened.select_all()


def find_one(tables: Sequence[TableFile], name: str, title: str) -> TableFile:
    """Returns the only table with this file name, ignoring case.

    Raises:
        SourceError: There is no such table, or there are several. The message contains
            `title`, the title of the layout.
    """
    matching = [table for table in tables if table.has_name(re.escape(name))]
    if len(matching) != 1:
        received = join_first([str(table.path) for table in matching]) or "none"
        raise SourceError(
            f"{name} of the layout {title!r} is missing, or there are several such files. "
            f"Expected one. Received: {received}."
        )
    return matching[0]


def join_metadata(frame: pd.DataFrame, metadata: pd.DataFrame, key: str) -> pd.DataFrame:
    """Returns `frame` with the further columns of `metadata`.

    `key` is a column of both tables. The further cells of a row are those of the first row
    of `metadata` with the same key, or "" without such a row. Columns of `frame` are not
    replaced.

    Raises:
        KeyError: A table lacks the column `key`.
    """
    unique = metadata.drop_duplicates(key).set_index(key)
    added = unique.reindex(frame[key]).fillna("").set_axis(frame.index)
    return frame.join(added[[name for name in added if name not in frame]])


def concatenate(frames: Mapping[TablePath, pd.DataFrame]) -> pd.DataFrame:
    """Joins the rows of several tables, which are given by path.

    The index contains the number and the file name of each row, such as "5 of a.csv". Cells
    of columns that a table lacks are "".
    """
    return pd.concat(
        frame.set_axis([f"{number} of {path.name}" for number in frame.index])
        for path, frame in frames.items()
    ).fillna("")
