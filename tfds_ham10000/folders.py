"""Reading the user's own labeled images, one directory per class."""

from __future__ import annotations

import shlex
from collections import Counter
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

from tfds_ham10000.image_files import (
    ARCHIVE,
    HIDDEN,
    IMAGE_SUFFIXES,
    Found,
    ImageFiles,
    describe_skipped,
    find_files,
    printable,
    skip_reason,
)
from tfds_ham10000.layouts import Source
from tfds_ham10000.records import Record, SourceError, compose, join_first
from tfds_ham10000.table.labels import CLASSES_FILE

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation_official": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test_official": ("test", "testing"),
}
"""Lower-case names of the directory of each split, which contains class directories."""
SPLITS = {name: split for split, names in SPLIT_NAMES.items() for name in names}
EXPECTED = (
    "Expected images of at least two classes, either in <class>/, or in Train/<class>/ and "
    f"optionally in <split>/<class>/, where <split> is {', '.join(list(SPLITS)[2:-1])} or "
    f"{list(SPLITS)[-1]}."
)


def read_folders(folder: Path) -> Source:
    """Returns the images in `Train/<class>/`, `Test/<class>/`, ... or in `<class>/`.

    The classes are the sorted names of the class directories in the training split. The
    image_id is the path of an image relative to `folder`, without the suffix. Names are in
    the Unicode form NFC, and bytes that are not valid UTF-8 are escaped. The lesion_ids are
    empty. The notes state how many files are not used and why, with the first names; see
    `image_files.find_files`.

    Raises:
        SourceError: There is no training split or it has fewer than two classes, a class
            has no training images, another split has images of a class that the training
            split does not have, two directories contain the same split or class, two images
            have the same image_id, an image is beside the class directories of a split, or
            byte-identical images are in different classes.
    """
    found = find_files(folder)
    found.skipped.pop(folder / CLASSES_FILE, None)  # see `read_declared_classes`
    split_folders = _split_folders(folder, found)
    for split_folder in split_folders.values():
        _require_different(split_folder)
    source = Source(tuple(map(_name, _subfolders(split_folders["train"]))))
    if len(source.class_names) < 2:
        raise SourceError(
            f"{folder} contains too few classes. {EXPECTED} Received: "
            f"{', '.join(source.class_names) or 'no class directories'}."
        )
    for split, split_folder in split_folders.items():
        prefix = PurePosixPath(_path_text(split_folder.relative_to(folder)))
        images = ImageFiles([split_folder], make_id=partial(_image_id, prefix))
        if split_folder == folder:
            images.skipped.pop(printable(PurePath(folder.name, CLASSES_FILE)), None)
        records = [
            _record(image_id, PurePosixPath(image_id).relative_to(prefix), split_folder)
            for image_id in images.image_ids
        ]
        _check_classes(records, source.class_names, split, split_folder)
        source.add(split, records, images, split_folder)
    _check_identical(source, folder)
    source.notes += _list_repeated_names(split_folders["train"], found)
    source.notes += _list_unused(folder, found, list(split_folders.values()))
    return source


def _split_folders(folder: Path, found: Found) -> dict[str, Path]:
    """Returns, for each split, the directory that contains its class directories."""
    parent, subfolders = folder, _subfolders(folder)
    # An archive often contains the dataset in a directory of its own.
    while len(subfolders) == 1 and subfolders[0].name.lower() not in SPLITS:
        inner = _subfolders(subfolders[0])
        if not inner:
            break
        parent, subfolders = subfolders[0], inner
    split_folders: dict[str, Path] = {}
    for path in subfolders:
        split = SPLITS.get(path.name.lower())
        if split in split_folders:
            raise SourceError(
                f"{folder}: {split_folders[split].name} and {path.name} both contain the "
                f"split {split!r}. Expected one directory per split."
            )
        if split is not None:
            split_folders[split] = path
    if not split_folders and subfolders:
        split_folders["train"] = parent
    if "train" not in split_folders:
        names = join_first([f"{printable(path.name)}/" for path in subfolders])
        raise SourceError(
            f"{folder} contains no training images. {EXPECTED} Received: "
            f"{names or 'no directories'}.{_advice(folder, found)}"
        )
    return split_folders


