"""Ten folds that keep every lesion whole, class-stratified.

HAM10000's are the same on every machine. Those of other pictures follow from the bytes of
the files, but the last bit of a hash may depend on the versions of Pillow and imagehash.

A *group* is what must not be torn: all pictures of a lesion, and of every lesion that has
a near-duplicate among them. The groups and folds of HAM10000 are published in
`folds_isic2018.csv`, made by `scripts/make_folds.py`.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfds_ham10000.near_duplicates import components
from tfds_ham10000.records import Record

NUM_FOLDS = 10
PUBLISHED_FILE = Path(__file__).with_name("folds_isic2018.csv")
PUBLISHED_SHA256 = "2a573c09f76a41fca3a214a20985b6f138e905daddc91ac1af63c847488119ac"
COLUMNS = ("image_id", "lesion_id", "group_id", "fold")


@dataclass(frozen=True)
class Place:
    """Where a picture belongs.

    Attributes:
        group_id: The smallest lesion_id of its group.
        fold: In 0..9; the same for all pictures of a group.
    """

    group_id: str
    fold: int


def place(
    records: Sequence[Record],
    similar: Iterable[tuple[str, str]] = (),
    published: Mapping[str, Place] | None = None,
) -> dict[str, Place]:
    """Returns the group and the fold of each image_id.

    Args:
        records: What is known of each picture.
        similar: Pairs of image_ids of near-duplicate pictures. Those of two published
            pictures are known, or were refused, already: they change nothing.
        published: Places that are fixed already; `published_places()` by default. A group
            that holds such pictures takes the fold of the first of them.
    """
    published = published_places() if published is None else published
    groups = group_lesions(records, similar, published)
    group_of = {record.image_id: groups[record.lesion_id] for record in records}
    pinned: dict[str, int] = {}
    for image_id in sorted(group_of):
        if image_id in published:
            pinned.setdefault(group_of[image_id], published[image_id].fold)
    folds = assign_folds(records, group_of, pinned)
    return {
        image_id: Place(group_id, folds[group_id])
        for image_id, group_id in group_of.items()
    }


def group_lesions(
    records: Sequence[Record],
    similar: Iterable[tuple[str, str]],
    published: Mapping[str, Place],
) -> dict[str, str]:
    """Returns the group_id of each lesion_id."""
    lesion_of = {record.image_id: record.lesion_id for record in records}
    pairs = [
        (lesion_of[a], lesion_of[b])
        for a, b in similar
        if a in lesion_of and b in lesion_of and not {a, b} <= published.keys()
    ]
    representative: dict[str, str] = {}
    for image_id, lesion_id in sorted(lesion_of.items()):
        if image_id in published:
            first = representative.setdefault(published[image_id].group_id, lesion_id)
            pairs.append((first, lesion_id))
    return components(sorted(set(lesion_of.values())), pairs)


def assign_folds(
    records: Iterable[Record],
    group_of: Mapping[str, str],
    pinned: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Returns the fold, in 0..9, of each group_id.

    Class by class in alphabetical order, groups with the most pictures first (ties in the
    order of the SHA-256 of their group_id), each group goes to the fold that holds the
    fewest pictures of its class so far, then to the one that holds the fewest pictures
    in all, then to the first. The folds of a class therefore differ by at most the
    pictures of one group, and nothing depends on a random generator or on a library's
    version. A group of two classes counts as the rarer one.

    Args:
        records: What is known of each picture.
        group_of: The group_id of each image_id.
        pinned: Folds that are fixed already, by group_id.
    """
    in_group: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        in_group[group_of[record.image_id]][record.dx] += 1
    totals = sum(in_group.values(), Counter[str]())
    in_class: Counter[tuple[str, int]] = Counter()
    in_all: Counter[int] = Counter()
    folds: dict[str, int] = {}

    def put(group_id: str, fold: int) -> None:
        folds[group_id] = fold
        in_all[fold] += in_group[group_id].total()
        for dx, count in in_group[group_id].items():
            in_class[dx, fold] += count

    for group_id, fold in (pinned or {}).items():
        put(group_id, fold)
    rarest = {
        group_id: min(counts, key=lambda dx: (totals[dx], dx))
        for group_id, counts in in_group.items()
    }
    for group_id in sorted(
        in_group.keys() - folds.keys(),
        key=lambda name: (rarest[name], -in_group[name].total(), _digest(name)),
    ):
        dx = rarest[group_id]
        put(
            group_id,
            min(
                range(NUM_FOLDS), key=lambda fold: (in_class[dx, fold], in_all[fold], fold)
            ),
        )
    return folds


@functools.cache
def published_places() -> dict[str, Place]:
    """Returns the group and the fold of each picture of HAM10000.

    Raises:
        ValueError: The file is not the published one.
    """
    content = PUBLISHED_FILE.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != PUBLISHED_SHA256:
        raise ValueError(
            f"{PUBLISHED_FILE} was changed: expected the SHA-256 {PUBLISHED_SHA256}, found "
            f"{found}. Scores on other folds cannot be compared; install the package again."
        )
    rows = csv.DictReader(io.StringIO(content.decode()))
    return {row["image_id"]: Place(row["group_id"], int(row["fold"])) for row in rows}


def to_csv(records: Iterable[Record], places: Mapping[str, Place]) -> str:
    """Returns the published form: a row for each picture, sorted by image_id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in sorted(records, key=lambda record: record.image_id):
        place = places[record.image_id]
        writer.writerow([record.image_id, record.lesion_id, place.group_id, place.fold])
    return text.getvalue()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
