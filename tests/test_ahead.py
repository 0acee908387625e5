from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skincnn.config import DataConfig
from skincnn.serving.postprocessing import DEFAULT_POINT, DecisionRule
from skincnn.serving.predictor import COLUMNS, Answers, Predictor
from skincnn.serving.prefetch import answer_files

RULES = DecisionRule(("a",), 1.0, DEFAULT_POINT, 0.5, 1.0)


def answers(contents: Sequence[bytes]) -> Answers:
    """Answers with what a file says as its probability."""
    count = len(contents)
    found = {name: np.zeros(count) for name in COLUMNS}
    probabilities = np.array([[float(content)] for content in contents])
    words = np.array([b"ok"] * count)
    return {**found, "status": words, "class_name": words, "probabilities": probabilities}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number}.jpg" for number in range(7)]
    for number, path in enumerate(found):
        path.write_text(str(number))
    return found


def test_all_files_are_answered_in_their_order(paths: list[Path]) -> None:
    second = threading.Event()

    def ask(contents: Sequence[bytes], patients: pd.DataFrame) -> Answers:
        if b"0" in contents:
            second.wait(10)  # the first batch is the last to be ready
        else:
            second.set()
        return answers(contents)

    batches = list(
        answer_files(Predictor("x", RULES, DataConfig(), False, False, ask), paths, 3)
    )
    assert [len(batch.table) for batch in batches] == [3, 3, 1]
    table = pd.concat([batch.table for batch in batches])
    assert table["file"].tolist() == [str(path) for path in paths]
    assert table["probability_a"].tolist() == list(range(7))
    assert batches[1].contents == [b"3", b"4", b"5"]
    assert list(batches[2].patients.index) == ["6"]


def test_the_next_batch_is_asked_about_while_one_is_computed(paths: list[Path]) -> None:
    both = threading.Barrier(2, timeout=10)  # broken where one waits for the other

    def ask(contents: Sequence[bytes], patients: pd.DataFrame) -> Answers:
        both.wait()
        return answers(contents)

    predictor = Predictor("x", RULES, DataConfig(), False, False, ask)
    assert len(list(answer_files(predictor, paths[:4], 1))) == 4


def test_an_error_comes_after_the_answers_before_it(paths: list[Path]) -> None:
    def ask(contents: Sequence[bytes], patients: pd.DataFrame) -> Answers:
        if contents == [b"2"]:
            raise ValueError("of the third")
        return answers(contents)

    answered = answer_files(
        Predictor("x", RULES, DataConfig(), False, False, ask), paths, 1
    )
    assert [next(answered).contents for _ in range(2)] == [[b"0"], [b"1"]]
    with pytest.raises(ValueError, match="of the third"):
        next(answered)
