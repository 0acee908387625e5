"""The record of the predictions tables that were scored on the folds of a dataset."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from run_dirs import make_table

from skincnn.data.characteristics import DATASET
from skincnn.inference.scored_tables import FILE, record_scored


def make(seed: int, *folds: object) -> pd.DataFrame:
    table = make_table("test", 0.7, seed=seed)
    fold = [folds[i % len(folds)] for i in range(len(table))]
    return table.assign(fold=fold, **{DATASET: "a"})


def test_tables_are_numbered_within_their_folds(tmp_path: Path) -> None:
    first = {"test": make(0, 8, 9), "test_official": make(1, "test_official")}
    assert record_scored({"a": tmp_path}, {}) == {}
    assert not (tmp_path / FILE).exists()
    for _ in range(2):
        assert record_scored({"a": tmp_path}, first) == {"test": 1, "test_official": 1}
    second = {"test": make(2, 9), "test.d4": make(3, 9), "fold_7": make(4, 7)}
    assert record_scored({"a": tmp_path}, second) == {"test": 2, "test.d4": 3, "fold_7": 1}
    assert record_scored({"a": tmp_path}, first) == {"test": 1, "test_official": 1}
    assert record_scored({"a": tmp_path}, {"test": make(5, 8)}) == {"test": 2}
    assert record_scored({"a": tmp_path}, {"test": make(6, 8, 9)}) == {"test": 5}


def test_positions_are_not_known_if_the_record_cannot_be_written(tmp_path: Path) -> None:
    assert record_scored({"a": tmp_path / "missing"}, {"test": make(0, 9)}) == {
        "test": None
    }


@pytest.mark.parametrize("content", [b"8,1\n8,2,3,4\n", bytes(100)])
def test_positions_are_not_known_if_the_record_is_damaged(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert record_scored({"a": tmp_path}, {"test": make(0, 9)}) == {"test": None}
