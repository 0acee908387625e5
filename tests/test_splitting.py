from __future__ import annotations

import dataclasses

import pytest

from tfds_ham10000.records import Record, SourceError
from tfds_ham10000.splitting import groups_are_published, split_into_folds


def make_records(prefix: str, number: int, dx: str = "nv") -> list[Record]:
    names = [f"{prefix}_{i:02d}" for i in range(number)]
    return [Record(name, f"lesion_{name}", dx) for name in names]


def test_folds_do_not_depend_on_the_official_splits() -> None:
    train = make_records("a", 40)
    test = [
        dataclasses.replace(record, lesion_id=train[0].lesion_id)
        for record in make_records("t", 3)
    ]
    train_only = split_into_folds({"train": train}, ())
    stored = split_into_folds({"train": train, "test_official": test}, [("a_01", "t_02")])
    assert stored.splits.pop("test_official") == test
    assert stored.splits == train_only.splits
    assert sorted(r.image_id for rs in train_only.splits.values() for r in rs) == [
        record.image_id for record in train
    ]


def test_an_official_image_joins_the_group_of_its_near_duplicate() -> None:
    train, test = make_records("a", 20), make_records("t", 4)
    test[0] = dataclasses.replace(test[0], lesion_id=train[5].lesion_id)
    stored = split_into_folds(
        {"train": train, "test_official": test}, [("a_01", "t_01"), ("t_02", "a_02")]
    )
    groups = [stored.group_of[record.image_id] for record in test]
    assert groups == ["lesion_a_05", "lesion_a_01", "lesion_a_02", "lesion_t_03"]


def test_connected_official_images_share_a_training_group() -> None:
    """t0 and t1 are one lesion; t0 and a5, and t2 and t1, are near-duplicates."""
    train, test = make_records("a", 20), make_records("t", 4)
    test[1] = dataclasses.replace(test[1], lesion_id=test[0].lesion_id)
    stored = split_into_folds(
        {"train": train, "test_official": test[:2], "validation_official": test[2:]},
        [("a_05", "t_00"), ("t_02", "t_01")],
    )
    groups = [stored.group_of[record.image_id] for record in test]
    assert groups == ["lesion_a_05"] * 3 + ["lesion_t_03"]
    assert "test_official: 2 of 2 image(s) share a group with a fold" in stored.notes
    assert "validation_official: 1 of 2 image(s) share a group with a fold" in stored.notes


def test_a_class_missing_in_folds_is_noted_and_an_empty_fold_is_an_error() -> None:
    stored = split_into_folds(
        {"train": make_records("a", 10) + make_records("b", 9, "mel")}, ()
    )
    assert len(stored.notes) == 1
    assert (
        "mel has too few lesions for ten folds and is missing in fold_" in stored.notes[0]
    )
    with pytest.raises(SourceError, match="too few lesions: fold_9 would be empty"):
        split_into_folds({"train": make_records("a", 9)}, ())
    with pytest.raises(SourceError, match="would be empty"):
        split_into_folds({"train": make_records("a", 10)}, [("a_00", "a_01")])


def test_groups_are_published_for_ham10000_only() -> None:
    known = [Record("ISIC_0024306", "HAM_0000550", "nv")]
    assert groups_are_published({"train": known})
    assert not groups_are_published({"train": known, "test": make_records("a", 1)})
