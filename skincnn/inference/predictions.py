"""The predictions table, which everything that is said of a model is made from."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.special

from skincnn.errors import DataError
from skincnn.files import write_text

PROBABILITY_PREFIX = "probability_"
ENERGY = "energy"
"""The column with -log of the sum of exp(logits), Liu et al., Energy-based
Out-of-distribution Detection (2020): low for pictures like those of the training. With the
probabilities it gives the logits: log(probability) - energy."""
DISTANCE = "distance"
"""The column with `unknown.Familiar.distances`: about 1 for pictures like those of
validation, more for others."""
SUM_TOLERANCE = 1e-3


def predictions_table(
    table: pd.DataFrame,
    logits: npt.NDArray[np.float32],
    class_names: Sequence[str],
) -> pd.DataFrame:
    """Returns `table` with the class's name as label, a column per probability, and energy.

    Args:
        table: A row for each picture, with its integer `label` (`pipeline.read_table`).
        logits: [num_images, num_classes], in the same order.
        class_names: The names of the labels, in order.
    """
    probabilities = scipy.special.softmax(logits, axis=1)
    columns = {
        f"{PROBABILITY_PREFIX}{name}": probabilities[:, index]
        for index, name in enumerate(class_names)
    }
    columns[ENERGY] = -scipy.special.logsumexp(logits, axis=1)
    names = table["label"].map(dict(enumerate(class_names)))
    return table.drop(columns="sha256").assign(label=names, **columns)


def mean_predictions(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Returns the first of several tables with the mean answers of all, row by row.

    Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using
    Deep Ensembles (2017), arXiv:1612.01474, take the mean of the probabilities; that of
    the distances tells how unknown a picture is to all.

    Args:
        tables: Of the same pictures in the same order.
    """
    names = class_names_of(tables[0])
    answers = (ENERGY, DISTANCE, *(f"{PROBABILITY_PREFIX}{name}" for name in names))
    means = {
        column: np.mean([table[column] for table in tables], axis=0)
        for column in answers
        if column in tables[0]
    }
    return tables[0].assign(**means)


def as_written(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a predictions table as `read_predictions` returns it after writing it."""
    return _parse(io.StringIO(table.to_csv(index=False)))


def read_predictions(path: Path) -> pd.DataFrame:
    """Returns a table that was written as CSV; labels and ids are text, even "0".

    Raises:
        DataError: It cannot be read, has no pictures, lacks a column, or holds what cannot
            be: a picture twice or without a name, a label without a column, probabilities
            that are none.
    """
    try:
        table = _parse(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a predictions table: {error}. Make it again with "
            "scripts/evaluate.py."
        ) from error
    fault = _find_fault(table)
    if fault:
        raise DataError(f"{path}: {fault} Make it again with scripts/evaluate.py.")
    return table


def table_path(workdir: Path, name: str) -> Path:
    """Returns predictions/<name>.csv of a run directory."""
    return workdir / "predictions" / f"{name}.csv"


def table_sha256(table: pd.DataFrame) -> str:
    """Returns the SHA-256 of the file that `write_predictions` writes."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()


def write_predictions(workdir: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Writes predictions/<name>.csv for each name and table."""
    for name, table in tables.items():
        write_text(table_path(workdir, name), table.to_csv(index=False))


def class_names_of(predictions: pd.DataFrame) -> list[str]:
    """Returns the names of the classes, in the order of their columns."""
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
    columns = [f"{PROBABILITY_PREFIX}{name}" for name in class_names]
    y_true = np.asarray(labels.to_numpy(), np.int64)
    return y_true, np.asarray(predictions[columns].to_numpy(), np.float64)


def _parse(source: Path | io.StringIO) -> pd.DataFrame:
    text = dict.fromkeys(("image_id", "lesion_id", "group_id", "label"), str)
    return pd.read_csv(source, dtype=text, keep_default_na=False, na_values={"age": ""})


def _find_fault(table: pd.DataFrame) -> str:
    """Returns what is wrong with a predictions table, "" where nothing is."""
    missing = [name for name in ("image_id", "lesion_id", "label") if name not in table]
    names = class_names_of(table)
    if missing or len(names) < 2:
        needed = missing or [f"{PROBABILITY_PREFIX}<class> for two classes or more"]
        return (
            f"the columns {', '.join(needed)} are missing. Received: "
            f"{', '.join(map(str, table.columns))}."
        )
    if table.empty:
        return "it has no rows."
    for column in ("image_id", "lesion_id"):
        blank = np.flatnonzero(table[column].str.strip() == "")
        if len(blank):
            return (
                f"{len(blank)} of the pictures have no {column}, the first in row "
                f"{blank[0] + 1}. Expected a name; without that of its lesion it is not "
                "known which pictures belong together, and intervals are wrong."
            )
    twice = table.loc[table["image_id"].duplicated(), "image_id"]
    if len(twice):
        return f"picture {twice.iloc[0]} stands in it twice."
    strange = ~table["label"].isin(names)
    if strange.any():
        row = table[strange].iloc[0]
        return (
            f"picture {row['image_id']} has the label {row['label']!r}. Expected one of: "
            f"{', '.join(names)}."
        )
    values = table[[f"{PROBABILITY_PREFIX}{name}" for name in names]]
    values = values.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    wrong = ~((values >= 0).all(axis=1) & (abs(values.sum(axis=1) - 1) <= SUM_TOLERANCE))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        received = ", ".join(f"{value:.6g}" for value in values[first])
        return (
            f"the probabilities of picture {table['image_id'].iloc[first]} must be 0 or "
            f"more and add up to 1. Received: {received}."
        )
    return ""
