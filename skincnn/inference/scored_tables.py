"""The record of the predictions tables that were scored on the folds of a dataset.

The more models are compared on the same images, the more optimistic is the best score.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from skincnn.inference.predictions import table_fingerprint

FILE = "scored_tables.csv"
"""Name of the file in the directory of a built dataset; it has a row per fold and table."""
COLUMNS = ("fold", "fingerprint")


def score_positions(
    folder: Path, tables: Mapping[str, pd.DataFrame]
) -> dict[str, int | None]:
    """Returns the position of each table among all tables that were scored on its folds.

    The first table has position 1. Tables with the same fingerprint count once, so that a
    table that is scored again keeps its position. The positions are None if the directory
    is not writable, so that tables cannot be recorded.

    Args:
        folder: Directory of the built dataset.
        tables: New predictions tables by name, with a column `fold`.
    """
    if not os.access(folder, os.W_OK):
        return dict.fromkeys(tables)
    new = _rows(tables)
    scored = pd.concat([_read(folder), *new.values()], ignore_index=True)
    positions: dict[str, int | None] = {}
    for name, rows in new.items():
        on_folds = scored.loc[scored["fold"].isin(rows["fold"]), "fingerprint"].unique()
        positions[name] = on_folds.tolist().index(rows["fingerprint"].iloc[0]) + 1
    return positions


def record_scored(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Adds tables to the record; does nothing if the directory is not writable."""
    rows = pd.concat(list(_rows(tables).values()) or [pd.DataFrame(columns=COLUMNS)])
    known = set(_read(folder).itertuples(index=False, name=None))
    new = [row for row in rows.itertuples(index=False, name=None) if row not in known]
    text = pd.DataFrame(new, columns=COLUMNS).to_csv(index=False, header=False)
    try:
        with (folder / FILE).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        pass


def _rows(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Returns a row for each fold of each table."""
    rows = {}
    for name, table in tables.items():
        folds = sorted(table["fold"].astype(str).unique())
        rows[name] = pd.DataFrame({"fold": folds, "fingerprint": table_fingerprint(table)})
    return rows


def _read(folder: Path) -> pd.DataFrame:
    """Returns the record; empty without a file."""
    path = folder / FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return pd.read_csv(io.StringIO(text), names=COLUMNS, dtype=str)
