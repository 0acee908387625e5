"""Predictions tables: columns, files, and damaged tables."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_dirs import NAMES, make_table
from scipy.special import logsumexp, softmax

from skincnn.errors import DataError
from skincnn.files import sha256
from skincnn.inference.predictions import (
    arrays,
    as_written,
    mean_predictions,
    predictions_table,
    read_predictions,
    table_fingerprint,
    table_path,
    table_sha256,
    to_csv,
    write_predictions,
)


def make_logits(seed: int, num_images: int = 20) -> pd.DataFrame:
    logits = np.random.default_rng(seed).normal(0, 5, (num_images, 3)).astype(np.float32)
    rows = pd.DataFrame(
        {
            "image_id": [f"0{n}" for n in range(num_images)],
            "lesion_id": [str(n // 2) for n in range(num_images)],
            "patient_id": ["", *(str(n // 4) for n in range(1, num_images))],
            "group_id": [str(n // 2) for n in range(num_images)],
            "label": np.arange(num_images) % 3,
            "age": [np.nan, *range(1, num_images)],
            "sha256": "",
        }
    )
    return predictions_table(rows, logits, NAMES).assign(logits=list(logits))


def test_the_logits_follow_from_the_energy() -> None:
    table = make_logits(0)
    logits = np.stack(table["logits"])
    np.testing.assert_allclose(table["energy"], -logsumexp(logits, axis=1), rtol=1e-5)
    y_true, y_prob = arrays(table, NAMES)
    assert y_true.tolist() == [n % 3 for n in range(20)]
    np.testing.assert_allclose(y_prob, softmax(logits, axis=1), rtol=1e-5)
    from_energy = np.log(y_prob) - table["energy"].to_numpy()[:, None]
    np.testing.assert_allclose(from_energy, logits, atol=1e-4)


def test_a_table_is_read_with_the_digits_that_were_written(tmp_path: Path) -> None:
    tables = [
        make_logits(seed).drop(columns="logits").assign(distance=seed) for seed in (0, 1)
    ]
    mean = mean_predictions(tables)
    write_predictions(tmp_path, {"test.d4": mean})
    path = table_path(tmp_path, "test.d4")
    assert path == tmp_path / "predictions/test.d4.csv"
    assert sha256(path) == table_sha256(mean)
    table = read_predictions(path)
    pd.testing.assert_frame_equal(table, as_written(mean))
    # Ids that look like numbers stay text; float32 becomes the float64 of its digits.
    assert table["image_id"].tolist() == mean["image_id"].tolist()
    assert table["lesion_id"].tolist() == mean["lesion_id"].tolist()
    assert table["patient_id"].tolist() == mean["patient_id"].tolist()
    assert np.isnan(table["age"][0])
    assert mean["probability_mel"].dtype == np.float32
    assert table["probability_mel"].dtype == np.float64
    assert (table["probability_mel"] != mean["probability_mel"].astype(float)).any()
    np.testing.assert_array_equal(
        table["probability_mel"].astype(np.float32), mean["probability_mel"]
    )


def test_text_that_looks_like_a_number_stays_text() -> None:
    texts = {"dataset": "007", "original_label": "1.0", "skin_type": "12", "sex": "True"}
    table = as_written(make_logits(0).drop(columns="logits").assign(**texts))
    assert table[list(texts)].iloc[0].to_dict() == texts


def replace_first(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    return table.assign(**{column: [value, *table[column].iloc[1:]]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="lesion_id"), "columns are missing: lesion_id"),
        (lambda t: t.drop(columns="distance"), "columns are missing: distance"),
        (lambda t: t.filter(regex="^(?!probability)"), "probability_<class>"),
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "test0 "),
        (lambda t: replace_first(t, "image_id", ""), "no image_id, the first one in row 1"),
        (
            lambda t: t.assign(group_id=" "),
            r"120 image\(s\) have no group_id, the first one in row 1",
        ),
        (
            lambda t: replace_first(t, "label", "scc"),
            "label 'scc'. Expected one of: bkl, mel, nv",
        ),
        (lambda t: replace_first(t, "probability_mel", 3.0), "sum to 1"),
        (lambda t: replace_first(t, "probability_mel", None), "sum to 1"),
        (lambda t: replace_first(t, "distance", "x"), "test0 has the distance 'x'"),
        (lambda t: t.assign(age="?"), r"has the age '\?'\. Expected a number"),
    ],
)
def test_a_damaged_table_is_rejected(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "test.csv"
    change(make_table("test", 0.5)).to_csv(path, index=False)
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_a_missing_table_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read as a .*skincnn evaluate"):
        read_predictions(tmp_path / "test.csv")


def test_the_fingerprint_ignores_rounding_errors_and_the_order_of_rows() -> None:
    table = make_table("test", 0.7, num_images=60)
    columns = list(table.filter(like="probability_"))
    noise = 1 + 1e-7 * np.random.default_rng(0).normal(size=(len(table), len(columns)))
    other = table.assign(**(table[columns] * noise)).sample(frac=1, random_state=0)
    assert table_sha256(other) != table_sha256(table)
    assert table_fingerprint(other) == table_fingerprint(table)
    changed = table.copy()
    changed.loc[3, columns] = changed.loc[3, columns].to_numpy()[::-1]
    assert table_fingerprint(changed) != table_fingerprint(table)
    relabeled = table.assign(label=table["label"].to_numpy()[::-1])
    assert table_fingerprint(relabeled) != table_fingerprint(table)


def test_a_carriage_return_in_a_name_does_not_end_a_row() -> None:
    table = pd.DataFrame({"file": ["a\r.jpg", "b.jpg"], "value": [0.5, 1.0]})
    for header in (True, False):
        names = None if header else list(table)
        read = pd.read_csv(io.StringIO(to_csv(table, header=header)), names=names)
        pd.testing.assert_frame_equal(read, table)
    assert '"' not in to_csv(table.iloc[1:])