def _advice(folder: Path, found: Found) -> str:
    """Returns advice, if any, for a directory without a training split; otherwise ""."""
    archives = [path for path, reason in found.skipped.items() if reason == ARCHIVE]
    if archives:
        names = join_first(sorted(printable(path.name) for path in archives))
        return f" Unpack {names} first."
    if any(path.parent == folder for path in found.files):
        return (
            f" If {folder} is the directory of one class, use --manual-dir "
            f"{shlex.quote(str(folder.absolute().parent))}"
        )
    return ""


def _require_different(folder: Path) -> None:
    """Checks that no two class directories have the same name in the Unicode form NFC."""
    paths: dict[str, Path] = {}
    for path in _subfolders(folder):
        other = paths.setdefault(_name(path), path)
        if other is not path:
            raise SourceError(
                f"{folder}: two class directories have the name {_name(path)!r}, encoded "
                f"as {other.name!a} and as {path.name!a} (Unicode forms NFC and NFD). "
                "Move the images to one of them, and delete the other."
            )


def _check_classes(
    records: list[Record], class_names: tuple[str, ...], split: str, split_folder: Path
) -> None:
    present = {record.dx for record in records}
    if additional := sorted(present.difference(class_names)):
        raise SourceError(
            f"{split_folder} contains images of {join_first(additional)}, but the training "
            f"directory does not. Expected only the classes {join_first(class_names)}. Add "
            "training images of the other classes, or remove the images."
        )
    empty = [name for name in class_names if name not in present]
    if split == "train" and empty:
        raise SourceError(
            f"{split_folder} contains no images of {join_first(empty)} with one of the "
            f"suffixes {', '.join(IMAGE_SUFFIXES)}. Add images to each class directory, or "
            "delete class directories without images."
        )


def _check_identical(source: Source, folder: Path) -> None:
    """Checks that no byte-identical images have different labels."""
    label_of = {r.image_id: r.dx for split in source.splits.values() for r in split}
    contradictory = [
        " and ".join(image_ids)
        for image_ids in source.images.identical()
        if len({label_of[image_id] for image_id in image_ids}) > 1
    ]
    if contradictory:
        raise SourceError(
            f"{folder}: {len(contradictory)} image(s) have contradictory labels, because "
            "identical files are in different class directories: "
            f"{join_first(contradictory, '; ')}. Keep each image in one class directory."
        )


def _list_repeated_names(folder: Path, found: Found) -> list[str]:
    """Returns a note if subdirectories of the class directories may be classes or splits.

    This is assumed if no image is directly in a class directory, and all class directories
    share at least two names of subdirectories.
    """
    class_folders = _subfolders(folder)
    names = [{path.name for path in _subfolders(parent)} for parent in class_folders]
    repeated = sorted(map(printable, set.intersection(*names)))
    if len(repeated) < 2 or any(path.parent in class_folders for path in found.files):
        return []
    class_names = join_first([printable(path.name) for path in class_folders])
    return [
        f"The directory of each class ({class_names}) contains the directories "
        f"{join_first(repeated)}. If these are the classes or splits, the directories are "
        f"nested in the wrong order. {EXPECTED}"
    ]


def _list_unused(folder: Path, found: Found, split_folders: list[Path]) -> list[str]:
    """Returns notes on unused files in `folder` outside the directories of the splits."""

    def is_outside(path: Path) -> bool:
        return not any(path.is_relative_to(split_folder) for split_folder in split_folders)

    unused = {
        printable(path.relative_to(folder)): reason
        for path, reason in found.skipped.items()
        if is_outside(path)
    }
    images = filter(is_outside, found.files)
    parents = Counter(printable(path.relative_to(folder).parent) for path in images)
    for name, count in parents.items():
        unused[f"{name}/ ({count} image(s))"] = "not in the directory of a split"
    return describe_skipped(unused)


def _record(image_id: str, relative: PurePosixPath, split_folder: Path) -> Record:
    if len(relative.parts) < 2:
        raise SourceError(
            f"{split_folder}: image {relative} is not in a class directory. {EXPECTED}"
        )
    return Record(image_id=image_id, lesion_id="", dx=relative.parts[0])


def _image_id(prefix: PurePosixPath, path: PurePosixPath) -> str:
    return compose((prefix / path.with_suffix("")).as_posix())


def _path_text(path: PurePath) -> str:
    return compose(printable(path.as_posix()))


def _name(path: PurePath) -> str:
    return _path_text(PurePath(path.name))


def _subfolders(folder: Path) -> list[Path]:
    """Returns the sorted, visible directories in `folder`; [] if it cannot be read."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        path
        for path in paths
        if path.is_dir() and skip_reason(PurePosixPath(path.name)) != HIDDEN
    ]
