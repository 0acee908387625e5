from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from web_models import make_model

from skincnn.serving.prefetch import predict_batches


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Returns seven files; file n has n bytes, and thus a probability of n %."""
    files = [tmp_path / f"{number}.jpg" for number in range(1, 8)]
    for number, path in enumerate(files, 1):
        path.write_text("x" * number)
    return files


def test_batches_are_predicted_ahead_and_follow_in_order(paths: list[Path]) -> None:
    second = threading.Event()

    def wait(contents: Sequence[bytes], metadata: pd.DataFrame) -> None:
        if b"x" in contents:
            assert second.wait(10)  # The first batch finishes last.
        else:
            second.set()

    batches = list(predict_batches(make_model(wait).predictor, paths, 3))
    assert [len(batch.table) for batch in batches] == [3, 3, 1]
    table = pd.concat([batch.table for batch in batches])
    assert table["file"].tolist() == [str(path) for path in paths]
    np.testing.assert_allclose(100 * table["malignant_probability"], range(1, 8), 1e-5)
    assert batches[1].contents == [b"xxxx", b"xxxxx", b"xxxxxx"]
    assert list(batches[2].clinical_metadata.index) == ["7"]


def test_an_error_follows_the_batches_before_it(paths: list[Path]) -> None:
    def fail(contents: Sequence[bytes], metadata: pd.DataFrame) -> None:
        if contents == [b"xxx"]:
            raise ValueError("in the third batch")

    batches = predict_batches(make_model(fail).predictor, paths, 1)
    assert [next(batches).contents for _ in range(2)] == [[b"x"], [b"xx"]]
    with pytest.raises(ValueError, match="in the third batch"):
        next(batches)
