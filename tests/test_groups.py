"""Groups over patients, lesions and near-duplicates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from tfds_ham10000.groups import (
    KINDS,
    GroupBy,
    find_group_by,
    group_images,
    join_groups,
    published_id,
)
from tfds_ham10000.records import Record


def make_record(image: int, lesion: str = "", patient: str = "") -> Record:
    return Record(str(image), lesion, "nv", patient_id=patient)


def random_records(seed: int) -> tuple[list[Record], list[tuple[str, str]]]:
    """Records whose ids of images, lesions and patients have the same values."""
    rng = np.random.default_rng(seed)
    ids = [["", *map(str, range(size))] for size in (30, 12)]
    records = [
        make_record(image, str(rng.choice(ids[0])), str(rng.choice(ids[1])))
        for image in range(40)
    ]
    return records, [(str(a), str(b)) for a, b in rng.integers(0, 45, (4, 2))]


@pytest.mark.parametrize("group_by", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_groups_are_the_connected_components(group_by: GroupBy, seed: int) -> None:
    records, pairs = random_records(seed)
    published = {"3": "one", "17": "one", "5": "two"}
    keys: list[Callable[[Record], str | None]] = [
        lambda record: record.lesion_id,
        lambda record: record.patient_id if group_by == "patient" else "",
        lambda record: published.get(record.image_id),
    ]
    linked = np.array(
        [
            [
                any(key(a) and key(a) == key(b) for key in keys)
                or (a.image_id, b.image_id) in pairs
                for b in records
            ]
            for a in records
        ]
    )
    count, expected = connected_components(linked, directed=False)
    actual = group_images(records, pairs, published, group_by)
    groups = defaultdict(set)
    for record, component in zip(records, expected, strict=True):
        groups[component].add(actual[record.image_id])
    assert all(len(names) == 1 for names in groups.values())
    assert len(set(actual.values())) == count


def test_a_group_is_named_after_its_first_patient_lesion_or_image() -> None:
    records = [
        make_record(1, "9", "p"),
        make_record(2, "9", ""),
        make_record(3, "8", "o"),
        make_record(4, "7"),
        make_record(5),
    ]
    groups = group_images(records, [("1", "3")], {}, "patient")
    assert list(groups.values()) == ["o", "o", "o", "lesion:7", "image:5"]
    groups = group_images(records, [("1", "3")], {}, "lesion")
    assert list(groups.values()) == ["8", "8", "8", "7", "image:5"]
    groups = group_images(records[4:], [], {}, "image")
    assert list(groups.values()) == ["5"]


def test_the_groups_are_of_the_largest_known_unit() -> None:
    assert find_group_by([make_record(1), make_record(2, "a", "p")]) == "patient"
    assert find_group_by([make_record(1), make_record(2, "a")]) == "lesion"
    assert find_group_by([make_record(1)]) == "image"


def test_further_images_join_the_groups_of_their_patients_and_lesions() -> None:
    records = [make_record(1, "a", "p"), make_record(2, "b", "q"), make_record(3, "c", "q")]
    group_of = group_images(records, [], {}, "patient")
    further = [
        make_record(4, "", "q"),
        make_record(5, "a"),
        make_record(6),
        make_record(7, "d"),
        make_record(8, "d"),
    ]
    joined = join_groups(further, records, group_of, [("6", "3")], {}, "patient")
    assert list(joined.values()) == ["q", "p", "q", "lesion:d", "lesion:d"]


@pytest.mark.parametrize(
    ("image_id", "expected"),
    [
        ("ISIC_0024306", "ISIC_0024306"),
        ("nevi/ISIC_0024306_downsampled", "ISIC_0024306"),
        ("ISIC_00243061", "ISIC_00243061"),
        ("a/x_ISIC_0024306", "a/x_ISIC_0024306"),
    ],
)
def test_the_isic_id_begins_the_file_name(image_id: str, expected: str) -> None:
    assert published_id(image_id) == expected


def test_a_copy_is_in_the_group_of_its_original() -> None:
    """ISIC 2019 contains images of ISIC 2017 as downsampled copies."""
    names = ("ISIC_0000001", "b/ISIC_0000001_downsampled", "ISIC_0000002")
    records = [Record(image_id=name, lesion_id="", dx="nv") for name in names]
    groups = group_images(records, [], {}, "image")
    assert list(groups.values()) == ["ISIC_0000001", "ISIC_0000001", "ISIC_0000002"]
    joined = join_groups(records[1:2], records[:1], {names[0]: "g"}, [], {}, "image")
    assert joined == {names[1]: "g"}


def test_published_groups_connect_images_of_other_splits() -> None:
    """No near-duplicates are searched for among published images."""
    training, test = make_record(1, "a"), [make_record(2, "b"), make_record(3, "c")]
    published = {"1": "one", "2": "one", "3": "two"}
    joined = join_groups(test, [training], {"1": "g"}, [], published, "lesion")
    assert joined == {"2": "g", "3": "c"}
