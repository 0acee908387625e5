"""Tables for serving: clinical metadata, lines of output files, and ISIC submissions."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from skincnn.clinical_metadata import CLINICAL_COLUMNS, UNKNOWN
from skincnn.errors import ConfigError
from skincnn.inference.predictions import PROBABILITY_PREFIX
from skincnn.metrics.decision_rule import DecisionRule

ISIC_COLUMNS = {
    "2018": ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"),
    "2019": ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"),
}
"""Classes of the ISIC challenges by year, in the column order of the ground truth. In 2019
the ground truth has an additional last column, `UNK`."""


def read_clinical_metadata(path: Path | None) -> pd.DataFrame | None:
    """Returns the `CLINICAL_COLUMNS` of a CSV file by image_id; None if `path` is None.

    Raises:
        ConfigError: The file cannot be read, lacks a column, contains an image_id more than
            once, or contains an age that is not a number.
    """
    if path is None:
        return None
    types = dict.fromkeys(("image_id", "sex", "localization"), str)
    try:
        table = pd.read_csv(path, dtype=types).set_index("image_id")
        if not table.index.is_unique:
            duplicate = table.index[table.index.duplicated()][0]
            raise ValueError(f"duplicate image_id {duplicate}")
        return table[list(CLINICAL_COLUMNS)].assign(age=pd.to_numeric(table["age"]))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            "--clinical-metadata must be a CSV file with the columns image_id, "
            f"{', '.join(CLINICAL_COLUMNS)}. Received: {path}: {error}"
        ) from error


def select_clinical_metadata(
    paths: Sequence[Path], table: pd.DataFrame | None
) -> pd.DataFrame:
    """Returns the `CLINICAL_COLUMNS` of the files in `paths`, one row per file.

    Missing ages are NaN; other missing values are `UNKNOWN`. `table` is the result of
    `read_clinical_metadata`. The image_id of a file is its name without the extension.
    """
    if table is None:
        table = pd.DataFrame(columns=list(CLINICAL_COLUMNS), dtype=object)
    rows = table.reindex([path.stem for path in paths])
    return rows.assign(
        age=pd.to_numeric(rows["age"]),
        **{name: rows[name].fillna(UNKNOWN) for name in ("sex", "localization")},
    )


def to_lines(table: pd.DataFrame, *, as_json: bool) -> list[str]:
    """Returns each row as a JSON object or a CSV record, without a final newline.

    Missing values become null in JSON and an empty cell in CSV. A CSV record contains a
    newline if one of its cells does.
    """
    if as_json:
        values = table.astype(object).where(table.notna(), None)
        return [json.dumps(row, allow_nan=False) for row in values.to_dict("records")]
    columns = [table[name].to_numpy() for name in table]
    rows = zip(*columns, strict=True)
    return [csv_line("" if cell != cell else cell for cell in row) for row in rows]


def csv_line(cells: Iterable[object]) -> str:
    """Returns a CSV record without a final newline."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\r\n").writerow(cells)
    return file.getvalue().removesuffix("\r\n")


def find_isic_year(class_names: Sequence[str]) -> str:
    """Returns the year of the ISIC challenge that has these classes.

    Raises:
        ConfigError: No challenge has these classes.
    """
    expected = []
    for year, columns in ISIC_COLUMNS.items():
        if {name.upper() for name in class_names} == set(columns):
            return year
        expected.append(f"{year} ({', '.join(columns)})")
    raise ConfigError(
        f"--isic-csv requires a model with the classes of the ISIC challenge of "
        f"{' or '.join(expected)}. Received: {', '.join(class_names)}."
    )


def require_unique(image_ids: Iterable[str]) -> None:
    """Raises a `ConfigError` if an ISIC submission would contain an image_id twice."""
    duplicates = [name for name, count in Counter(image_ids).items() if count > 1]
    if duplicates:
        more = f" and {len(duplicates) - 5} more" if len(duplicates) > 5 else ""
        raise ConfigError(
            "--isic-csv requires one row per image, identified by the file name without "
            f"extension. Received several files for {', '.join(duplicates[:5])}{more}. "
            "List each image once, and rename different images that have the same name."
        )


def isic_submission(predictions: pd.DataFrame, rule: DecisionRule) -> pd.DataFrame:
    """Returns a submission to the ISIC challenge that has the classes of the rule.

    The probabilities are those before calibration, because the challenges score the class
    with the highest probability, which is then the predicted class.

    In 2019, the last column `UNK` is 1 for out-of-distribution images and 0 for all others.
    `predictions` contains readable files only; see `serving.predictor.predict_files`.

    Raises:
        ConfigError: No challenge has these classes.
    """
    year = find_isic_year(rule.class_names)
    names = [f"{PROBABILITY_PREFIX}{name}" for name in rule.class_names]
    y_prob = rule.calibration_map.undo(predictions[names].to_numpy(np.float64))
    classes = [name.upper() for name in rule.class_names]
    table = pd.DataFrame({"image": predictions["image_id"]})
    for name in ISIC_COLUMNS[year]:
        table[name] = y_prob[:, classes.index(name)]
    if year == "2019":
        table["UNK"] = predictions["out_of_distribution"].astype(float)
    return table
