"""The encoding of clinical metadata, and invalid values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skincnn.clinical_metadata import (
    CLINICAL_FEATURES,
    REGION_OF,
    REGIONS,
    encode_clinical_metadata,
    normalize_clinical_metadata,
)
from skincnn.data.leakage import FORBIDDEN_INPUTS
from skincnn.errors import DataError
from tfds_ham10000 import demo
from tfds_ham10000.table.values import SITES

HAM10000 = [
    *("abdomen", "acral", "back", "chest", "ear", "face", "foot", "genital", "hand"),
    *("lower extremity", "neck", "scalp", "trunk", "unknown", "upper extremity"),
]
ISIC2019 = [
    *("anterior torso", "head/neck", "lateral torso", "lower extremity", "oral/genital"),
    *("palms/soles", "posterior torso", "upper extremity"),
]


def table(**columns: list[object]) -> pd.DataFrame:
    """Returns rows with unknown values in all columns except the given ones."""
    (length,) = {len(values) for values in columns.values()}
    unknown = {"age": [np.nan], "sex": ["unknown"], "localization": ["unknown"]}
    return pd.DataFrame({name: cell * length for name, cell in unknown.items()} | columns)


def nonzero(row: np.ndarray) -> dict[str, float]:
    return {
        name: value for name, value in zip(CLINICAL_FEATURES, row, strict=True) if value
    }


def test_clinical_metadata_is_encoded_as_numbers() -> None:
    rows = encode_clinical_metadata(
        table(
            age=[50.0, 0.0, "", np.nan],
            sex=["female", " Male", "", None],
            localization=["back", "lower_extremity", "unknown", np.nan],
        )
    )
    assert rows.dtype == np.float32
    all_unknown = {"age_unknown": 1, "sex_unknown": 1, "site_unknown": 1}
    assert [nonzero(row) for row in rows] == [
        {"age_per_century": 0.5, "sex_female": 1, "site_torso": 1},
        {"sex_male": 1, "site_lower_extremity": 1},
        all_unknown,
        all_unknown,
    ]


def test_the_words_of_other_tables_are_understood() -> None:
    rows = normalize_clinical_metadata(
        table(
            age=["45 years", "85+", "n/a", 5],
            sex=["F", "m", "W", "NA"],
            localization=["Torso", "lower_limbs", "?", "acral palms or soles"],
        )
    )
    assert rows["sex"].tolist() == ["female", "male", "female", "unknown"]
    sites = ["trunk", "lower extremity", "unknown", "palms/soles"]
    assert rows["localization"].tolist() == sites
    np.testing.assert_array_equal(rows["age"], [45, 85, np.nan, 5])


def test_each_site_of_the_vocabulary_has_a_region() -> None:
    assert {*SITES} == {*REGION_OF}


def test_row_order_does_not_depend_on_the_index() -> None:
    rows = table(age=[10.0, 20.0, 30.0]).set_index(pd.Index([7, 7, 3]))
    np.testing.assert_allclose(encode_clinical_metadata(rows)[:, 0], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("sites", [HAM10000, ISIC2019, list(demo.SITES)])
def test_the_published_sites_are_known(sites: list[str]) -> None:
    rows = encode_clinical_metadata(table(localization=sites))
    first = CLINICAL_FEATURES.index("site_head_and_neck")
    assert (rows[:, first:].sum(axis=1) == 1).all()
    assert [s for s, r in zip(sites, rows, strict=True) if r[-1]] == [
        site for site in sites if site == "unknown"
    ]


def test_each_site_is_in_one_region() -> None:
    sites = [site for sites in REGIONS.values() for site in sites]
    assert len(sites) == len(set(sites))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"sex": ["mal"]},
            "column 'sex': 1 invalid.*row 0: 'mal'.*one of f, female, .*Did you mean 'm",
        ),
        (
            {"localization": ["knee"]},
            "column 'localization': 1 invalid.*row 0: 'knee'.*one of head/neck, ",
        ),
        (
            {"age": ["old"]},
            r"column 'age': 1 invalid.*row 0: 'old'.*Expected an age in years, 0 to 120",
        ),
        ({"age": [-1.0]}, "row 0: '-1.0'"),
        ({"age": [5.0, 121.0]}, "row 1: '121.0'"),
        ({"age": [np.inf]}, "row 0: 'inf'"),
        ({"age": [1970]}, "look like years of birth"),
    ],
)
def test_invalid_values_are_rejected(
    columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        encode_clinical_metadata(table(**columns))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="Missing: sex"):
        encode_clinical_metadata(table(age=[1.0]).drop(columns="sex"))


def test_columns_that_reveal_the_diagnosis_are_not_encoded() -> None:
    assert not [f for f in CLINICAL_FEATURES if f.startswith(FORBIDDEN_INPUTS)]
    one, other = table(sex=["male"]), table(sex=["male"])
    other = other.assign(dx_type="histo", dataset="rosendahl", label=3)
    np.testing.assert_array_equal(
        encode_clinical_metadata(one), encode_clinical_metadata(other)
    )
