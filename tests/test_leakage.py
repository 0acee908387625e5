from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skincnn.clinical_metadata import CLINICAL_COLUMNS, CLINICAL_FEATURES
from skincnn.data.leakage import FORBIDDEN_INPUTS, SplitLeakage, audit, count_shared
from skincnn.errors import DataError


def split(first: int, num: int = 6) -> pd.DataFrame:
    numbers = np.arange(first, first + num)
    return pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in numbers],
            "sha256": [f"s{n}" for n in numbers],
            "lesion_id": [f"l{n // 2}" for n in numbers],
            "group_id": [f"l{n // 2}" for n in numbers],
            "label": numbers % 2,
        }
    )


def test_clean_splits_are_counted() -> None:
    result = audit({"train": split(0), "test": split(6)}, ["a", "b"])
    assert result.num_images == {"train": 6, "test": 6}
    assert result.num_lesions == {"train": 3, "test": 3}
    assert result.num_shared_images == result.num_shared_lesions == 0
    assert result.num_shared_groups == result.share_test_images == 0
    assert result.share_test_melanomas is None
    assert result.num_patients == {"train": None, "test": None}
    assert result.num_shared_patients is None


def test_unknown_lesions_are_not_counted() -> None:
    """Images of unknown lesions share no lesion; the number of lesions is None, not 0."""
    unknown = {
        name: split(n).assign(lesion_id="") for name, n in (("train", 0), ("test", 6))
    }
    result = audit(unknown, ["mel", "nv"])
    assert result.num_lesions == {"train": None, "test": None}
    assert result.num_shared_lesions is None
    assert (result.share_test_images, result.share_test_melanomas) == (None, None)
    assert count_shared(*unknown.values()) == SplitLeakage(0, None, None, 0, 0)
    # Known lesions of some images are audited.
    partly = {**unknown, "train": split(0)}
    partly["test"] = partly["test"].assign(lesion_id=["l1", *[""] * 5])
    with pytest.raises(DataError, match=r"1 lesion\(s\) are shared by train and test: l1"):
        audit(partly, ["mel", "nv"])
    result = audit(partly, ["mel", "nv"], siblings_allowed=True)
    assert result.num_lesions == {"train": 3, "test": None}
    assert result.num_shared_lesions == 1
    assert (result.share_test_images, result.share_test_melanomas) == (1 / 6, 1 / 3)


def test_patients_may_be_shared_if_groups_are_not() -> None:
    """As in a dataset that is grouped by lesion although patients are known."""
    train, test = (split(n).assign(patient_id=[f"p{m}" for m in range(6)]) for n in (0, 6))
    result = audit({"train": train, "test": test}, ["a", "b"])
    assert result.num_patients == {"train": 6, "test": 6}
    assert result.num_shared_patients == 6
    assert count_shared(train, test) == SplitLeakage(0, 0, 6, 0, 0)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("sha256", "s3", r"2 image\(s\) are shared by train and test: i3, i6"),
        ("lesion_id", "l1", r"1 lesion\(s\) are shared by train and test: l1"),
        ("group_id", "l2", r"1 group\(s\) are shared by train and test: l2"),
    ],
)
def test_a_value_in_two_splits_is_rejected(column: str, value: str, message: str) -> None:
    leaky = split(6)
    leaky.loc[0, column] = value
    with pytest.raises(DataError, match=message):
        audit({"train": split(0), "test": leaky}, ["a", "b"])


def test_a_repeated_image_in_a_split_is_rejected() -> None:
    repeated = pd.concat([split(0), split(0).head(1)])
    with pytest.raises(DataError, match=r"1 image\(s\) are repeated in train: i0"):
        audit({"train": repeated, "test": split(6)}, ["a", "b"])


def test_a_class_without_images_is_rejected() -> None:
    with pytest.raises(DataError, match=r"(?s)every class.*train +test.*c +0 +0"):
        audit({"train": split(0), "test": split(6)}, ["a", "b", "c"])


def test_siblings_are_counted_if_they_are_allowed() -> None:
    """Three of six test images and two of three melanomas have a sibling."""
    leaky = split(6)
    leaky.loc[[0, 1, 2], "lesion_id"] = ["l0", "l1", "l1"]
    result = audit({"train": split(0), "test": leaky}, ["mel", "nv"], siblings_allowed=True)
    assert result.share_test_images == 3 / 6
    assert result.share_test_melanomas == 2 / 3
    assert result.num_shared_lesions == 2


def test_the_overlap_of_another_split_is_counted() -> None:
    known, other = split(0), split(6)
    assert count_shared(known, other) == SplitLeakage(0, 0, None, 0, 0)
    other.loc[0, ["image_id", "sha256", "lesion_id", "group_id"]] = known.loc[2]
    other.loc[1, "group_id"] = known.loc[0, "group_id"]  # a near-duplicate
    assert count_shared(known, other) == SplitLeakage(
        num_shared_images=1,
        num_shared_lesions=1,
        num_shared_patients=None,
        num_shared_groups=2,
        num_leaky_images=2,
    )


@pytest.mark.parametrize("name", [*FORBIDDEN_INPUTS, "dx_type_follow_up", "Lesion_ID"])
def test_inputs_that_reveal_the_diagnosis_are_rejected(name: str) -> None:
    tables = {"train": split(0), "test": split(6)}
    with pytest.raises(DataError, match=rf"must not reveal.*Received: {name}\."):
        audit(tables, ["a", "b"], inputs=["images", name])
    audit(tables, ["a", "b"], inputs=["images", "metadata", *CLINICAL_FEATURES])


@pytest.mark.parametrize("encode", [lambda x: x, lambda x: x.map({0: "a", 1: "b"})])
def test_an_input_that_predicts_the_label_is_rejected(encode: object) -> None:
    """The age encodes the label; a few exceptions do not hide that."""
    train, test = split(0, 400), split(400, 400)
    train["age"] = encode(train["label"].where(train.index % 30 > 0, 1))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"'age' alone predicts .* accuracy of 0\.9"):
        audit({"train": train, "test": test}, ["a", "b"], inputs=["images", "age"])


def test_inputs_that_are_related_to_the_label_are_allowed() -> None:
    train, test = split(0, 400), split(400, 400)
    rng = np.random.default_rng(0)
    train["age"] = 50 + 10 * train["label"] + rng.normal(0, 10, 400).round()
    train.loc[:20, "age"] = np.nan
    train["sex"] = rng.choice(["female", "male", "unknown"], 400)
    train["localization"] = "back"
    inputs = ["images", *CLINICAL_COLUMNS]
    assert audit({"train": train, "test": test}, ["a", "b"], inputs=inputs)
