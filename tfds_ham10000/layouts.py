"""Readers of HAM10000 and of the ISIC challenges 2018 and 2019.

`tfds_ham10000.sources.LAYOUTS` lists the layouts of their files. Other published datasets
are read as tables (`tfds_ham10000.published`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfds_ham10000.folds import published_assignments, published_lesions
from tfds_ham10000.groups import published_id
from tfds_ham10000.image_files import ARCHIVE, ImageFiles, describe_skipped
from tfds_ham10000.records import (
    CLASS_NAMES,
    ISIC2019_CLASS_NAMES,
    DeclaredClass,
    Record,
    SourceError,
    check_records,
    join_first,
    lesions_with_several_diagnoses,
    make_record,
)
from tfds_ham10000.table.published import BITS, one_hot_label, read_rows

Files = Mapping[str, Path]
"""The paths of the files of a layout, by lower-case published name without a suffix."""
Fields = dict[str, str]
"""The known fields of the `Record` of an image, as text."""

HAM10000_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
"""Columns in every edition of `HAM10000_metadata`. Harvard Dataverse adds `dataset`."""
CONFIRM_TYPES = {
    "histopathology": "histo",
    "serial imaging showing no change": "follow_up",
    "single image expert consensus": "consensus",
    "confocal microscopy with consensus dermoscopy": "confocal",
}
"""The `dx_type` of HAM10000 for each `diagnosis_confirm_type` of the ISIC challenge."""
COLLECTIONS = {"HAM": "ham10000", "BCN": "bcn20000", "MSK": "msk"}
"""The collections in ISIC 2019, by the first three letters of their lesion_ids."""


@dataclass
class Source:
    """The records and images of a source directory.

    `splits` contains "train", which the builder divides into folds, and, if the source has
    them, "validation_official" and "test_official". The records of a split are sorted by
    image_id. `images` may include images without a record. `excluded` is the number of
    images that the table, an option or the config leaves out, by reason. `classes` is what
    `classes.json` declares, and `columns` is the column of a table that each field was read
    from.
    """

    class_names: tuple[str, ...]  # in the order of the labels
    splits: dict[str, list[Record]] = field(default_factory=dict)
    images: ImageFiles = field(default_factory=ImageFiles)
    notes: list[str] = field(default_factory=list)  # messages for the user
    excluded: Counter[str] = field(default_factory=Counter)
    classes: list[DeclaredClass] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    layout: str = ""  # title of a published dataset that is read as a table; "" for others

    def add(
        self,
        split: str,
        records: Iterable[Record],
        images: ImageFiles,
        where: Path,
        skipped: Iterable[str] = (),
    ) -> None:
        """Adds a split, and a note for each reason why other files are not used.

        Args:
            split: The name of the split.
            records: The records of the split.
            images: The image files of the records and of `skipped`, and no others.
            where: The table or directory of the records, for error messages.
            skipped: The image_ids of images that have a file but no record.

        Raises:
            SourceError: Records and files do not match, or an image is in two splits.
        """
        self.splits[split] = sorted(records, key=lambda record: record.image_id)
        listed = {record.image_id for record in self.splits[split]}.union(skipped)
        problems = {
            "in the table but have no file": listed - images.image_ids,
            "among the files but not in the table": images.image_ids - listed,
            "in another split too": images.image_ids & self.images.image_ids,
        }
        messages = [
            f"{len(ids)} image(s) are {problem}: {join_first(sorted(ids))}."
            for problem, ids in problems.items()
            if ids
        ]
        if messages:
            inner = [x for x, reason in images.skipped.items() if reason == ARCHIVE]
            advice = f"Unpack {join_first(inner)}" if inner else "Download the files again"
            raise SourceError(
                f"{where}: {' '.join(messages)} Expected the same images in the table and "
                f"the files, and each image in one split only. {advice}."
            )
        self.images.add(images)
        self.notes += [f"{split}: {line}" for line in describe_skipped(images.skipped)]


def read_ham10000(files: Files) -> Source:
    """Returns HAM10000 (Harvard Dataverse, Kaggle) and the official splits, if present.

    Raises:
        SourceError: A file is invalid, images and table differ, splits share an image, or
            lesion_ids are missing.
    """
    table = files["ham10000_metadata"]
    records = [
        make_record(_ham10000_fields(cells), where, CLASS_NAMES)
        for where, cells in read_rows(table, HAM10000_COLUMNS)
    ]
    _require_lesions(records, table)
    check_records(records, table)
    parts = (files[f"ham10000_images_part_{part}"] for part in (1, 2))
    source = Source(CLASS_NAMES)
    source.add("train", records, ImageFiles(parts), table)
    _add_official_splits(source, files)
    return source


def read_isic2018(files: Files) -> Source:
    """Returns the ISIC challenge 2018, task 3, and the official splits, if present.

    Raises:
        SourceError: A file is invalid, images and table differ, two tables give different
            diagnoses, splits share an image, or lesion_ids are missing.
    """
    truth = files["isic2018_task3_training_groundtruth"]
    metadata = _isic2018_metadata(files)
    records, _ = _read_truth(truth, CLASS_NAMES, metadata)
    _require_lesions(records, truth)
    check_records(records, truth)
    source = Source(CLASS_NAMES)
    images = ImageFiles([files["isic2018_task3_training_input"]])
    source.add("train", records, images, truth)
    _add_official_splits(source, files)
    return source


def read_isic2019(files: Files) -> Source:
    """Returns the ISIC challenge 2019, and the official test set, if present.

    Raises:
        SourceError: A file is invalid, images and table differ, or splits share an image.
    """
    source = Source(ISIC2019_CLASS_NAMES)
    for split, part in (("train", "training"), ("test_official", "test")):
        stem = f"isic_2019_{part}"
        truth, images = files.get(f"{stem}_groundtruth"), files.get(f"{stem}_input")
        if truth is None or images is None:
            continue
        metadata = _isic2019_metadata(files.get(f"{stem}_metadata"))
        records, unlabeled = _read_truth(truth, ISIC2019_CLASS_NAMES, metadata)
        if unlabeled:
            source.excluded["diagnosis not known (class UNK)"] += len(unlabeled)
            source.notes.append(
                f"{split}: {len(unlabeled)} image(s) of unknown class (UNK) were left out"
            )
        check_records(records, truth, one_diagnosis=False)
        if conflicting := lesions_with_several_diagnoses(records):
            source.notes.append(
                f"{split}: {len(conflicting)} lesion(s) have several diagnoses"
            )
        source.add(split, records, ImageFiles([images]), truth, unlabeled)
    return source


def without_ham10000(source: Source) -> Source:
    """Returns ISIC 2019 without the images of HAM10000.

    An image of HAM10000 is recognized by the prefix HAM_ of its lesion_id, or by its
    image_id, without the suffix _downsampled.

    Raises:
        ValueError: See `published_assignments`.
    """
    ids = published_assignments().keys()
    splits = {
        split: [
            record
            for record in records
            if not record.lesion_id.startswith("HAM_")
            and record.image_id.removesuffix("_downsampled") not in ids
        ]
        for split, records in source.splits.items()
    }
    before, after = (sum(map(len, x.values())) for x in (source.splits, splits))
    excluded = source.excluded + Counter({"also in HAM10000": before - after})
    return replace(source, splits=splits, excluded=excluded)


def with_published_lesions(source: Source) -> Source:
    """Returns a source with published lesion_ids for HAM10000 images that have none.

    Images of HAM10000 are recognized by `published_id`.

    Raises:
        ValueError: See `published_lesions`.
    """
    published = published_lesions()
    splits = {
        split: [
            replace(record, lesion_id=published.get(published_id(record.image_id), ""))
            if not record.lesion_id
            else record
            for record in records
        ]
        for split, records in source.splits.items()
    }
    return replace(source, splits=splits)


def _require_lesions(records: Iterable[Record], table: Path) -> None:
    missing = [record.image_id for record in records if not record.lesion_id]
    if missing:
        raise SourceError(
            f"{table}: the lesion of {len(missing)} image(s) is unknown: "
            f"{join_first(missing)}. Without lesion_ids, images of one lesion could be in "
            "the training and the test set. Expected HAM10000_metadata.csv, or "
            "ISIC2018_Task3_Training_LesionGroupings.csv beside the ground truth, with one "
            "row and a lesion_id per image."
        )


def _add_official_splits(source: Source, files: Files) -> None:
    """Adds the official splits of ISIC 2018 whose labels and images are present."""
    for part in ("validation", "test"):
        stem = f"isic2018_task3_{part}"
        truth = files.get(f"{stem}_groundtruth")
        # The challenge publishes these images as Input, Harvard Dataverse as Images.
        images = files.get(f"{stem}_input") or files.get(f"{stem}_images")
        if truth is not None and images is not None:
            records, _ = _read_truth(truth, source.class_names, {})
            check_records(records, truth)
            source.add(f"{part}_official", records, ImageFiles([images]), truth)


def _read_truth(
    path: Path, class_names: Sequence[str], metadata: Mapping[str, Fields]
) -> tuple[list[Record], list[str]]:
    """Returns the records of a table of labels, and the image_ids without a label (UNK).

    The table has one-hot columns (ISIC) or the columns of `HAM10000_metadata` (the official
    test set of 2018 at Harvard Dataverse). `metadata` contains additional fields by
    image_id.
    """
    columns = {name.upper(): name for name in class_names}
    records, unlabeled = [], []
    for row in read_rows(path, ("image", *columns), HAM10000_COLUMNS):
        where, cells = row
        if BITS.get(cells.get("UNK", "")):
            unlabeled.append(cells["image"])
            continue
        if "dx" in cells:
            fields = _ham10000_fields(cells)
        else:
            fields = {"image_id": cells["image"], "dx": one_hot_label(row, columns)}
        extra = metadata.get(fields["image_id"], {})
        if extra.get("dx", fields["dx"]) != fields["dx"]:
            raise SourceError(
                f"{where}: the diagnosis of {fields['image_id']} is {fields['dx']!r} here "
                f"and {extra['dx']!r} in HAM10000_metadata. Expected the same diagnosis."
            )
        records.append(make_record({**extra, **fields}, where, class_names))
    return records, unlabeled


def _isic2018_metadata(files: Files) -> dict[str, Fields]:
    """Returns the fields from LesionGroupings and HAM10000_metadata, by image_id.

    Either file may be missing. HAM10000_metadata takes precedence.
    """
    metadata: dict[str, Fields] = {}
    if table := files.get("isic2018_task3_training_lesiongroupings"):
        for _, cells in read_rows(table, ("image", "lesion_id", "diagnosis_confirm_type")):
            confirmed = cells["diagnosis_confirm_type"]
            metadata[cells["image"]] = _non_empty(
                lesion_id=cells["lesion_id"],
                dx_type=CONFIRM_TYPES.get(confirmed, confirmed),
            )
    if table := files.get("ham10000_metadata"):
        for _, cells in read_rows(table, HAM10000_COLUMNS):
            fields = _ham10000_fields(cells)
            metadata.setdefault(fields["image_id"], {}).update(fields)
    return metadata


def _isic2019_metadata(path: Path | None) -> dict[str, Fields]:
    """Returns the fields from the metadata of ISIC 2019, by image_id; {} without a file."""
    metadata: dict[str, Fields] = {}
    columns = ("image", "age_approx", "anatom_site_general", "sex")
    for _, cells in read_rows(path, columns) if path else ():
        lesion_id = cells.get("lesion_id", "")
        metadata[cells["image"]] = _non_empty(
            lesion_id=lesion_id,
            age=cells["age_approx"],
            sex=cells["sex"],
            localization=cells["anatom_site_general"],
            dataset=COLLECTIONS.get(lesion_id[:3], ""),
        )
    return metadata


def _ham10000_fields(cells: Mapping[str, str]) -> Fields:
    names = (*HAM10000_COLUMNS, "dataset")
    return _non_empty(**{name: cells.get(name, "") for name in names})


def _non_empty(**cells: str) -> Fields:
    return {name: cell for name, cell in cells.items() if cell}
