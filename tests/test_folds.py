from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from tfds_ham10000 import folds
from tfds_ham10000.demo import make_dataset
from tfds_ham10000.folds import (
    NUM_FOLDS,
    Assignment,
    assign_images,
    groups_are_published,
    split_into_folds,
)
from tfds_ham10000.records import Record, SourceError

TEMPLATE = Record("", "", "mel", "histo", 45.0, "female", "back", "rosendahl")


def make_records(*lesions: str, dx: str = "mel") -> list[Record]:
    """Returns one record per name, with the image_id `<lesion>_<position>`."""
    return [
        replace(TEMPLATE, lesion_id=lesion, image_id=f"{lesion}_{position}", dx=dx)
        for position, lesion in enumerate(lesions)
    ]


def test_folds_are_stratified_and_do_not_separate_lesions() -> None:
    records, _ = make_dataset(3000)
    assignments = assign_images(records, published={})
    fold_of = {record.lesion_id: assignments[record.image_id].fold for record in records}
    assert all(assignments[r.image_id].fold == fold_of[r.lesion_id] for r in records)
    counts = Counter((record.dx, fold_of[record.lesion_id]) for record in records)
    most_views = max(Counter(record.lesion_id for record in records).values())
    for dx in {record.dx for record in records}:
        of_class = [counts[dx, fold] for fold in range(NUM_FOLDS)]
        assert min(of_class) >= 1
        assert max(of_class) - min(of_class) <= most_views
    sizes = Counter(fold_of.values())
    assert max(sizes.values()) - min(sizes.values()) <= 7 * most_views


def test_folds_do_not_depend_on_the_order_of_the_records() -> None:
    records, _ = make_dataset(300)
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    assert assign_images(records, published={}) == assign_images(shuffled, published={})


def test_near_duplicates_with_different_lesion_ids_share_a_fold() -> None:
    """A chain a-b-c of near-duplicates joins three lesions into one group."""
    records = make_records(*"aabcdefghijklm")
    pairs = [("a_1", "b_2"), ("b_2", "c_3"), ("unknown", "d_4")]
    assignments = assign_images(records, pairs, published={})
    joined = {assignments[name] for name in ("a_0", "a_1", "b_2", "c_3")}
    assert {assignment.group_id for assignment in joined} == {"a"}
    assert len(joined) == 1
    assert {assignments[f"{x}_{i}"].group_id for i, x in enumerate("defg", 4)} == set(
        "defg"
    )
    separate = assign_images(records, published={})
    assert separate["a_0"].fold != separate["b_2"].fold  # ten folds, thirteen lesions


def test_published_assignments_are_kept_and_new_images_join_them() -> None:
    records = make_records("x", "y", "y", "z", *"abcdefghij")
    published = {"y_1": Assignment("old", 7), "z_3": Assignment("old", 7)}
    assignments = assign_images(records, published=published)
    assert assignments["y_1"] == assignments["y_2"] == assignments["z_3"]
    assert assignments["y_1"].fold == 7
    assert assignments["x_0"].group_id == "x"
    # A new near-duplicate of a published image joins its fold.
    assert assign_images(records, [("x_0", "y_1")], published)["x_0"].fold == 7


def test_published_images_in_different_groups_stay_in_different_groups() -> None:
    """The hash distance of downsized images may cross the threshold, without effect."""
    records = make_records("x", "y", "z", *"abcdefghij")
    published = {"x_0": Assignment("x", 1), "y_1": Assignment("y", 2)}
    expected = assign_images(records, published=published)
    assert assign_images(records, [("x_0", "y_1")], published) == expected
    assert expected["x_0"] == published["x_0"]


def test_a_group_of_two_classes_counts_as_the_rarer_class() -> None:
    nevi = make_records(*(f"n{i}" for i in range(20)), dx="nv")
    melanomas = make_records(*(f"m{i}" for i in range(10)), dx="mel")
    assignments = assign_images([*nevi, *melanomas], [("n3_3", "m4_4")], published={})
    assert sorted(assignments[r.image_id].fold for r in melanomas) == list(range(10))
    assert assignments["n3_3"] == assignments["m4_4"]


def test_folds_are_the_same_on_every_machine_and_version() -> None:
    """Scores are comparable only if the folds never change."""
    lesions = [f"HAM_{number:07d}" for number in range(15)]
    records = [
        replace(TEMPLATE, lesion_id=lesion, image_id=f"{lesion}_{view}")
        for number, lesion in enumerate(lesions)
        for view in range(1 + (number < 3))
    ]
    assignments = assign_images(records, published={})
    assert [assignments[f"{lesion}_0"].fold for lesion in lesions] == EXPECTED_FOLDS


EXPECTED_FOLDS = [2, 0, 1, 5, 4, 6, 7, 8, 5, 7, 3, 9, 3, 6, 4]


def test_the_published_file_has_all_images_and_complete_groups() -> None:
    assignments = folds.published_assignments()
    assert len(assignments) == 10015
    fold_of: defaultdict[str, set[int]] = defaultdict(set)
    for assignment in assignments.values():
        fold_of[assignment.group_id].add(assignment.fold)
    assert len(fold_of) == 7377
    assert all(len(folds_of_group) == 1 for folds_of_group in fold_of.values())
    assert set(Counter(a.fold for a in assignments.values()).values()) == {1001, 1002}
    pairs = folds.judged_pairs().set_index(["image_id_1", "image_id_2"])["judgment"]
    assert set(pairs) == {"same", "not sure", "different"}
    for first, second in pairs[pairs != "different"].index:
        assert assignments[first] == assignments[second]


