"""The record of the predictions tables that were scored on the folds of a dataset."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from run_dirs import make_table

from skincnn.inference.scored_tables import FILE, record_scored, score_positions


def make(seed: int, *folds: object) -> pd.DataFrame:
    table = make_table("test", 0.7, seed=seed)
    return table.assign(fold=[folds[i % len(folds)] for i in range(len(table))])


def test_tables_are_numbered_within_their_folds(tmp_path: Path) -> None:
    first = {"test": make(0, 8, 9), "test_official": make(1, "test_official")}
    assert score_positions(tmp_path, first) == {"test": 1, "test_official": 1}
    assert not (tmp_path / FILE).exists()
    record_scored(tmp_path, first)
    record_scored(tmp_path, first)
    assert len((tmp_path / FILE).read_text().splitlines()) == 3
    assert score_positions(tmp_path, first) == {"test": 1, "test_official": 1}
    second = {"test": make(2, 9), "test.d4": make(3, 9), "fold_7": make(4, 7)}
    assert score_positions(tmp_path, second) == {"test": 2, "test.d4": 3, "fold_7": 1}
    record_scored(tmp_path, second)
    assert score_positions(tmp_path, first) == {"test": 1, "test_official": 1}
    assert score_positions(tmp_path, {"test": make(5, 8)}) == {"test": 2}
    assert score_positions(tmp_path, {"test": make(5, 8, 9)}) == {"test": 4}


def test_a_directory_that_is_not_writable_is_not_recorded(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    record_scored(missing, {"test": make(0, 9)})
    assert score_positions(missing, {"test": make(0, 9)}) == {"test": None}


@pytest.mark.parametrize("tables", [{}, {"test": make(0, 9)}])
def test_nothing_is_written_twice(tables: dict, tmp_path: Path) -> None:
    for _ in range(2):
        record_scored(tmp_path, tables)
    lines = (tmp_path / FILE).read_text().splitlines()
    assert len(lines) == len(tables)
