"""Tables that go with a model's answers: patients as asked, and rows as lines of text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from skincnn.clinical_metadata import CLINICAL_COLUMNS
from skincnn.errors import ConfigError


def read_patients(path: Path) -> pd.DataFrame:
    """Returns `CLINICAL_COLUMNS` by image_id.

    Raises:
        ConfigError: The file is no such table, or names a picture twice.
    """
    words = dict.fromkeys(("image_id", "sex", "localization"), str)
    try:
        table = pd.read_csv(path, dtype=words).set_index("image_id")
        if not table.index.is_unique:
            raise ValueError(
                f"{table.index[table.index.duplicated()][0]} stands in it twice"
            )
        return table[list(CLINICAL_COLUMNS)].assign(age=pd.to_numeric(table["age"]))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"--clinical-metadata must be a CSV with image_id, {', '.join(CLINICAL_COLUMNS)}. "
            f"Received: {path}: {error}"
        ) from error


def to_lines(table: pd.DataFrame, *, as_json: bool) -> list[str]:
    """Returns each row as a JSON object on a line, or as a record of CSV.

    What is not known is null, or nothing. Without headers and ends of lines; a record of
    CSV has lines within itself where a cell has.
    """
    if as_json:
        known = table.astype(object).where(table.notna(), None)
        return [json.dumps(row, allow_nan=False) for row in known.to_dict("records")]
    columns = [table[name].to_numpy() for name in table]
    rows = zip(*columns, strict=True)
    return [csv_line("" if cell != cell else cell for cell in row) for row in rows]


def csv_line(cells: Iterable[object]) -> str:
    """Returns a record of CSV without the end of its line."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\r\n").writerow(cells)
    return file.getvalue().removesuffix("\r\n")
