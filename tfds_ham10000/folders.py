"""Anybody's own labelled pictures: a folder for each class."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

from tfds_ham10000.images import ImageFiles, is_picture
from tfds_ham10000.layouts import Source
from tfds_ham10000.records import Record, SourceError, some

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation_official",
    "validation": "validation_official",
    "test": "test_official",
}
"""The split of a folder that holds the folders of the classes, by its lower-case name."""
EXPECTED = (
    "Expected Train/<class>/*.jpg and, if there are any, Test/<class>/*.jpg; or "
    "<class>/*.jpg. There must be two classes at least."
)


def read_folders(folder: Path) -> Source:
    """Returns the pictures of `Train/<class>/`, `Test/<class>/`, ... or of `<class>/`.

    The classes are the folders of the training pictures, sorted by name. An image_id is
    the path below `folder` without its suffix; each picture is a lesion of its own, since
    nothing tells which pictures show the same one.

    Raises:
        SourceError: There are fewer than two classes, one has no training pictures,
            another split has further classes, or a picture lies in no class's folder.
    """
    parts = _parts(folder)
    source = Source(_class_names(folder, parts))
    for split, place in parts.items():
        prefix = PurePosixPath(place.relative_to(folder).as_posix())
        images = ImageFiles([place], name=partial(_image_id, prefix))
        records = [
            _record(image_id, PurePosixPath(image_id).relative_to(prefix), place)
            for image_id in images.image_ids
        ]
        _check_classes(records, source.class_names, split, place)
        source.add(split, records, images, place)
        if ignored := [p.name for p in _visible_files(place) if not is_picture(p)]:
            source.notes.append(
                f"{split}: {len(ignored)} file(s) are no pictures by their names and were "
                f"left out: {some(sorted(ignored))}"
            )
    return source


def _parts(folder: Path) -> dict[str, Path]:
    """Returns the folder that holds the classes of each split."""
    inside = _subfolders(folder)
    if len(inside) == 1 and inside[0].name.lower() not in SPLITS:
        inside = _subfolders(inside[0])
    parts: dict[str, Path] = {}
    for place in inside:
        split = SPLITS.get(place.name.lower())
        if split in parts:
            raise SourceError(
                f"{folder}: {parts[split].name} and {place.name} are both {split}. "
                "Expected one folder of each split."
            )
        if split is not None:
            parts[split] = place
    if not parts and inside:
        parts["train"] = inside[0].parent
    if "train" not in parts:
        found = some([path.name for path in inside]) or "no folder"
        raise SourceError(
            f"{folder} holds no training pictures. Found: {found}. {EXPECTED}"
        )
    return parts


def _class_names(folder: Path, parts: dict[str, Path]) -> tuple[str, ...]:
    names = tuple(path.name for path in _subfolders(parts["train"]))
    if len(names) < 2:
        raise SourceError(
            f"{folder} holds the class(es) {', '.join(names) or 'none'}. {EXPECTED}"
        )
    return names


def _check_classes(
    records: list[Record], names: tuple[str, ...], split: str, place: Path
) -> None:
    found = {record.dx for record in records}
    if strange := sorted(found.difference(names)):
        raise SourceError(
            f"{place} holds pictures of {some(strange)}, which Train does not. Expected "
            f"the classes {some(names)}. {EXPECTED}"
        )
    if split == "train" and (empty := [name for name in names if name not in found]):
        raise SourceError(
            f"{place} holds no pictures of {some(empty)}. Expected some of each class, or "
            "no such folder."
        )


def _record(image_id: str, below: PurePosixPath, place: Path) -> Record:
    if len(below.parts) < 2:
        raise SourceError(f"{place}: {below} lies in the folder of no class. {EXPECTED}")
    return Record(image_id=image_id, lesion_id=image_id, dx=below.parts[0])


def _image_id(prefix: PurePosixPath, path: PurePosixPath) -> str:
    return (prefix / path.with_suffix("")).as_posix()


def _subfolders(folder: Path) -> list[Path]:
    inside = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in inside if not path.name.startswith((".", "__MACOSX")))


def _visible_files(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if not path.name.startswith(".")]
