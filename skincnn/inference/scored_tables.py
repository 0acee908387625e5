"""The record of the predictions tables that were scored on the folds of a dataset.

The best score becomes more optimistic with the number of models that are compared on the
same images. Reports therefore state how many tables were scored before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from skincnn.inference.predictions import table_fingerprint

FILE = "scored_tables.csv"
"""File in the directory of a built dataset, with one row for each fold of each table."""
COLUMNS = ("fold", "fingerprint")


def record_scored(
    folder: Path, tables: Mapping[str, pd.DataFrame]
) -> dict[str, int | None]:
    """Records tables as scored, and returns their positions.

    The position of a table is its position, counted from 1, among all tables that were
    scored on its folds. Rows are only appended to the record, even if several processes
    write to it, so that a table that is scored again keeps its position. The positions are
    None if the record cannot be written.

    Args:
        folder: Directory of the built dataset.
        tables: Predictions tables by name, with a column `fold`.
    """
    if not tables:
        return {}
    rows = {name: _rows(table) for name, table in tables.items()}
    added = pd.concat(rows.values())
    path = folder / FILE
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(added.to_csv(index=False, header=False))
        record = pd.read_csv(path, names=COLUMNS, dtype=str)
    except OSError:
        return dict.fromkeys(tables)
    positions: dict[str, int | None] = {}
    for name, table in rows.items():
        on_folds = record.loc[record["fold"].isin(table["fold"]), "fingerprint"].unique()
        positions[name] = on_folds.tolist().index(table["fingerprint"].iloc[0]) + 1
    return positions


def _rows(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each fold of a table."""
    folds = sorted(table["fold"].astype(str).unique())
    return pd.DataFrame({"fold": folds, "fingerprint": table_fingerprint(table)})
