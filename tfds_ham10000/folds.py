"""Ten class-stratified folds that never separate images of the same group.

A group consists of images that are connected by patients, lesions or near-duplicates, as
far as they are known (see `groups`). With --group-by lesion, patients are ignored.

The folds of HAM10000 are published in `folds_isic2018.csv` with the lesions and groups, and
are the same on every machine. `skincnn make-folds` reproduces this file from the pairs
of near-duplicates in `pairs_isic2018.csv`, which were judged by eye. The folds of other
images depend on the near-duplicates that the search finds, which may differ a little
between versions of the libraries.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from importlib import resources

import pandas as pd

from tfds_ham10000.groups import (
    CONNECTIONS,
    GroupBy,
    find_group_by,
    group_images,
    join_groups,
    published_id,
)
from tfds_ham10000.records import Record, SourceError, join_first

NUM_FOLDS = 10
# In a ZIP archive on sys.path, as Spark sends packages to its workers, they are no paths.
PUBLISHED_FILE = resources.files("tfds_ham10000") / "folds_isic2018.csv"
PUBLISHED_SHA256 = "8b45c9e2facaad4e8cdeb044af5a5df99bf9166314e5d2c56d7c51af2d6614ac"
PUBLISHED_SEARCH = (3207, 2178)
"""Number of pairs of HAM10000 images with the same lesion_id, and how many of them the
search for near-duplicates finds, from `skincnn make-folds --search`."""
RARE_FOLDS = (1, 9, 8, 0, 2, 3, 4, 5, 6, 7)
"""The folds in the order in which they receive groups of a rare class. By default, the
first three are used for training, testing and validation. Fold 0 is for the final test."""
COLUMNS = ("image_id", "lesion_id", "group_id", "fold")
PAIRS_FILE = resources.files("tfds_ham10000") / "pairs_isic2018.csv"
Splits = Mapping[str, list[Record]]


@dataclass(frozen=True)
class Assignment:
    """The group and the fold of an image."""

    group_id: str  # see `tfds_ham10000.groups.group_images`
    fold: int  # in 0..9, the same for all images of a group


@dataclass(frozen=True)
class StoredSplits:
    """The splits that the builder writes."""

    splits: dict[str, list[Record]]  # the folds that are not empty, and official splits
    group_of: dict[str, str]  # the group_id of each image_id
    group_by: GroupBy  # which images form a group
    notes: list[str]  # messages for the user


def groups_are_published(splits: Splits) -> bool:
    """Returns whether all images are in HAM10000, whose groups are published.

    Raises:
        ValueError: See `published_assignments`.
    """
    ids = (record.image_id for records in splits.values() for record in records)
    return all(published_id(image_id) in published_assignments() for image_id in ids)


def split_into_folds(
    splits: Splits,
    near_duplicates: Iterable[tuple[str, str]],
    group_by: GroupBy | None = None,
) -> StoredSplits:
    """Returns the splits, with "train" divided into ten folds; empty folds are omitted.

    The folds do not depend on the images of official splits. The group_ids do: the default
    of `group_by` is the result of `find_group_by` for the images of all splits. An image of
    an official split that is connected to training images (see `join_groups`) gets the
    group_id of one of them. `near_duplicates` are pairs of image_ids.

    Raises:
        SourceError: There are too few groups for training, validation and testing.
        ValueError: See `published_assignments`.
    """
    near_duplicates = list(near_duplicates)
    records = splits["train"]
    kind = group_by or find_group_by(records)
    assignments = assign_images(records, near_duplicates, group_by=kind)
    folds: dict[str, list[Record]] = {f"fold_{fold}": [] for fold in range(NUM_FOLDS)}
    for record in records:
        folds[f"fold_{assignments[record.image_id].fold}"].append(record)
    notes = _check_folds(folds, assignments, kind)
    official = {name: split for name, split in splits.items() if name != "train"}
    official_records = [record for split in official.values() for record in split]
    if group_by is None:
        group_by = find_group_by([*records, *official_records])
    group_of = {name: assignment.group_id for name, assignment in assignments.items()}
    published = {name: a.group_id for name, a in published_assignments().items()}
    if group_by != kind:  # the same groups, with other names
        group_of = group_images(records, near_duplicates, published, group_by)
    training_groups = set(group_of.values())
    group_of |= join_groups(
        official_records, records, group_of, near_duplicates, published, group_by
    )
    for name, split in official.items():
        shared = sum(group_of[record.image_id] in training_groups for record in split)
        if shared:
            notes.append(
                f"{name}: {shared} of {len(split)} image(s) are connected to the folds by "
                f"{CONNECTIONS[group_by]}, so scores on this split are too high"
            )
    folds = {name: fold for name, fold in folds.items() if fold}
    return StoredSplits({**folds, **official}, group_of, group_by, notes)


def assign_images(
    records: Sequence[Record],
    near_duplicates: Iterable[tuple[str, str]] = (),
    published: Mapping[str, Assignment] | None = None,
    group_by: GroupBy | None = None,
) -> dict[str, Assignment]:
    """Returns the group and the fold of each image_id.

    If a group contains `published` images (by default those of `published_assignments`),
    it is assigned to the fold of the published image with the smallest image_id, unless
    its class is rare (see `assign_groups`). Pairs of published near-duplicates are ignored:
    the published groups account for them. By default, `group_by` is the result of
    `find_group_by`.

    Raises:
        ValueError: See `published_assignments`.
    """
    published = published_assignments() if published is None else published
    group_by = group_by or find_group_by(records)
    published_groups = {known: a.group_id for known, a in published.items()}
    group_of = group_images(records, near_duplicates, published_groups, group_by)
    fixed: dict[str, int] = {}
    for image_id in sorted(group_of):
        if (known := published_id(image_id)) in published:
            fixed.setdefault(group_of[image_id], published[known].fold)
    folds = assign_groups(records, group_of, fixed)
    return {
        image_id: Assignment(group_id, folds[group_id])
        for image_id, group_id in group_of.items()
    }


def assign_groups(
    records: Iterable[Record],
    group_of: Mapping[str, str],
    fixed: Mapping[str, int],
) -> dict[str, int]:
    """Returns the fold, in 0..9, of each group_id.

    `group_of` contains the group_id of each image_id. `fixed` contains the folds of groups
    whose fold is known; they are assigned first, except those of rare classes, whose fixed
    fold is ignored. The other groups are processed by class in alphabetical order, and
    within a class from the largest to the smallest group, with ties broken by the SHA-256
    of the group_id. Each group is assigned to the fold with the fewest images of its class;
    ties are broken by the fewest images in total, then by the lowest fold number. The class
    of a group with several classes is the one with the fewest images in `records`.

    A class with fewer groups than folds is rare. Rare classes are processed before the
    other classes, from the fewest groups to the most. Ties between their folds are broken
    by the order of `RARE_FOLDS`, so that training, test and validation have images of as
    many classes as possible.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        counts[group_of[record.image_id]][record.dx] += 1
    class_sizes = sum(counts.values(), Counter[str]())
    num_groups = Counter(dx for group in counts.values() for dx in group)
    num_of_class: Counter[tuple[str, int]] = Counter()
    num_in_fold: Counter[int] = Counter()
    folds: dict[str, int] = {}
    rarest = {
        group_id: min(group, key=lambda dx: (class_sizes[dx], dx))
        for group_id, group in counts.items()
    }

    def is_rare(group_id: str) -> bool:
        return num_groups[rarest[group_id]] < NUM_FOLDS

    def assign(group_id: str, fold: int) -> None:
        folds[group_id] = fold
        num_in_fold[fold] += counts[group_id].total()
        for dx, count in counts[group_id].items():
            num_of_class[dx, fold] += count

    def order(group_id: str) -> tuple[int, str, int, str]:
        digest = hashlib.sha256(group_id.encode()).hexdigest()
        dx = rarest[group_id]
        return min(num_groups[dx], NUM_FOLDS), dx, -counts[group_id].total(), digest

    for group_id, fold in fixed.items():
        if not is_rare(group_id):
            assign(group_id, fold)
    for group_id in sorted(counts.keys() - folds.keys(), key=order):
        dx = rarest[group_id]
        if is_rare(group_id):
            fold = min(RARE_FOLDS, key=lambda f: num_of_class[dx, f])
        else:
            fold = min(
                range(NUM_FOLDS), key=lambda f: (num_of_class[dx, f], num_in_fold[f], f)
            )
        assign(group_id, fold)
    return folds


