"""Reading source directories, and recognizing the layouts of HAM10000 and the challenges.

These layouts are recognized by the names of the files. To add one, write a function that
returns a `tfds_ham10000.layouts.Source`, and add an entry to `LAYOUTS`, whose dataset is
the `source` of a config. For datasets that are read as tables, see
`tfds_ham10000.published.recognition`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

from tfds_ham10000 import folders, layouts
from tfds_ham10000.configs import OWN_SOURCES
from tfds_ham10000.image_files import HIDDEN, printable, skip_reason
from tfds_ham10000.layouts import Files, Source
from tfds_ham10000.published.recognition import recognize
from tfds_ham10000.records import OptionError, SourceError, join_first
from tfds_ham10000.table.labels import read_declared_classes
from tfds_ham10000.table.options import TableOptions
from tfds_ham10000.table.source import find_published, read_table_source

SUFFIXES = (".csv", ".tab", ".tsv", ".txt", ".xlsx", ".zip", "")
"""Suffixes of published files in order of preference. Directories, and some tables of
Harvard Dataverse, have no suffix."""


NO_OPTIONS = TableOptions()


@dataclass(frozen=True)
class Layout:
    """One form in which images and labels are published."""

    title: str  # the name in messages
    dataset: str  # the `source` of the configs that use this layout
    required: tuple[str, ...]  # names, without a suffix, of required files and directories
    optional: tuple[str, ...]  # names, without a suffix, of optional files and directories
    read: Callable[[Files], Source]  # the reader of the layout
    where: str  # where to get the files, as a sentence


OFFICIAL_2018 = (
    "ISIC2018_Task3_Validation_Input",
    "ISIC2018_Task3_Validation_GroundTruth",
    "ISIC2018_Task3_Test_Input",
    "ISIC2018_Task3_Test_Images",
    "ISIC2018_Task3_Test_GroundTruth",
)
CHALLENGES = "https://challenge.isic-archive.com/data (license CC BY-NC 4.0)."
LAYOUTS = (
    Layout(
        title="HAM10000 (Harvard Dataverse, Kaggle)",
        dataset="isic2018",
        required=("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_metadata"),
        optional=OFFICIAL_2018,
        read=layouts.read_ham10000,
        where="Both archives and the CSV file are at Harvard Dataverse, "
        "doi:10.7910/DVN/DBW86T (license CC BY-NC 4.0).",
    ),
    Layout(
        title="ISIC challenge 2018, task 3",
        dataset="isic2018",
        required=("ISIC2018_Task3_Training_Input", "ISIC2018_Task3_Training_GroundTruth"),
        optional=(
            "ISIC2018_Task3_Training_LesionGroupings",
            "HAM10000_metadata",
            *OFFICIAL_2018,
        ),
        read=layouts.read_isic2018,
        where=f"The archives and the lesion groupings are at {CHALLENGES}",
    ),
    Layout(
        title="ISIC challenge 2019",
        dataset="isic2019",
        required=(
            "ISIC_2019_Training_Input",
            "ISIC_2019_Training_GroundTruth",
            "ISIC_2019_Training_Metadata",
        ),
        optional=(
            "ISIC_2019_Test_Input",
            "ISIC_2019_Test_GroundTruth",
            "ISIC_2019_Test_Metadata",
        ),
        read=layouts.read_isic2019,
        where=f"The archives and the tables are at {CHALLENGES}",
    ),
)


def read_source(folder: Path, dataset: str, options: TableOptions = NO_OPTIONS) -> Source:
    """Returns the records and images in a directory.

    Args:
        folder: The directory of the published files or class directories, or its parent; or
            the directory of a table and its images.
        dataset: "isic2018", "isic2019", "folder" for one directory per class, or "table".
        options: How to read a table.

    Raises:
        SourceError: The directory does not exist, contains no complete layout of this
            dataset, or contains invalid files.
        OptionError: An option does not fit the files, an option such as --table is
            required to choose one of several tables, or `dataset` is "table", no table is
            named, and the directory contains the training set of the ISIC challenge 2018
            or 2019.
        ValueError: See `with_published_lesions` and `read_table_source`.
    """
    if not folder.is_dir():
        known = "; or ".join(", ".join(layout.required) for layout in _layouts_of(dataset))
        raise SourceError(
            f"{folder} is not a directory. Expected a directory with "
            f"{known or 'images, ' + OWN_SOURCES[dataset]}."
        )
    if dataset in OWN_SOURCES:
        if dataset == "table" and options.table is None:
            _require_no_challenge(folder)
        source = (
            read_table_source(folder, options)
            if dataset == "table"
            else folders.read_folders(folder)
        )
        source.classes = read_declared_classes(folder, source.class_names)
        return layouts.with_published_lesions(source)
    if match := match_layout(folder, dataset):
        layout, files = match
        return layout.read(files)
    raise SourceError(_describe_mismatch(folder, dataset))


def find_name(folder: Path, options: TableOptions) -> str:
    """Returns the default name of a dataset with a table: "table", or that of its layout.

    Raises:
        OptionError: The table of the options does not exist, or the directory contains
            several published datasets.
    """
    recognized = find_published(folder, options) if folder.is_dir() else None
    return "table" if recognized is None else recognized.layout.name


def download_instructions(dataset: str) -> str:
    """Returns a list, as text, of what the source directory of a dataset may contain.

    The list names the required files of each layout and where to get them. For "folder" and
    "table", it says which images are expected.
    """
    if dataset in OWN_SOURCES:
        return f"- images, {OWN_SOURCES[dataset]}"
    return "\n".join(
        f"- {layout.title}: {', '.join(layout.required)}. {layout.where}"
        for layout in _layouts_of(dataset)
    )


def match_layout(folder: Path, dataset: str) -> tuple[Layout, Files] | None:
    """Returns the first complete layout of `dataset`, and its files, or None.

    The files are all in `folder`, or all in one of its direct subdirectories.
    """
    listings = [_published_files(path) for path in (folder, *_subfolders(folder))]
    for layout in _layouts_of(dataset):
        for files in listings:
            if not _missing(layout, files):
                return layout, files
    return None


def _require_no_challenge(folder: Path) -> None:
    """Checks that a directory is not that of a challenge with its own config."""
    for dataset in ("isic2018", "isic2019"):
        match = match_layout(folder, dataset)
        if match and any(name.endswith("GroundTruth") for name in match[0].required):
            raise OptionError(
                f"{folder} contains the training set of {match[0].title!r}. Use --config "
                f"{dataset}, which also reads the official splits, or --table to name the "
                "table to read."
            )


def _layouts_of(dataset: str) -> list[Layout]:
    return [layout for layout in LAYOUTS if layout.dataset == dataset]


def _missing(layout: Layout, files: Files) -> list[str]:
    return [name for name in layout.required if name.lower() not in files]


def _entries(folder: Path) -> list[Path]:
    """Returns the sorted entries of a directory; [] if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _subfolders(folder: Path) -> list[Path]:
    return [
        path
        for path in _entries(folder)
        if path.is_dir() and skip_reason(PurePath(path.name)) != HIDDEN
    ]


