"""From the splits that were published to those that are stored: ten folds, and groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tfds_ham10000.folds import NUM_FOLDS, Place, place, published_places
from tfds_ham10000.records import Record, SourceError, some

Splits = Mapping[str, list[Record]]


@dataclass(frozen=True)
class Stored:
    """The splits as they are stored.

    Attributes:
        splits: `fold_0` .. `fold_9` and the official ones.
        group_of: The group_id of each image_id.
        notes: What a user should be told.
    """

    splits: dict[str, list[Record]]
    group_of: dict[str, str]
    notes: list[str] = field(default_factory=list)


def groups_are_published(splits: Splits) -> bool:
    """Returns whether the near-duplicates of all pictures are known: all are HAM10000's."""
    published = published_places()
    return all(r.image_id in published for records in splits.values() for r in records)


def into_folds(splits: Splits, similar: Iterable[tuple[str, str]]) -> Stored:
    """Returns the splits with ten folds in the place of "train".

    The folds do not depend on the official splits. A picture of those belongs to the group
    of a training picture of its lesion, or of one that is like it; else its lesion is its
    group.

    Args:
        splits: Records by split; those of "train" are dealt to the folds.
        similar: Pairs of image_ids of near-duplicate pictures.

    Raises:
        SourceError: There are too few groups for ten folds.
    """
    similar = list(similar)
    records = splits["train"]
    places = place(records, similar)
    stored: dict[str, list[Record]] = {f"fold_{fold}": [] for fold in range(NUM_FOLDS)}
    for record in records:
        stored[f"fold_{places[record.image_id].fold}"].append(record)
    notes = _check_folds(stored)
    official = {name: of_split for name, of_split in splits.items() if name != "train"}
    group_of = {image_id: at.group_id for image_id, at in places.items()}
    others = [record for of_split in official.values() for record in of_split]
    group_of |= _groups_of_others(others, records, places, similar)
    return Stored({**stored, **official}, group_of, notes)


def _groups_of_others(
    others: Iterable[Record],
    records: Iterable[Record],
    places: Mapping[str, Place],
    similar: Iterable[tuple[str, str]],
) -> dict[str, str]:
    by_lesion = {r.lesion_id: places[r.image_id].group_id for r in records}
    alike = {
        b: places[a].group_id
        for pair in similar
        for a, b in (pair, pair[::-1])
        if a in places and b not in places
    }
    return {
        record.image_id: by_lesion.get(
            record.lesion_id, alike.get(record.image_id, record.lesion_id)
        )
        for record in others
    }


def _check_folds(folds: Splits) -> list[str]:
    """Returns a note about each class that some folds lack."""
    if empty := [name for name, records in folds.items() if not records]:
        raise SourceError(
            f"There are too few lesions: {some(empty)} would be empty. Expected at least "
            f"{NUM_FOLDS} lesions of each class, none a near-duplicate of another."
        )
    classes = {name: {record.dx for record in records} for name, records in folds.items()}
    lacking = {
        dx: [name for name in folds if dx not in classes[name]]
        for dx in sorted(set().union(*classes.values()))
    }
    return [
        f"{dx} has too few lesions for ten folds: {some(names)} have none of it"
        for dx, names in lacking.items()
        if names
    ]