@functools.cache
def published_assignments() -> dict[str, Assignment]:
    """Returns the group and the fold of each image of HAM10000, by image_id.

    Raises:
        ValueError: `folds_isic2018.csv` was modified.
    """
    return {
        row["image_id"]: Assignment(row["group_id"], int(row["fold"]))
        for row in _published_rows()
    }


@functools.cache
def published_lesions() -> dict[str, str]:
    """Returns the lesion_id of each image of HAM10000, by image_id.

    Raises:
        ValueError: `folds_isic2018.csv` was modified.
    """
    return {row["image_id"]: row["lesion_id"] for row in _published_rows()}


def _published_rows() -> list[dict[str, str]]:
    content = PUBLISHED_FILE.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != PUBLISHED_SHA256:
        raise ValueError(
            f"{PUBLISHED_FILE} was modified. Expected the SHA-256 {PUBLISHED_SHA256}. "
            f"Received: {sha256}. Reinstall the package, because scores on different folds "
            "are not comparable."
        )
    return list(csv.DictReader(io.StringIO(content.decode())))


def judged_pairs() -> pd.DataFrame:
    """Returns the judged pairs of HAM10000 images, which have different lesion_ids.

    The columns are image_id_1 and image_id_2; method, by which the pair was found
    ("geometry", see `near_duplicates`; "published" by other authors, and not found by
    geometry; or "eye" for other candidates); num_inliers, the result of `count_inliers`;
    and judgment by eye ("same", "not sure" or "different"). The images of a pair that is
    not "different" are in the same group.

    References:
        Abhishek, Jain and Hamarneh, Investigating the Quality of DermaMNIST and
        Fitzpatrick17k Dermatological Image Datasets (2024), arXiv:2401.14497: the source of
        the published pairs.
    """
    with PAIRS_FILE.open("rb") as file:
        return pd.read_csv(file)


