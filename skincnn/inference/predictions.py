"""Predictions tables, with one row per image, from which every result is computed."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.special

from skincnn.data.skin_tone import ITA
from skincnn.errors import DataError
from skincnn.files import require_content, write_text
from skincnn.metrics.sample import Floats

PROBABILITY_PREFIX = "probability_"
ENERGY = "energy"
"""Column with -logsumexp(logits), the energy. The logits are log(probability) - energy.

In averaged tables (see `mean_predictions`), it is the mean of the energies, from which the
logits cannot be computed. Liu et al., Energy-based Out-of-distribution Detection (2020),
arXiv:2010.03759."""
LEFT_OUT = "left_out"
"""Column of the table of an external dataset with the reason why an image is not scored; ""
for scored images."""
DISTANCE = "distance"
"""Column with the distances from `skincnn.inference.ood.FeatureGaussian.distances`; for
validation images, those from `skincnn.inference.ood.fit_gaussian`."""
TEXT_COLUMNS = (
    *("image_id", "lesion_id", "patient_id", "group_id", "label", "original_label"),
    *("dx_type", "sex", "localization", "dataset", "skin_type"),
)
"""Columns whose cells are text, even if they look like numbers, such as "007"."""
NUMBER_COLUMNS = ("age", ITA, ENERGY, DISTANCE)
"""Columns whose cells are numbers, in addition to the probabilities. Cells of "age" and
`ITA` can be empty."""
SUM_TOLERANCE = 1e-3
"""Maximum difference between the sum of an image's probabilities and 1."""
FINGERPRINT_DECIMALS = 2
"""Number of decimals of the probabilities in `table_fingerprint`.

Relative errors of 1e-6 were added to 100 copies of a table of 1,001 images. With 2
decimals, all copies had the fingerprint of the table; with 3 decimals, 48 copies had it;
with 4 or 5, none had it, because a few of 7,007 probabilities are close to a rounding
limit."""


def predictions_table(
    table: pd.DataFrame, logits: npt.NDArray[np.float32], class_names: Sequence[str]
) -> pd.DataFrame:
    """Returns `table` with class names as labels, a probability per class, and the energy.

    The column `label` of `table` contains class indices; other labels become NaN. The
    column `sha256` is dropped. The logits, [num_images, num_classes], are in the order of
    the rows.
    """
    columns = probability_columns(scipy.special.softmax(logits, axis=1), class_names)
    columns[ENERGY] = -scipy.special.logsumexp(logits, axis=1)
    names = table["label"].map(dict(enumerate(class_names)))
    return table.drop(columns="sha256").assign(label=names, **columns)


def probability_columns(y_prob: Floats, class_names: Sequence[str]) -> dict[str, Floats]:
    """Returns the columns for the probabilities [num_images, num_classes], by name."""
    names = [f"{PROBABILITY_PREFIX}{name}" for name in class_names]
    return dict(zip(names, y_prob.T, strict=True))


