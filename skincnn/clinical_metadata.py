"""Clinical metadata: age, sex and lesion site as inputs of a model.

The columns `dx_type` and `dataset` are deliberately excluded because they can reveal the
diagnosis; `skincnn.data.leakage` rejects them as model inputs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.errors import DataError

CLINICAL_COLUMNS = ("age", "sex", "localization")
"""Columns of clinical metadata: age in years; sex and body site as words. An exported model
that uses clinical metadata has inputs with these names."""

UNKNOWN = "unknown"
SEXES = ("female", "male")
REGIONS = {
    "head and neck": ("head/neck", "face", "scalp", "ear", "neck"),
    "torso": (
        "anterior torso",
        "posterior torso",
        "lateral torso",
        "back",
        "chest",
        "abdomen",
        "trunk",
    ),
    "upper extremity": ("upper extremity", "hand"),
    "lower extremity": ("lower extremity", "foot"),
    "palms and soles": ("palms/soles", "acral"),
    "genital": ("genital", "oral/genital"),
}
"""Body regions and the sites in each, as named by HAM10000 (`localization`) and ISIC 2019
(`anatom_site_general`). The two datasets share no finer grouping."""

REGION_OF = {site: region for region, sites in REGIONS.items() for site in sites}

CLINICAL_FEATURES = (
    "age_per_century",
    "age_unknown",
    *(f"sex_{sex}" for sex in (*SEXES, UNKNOWN)),
    *(f"site_{region.replace(' ', '_')}" for region in (*REGIONS, UNKNOWN)),
)
"""Names of the columns that `encode_clinical_metadata` returns."""


def encode_clinical_metadata(table: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Encodes the `CLINICAL_COLUMNS` of a table as numbers.

    Age is divided by 100; sex and body region are one-hot encoded. A missing age (NaN or
    an empty cell) is encoded as 0 with `age_unknown` 1. A missing sex or site (NaN, an
    empty cell or "unknown") sets `sex_unknown` or `site_unknown` to 1. The case of words
    and surrounding whitespace are ignored, and underscores are equivalent to spaces.

    Returns:
        float32 [len(table), len(CLINICAL_FEATURES)], in the order of `CLINICAL_FEATURES`.

    Raises:
        DataError: A column is missing, or an age, sex or site is not a valid value.
    """
    missing = [name for name in CLINICAL_COLUMNS if name not in table]
    if missing:
        raise DataError(
            f"The clinical metadata lack the column(s) {', '.join(missing)}. Expected: "
            f"{', '.join(CLINICAL_COLUMNS)}. Cells may be empty."
        )
    age = _parse_ages(table["age"])
    sexes = _parse_words(table["sex"], {sex: sex for sex in SEXES})
    regions = _parse_words(table["localization"], REGION_OF)
    return np.concatenate(
        [
            np.nan_to_num(age / 100)[:, None],
            np.isnan(age)[:, None],
            sexes[:, None] == np.array([*SEXES, UNKNOWN]),
            regions[:, None] == np.array([*REGIONS, UNKNOWN]),
        ],
        axis=1,
        dtype=np.float32,
    )


def _parse_ages(cells: pd.Series) -> npt.NDArray[np.float64]:
    ages = np.asarray(pd.to_numeric(cells, errors="coerce"), np.float64)
    filled = ~cells.isna() & (cells.astype(str).str.strip() != "")
    invalid = (filled.to_numpy() & np.isnan(ages)) | (ages < 0) | np.isinf(ages)
    if invalid.any():
        raise DataError(
            f"{invalid.sum()} value(s) in the column age are not valid ages. Expected a "
            "number of years >= 0, or an empty cell if the age is unknown. Received: "
            f"{cells[invalid].iloc[0]!r}."
        )
    return ages


def _parse_words(cells: pd.Series, values: dict[str, str]) -> npt.NDArray[np.str_]:
    """Returns `values[word]` for the word in each cell; "unknown" for an empty cell."""
    values = {**values, UNKNOWN: UNKNOWN, "": UNKNOWN}
    words = cells.fillna("").astype(str).str.strip().str.lower().str.replace("_", " ")
    invalid = sorted(set(words) - set(values))
    if invalid:
        raise DataError(
            f"The column {cells.name} has invalid values. Expected one of: "
            f"{', '.join(filter(None, values))}; or an empty cell. Received: "
            f"{', '.join(map(repr, invalid[:10]))}."
        )
    return np.array([values[word] for word in words], dtype=np.str_)
