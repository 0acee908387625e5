"""Clinical metadata: age, sex and body site as inputs of a model.

The columns `dx_type` and `dataset` are deliberately excluded because they can reveal the
diagnosis; `skincnn.data.leakage` rejects them as model inputs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.errors import DataError
from tfds_ham10000.records import UNKNOWN as UNKNOWN
from tfds_ham10000.records import SourceError
from tfds_ham10000.table.values import (
    PARSERS,
    SITES,
    parse_column,
)

CLINICAL_COLUMNS = ("age", "sex", "localization")
"""Columns of clinical metadata: age in years; sex and body site as words."""

SEX_NAMES = ("female", "male")
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
FORM_VALUES = {"sex": (*SEX_NAMES, UNKNOWN), "localization": (*SITES, UNKNOWN)}
"""The names of the sexes and sites by column, in the order in which a form lists them."""
FIELDS = {"age": "age", "sex": "sex", "localization": "site"}
"""The field of `PARSERS` for each of `CLINICAL_COLUMNS`."""

REGION_OF = {site: region for region, sites in REGIONS.items() for site in sites}

CLINICAL_FEATURES = (
    "age_per_century",
    "age_unknown",
    *(f"sex_{sex}" for sex in (*SEX_NAMES, UNKNOWN)),
    *(f"site_{region.replace(' ', '_')}" for region in (*REGIONS, UNKNOWN)),
)
"""Names of the columns that `encode_clinical_metadata` returns."""


def normalize_clinical_metadata(
    table: pd.DataFrame, where: str = "The clinical metadata"
) -> pd.DataFrame:
    """Returns the `CLINICAL_COLUMNS` with numeric ages, and canonical sexes and sites.

    Ages are float64, NaN if missing. Sexes are `SEX_NAMES`, and sites are those in
    `REGIONS`. A missing sex or site, and the sex "other", become "unknown". NaN and words
    such as "", "unknown" or "n/a" are missing values. The accepted words are those that
    `tfds_ham10000` reads in any table, such as "M" for male and "torso" for trunk: case and
    surrounding whitespace are ignored, and underscores match spaces.

    Args:
        table: A table with the `CLINICAL_COLUMNS`. Its index contains the row numbers.
        where: The source of the table, for error messages.

    Raises:
        DataError: A column is missing, an age is not in 0..120 years, or a sex or a site is
            not a known word. The message contains the first invalid cells.
    """
    missing = [name for name in CLINICAL_COLUMNS if name not in table]
    if missing:
        raise DataError(
            f"{where} must have the columns {', '.join(CLINICAL_COLUMNS)}. Cells may be "
            f"empty. Missing: {', '.join(missing)}."
        )
    columns = {}
    for name, field in FIELDS.items():
        cells = table[name]
        text = cells.astype(object).where(cells.notna(), "").astype(str).str.strip()
        try:
            columns[name] = parse_column(text, PARSERS[field][0], where, PARSERS[field][1])
        except SourceError as error:
            raise DataError(str(error)) from error
    return pd.DataFrame(columns, index=table.index).astype({"age": np.float64})


def encode_clinical_metadata(table: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Encodes the `CLINICAL_COLUMNS` of a table as numbers.

    Age is divided by 100; sex and body region are one-hot encoded. A missing age is encoded
    as 0 with `age_unknown` 1. A missing sex or site sets `sex_unknown` or `site_unknown` to
    1. See `normalize_clinical_metadata` for the words and the missing values.

    Returns:
        float32 [len(table), len(CLINICAL_FEATURES)], in the order of `CLINICAL_FEATURES`.

    Raises:
        DataError: See `normalize_clinical_metadata`.
    """
    table = normalize_clinical_metadata(table)
    age = table["age"].to_numpy()
    sexes = table["sex"].to_numpy(str)
    regions = table["localization"].map({**REGION_OF, UNKNOWN: UNKNOWN}).to_numpy(str)
    return np.concatenate(
        [
            np.nan_to_num(age / 100)[:, None],
            np.isnan(age)[:, None],
            sexes[:, None] == np.array([*SEX_NAMES, UNKNOWN]),
            regions[:, None] == np.array([*REGIONS, UNKNOWN]),
        ],
        axis=1,
        dtype=np.float32,
    )
