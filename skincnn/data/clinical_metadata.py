"""From the columns of a table to the numbers that a model is told of a patient."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.clinical_metadata import (
    METADATA_COLUMNS,
    METADATA_FIELDS,
    REGION_OF,
    REGIONS,
    SEXES,
    UNKNOWN,
)
from skincnn.errors import DataError


def encode_clinical_metadata(table: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Returns float32 [len(table), len(METADATA_FIELDS)], the columns as named there.

    Age is in centuries; sex and the region of the site are one-hot. What is missing is
    NaN or an empty cell, or "unknown" for sex and site: an age that is missing is 0 with
    `age_unknown` 1, the others are `sex_unknown` and `site_unknown`. Capital letters,
    spaces at the ends and underscores make no difference.

    Args:
        table: Rows with `age` in years, `sex` and `localization`.

    Raises:
        DataError: A column is not there, an age is no age, or a word is not known.
    """
    lacking = [name for name in METADATA_COLUMNS if name not in table]
    if lacking:
        raise DataError(
            f"The metadata lack the column(s) {', '.join(lacking)}. Expected: "
            f"{', '.join(METADATA_COLUMNS)}; a cell may be empty."
        )
    age = _ages(table["age"])
    sexes = _known(table["sex"], dict(zip(SEXES, SEXES, strict=True)))
    regions = _known(table["localization"], REGION_OF)
    parts = [
        np.nan_to_num(age / 100)[:, None],
        np.isnan(age)[:, None],
        sexes[:, None] == np.array([*SEXES, UNKNOWN]),
        regions[:, None] == np.array([*REGIONS, UNKNOWN]),
    ]
    encoded = np.concatenate(parts, axis=1, dtype=np.float32)
    assert encoded.shape[1] == len(METADATA_FIELDS)
    return encoded


def _ages(cells: pd.Series) -> npt.NDArray[np.float64]:
    ages = np.asarray(pd.to_numeric(cells, errors="coerce"), np.float64)
    written = ~cells.isna() & (cells.astype(str).str.strip() != "")
    wrong = (written.to_numpy() & np.isnan(ages)) | (ages < 0) | np.isinf(ages)
    if wrong.any():
        raise DataError(
            f"{wrong.sum()} age(s) are no number of years: {cells[wrong].iloc[0]!r}, ... "
            "Expected a number >= 0, or an empty cell where it is not known."
        )
    return ages


def _known(cells: pd.Series, words: dict[str, str]) -> npt.NDArray[np.str_]:
    """Returns what each cell means: a value of `words`, or "unknown"."""
    meanings = {**words, UNKNOWN: UNKNOWN, "": UNKNOWN}
    texts = cells.fillna("").astype(str).str.strip().str.lower().str.replace("_", " ")
    strange = sorted(set(texts) - set(meanings))
    if strange:
        raise DataError(
            f"{cells.name} holds {', '.join(map(repr, strange[:10]))}. Expected one of: "
            f"{', '.join(words)}; or {UNKNOWN}, or an empty cell."
        )
    return np.array([meanings[text] for text in texts], dtype=np.str_)
