"""Reading the user's own labeled images, one directory per class."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

from tfds_ham10000.image_files import ImageFiles, has_suffix
from tfds_ham10000.layouts import Source
from tfds_ham10000.records import Record, SourceError, join_first

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation_official",
    "validation": "validation_official",
    "test": "test_official",
}
"""The split in each directory of class directories, by lower-case directory name."""
EXPECTED = (
    "Expected images of at least two classes, either in <class>/, or in Train/<class>/ and "
    "optionally Test/<class>/."
)


def read_folders(folder: Path) -> Source:
    """Returns the images in `Train/<class>/`, `Test/<class>/`, ... or in `<class>/`.

    The classes are the sorted names of the class directories in the training split. The
    image_id is the path of an image relative to `folder`, without the suffix. The
    directories do not identify lesions.

    Raises:
        SourceError: There is no training split or it has fewer than two classes, a class
            has no training images, another split has a class that the training split does
            not have, two directories contain the same split, two images have the same
            image_id, or an image is not in a class directory.
    """
    split_folders = _split_folders(folder)
    source = Source(tuple(path.name for path in _subfolders(split_folders["train"])))
    if len(source.class_names) < 2:
        raise SourceError(
            f"{folder} contains too few classes. {EXPECTED} Received: "
            f"{', '.join(source.class_names) or 'no class directories'}."
        )
    for split, split_folder in split_folders.items():
        prefix = PurePosixPath(split_folder.relative_to(folder).as_posix())
        images = ImageFiles([split_folder], make_id=partial(_image_id, prefix))
        records = [
            _record(image_id, PurePosixPath(image_id).relative_to(prefix), split_folder)
            for image_id in images.image_ids
        ]
        _check_classes(records, source.class_names, split, split_folder)
        source.add(split, records, images, split_folder)
        ignored = sorted(
            path.name
            for path in split_folder.rglob("[!.]*")
            if path.is_file() and not has_suffix(path)
        )
        if ignored:
            source.notes.append(
                f"{split}: {len(ignored)} file(s) without a supported suffix were ignored: "
                f"{join_first(ignored)}"
            )
    return source


def _split_folders(folder: Path) -> dict[str, Path]:
    """Returns, for each split, the directory that contains its class directories."""
    subfolders = _subfolders(folder)
    if len(subfolders) == 1 and subfolders[0].name.lower() not in SPLITS:
        subfolders = _subfolders(subfolders[0])
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
        split_folders["train"] = subfolders[0].parent
    if "train" not in split_folders:
        names = join_first([f"{path.name}/" for path in subfolders]) or "no directories"
        raise SourceError(
            f"{folder} contains no training images. {EXPECTED} Received: {names}."
        )
    return split_folders


def _check_classes(
    records: list[Record], class_names: tuple[str, ...], split: str, split_folder: Path
) -> None:
    present = {record.dx for record in records}
    if additional := sorted(present.difference(class_names)):
        raise SourceError(
            f"{split_folder} contains images of {join_first(additional)}, but the training "
            f"directory does not. Expected only the classes {join_first(class_names)}."
        )
    empty = [name for name in class_names if name not in present]
    if split == "train" and empty:
        raise SourceError(
            f"{split_folder} contains no images of {join_first(empty)}. Add images to each "
            "class directory, or delete empty class directories."
        )


def _record(image_id: str, relative: PurePosixPath, split_folder: Path) -> Record:
    if len(relative.parts) < 2:
        raise SourceError(
            f"{split_folder}: image {relative} is not in a class directory. {EXPECTED}"
        )
    return Record(image_id=image_id, lesion_id="", dx=relative.parts[0])


def _image_id(prefix: PurePosixPath, path: PurePosixPath) -> str:
    return (prefix / path.with_suffix("")).as_posix()


def _subfolders(folder: Path) -> list[Path]:
    subfolders = (path for path in folder.iterdir() if path.is_dir())
    return sorted(p for p in subfolders if not p.name.startswith((".", "__MACOSX")))