def mean_predictions(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Returns the first table, with the predictions averaged over all tables.

    Probabilities, energies and distances are averaged. Lakshminarayanan et al., Simple and
    Scalable Predictive Uncertainty Estimation using Deep Ensembles (2017),
    arXiv:1612.01474. The tables must contain the same images in the same order, and the
    same `averaged_columns`.
    """
    means = {
        column: np.mean([table[column] for table in tables], axis=0)
        for column in averaged_columns(tables[0])
    }
    return tables[0].assign(**means)


def averaged_columns(table: pd.DataFrame) -> list[str]:
    """Returns the columns that `mean_predictions` averages."""
    return [
        column
        for column in map(str, table)
        if column in (ENERGY, DISTANCE) or column.startswith(PROBABILITY_PREFIX)
    ]


def mean_over_images(predictions: pd.DataFrame, column: str) -> pd.DataFrame:
    """Returns one row for each combination of a value of `column` and a label.

    `column` is, for example, "lesion_id". The row is the first one with this combination;
    its probabilities are the means over all rows with the combination.
    """
    unit = [column, "label"]
    names = [f"{PROBABILITY_PREFIX}{name}" for name in class_names_of(predictions)]
    means = predictions.groupby(unit)[names].transform("mean")
    return predictions.assign(**means).drop_duplicates(unit, ignore_index=True)


def as_written(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the table as if it had been written to a file and read again."""
    return _parse(io.StringIO(table.to_csv(index=False)))


def read_predictions(path: Path) -> pd.DataFrame:
    """Reads a predictions table from a CSV file. Labels and IDs are strings.

    A lesion_id or patient_id that is not known is "". Images that are not scored
    (`LEFT_OUT`) are omitted.

    Raises:
        DataError: The file cannot be read or is not a valid predictions table.
    """
    table = read_table(path, ("image_id", "lesion_id", "group_id", "label", DISTANCE))
    if LEFT_OUT in table:
        table = table[table[LEFT_OUT] == ""].drop(columns=LEFT_OUT)
    fault = _find_fault(table)
    if fault:
        raise DataError(f"{path}: {fault} Recreate it with `skincnn evaluate`.")
    return table.reset_index(drop=True)


def read_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """Reads a predictions table, or a table of OOD images.

    Unlike `read_predictions`, does not check the IDs, the labels or the values of the
    probabilities, and keeps images that are not scored (`LEFT_OUT`). `required` are the
    names of the required columns, which must include "image_id".

    Raises:
        DataError: The file cannot be read, lacks a column of `required` or the
            probabilities of two classes, or has text in one of `NUMBER_COLUMNS`.
    """
    try:
        require_content(path)
        table = _parse(path)
    except DataError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().rstrip(".")
        raise DataError(
            f"{path} cannot be read as a predictions table: {reason}. Recreate it with "
            "`skincnn evaluate`."
        ) from error
    missing = [name for name in required if name not in table]
    if len(class_names_of(table)) < 2:
        missing.append(f"{PROBABILITY_PREFIX}<class> for two classes or more")
    if missing:
        raise DataError(
            f"{path}: columns are missing: {', '.join(missing)}. Received: "
            f"{', '.join(map(str, table.columns))}. Recreate it with `skincnn evaluate`."
        )
    for column in filter(table.columns.__contains__, NUMBER_COLUMNS):
        cells = table[column]
        text = cells[pd.to_numeric(cells, errors="coerce").isna() & cells.notna()]
        if len(text):
            raise DataError(
                f"{path}: image {table['image_id'][text.index[0]]} has the {column} "
                f"{text.iloc[0]!r}. Expected a number. Recreate it with "
                "`skincnn evaluate`."
            )
    return table


def table_path(workdir: Path, name: str) -> Path:
    """Returns predictions/<name>.csv of a run directory."""
    return workdir / "predictions" / f"{name}.csv"


def table_sha256(table: pd.DataFrame) -> str:
    """Returns the `file_sha256` of the file that `write_predictions` writes for a table."""
    return hashlib.sha256(to_csv(table).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a predictions file without the carriage returns of Windows.

    Git can add carriage returns to text files, or remove them.

    Raises:
        DataError: The file is a Git LFS pointer.
        OSError: The file cannot be read.
    """
    require_content(path)
    content = path.read_bytes().replace(b"\r\n", b"\n")
    return hashlib.sha256(content).hexdigest()


def table_fingerprint(table: pd.DataFrame) -> str:
    """Returns a hash of the image_ids, labels and rounded probabilities of a table.

    Unlike the SHA-256 of the file, it rarely differs between computers, whose probabilities
    differ by rounding errors. It does not depend on the order of the rows.
    """
    names = class_names_of(table)
    columns = [f"{PROBABILITY_PREFIX}{name}" for name in names]
    rows = table[["image_id", "label", *columns]].sort_values("image_id")
    rounded = (rows[columns] * 10**FINGERPRINT_DECIMALS).round().astype(int)
    text = rows.assign(**{name: rounded[name] for name in columns}).to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_predictions(workdir: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Writes predictions/<name>.csv for each name and table.

    Raises:
        OSError: A file cannot be written; see `skincnn.files.replacing`.
    """
    for name, table in tables.items():
        write_text(table_path(workdir, name), to_csv(table))


def class_names_of(predictions: pd.DataFrame) -> list[str]:
    """Returns the class names in the order of their columns."""
    return [
        name.removeprefix(PROBABILITY_PREFIX)
        for name in predictions.columns
        if name.startswith(PROBABILITY_PREFIX)
    ]


def arrays(
    predictions: pd.DataFrame, class_names: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Returns integer labels [num_images] and probabilities [num_images, num_classes]."""
    labels = predictions["label"].map({name: i for i, name in enumerate(class_names)})
    y_true = np.asarray(labels.to_numpy(), np.int64)
    return y_true, probabilities(predictions, class_names)


def probabilities(
    predictions: pd.DataFrame, class_names: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Returns the probabilities, [num_images, num_classes]."""
    columns = [f"{PROBABILITY_PREFIX}{name}" for name in class_names]
    return np.asarray(predictions[columns].to_numpy(), np.float64)


def to_csv(table: pd.DataFrame, *, header: bool = True) -> str:
    """Returns a table as CSV records, one per line, without the index."""
    options: Any = {"index": False, "header": header, "lineterminator": "\n"}
    text: str = table.to_csv(**options)
    if "\r" in text:  # in the name of a file; pandas would not quote it
        text = table.to_csv(**options, quoting=csv.QUOTE_NONNUMERIC)
    return text


def _parse(source: Path | io.StringIO) -> pd.DataFrame:
    return pd.read_csv(
        source,
        dtype=dict.fromkeys(TEXT_COLUMNS, str),
        keep_default_na=False,
        na_values={"age": "", ITA: ""},
    )


def _find_fault(table: pd.DataFrame) -> str:
    """Returns what is wrong with a predictions table; "" if it is valid."""
    names = class_names_of(table)
    if table.empty:
        return "the table has no rows."
    for column in ("image_id", "group_id"):
        blank = table.index[table[column].str.strip() == ""]
        if len(blank):
            return (
                f"{len(blank)} image(s) have no {column}, the first one in row "
                f"{blank[0] + 1}. Every image requires an image_id and a group_id; "
                "confidence intervals are computed over groups."
            )
    duplicates = table.loc[table["image_id"].duplicated(), "image_id"]
    if len(duplicates):
        return f"image {duplicates.iloc[0]} occurs more than once."
    unknown = table[~table["label"].isin(names)]
    if len(unknown):
        return (
            f"image {unknown['image_id'].iloc[0]} has the label "
            f"{unknown['label'].iloc[0]!r}. Expected one of: {', '.join(names)}."
        )
    return _find_probability_fault(table, names)


def _find_probability_fault(table: pd.DataFrame, names: Sequence[str]) -> str:
    columns = table[[f"{PROBABILITY_PREFIX}{name}" for name in names]]
    values = columns.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    valid = (values >= 0).all(axis=1) & (abs(values.sum(axis=1) - 1) <= SUM_TOLERANCE)
    if valid.all():
        return ""
    first = int(np.flatnonzero(~valid)[0])
    return (
        f"the probabilities of image {table['image_id'].iloc[first]} must be at least 0 "
        f"and sum to 1. Received: {', '.join(f'{value:.6g}' for value in values[first])}."
    )
