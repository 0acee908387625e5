from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skincnn.clinical_metadata import CLINICAL_FEATURES
from skincnn.data.leakage import FORBIDDEN_INPUTS, audit, count_shared
from skincnn.errors import DataError


def split(first: int, num: int = 6) -> pd.DataFrame:
    numbers = np.arange(first, first + num)
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in numbers],
            "lesion_id": [f"l{n // 2}" for n in numbers],
            "group_id": [f"l{n // 2}" for n in numbers],
            "label": numbers % 2,
        }
    )


def test_clean_splits_are_counted() -> None:
    counts = audit({"train": split(0), "test": split(6)}, ["a", "b"])
    assert counts["num_train_images"] == 6
    assert counts["num_test_lesions"] == 3
    assert counts["num_shared_images"] == counts["num_shared_lesions"] == 0
    assert counts["num_shared_groups"] == counts["share_test_images"] == 0
    assert counts["share_test_melanomas"] is None


def test_a_lesion_in_two_splits_is_refused() -> None:
    leaky = split(6)
    leaky.loc[0, "lesion_id"] = "l1"
    with pytest.raises(DataError, match=r"1 lesion\(s\) stand twice in train and test: l1"):
        audit({"train": split(0), "test": leaky}, ["a", "b"])


def test_a_picture_in_two_splits_is_refused() -> None:
    leaky = split(6)
    leaky.loc[0, "image_id"] = "i3"
    with pytest.raises(DataError, match=r"1 image\(s\) stand twice in train and test: i3"):
        audit({"train": split(0), "test": leaky}, ["a", "b"])


def test_a_picture_twice_in_one_split_is_refused() -> None:
    twice = pd.concat([split(0), split(0).head(1)])
    with pytest.raises(DataError, match=r"1 image\(s\) stand twice in train: i0"):
        audit({"train": twice, "test": split(6)}, ["a", "b"])


def test_a_class_without_pictures_is_refused_with_the_table() -> None:
    with pytest.raises(DataError, match=r"(?s)every class.*train +test.*c +0 +0"):
        audit({"train": split(0), "test": split(6)}, ["a", "b", "c"])


def test_a_near_duplicate_in_two_splits_is_refused() -> None:
    leaky = split(6)
    leaky.loc[0, "group_id"] = "l2"
    with pytest.raises(
        DataError, match=r"1 near-duplicate group\(s\) .* in train and test: l2"
    ):
        audit({"train": split(0), "test": leaky}, ["a", "b"])


def test_siblings_are_counted_where_they_are_allowed() -> None:
    """Three of six test pictures have a sibling; of the three melanomas, two do."""
    leaky = split(6)
    leaky.loc[[0, 1, 2], "lesion_id"] = ["l0", "l1", "l1"]
    counts = audit({"train": split(0), "test": leaky}, ["mel", "nv"], siblings_allowed=True)
    assert counts["share_test_images"] == 3 / 6
    assert counts["share_test_melanomas"] == 2 / 3
    assert counts["num_shared_lesions"] == 2


def test_what_an_other_split_shares_is_counted_and_not_refused() -> None:
    known, asked = split(0), split(6)
    clean = count_shared(known, asked)
    assert set(clean) == {f"num_shared_{x}s" for x in ("image", "lesion", "group")} | {
        "num_leaky_images"
    }
    assert not any(clean.values())
    asked.loc[0, ["image_id", "lesion_id", "group_id"]] = known.loc[2]  # a copy
    asked.loc[1, "group_id"] = known.loc[0, "group_id"]  # another's near-duplicate
    assert count_shared(known, asked) == {
        "num_shared_images": 1,
        "num_shared_lesions": 1,
        "num_shared_groups": 2,
        "num_leaky_images": 2,
    }


@pytest.mark.parametrize("name", [*FORBIDDEN_INPUTS, "dx_type_follow_up"])
def test_inputs_that_tell_the_answer_are_refused(name: str) -> None:
    tables = {"train": split(0), "test": split(6)}
    with pytest.raises(DataError, match=f"given {name}, which tells"):
        audit(tables, ["a", "b"], inputs=["images", name])
    audit(tables, ["a", "b"], inputs=["images", "metadata", *CLINICAL_FEATURES])
