"""The record of the predictions tables that were scored on the folds of a dataset.

The best score becomes more optimistic with the number of models that are compared on the
same images. Reports therefore state how many tables were scored before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from skincnn.data.characteristics import DATASET
from skincnn.inference.predictions import table_fingerprint

FILE = "scored_tables.csv"
"""File in the directory of a built dataset. Each time a table is scored, one row is added
for each of its folds."""
COLUMNS = ("fold", "fingerprint")


def record_scored(
    folders: Mapping[str, Path], tables: Mapping[str, pd.DataFrame]
) -> dict[str, int | None]:
    """Records tables as scored, and returns their positions.

    The tables that were scored on any fold of a table are numbered from 1 in the order in
    which they were first scored; the position of the table is its number. A table of
    several datasets has the highest of its positions in their records. A table that is
    scored again keeps its position, because rows are only appended to a record; several
    processes can do this at the same time. The position of a table is None if one of its
    records cannot be read or written.

    Args:
        folders: Directory of each built dataset, by name.
        tables: Predictions tables by name, with the additional columns `DATASET` and fold.
    """
    positions: dict[str, int | None] = dict.fromkeys(tables, 0)
    for dataset, folder in folders.items():
        parts = {name: table[table[DATASET] == dataset] for name, table in tables.items()}
        rows = {name: _rows(part) for name, part in parts.items() if len(part)}
        for name, position in _record(folder / FILE, rows).items():
            highest = positions[name]
            if position is None or highest is None:
                positions[name] = None
            else:
                positions[name] = max(position, highest)
    return positions


def _record(path: Path, rows: Mapping[str, pd.DataFrame]) -> dict[str, int | None]:
    """Appends the rows of each table to a record, and returns the position of each table.

    `rows` and the result are by name of the table. All positions are None if the record
    cannot be read or written.
    """
    if not rows:
        return {}
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(pd.concat(rows.values()).to_csv(index=False, header=False))
        record = pd.read_csv(path, names=COLUMNS, dtype=str)
        return {name: _find_position(record, table) for name, table in rows.items()}
    except (OSError, ValueError):  # pandas raises ValueError for a damaged file
        return dict.fromkeys(rows)


def _find_position(record: pd.DataFrame, table: pd.DataFrame) -> int:
    """Returns the position of a table; raises a ValueError if it is not in the record."""
    on_folds = record.loc[record["fold"].isin(table["fold"]), "fingerprint"].unique()
    return int(on_folds.tolist().index(table["fingerprint"].iloc[0])) + 1


def _rows(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each fold of a table."""
    folds = sorted(table["fold"].astype(str).unique())
    return pd.DataFrame({"fold": folds, "fingerprint": table_fingerprint(table)})
