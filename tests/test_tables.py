from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skincnn.clinical_metadata import CLINICAL_COLUMNS, UNKNOWN
from skincnn.errors import ConfigError
from skincnn.serving.predictor import find_patients
from skincnn.serving.tables import csv_line, read_patients, to_lines


def test_lines_hold_the_rows() -> None:
    table = pd.DataFrame(
        {
            "file": ['a,"b".jpg', "two\nlines.jpg", "é.jpg"],
            "probability": np.array([0.1, np.nan, 1e-7], np.float32),
            "refer": [True, False, True],
        }
    )
    text = "\n".join([csv_line(table), *to_lines(table, as_json=False)])
    assert text + "\n" == table.to_csv(index=False, lineterminator="\n")
    read = pd.read_csv(io.StringIO(text), dtype={"probability": np.float32})
    pd.testing.assert_frame_equal(read, table)
    lines = to_lines(table, as_json=True)
    assert json.loads(lines[1]) == {"file": table["file"][1], "probability": None} | {
        "refer": False
    }
    assert all("\n" not in line for line in lines)


def test_columns_that_say_nothing_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("image_id,age,sex,localization\n007,,,\n008,,,\n")
    found = find_patients([Path("007.jpg"), Path("x.jpg")], read_patients(path))
    assert tuple(found) == CLINICAL_COLUMNS
    assert found["sex"].tolist() == found["localization"].tolist() == [UNKNOWN] * 2
    assert all(map(math.isnan, found["age"]))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("007,50,male,back\n007,60,male,back\n", "007 stands in it twice"),
        ("007,old,male,back\n", "Unable to parse"),
    ],
)
def test_a_table_of_patients_that_cannot_be_used_is_refused(
    rows: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(f"image_id,age,sex,localization\n{rows}")
    with pytest.raises(ConfigError, match="--clinical-metadata must be a CSV") as refused:
        read_patients(path)
    assert said in str(refused.value)
