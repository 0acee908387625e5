from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skincnn.clinical_metadata import CLINICAL_COLUMNS, UNKNOWN
from skincnn.errors import ConfigError, DataError
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.tables import (
    describe_matches,
    find_isic_year,
    isic_submission,
    read_clinical_metadata,
    select_clinical_metadata,
    to_text,
)
from tfds_ham10000.records import SourceError


def test_the_text_of_a_table_contains_its_values() -> None:
    table = pd.DataFrame(
        {
            "file": ['a,"b".jpg', "two\nlines.jpg", "é.jpg"],
            "probability": np.array([0.1, np.nan, 1e-7], np.float32),
            "refer": [True, False, True],
        }
    )
    parts = [table.iloc[:1], table.iloc[1:]]
    text = "".join(to_text(part, as_json=False, header=part is parts[0]) for part in parts)
    read = pd.read_csv(io.StringIO(text), dtype={"probability": np.float32})
    pd.testing.assert_frame_equal(read, table)
    lines = to_text(table, as_json=True).splitlines()
    expected = {"file": table["file"][1], "probability": None, "refer": False}
    assert json.loads(lines[1]) == expected
    assert len(lines) == len(table)


def test_empty_clinical_metadata_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text("image_id,age,sex,localization\n007,,,\n008,,,\n")
    table = read_clinical_metadata(path)
    rows = select_clinical_metadata([Path("007.jpg"), Path("x.jpg")], table)
    assert tuple(rows) == CLINICAL_COLUMNS
    assert rows["sex"].tolist() == rows["localization"].tolist() == [UNKNOWN] * 2
    assert all(map(math.isnan, rows["age"]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("007,50,male,back\n007.JPG,60,male,back\n", r"1 row.*007\.JPG \(row 3\)"),
        ("a,50,male,back\n,60,male,back\n", r"1 row\(s\) name no image.*\(row 3\)"),
        ("007,old,male,back\n", r"metadata\.csv, column 'age': .*row 2: 'old'"),
        ("007,130,male,back\n", "row 2: '130'.*0 to 120"),
        ("007,50,mal,back\n", "row 2: 'mal'.*Did you mean 'male'"),
        ("007,50,male,knee\n", "row 2: 'knee'.*Expected one of head/neck"),
    ],
)
def test_invalid_clinical_metadata_is_rejected(
    rows: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text(f"image_id,age,sex,localization\n{rows}")
    with pytest.raises((DataError, SourceError), match=message) as caught:
        read_clinical_metadata(path)
    assert caught.value.exit_code == 3


def test_clinical_metadata_have_any_form_of_a_table(tmp_path: Path) -> None:
    """Columns of the ISIC Archive, semicolons, words of other tables, and case of ids."""
    path = tmp_path / "a.csv"
    lines = (
        "isic_id;age_approx;sex;anatom_site_general",
        "P0.JPG;85+;M;torso",
        "b/p1;;F;",
    )
    path.write_text("\n".join(lines), "utf-16")
    table = read_clinical_metadata(path)
    paths = [Path(name) for name in ("x/p0.png", "a/b/P1.jpg", "a/p1.jpg")]
    rows = select_clinical_metadata(paths, table)
    assert rows["sex"].tolist() == ["male", "female", "unknown"]
    assert rows["localization"].tolist() == ["trunk", "unknown", "unknown"]
    np.testing.assert_array_equal(rows["age"], [85, np.nan, np.nan])
    text = "has rows for 2 of 3 images. .*unknown: p1.jpg"
    assert re.search(text, describe_matches(paths, table, path))
    assert describe_matches(paths[:2], table, path) == ""
    with pytest.raises(DataError, match=r"no row for any of the 1 image.*p0, b/p1"):
        describe_matches(paths[2:], table, path)


def test_missing_clinical_metadata_is_an_error_of_usage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"which is not a file"):
        read_clinical_metadata(tmp_path / "none.csv")
    path = tmp_path / "a.csv"
    path.write_text("image_id,age,localization\na,1,back\n")
    with pytest.raises(SourceError, match=r"names of the sex: sex, gender\. Rename"):
        read_clinical_metadata(path)


def test_isic_submissions_have_the_official_columns() -> None:
    names = ("ak", "bcc", "bkl", "df", "mel", "nv", "scc", "vasc")
    before = np.random.default_rng(0).dirichlet(np.ones(8), 2)
    rule = DecisionRule(
        class_names=names,
        set_thresholds=(0.1,) * len(names),
        calibration_map=CalibrationMap(temperature=2.0, bias=tuple(range(8))),
        threshold=None,
        max_distance=1.0,
    )
    calibrated = rule.calibration_map.apply(before)
    predictions = pd.DataFrame(
        {"image_id": ["a", "b"], "out_of_distribution": [False, True]}
        | {f"probability_{name}": calibrated[:, k] for k, name in enumerate(names)}
    )
    submission = isic_submission(predictions, rule)
    header = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    assert list(submission) == header.split(",")
    assert submission["UNK"].tolist() == [0, 1]
    for name, column in zip(names, before.T, strict=True):
        np.testing.assert_allclose(submission[name.upper()], column, atol=1e-9)
    names_2018 = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    assert find_isic_year(names_2018) == "2018"
    with pytest.raises(ConfigError, match="requires a model with the classes of the ISIC"):
        find_isic_year(["benign", "malignant"])
