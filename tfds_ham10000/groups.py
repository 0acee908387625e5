"""Groups: images that belong in one fold, because they show one patient or one lesion.

A *group* consists of images that are connected by patients, lesions or near-duplicates, as
far as they are known: a connected component of a graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, get_args

from tfds_ham10000.near_duplicates import connected_components
from tfds_ham10000.records import Record

GroupBy = Literal["patient", "lesion", "image"]
"""Which images form a group, before near-duplicates are joined. "patient": the images of a
patient; "lesion": the images of a lesion; "image": each image alone, because neither
patients nor lesions are known."""
KINDS: tuple[GroupBy, ...] = get_args(GroupBy)
CONNECTIONS: dict[GroupBy, str] = {
    "patient": "patients, lesions or near-duplicates",
    "lesion": "lesions or near-duplicates",
    "image": "near-duplicates",
}
"""How the images of a group are connected, by the kind of group."""
ISIC_ID = re.compile(r"ISIC_\d{7}(?!\d)")

_PREFIXES: dict[GroupBy, str] = {"patient": "0", "lesion": "1", "image": "2"}
"""First character of the key of a patient, lesion or image. It distinguishes equal IDs of
different kinds, and sorts patients before lesions and lesions before images, so that the
smallest key of a group determines the group_id."""
_IMAGE, _PUBLISHED, _ISIC = _PREFIXES["image"], "3", "4"
"""First characters of the keys of images, published groups and ISIC IDs."""


def find_group_by(records: Iterable[Record]) -> GroupBy:
    """Returns "patient" or "lesion", the first that is known for any image, or "image"."""
    records = list(records)
    if any(record.patient_id for record in records):
        return "patient"
    return "lesion" if any(record.lesion_id for record in records) else "image"


def published_id(image_id: str) -> str:
    """Returns the ISIC ID at the start of the file name in an image_id, or the image_id.

    Copies are often named after the original, such as `ISIC_0012345_downsampled`.
    """
    match = ISIC_ID.match(PurePosixPath(image_id).name)
    return match[0] if match else image_id


def group_images(
    records: Sequence[Record],
    near_duplicates: Iterable[tuple[str, str]],
    published: Mapping[str, str],
    group_by: GroupBy,
) -> dict[str, str]:
    """Returns the group_id of each image_id.

    Images are connected by patients (if `group_by` is "patient"), lesions, near-duplicates
    (pairs of image_ids), equal ISIC IDs and published groups. `published` contains the
    group_id of each published image by `published_id`. Pairs of published near-duplicates
    are ignored: the published groups account for them.

    The group_id is the smallest ID of the kind `group_by` in the group, such as the
    smallest patient_id. If the group has no such ID, the group_id is "lesion:" and the
    smallest lesion_id or, without lesions, "image:" and the smallest image_id.
    """
    pairs = [
        (a, b)
        for a, b in near_duplicates
        if not {published_id(a), published_id(b)} <= published.keys()
    ]
    components = _components(records, pairs, published, group_by)
    return {image_id: _group_id(key, group_by) for image_id, key in components.items()}


def join_groups(
    additional: Sequence[Record],
    records: Sequence[Record],
    group_of: Mapping[str, str],
    near_duplicates: Iterable[tuple[str, str]],
    published: Mapping[str, str],
    group_by: GroupBy,
) -> dict[str, str]:
    """Returns the group_id of each `additional` image, which belongs to another split.

    `group_of` contains the group_ids of `records`, which do not change. An additional image
    that is connected to one of these groups gets its group_id, or that of the first in
    `records` if there are several. Images are connected as in `group_images`, which also
    describes the other arguments, but pairs of published near-duplicates are not ignored.
    Images that are not connected to `records` get group_ids as in `group_images`.
    """
    first: dict[str, str] = {}
    within = [
        (first.setdefault(group_id, image_id), image_id)
        for image_id, group_id in group_of.items()
    ]
    pairs = [*near_duplicates, *within]
    components = _components([*records, *additional], pairs, published, group_by)
    group_of_component: dict[str, str] = {}
    for record in records:
        component = components[record.image_id]
        group_of_component.setdefault(component, group_of[record.image_id])
    keys = {record.image_id: components[record.image_id] for record in additional}
    return {
        image_id: group_of_component.get(key) or _group_id(key, group_by)
        for image_id, key in keys.items()
    }


def _components(
    records: Sequence[Record],
    pairs: Iterable[tuple[str, str]],
    published: Mapping[str, str],
    group_by: GroupBy,
) -> dict[str, str]:
    """Returns the smallest key of the connected component of each image_id.

    `pairs` are pairs of image_ids; those with an image outside `records` are ignored.
    """
    keys = {_IMAGE + record.image_id for record in records}
    links = [(_IMAGE + a, _IMAGE + b) for a, b in pairs]
    for record in records:
        image = _IMAGE + record.image_id
        if record.lesion_id:
            links.append((image, _PREFIXES["lesion"] + record.lesion_id))
        if record.patient_id and group_by == "patient":
            links.append((image, _PREFIXES["patient"] + record.patient_id))
        isic_id = published_id(record.image_id)
        if ISIC_ID.fullmatch(isic_id):
            links.append((image, _ISIC + isic_id))
        if group := published.get(isic_id):
            links.append((image, _PUBLISHED + group))
    keys |= {key for _, key in links if not key.startswith(_IMAGE)}
    components = connected_components(sorted(keys), links)
    return {r.image_id: components[_IMAGE + r.image_id] for r in records}


def _group_id(key: str, group_by: GroupBy) -> str:
    kind = next(kind for kind in KINDS if key.startswith(_PREFIXES[kind]))
    name = key.removeprefix(_PREFIXES[kind])
    return name if kind == group_by else f"{kind}:{name}"