def _elsewhere(folder: Path, dataset: str) -> Path | None:
    """Returns a directory one to three levels below, or the parent, with a complete layout.

    Returns None if there is none.
    """
    for child in _subfolders(folder):
        for path in (child, *_subfolders(child)):
            if match := match_layout(path, dataset):
                return next(iter(match[1].values())).parent
    # The subdirectories of the parent are not searched, because there may be many.
    parent = folder.absolute().parent
    files = _published_files(parent)
    complete = any(not _missing(layout, files) for layout in _layouts_of(dataset))
    return parent if complete else None


def _published_files(folder: Path) -> dict[str, Path]:
    """Returns the paths of the published files in a directory, keyed as in `Files`."""
    known = (name for layout in LAYOUTS for name in layout.required + layout.optional)
    names = {name.lower() for name in known}
    # Kaggle's copy contains each image directory twice, in upper and in lower case. In
    # both mappings the last entry of a key wins: upper case, and the preferred suffix.
    paths = {path.name.lower(): path for path in reversed(_entries(folder))}
    return {
        name: paths[name + suffix]
        for suffix in reversed(SUFFIXES)
        for name in names
        if name + suffix in paths
    }


def _describe_mismatch(folder: Path, dataset: str) -> str:
    """Returns an error message: which files are missing, or what to use instead."""
    if (elsewhere := _elsewhere(folder, dataset)) is not None:
        return (
            f"{folder} does not contain the dataset, but {elsewhere} does. Use "
            f"--manual-dir {shlex.quote(str(elsewhere))}"
        )
    names = [printable(path.name) for path in _entries(folder)]
    received = f"Received: {join_first(names) or 'an empty directory'}."
    listings = [_published_files(path) for path in (folder, *_subfolders(folder))]
    candidates = _layouts_of(dataset)
    missing, layout = min(
        ((_missing(layout, files), layout) for layout in candidates for files in listings),
        key=lambda entry: len(entry[0]) - len(entry[1].required),
    )
    if len(missing) < len(layout.required):
        return (
            f"{folder} lacks {', '.join(missing)} of the layout {layout.title!r}. "
            f"{received} {layout.where}"
        )
    if recognized := recognize(folder):
        return (
            f"{folder} contains {recognized.layout.title!r}, which is read as a table. Use "
            "--config table."
        )
    for other in LAYOUTS:
        if other not in candidates and not all(_missing(other, f) for f in listings):
            return (
                f"{folder} contains {other.title!r}, which belongs to the config "
                f"{other.dataset!r}. Use --config {other.dataset}."
            )
    return (
        f"{folder} contains no known layout. {received} Expected one of:\n"
        f"{download_instructions(dataset)}\n"
        "If one archive contains all files, unpack it first."
    )
