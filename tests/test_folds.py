from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from tfds_ham10000 import folds
from tfds_ham10000.demo import make_dataset
from tfds_ham10000.folds import NUM_FOLDS, Place, place
from tfds_ham10000.near_duplicates import SEEN_PAIRS
from tfds_ham10000.sources import Record

PATIENT = Record("", "", "mel", "histo", 45.0, "female", "back", "rosendahl")


def pictures(*lesions: str, dx: str = "mel") -> list[Record]:
    """A picture for each name; its image_id is `<lesion>_<position>`."""
    return [
        replace(PATIENT, lesion_id=lesion, image_id=f"{lesion}_{position}", dx=dx)
        for position, lesion in enumerate(lesions)
    ]


def test_folds_are_balanced_in_each_class_and_keep_lesions_whole() -> None:
    records, _ = make_dataset(3000)
    places = place(records, published={})
    fold_of = {record.lesion_id: places[record.image_id].fold for record in records}
    assert all(places[r.image_id].fold == fold_of[r.lesion_id] for r in records)
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
    assert place(records, published={}) == place(shuffled, published={})


def test_near_duplicates_share_a_fold_whatever_their_lesion_ids() -> None:
    """A chain a-b-c of pictures that look alike joins three lesions into one group."""
    records = pictures(*"aabcdefghijklm")
    alike = [("a_1", "b_2"), ("b_2", "c_3"), ("unknown", "d_4")]
    places = place(records, alike, published={})
    joined = {places[name] for name in ("a_0", "a_1", "b_2", "c_3")}
    assert len(joined) == 1
    assert joined.pop().group_id == "a"
    assert {places[f"{x}_{i}"].group_id for i, x in enumerate("defg", 4)} == set("defg")
    apart = place(records, published={})
    assert apart["a_0"].fold != apart["b_2"].fold  # ten folds, fourteen lesions


def test_published_places_hold_and_new_pictures_join_them() -> None:
    records = pictures("x", "y", "y", "z")
    published = {"y_1": Place("old", 7), "z_3": Place("old", 7)}
    places = place(records, published=published)
    assert places["y_1"] == places["y_2"] == places["z_3"]
    assert places["y_1"].fold == 7
    assert places["x_0"].group_id == "x"
    # A new picture that looks like a published one follows it.
    assert place(records, [("x_0", "y_1")], published)["x_0"].fold == 7


def test_pictures_that_are_published_apart_stay_apart() -> None:
    """At another stored size a hash may cross the threshold: no fold follows it."""
    records = pictures("x", "y", "z")
    published = {"x_0": Place("x", 1), "y_1": Place("y", 2)}
    alone = place(records, published=published)
    assert place(records, [("x_0", "y_1")], published) == alone
    assert alone["x_0"] == published["x_0"]


def test_a_group_of_two_classes_counts_as_the_rarer() -> None:
    naevi = pictures(*(f"n{i}" for i in range(20)), dx="nv")
    melanomas = pictures(*(f"m{i}" for i in range(10)), dx="mel")
    places = place([*naevi, *melanomas], [("n3_3", "m4_4")], published={})
    assert sorted(places[r.image_id].fold for r in melanomas) == list(range(10))
    assert places["n3_3"] == places["m4_4"]


def test_folds_are_the_same_on_every_machine_and_version() -> None:
    """Scores are comparable only while this holds: these folds are written down."""
    lesions = [f"HAM_{number:07d}" for number in range(15)]
    records = [
        replace(PATIENT, lesion_id=lesion, image_id=f"{lesion}_{view}")
        for number, lesion in enumerate(lesions)
        for view in range(1 + (number < 3))
    ]
    places = place(records, published={})
    assert [places[f"{lesion}_0"].fold for lesion in lesions] == WRITTEN_DOWN


WRITTEN_DOWN = [2, 0, 1, 5, 4, 6, 7, 8, 5, 7, 3, 9, 3, 6, 4]


def test_the_published_file_has_every_picture_and_no_torn_group() -> None:
    places = folds.published_places()
    assert len(places) == 10015
    fold_of: defaultdict[str, set[int]] = defaultdict(set)
    for at in places.values():
        fold_of[at.group_id].add(at.fold)
    assert len(fold_of) == 7460
    assert all(len(found) == 1 for found in fold_of.values())
    assert set(Counter(at.fold for at in places.values()).values()) == {1001, 1002}
    for first, second in SEEN_PAIRS:
        assert places[first] == places[second]


def test_a_changed_file_of_folds_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folds, "PUBLISHED_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="was changed: expected the SHA-256 0000"):
        folds.published_places.__wrapped__()
