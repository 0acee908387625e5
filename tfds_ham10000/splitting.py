"""From the published splits to the stored splits: ten folds, and groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tfds_ham10000.folds import (
    NUM_FOLDS,
    Assignment,
    assign_images,
    published_assignments,
)
from tfds_ham10000.near_duplicates import connected_components
from tfds_ham10000.records import Record, SourceError, join_first

Splits = Mapping[str, list[Record]]


@dataclass(frozen=True)
class StoredSplits:
    """The splits as they are stored.

    Attributes:
        splits: `fold_0` .. `fold_9` and the official splits.
        group_of: The group_id of each image_id.
        notes: Messages for the user.
    """

    splits: dict[str, list[Record]]
    group_of: dict[str, str]
    notes: list[str] = field(default_factory=list)


def groups_are_published(splits: Splits) -> bool:
    """Returns whether all images are in HAM10000, whose groups are published."""
    published = published_assignments()
    return all(r.image_id in published for records in splits.values() for r in records)


def split_into_folds(
    splits: Splits, near_duplicates: Iterable[tuple[str, str]]
) -> StoredSplits:
    """Returns the splits with "train" replaced by ten folds.

    The folds do not depend on the official splits. Official images that are connected, by
    their lesion or as near-duplicates, share a group: the group of the training images to
    which they are connected, if any.

    Args:
        splits: Records by split.
        near_duplicates: Pairs of image_ids.

    Raises:
        SourceError: There are too few groups for ten folds.
    """
    near_duplicates = list(near_duplicates)
    records = splits["train"]
    assignments = assign_images(records, near_duplicates)
    folds: dict[str, list[Record]] = {f"fold_{fold}": [] for fold in range(NUM_FOLDS)}
    for record in records:
        folds[f"fold_{assignments[record.image_id].fold}"].append(record)
    notes = _check_folds(folds)
    official = {name: of_split for name, of_split in splits.items() if name != "train"}
    group_of = {image_id: at.group_id for image_id, at in assignments.items()}
    training_groups = set(group_of.values())
    others = [record for of_split in official.values() for record in of_split]
    group_of |= _official_groups(others, records, assignments, near_duplicates)
    for name, of_split in official.items():
        shared = sum(group_of[record.image_id] in training_groups for record in of_split)
        if shared:
            notes.append(
                f"{name}: {shared} of {len(of_split)} image(s) share a group with a fold"
            )
    return StoredSplits({**folds, **official}, group_of, notes)


def _official_groups(
    others: Sequence[Record],
    records: Sequence[Record],
    assignments: Mapping[str, Assignment],
    near_duplicates: Iterable[tuple[str, str]],
) -> dict[str, str]:
    """Returns the group_id of each image of the official splits."""
    lesion_of = {r.image_id: r.lesion_id for r in (*records, *others)}
    pairs = [
        (lesion_of[a], lesion_of[b])
        for a, b in near_duplicates
        if a in lesion_of and b in lesion_of
    ]
    # All training lesions of a group are connected.
    pairs += [(at.group_id, lesion_of[image_id]) for image_id, at in assignments.items()]
    component = connected_components(sorted(set(lesion_of.values())), pairs)
    training_group: dict[str, str] = {}
    for record in records:
        group_id = assignments[record.image_id].group_id
        training_group.setdefault(component[record.lesion_id], group_id)
    return {
        record.image_id: training_group.get(
            component[record.lesion_id], component[record.lesion_id]
        )
        for record in others
    }


def _check_folds(folds: Splits) -> list[str]:
    """Returns a note for each class that is missing in some folds."""
    if empty := [name for name, records in folds.items() if not records]:
        raise SourceError(
            f"There are too few lesions: {join_first(empty)} would be empty. Expected at "
            f"least {NUM_FOLDS} lesions per class, none of them near-duplicates."
        )
    classes = {name: {record.dx for record in records} for name, records in folds.items()}
    missing = {
        dx: [name for name in folds if dx not in classes[name]]
        for dx in sorted(set().union(*classes.values()))
    }
    return [
        f"{dx} has too few lesions for ten folds and is missing in {join_first(names)}"
        for dx, names in missing.items()
        if names
    ]
