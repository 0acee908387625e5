"""Tables for serving: clinical metadata, predictions as text, and ISIC submissions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from skincnn.clinical_metadata import (
    CLINICAL_COLUMNS,
    FIELDS,
    UNKNOWN,
    normalize_clinical_metadata,
)
from skincnn.errors import ConfigError, DataError
from skincnn.inference.predictions import PROBABILITY_PREFIX, to_csv
from skincnn.metrics.decision_rule import DecisionRule
from tfds_ham10000.records import SourceError, join_first
from tfds_ham10000.table.cells import TABLE_SUFFIXES, open_table
from tfds_ham10000.table.columns import find_columns
from tfds_ham10000.table.images import match_key

ISIC_COLUMNS = {
    "2018": ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"),
    "2019": ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"),
}
"""Classes of the ISIC challenges by year, in the column order of the ground truth. In 2019
the ground truth has an additional last column, `UNK`."""


def read_clinical_metadata(path: Path | None) -> pd.DataFrame | None:
    """Returns the `CLINICAL_COLUMNS` of a table; None if `path` is None.

    The index is `match_key` of the name of each image. Files, columns and values are read
    as those of the tables from which datasets are built.

    Raises:
        ConfigError: There is no such file.
        DataError: A value is not valid; see `normalize_clinical_metadata`.
        SourceError: The file cannot be read or lacks a column, or a row names no image or
            the image of another row.
    """
    if path is None:
        return None
    if not path.is_file():
        raise ConfigError(
            f"--clinical-metadata must be a table: {', '.join(TABLE_SUFFIXES)}. Received: "
            f"{path}, which is not a file."
        )
    table = open_table(path)
    fields = ("image", *FIELDS.values())
    columns, _ = find_columns(table, {}, fields, option="")
    cells = table.select([columns[field] for field in fields])
    cells.columns = pd.Index(["image", *FIELDS])
    keys = cells["image"].map(match_key)
    rows = keys.index[keys.duplicated() | (keys == "")]
    if repeated := [f"{cells['image'][row]} (row {row})" for row in rows]:
        raise SourceError(
            f"{path}: {len(repeated)} row(s) name no image, or an image of another row: "
            f"{join_first(repeated)}. Expected one row per image."
        )
    return normalize_clinical_metadata(cells, str(path)).set_axis(keys)


def select_clinical_metadata(
    paths: Sequence[Path], table: pd.DataFrame | None
) -> pd.DataFrame:
    """Returns the `CLINICAL_COLUMNS` of the files in `paths`, one row per file.

    `table` is the result of `read_clinical_metadata`. The row of a file contains its name
    or the end of its path, with or without the suffix; case is ignored. Missing ages are
    NaN, and other missing values are `UNKNOWN`. All values of a file without a row are
    missing, and those of all files if `table` is None.
    """
    if table is None:
        table = pd.DataFrame(columns=list(CLINICAL_COLUMNS), dtype=object)
    rows = table.reindex(find_rows(paths, table)).set_axis([path.stem for path in paths])
    return rows.assign(
        age=pd.to_numeric(rows["age"]),
        **{name: rows[name].fillna(UNKNOWN) for name in ("sex", "localization")},
    )


def find_rows(paths: Sequence[Path], table: pd.DataFrame) -> list[str | None]:
    """Returns, for each file, the key of its row in `table`, or None.

    Of several rows for a file, the one with the longest path is used.
    """
    known = set(table.index)
    found: list[str | None] = []
    for path in paths:
        parts = match_key(path.as_posix()).split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        found.append(next((end for end in ends if end in known), None))
    return found


def describe_matches(
    paths: Sequence[Path], table: pd.DataFrame | None, source: Path | None
) -> str:
    """Returns how many images have a row in `table`, and which have none, as text.

    The text is "" if all images have a row or `table` is None. `table` is the result of
    `read_clinical_metadata` for the file `source`.

    Raises:
        DataError: No image has a row.
    """
    if table is None:
        return ""
    keys = find_rows(paths, table)
    missing = [path.name for path, key in zip(paths, keys, strict=True) if key is None]
    if len(missing) == len(paths):
        raise DataError(
            f"{source} has no row for any of the {len(paths)} image(s). Expected the names "
            "of the images, with or without suffix. Received rows for: "
            f"{join_first(list(table.index), limit=5)}. Images: "
            f"{join_first(missing, limit=5)}."
        )
    if not missing:
        return ""
    return (
        f"{source} has rows for {len(paths) - len(missing)} of {len(paths)} images. Age, "
        f"sex and site of the others are unknown: {join_first(missing)}"
    )


def to_text(table: pd.DataFrame, *, as_json: bool, header: bool = False) -> str:
    """Returns the rows of a table as JSON objects or CSV records, one per line.

    Missing values become null in JSON and empty cells in CSV. `header` states whether CSV
    begins with the names of the columns.
    """
    if not as_json:
        return to_csv(table, header=header)
    values = table.astype(object).where(table.notna(), None)
    rows = values.to_dict("records")
    return "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows)


def find_isic_year(class_names: Sequence[str]) -> str:
    """Returns the year of the ISIC challenge that has these classes.

    Raises:
        ConfigError: No challenge has these classes.
    """
    for year, columns in ISIC_COLUMNS.items():
        if {name.upper() for name in class_names} == set(columns):
            return year
    expected = (f"{year} ({', '.join(names)})" for year, names in ISIC_COLUMNS.items())
    raise ConfigError(
        f"--isic-csv requires a model with the classes of the ISIC challenge of "
        f"{' or '.join(expected)}. Received: {', '.join(class_names)}."
    )


def isic_submission(predictions: pd.DataFrame, rule: DecisionRule) -> pd.DataFrame:
    """Returns a submission to the ISIC challenge that has the classes of the rule.

    The probabilities are those before calibration, because the challenges score the class
    with the highest probability, which is then the predicted class.

    For the challenge of 2019, the last column `UNK` is 1 for out-of-distribution images and
    0 for all others. `predictions` contains readable files only; see
    `serving.predictor.predict_files`.

    Raises:
        ConfigError: No challenge has these classes.
    """
    year = find_isic_year(rule.class_names)
    names = [f"{PROBABILITY_PREFIX}{name}" for name in rule.class_names]
    y_prob = rule.calibration_map.undo(predictions[names].to_numpy(np.float64))
    classes = [name.upper() for name in rule.class_names]
    table = pd.DataFrame(y_prob, predictions.index, classes)[list(ISIC_COLUMNS[year])]
    table.insert(0, "image", predictions["image_id"])
    if year == "2019":
        table["UNK"] = (
            predictions["out_of_distribution"].astype("boolean").fillna(False).astype(float)
        )
    return table