def test_a_modified_file_of_folds_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "PUBLISHED_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"was modified\. Expected the SHA-256 0000"):
        folds.published_assignments.__wrapped__()


def numbered_records(prefix: str, number: int, dx: str = "nv") -> list[Record]:
    names = [f"{prefix}_{i:02d}" for i in range(number)]
    return [Record(name, f"lesion_{name}", dx) for name in names]


def test_folds_do_not_depend_on_the_official_splits() -> None:
    train = numbered_records("a", 40)
    test = [
        replace(record, lesion_id=train[0].lesion_id) for record in numbered_records("t", 3)
    ]
    train_only = split_into_folds({"train": train}, ())
    stored = split_into_folds({"train": train, "test_official": test}, [("a_01", "t_02")])
    assert stored.splits.pop("test_official") == test
    assert stored.splits == train_only.splits
    assert sorted(r.image_id for rs in train_only.splits.values() for r in rs) == [
        record.image_id for record in train
    ]


def test_patients_of_official_images_alone_do_not_change_the_folds() -> None:
    train = [*numbered_records("a", 40), *numbered_records("b", 60, "mel")]
    for training in (train, [replace(record, lesion_id="") for record in train]):
        alone = split_into_folds({"train": training}, [("a_01", "a_02")])
        test = [
            replace(r, patient_id=f"p{i // 2}")
            for i, r in enumerate(numbered_records("t", 4))
        ]
        stored = split_into_folds(
            {"train": training, "test_official": test}, [("a_01", "a_02")]
        )
        assert stored.group_by == "patient"
        assert [stored.group_of[r.image_id] for r in test] == ["p0", "p0", "p1", "p1"]
        assert stored.splits.pop("test_official") == test
        assert stored.splits == alone.splits
        kind = "lesion" if training is train else "image"
        names = {r.image_id: f"{kind}:{alone.group_of[r.image_id]}" for r in training}
        assert {name: stored.group_of[name] for name in names} == names
        assert stored.notes == alone.notes


def test_an_official_image_joins_the_group_of_its_near_duplicate() -> None:
    train, test = numbered_records("a", 20), numbered_records("t", 4)
    test[0] = replace(test[0], lesion_id=train[5].lesion_id)
    stored = split_into_folds(
        {"train": train, "test_official": test}, [("a_01", "t_01"), ("t_02", "a_02")]
    )
    groups = [stored.group_of[record.image_id] for record in test]
    assert groups == ["lesion_a_05", "lesion_a_01", "lesion_a_02", "lesion_t_03"]


def test_connected_official_images_share_a_training_group() -> None:
    """t0 and t1 are one lesion; t0 and a5, and t2 and t1, are near-duplicates."""
    train, test = numbered_records("a", 20), numbered_records("t", 4)
    test[1] = replace(test[1], lesion_id=test[0].lesion_id)
    stored = split_into_folds(
        {"train": train, "test_official": test[:2], "validation_official": test[2:]},
        [("a_05", "t_00"), ("t_02", "t_01")],
    )
    groups = [stored.group_of[record.image_id] for record in test]
    assert groups == ["lesion_a_05"] * 3 + ["lesion_t_03"]
    shared = (
        "image(s) are connected to the folds by lesions or near-duplicates, so scores on "
        "this split are too high"
    )
    assert f"test_official: 2 of 2 {shared}" in stored.notes
    assert f"validation_official: 1 of 2 {shared}" in stored.notes


def test_a_rare_class_is_in_training_test_and_validation_first() -> None:
    """The published fold of an image of a rare class is not used."""
    common, rare = numbered_records("a", 40), numbered_records("b", 4, "mel")
    published = {"a_00": Assignment("x", 3), "b_03": Assignment("y", 3)}
    assignments = assign_images([*common, *rare], published=published)
    assert sorted(assignments[r.image_id].fold for r in rare) == [0, 1, 8, 9]
    assert assignments["a_00"].fold == 3
    counts = Counter(assignments[record.image_id].fold for record in common)
    assert set(counts.values()) == {4}


def test_classes_missing_from_folds_are_noted() -> None:
    stored = split_into_folds(
        {"train": numbered_records("a", 10) + numbered_records("b", 9, "mel")}, ()
    )
    assert stored.notes == [
        "mel has too few lesions for ten folds and is missing from fold_7"
    ]
    stored = split_into_folds(
        {"train": numbered_records("a", 10) + numbered_records("b", 2, "mel")}, ()
    )
    assert "too few lesions for training, validation and testing" in stored.notes[1]


def test_a_small_dataset_has_fewer_folds() -> None:
    stored = split_into_folds({"train": numbered_records("a", 4)}, ())
    assert {name: len(part) for name, part in stored.splits.items()} == dict.fromkeys(
        ("fold_0", "fold_1", "fold_8", "fold_9"), 1
    )
    message = (
        r"too few {0}s.*at least three {0}s of one.* Received: at most 2 of a class\. "
        r"Add more {0}s{1}\."
    )
    records = numbered_records("a", 3)
    with pytest.raises(SourceError, match=message.format("lesion", "")):
        split_into_folds({"train": records}, [("a_00", "a_01")])
    patients = [replace(r, patient_id=p) for r, p in zip(records, "xxy", strict=True)]
    advice = ", or use --group-by lesion"
    with pytest.raises(SourceError, match=message.format("patient", advice)):
        split_into_folds({"train": patients}, ())


def test_groups_are_published_for_ham10000_only() -> None:
    known = [Record("nevi/ISIC_0024306", "HAM_0000550", "nv")]
    assert groups_are_published({"train": known})
    assert not groups_are_published({"train": known, "test": numbered_records("a", 1)})
