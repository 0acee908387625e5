from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skincnn.clinical_metadata import METADATA_FIELDS, REGIONS
from skincnn.data.clinical_metadata import encode_clinical_metadata
from skincnn.data.leakage import FORBIDDEN_INPUTS
from skincnn.errors import DataError
from tfds_ham10000 import demo

HAM10000 = [
    *("abdomen", "acral", "back", "chest", "ear", "face", "foot", "genital", "hand"),
    *("lower extremity", "neck", "scalp", "trunk", "unknown", "upper extremity"),
]
ISIC2019 = [
    *("anterior torso", "head/neck", "lateral torso", "lower extremity", "oral/genital"),
    *("palms/soles", "posterior torso", "upper extremity"),
]


def table(**columns: list[object]) -> pd.DataFrame:
    """Rows of unknown patients, but for the columns given."""
    (length,) = {len(values) for values in columns.values()}
    unknown = {"age": [np.nan], "sex": ["unknown"], "localization": ["unknown"]}
    return pd.DataFrame({name: cell * length for name, cell in unknown.items()} | columns)


def known(row: np.ndarray) -> dict[str, float]:
    return {name: value for name, value in zip(METADATA_FIELDS, row, strict=True) if value}


def test_a_patient_becomes_numbers() -> None:
    rows = encode_clinical_metadata(
        table(
            age=[50.0, 0.0, "", np.nan],
            sex=["female", " Male", "", None],
            localization=["back", "lower_extremity", "unknown", np.nan],
        )
    )
    assert rows.dtype == np.float32
    nothing = {"age_unknown": 1, "sex_unknown": 1, "site_unknown": 1}
    assert [known(row) for row in rows] == [
        {"age_per_century": 0.5, "sex_female": 1, "site_torso": 1},
        {"sex_male": 1, "site_lower_extremity": 1},
        nothing,
        nothing,
    ]


def test_the_order_of_rows_is_kept_and_the_index_ignored() -> None:
    rows = table(age=[10.0, 20.0, 30.0]).set_index(pd.Index([7, 7, 3]))
    np.testing.assert_allclose(encode_clinical_metadata(rows)[:, 0], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("sites", [HAM10000, ISIC2019, list(demo.SITES)])
def test_the_published_sites_are_known(sites: list[str]) -> None:
    rows = encode_clinical_metadata(table(localization=sites))
    first = METADATA_FIELDS.index("site_head_and_neck")
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
        ({"sex": ["mal"]}, "sex holds 'mal'. Expected one of: female, male; or unknown"),
        ({"localization": ["knee"]}, "localization holds 'knee'"),
        ({"age": ["old"]}, r"1 age\(s\) are no number of years: 'old'"),
        ({"age": [-1.0]}, "no number of years"),
        ({"age": [np.inf]}, "no number of years"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        encode_clinical_metadata(table(**columns))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match=r"lack the column\(s\) sex"):
        encode_clinical_metadata(table(age=[1.0]).drop(columns="sex"))


def test_nothing_that_tells_the_diagnosis_is_encoded() -> None:
    assert not [f for f in METADATA_FIELDS if f.startswith(FORBIDDEN_INPUTS)]
    one, other = table(sex=["male"]), table(sex=["male"])
    other = other.assign(dx_type="histo", dataset="rosendahl", label=3)
    np.testing.assert_array_equal(
        encode_clinical_metadata(one), encode_clinical_metadata(other)
    )
