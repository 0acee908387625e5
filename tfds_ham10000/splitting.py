"""From the splits that were published to those that are stored: ten folds, and groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tfds_ham10000.folds import NUM_FOLDS, Place, place, published_places
from tfds_ham10000.near_duplicates import components
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

    The folds do not depend on the official splits. Pictures of those that hang together,
    by their lesions or by likeness, share a group: that of the training pictures that they
    hang together with, if there are any.

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
    trained = {at.group_id for at in places.values()}
    for name, of_split in official.items():
        if shared := sum(group_of[record.image_id] in trained for record in of_split):
            notes.append(
                f"{name}: {shared} of {len(of_split)} picture(s) show a lesion of a fold"
            )
    return Stored({**stored, **official}, group_of, notes)


def _groups_of_others(
    others: Sequence[Record],
    records: Sequence[Record],
    places: Mapping[str, Place],
    similar: Iterable[tuple[str, str]],
) -> dict[str, str]:
    """Returns the group_id of each picture of the official splits."""
    lesion_of = {r.image_id: r.lesion_id for r in (*records, *others)}
    pairs = [
        (lesion_of[a], lesion_of[b])
        for a, b in similar
        if a in lesion_of and b in lesion_of
    ]
    # Training lesions of one group hang together too, whatever joined them.
    pairs += [(at.group_id, lesion_of[image_id]) for image_id, at in places.items()]
    component = components(sorted(set(lesion_of.values())), pairs)
    trained: dict[str, str] = {}
    for record in records:
        group_id = places[record.image_id].group_id
        trained.setdefault(component[record.lesion_id], group_id)
    return {
        record.image_id: trained.get(
            component[record.lesion_id], component[record.lesion_id]
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
