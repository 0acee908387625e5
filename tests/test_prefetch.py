from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from exports import make_rule

from skincnn.config import DataConfig
from skincnn.serving.predictor import Predict, Predictions, Predictor, columns
from skincnn.serving.prefetch import predict_batches

RULE = make_rule("a")


def predictor_of(predict: Predict) -> Predictor:
    return Predictor("x", RULE, DataConfig(), False, False, predict)


def predictions_of(contents: Sequence[bytes]) -> Predictions:
    """Returns predictions whose probabilities are the numbers in the files."""
    count = len(contents)
    zeros = {name: np.zeros(count) for name in columns(RULE)}
    probabilities = np.array([[float(content)] for content in contents])
    words = np.array([b"ok"] * count)
    return {
        **zeros,
        "status": words,
        "predicted_class": words,
        "in_prediction_set": np.zeros((count, 1), bool),
        "probabilities": probabilities,
    }


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{number}.jpg" for number in range(7)]
    for number, path in enumerate(files):
        path.write_text(str(number))
    return files


def test_predictions_are_in_the_order_of_the_files(paths: list[Path]) -> None:
    second = threading.Event()

    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        if b"0" in contents:
            second.wait(10)  # The first batch finishes last.
        else:
            second.set()
        return predictions_of(contents)

    batches = list(predict_batches(predictor_of(predict), paths, 3))
    assert [len(batch.table) for batch in batches] == [3, 3, 1]
    table = pd.concat([batch.table for batch in batches])
    assert table["file"].tolist() == [str(path) for path in paths]
    assert table["probability_a"].tolist() == list(range(7))
    assert batches[1].contents == [b"3", b"4", b"5"]
    assert list(batches[2].clinical_metadata.index) == ["6"]


def test_the_next_batch_starts_during_the_computation(paths: list[Path]) -> None:
    both = threading.Barrier(2, timeout=10)  # It breaks if one batch waits for the other.

    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        both.wait()
        return predictions_of(contents)

    assert len(list(predict_batches(predictor_of(predict), paths[:4], 1))) == 4


def test_an_error_follows_the_batches_before_it(paths: list[Path]) -> None:
    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        if contents == [b"2"]:
            raise ValueError("in the third batch")
        return predictions_of(contents)

    batches = predict_batches(predictor_of(predict), paths, 1)
    assert [next(batches).contents for _ in range(2)] == [[b"0"], [b"1"]]
    with pytest.raises(ValueError, match="in the third batch"):
        next(batches)
