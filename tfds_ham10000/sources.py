"""Which published layout a folder holds, recognised by the names in it.

To add a layout, write a function that returns a `Source` (see `layouts`) and give it an
entry in `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfds_ham10000 import folders, layouts
from tfds_ham10000.layouts import Files, Source
from tfds_ham10000.records import CLASS_NAMES, Record, SourceError, some

__all__ = ["CLASS_NAMES", "LAYOUTS", "Layout", "Record", "Source", "SourceError"]

SUFFIXES = (".csv", ".tab", ".tsv", ".txt", ".zip", "")
"""What may stand behind a published name; of several, the first is read. A folder, and a
table as Harvard Dataverse names it, have none."""


@dataclass(frozen=True)
class Layout:
    """One way in which pictures and labels are published.

    Attributes:
        title: What it is called in messages.
        dataset: Which dataset it is a source of: the `source` of some configs.
        needs: Names, without a suffix, of the files and folders that it must have.
        optional: Names of those that are used where they are present.
        read: Returns the records and the pictures.
        where: Where to get it.
    """

    title: str
    dataset: str
    needs: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Files], Source]
    where: str


OFFICIAL_2018 = (
    "ISIC2018_Task3_Validation_Input",
    "ISIC2018_Task3_Validation_GroundTruth",
    "ISIC2018_Task3_Test_Input",
    "ISIC2018_Task3_Test_Images",
    "ISIC2018_Task3_Test_GroundTruth",
)
CHALLENGES = "https://challenge.isic-archive.com/data (licence CC BY-NC 4.0)."
LAYOUTS = (
    Layout(
        title="HAM10000 (Harvard Dataverse, Kaggle)",
        dataset="isic2018",
        needs=("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_metadata"),
        optional=OFFICIAL_2018,
        read=layouts.read_ham10000,
        where="Both archives and the CSV are at Harvard Dataverse, "
        "doi:10.7910/DVN/DBW86T (licence CC BY-NC 4.0).",
    ),
    Layout(
        title="ISIC challenge 2018, task 3",
        dataset="isic2018",
        needs=("ISIC2018_Task3_Training_Input", "ISIC2018_Task3_Training_GroundTruth"),
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
        needs=(
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


def read_source(folder: Path, dataset: str) -> Source:
    """Returns what a folder holds.

    Args:
        folder: Holds the published files, or a folder that holds them.
        dataset: "isic2018", "isic2019", or "folder" for a folder of each class.

    Raises:
        SourceError: The folder is no folder, holds no layout of this dataset, or holds one
            of which something is missing or wrong.
    """
    if not folder.is_dir():
        known = " or ".join(_contents(layout) for layout in _layouts_of(dataset))
        raise SourceError(
            f"{folder} is not a folder. Expected the folder that holds "
            f"{known or 'a folder of pictures for each class'}."
        )
    if dataset == "folder":
        return folders.read_folders(folder)
    if found := _find(folder, dataset):
        layout, files = found
        return layout.read(files)
    raise SourceError(_mismatch(folder, _inventories(folder), _layouts_of(dataset)))


def holds(folder: Path, dataset: str) -> bool:
    """Returns whether a folder has all files of a layout of a dataset."""
    return folder.is_dir() and _find(folder, dataset) is not None


def where_to_get(dataset: str) -> str:
    """Returns what to put into the folder of a dataset, and where to get it."""
    return "\n".join(
        f"- {layout.title}: {_contents(layout)}. {layout.where}"
        for layout in _layouts_of(dataset)
    )


def _find(folder: Path, dataset: str) -> tuple[Layout, Files] | None:
    inventories = _inventories(folder)
    for layout in _layouts_of(dataset):
        for files in inventories:
            if not _lacking(layout, files):
                return layout, files
    return None


def _inventories(folder: Path) -> list[dict[str, Path]]:
    """Returns what stands in a folder, and in each folder in it."""
    places = [folder, *(p for p in sorted(folder.iterdir()) if p.is_dir())]
    return [_inventory(place) for place in places]


def _layouts_of(dataset: str) -> list[Layout]:
    return [layout for layout in LAYOUTS if layout.dataset == dataset]


def _contents(layout: Layout) -> str:
    return ", ".join(layout.needs)


def _lacking(layout: Layout, files: Files) -> list[str]:
    return [name for name in layout.needs if name.lower() not in files]


def _inventory(folder: Path) -> dict[str, Path]:
    """Returns what stands in a folder under a published name, by `Files`' keys."""
    names = {name.lower() for layout in LAYOUTS for name in layout.needs + layout.optional}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        for suffix in SUFFIXES:
            stem = path.name.lower().removesuffix(suffix)
            if stem in names and path.name.lower() == stem + suffix:
                found.setdefault(stem, []).append(path)
    # Kaggle's copy holds each folder of pictures twice, in capitals and without.
    return {
        name: min(paths, key=lambda path: SUFFIXES.index(path.suffix.lower()))
        for name, paths in found.items()
    }


def _mismatch(
    folder: Path, inventories: Sequence[Files], candidates: Sequence[Layout]
) -> str:
    """Returns what is missing of the layout that is nearest, or what the layouts are."""
    present = sorted(path.name for path in folder.iterdir())
    found = f"Found: {some(present) or 'nothing'}."
    num_found, layout, files = max(
        (
            (len(layout.needs) - len(_lacking(layout, files)), layout, files)
            for layout in candidates
            for files in inventories
        ),
        key=lambda entry: entry[0],
    )
    if num_found:
        return (
            f"{folder} lacks {', '.join(_lacking(layout, files))} of the layout "
            f"{layout.title!r}. {found} {layout.where}"
        )
    for other in LAYOUTS:
        if other not in candidates and any(not _lacking(other, f) for f in inventories):
            return (
                f"{folder} holds {other.title!r}, which is a source of the config "
                f"{other.dataset!r}. Give --config {other.dataset}."
            )
    return (
        f"{folder} holds no layout that is known here. {found} Known:\n"
        f"{where_to_get(candidates[0].dataset)}\n"
        "An archive that holds all of them has to be unpacked first."
    )
