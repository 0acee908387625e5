from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from web_models import make_model, predict_lengths

from skincnn.serving.predictor import Predictions
from skincnn.serving.prefetch import predict_batches


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Returns seven files; file n has n bytes, and thus a probability of n %."""
    files = [tmp_path / f"{number}.jpg" for number in range(1, 8)]
    for number, path in enumerate(files, 1):
        path.write_text("x" * number)
    return files


def test_later_batches_are_predicted_meanwhile_and_follow_in_order(
    paths: list[Path],
) -> None:
    second = threading.Event()

    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        if b"x" in contents:
            assert second.wait(10)  # The first batch finishes last.
        else:
            second.set()
        return predict_lengths(contents, metadata)

    batches = list(predict_batches(make_model(predict).predictor, paths, 3))
    assert [len(batch.table) for batch in batches] == [3, 3, 1]
    table = pd.concat([batch.table for batch in batches])
    assert table["file"].tolist() == [str(path) for path in paths]
    assert table["malignant_probability"].tolist() == [
        number / 100 for number in range(1, 8)
    ]
    assert batches[1].contents == [b"xxxx", b"xxxxx", b"xxxxxx"]
    assert list(batches[2].clinical_metadata.index) == ["7"]


def test_an_error_follows_the_batches_before_it(paths: list[Path]) -> None:
    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        if contents == [b"xxx"]:
            raise ValueError("in the third batch")
        return predict_lengths(contents, metadata)

    batches = predict_batches(make_model(predict).predictor, paths, 1)
    assert [next(batches).contents for _ in range(2)] == [[b"x"], [b"xx"]]
    with pytest.raises(ValueError, match="in the third batch"):
        next(batches)