def count_known_pairs(lesion_of: Mapping[str, str], image_ids: Iterable[str]) -> int:
    """Returns the number of pairs of `image_ids` that have the same known lesion_id."""
    sizes = Counter(lesion_of[image_id] for image_id in image_ids)
    del sizes[""]
    return sum(math.comb(size, 2) for size in sizes.values())


def to_csv(records: Iterable[Record], assignments: Mapping[str, Assignment]) -> str:
    """Returns assignments in the published CSV format, with rows sorted by image_id."""
    rows = [(r.image_id, r.lesion_id, *astuple(assignments[r.image_id])) for r in records]
    table = pd.DataFrame(sorted(rows), columns=COLUMNS)
    return table.to_csv(index=False, lineterminator="\n")


def _check_folds(
    folds: Splits, assignments: Mapping[str, Assignment], group_by: GroupBy
) -> list[str]:
    """Returns notes on the classes that are missing from some folds.

    Raises:
        SourceError: One of the first three `RARE_FOLDS` has no images.
    """
    training, test, validation, *_ = (f"fold_{fold}" for fold in RARE_FOLDS)
    if not (folds[training] and folds[test] and folds[validation]):
        groups = {
            (record.dx, assignments[record.image_id].group_id)
            for record in itertools.chain(*folds.values())
        }
        largest = max(Counter(dx for dx, _ in groups).values(), default=0)
        advice = ", or use --group-by lesion" if group_by == "patient" else ""
        raise SourceError(
            f"There are too few {group_by}s for training, validation and testing. Expected "
            f"at least three {group_by}s of one class that near-duplicates do not connect "
            "(sometimes more for images of HAM10000, whose folds are published). Received: "
            f"at most {largest} of a class. Add more {group_by}s{advice}."
        )
    classes = {name: {record.dx for record in records} for name, records in folds.items()}
    notes = []
    for dx in sorted(set().union(*classes.values())):
        missing = [name for name in folds if dx not in classes[name]]
        if missing:
            notes.append(
                f"{dx} has too few {group_by}s for ten folds and is missing from "
                f"{join_first(missing)}"
            )
        if not {training, test, validation}.isdisjoint(missing):
            notes.append(
                f"{dx} has too few {group_by}s for training, validation and testing: leave "
                "it out, or merge it with another class (--label-map for a table, or "
                "--data.label-maps in training)"
            )
    return notes
