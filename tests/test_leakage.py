from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skincnn.data.leakage import audit
from skincnn.errors import DataError


def split(first: int, num: int = 6) -> pd.DataFrame:
    numbers = np.arange(first, first + num)
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in numbers],
            "lesion_id": [f"l{n // 2}" for n in numbers],
            "label": numbers % 2,
        }
    )


def test_clean_splits_are_counted() -> None:
    counts = audit({"train": split(0), "test": split(6)}, ["a", "b"])
    assert counts["num_train_images"] == 6
    assert counts["num_test_lesions"] == 3
    assert counts["num_shared_images"] == counts["num_shared_lesions"] == 0


def test_a_lesion_in_two_splits_is_refused() -> None:
    leaky = split(6)
    leaky.loc[0, "lesion_id"] = "l1"
    with pytest.raises(DataError, match=r"1 lesion\(s\) stand twice in train and test: l1"):
        audit({"train": split(0), "test": leaky}, ["a", "b"])


def test_a_picture_in_two_splits_is_refused() -> None:
    leaky = split(6)
    leaky.loc[0, "image_id"] = "i3"
    with pytest.raises(DataError, match=r"1 image\(s\) stand twice in train and val: i3"):
        audit({"train": split(0), "val": leaky}, ["a", "b"])


def test_a_picture_twice_in_one_split_is_refused() -> None:
    twice = pd.concat([split(0), split(0).head(1)])
    with pytest.raises(DataError, match=r"1 image\(s\) stand twice in train: i0"):
        audit({"train": twice, "test": split(6)}, ["a", "b"])


def test_a_class_without_pictures_is_refused_with_the_table() -> None:
    with pytest.raises(DataError, match=r"(?s)every class.*train +test.*c +0 +0"):
        audit({"train": split(0), "test": split(6)}, ["a", "b", "c"])
