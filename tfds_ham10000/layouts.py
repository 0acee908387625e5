"""How each published layout is read; `sources.LAYOUTS` says how it is recognised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfds_ham10000.folds import published_places
from tfds_ham10000.images import ImageFiles, check_same_pictures
from tfds_ham10000.records import (
    CLASS_NAMES,
    ISIC2019_CLASS_NAMES,
    Record,
    SourceError,
    check_records,
    lesions_with_two_diagnoses,
    make_record,
    some,
)
from tfds_ham10000.tables import one_hot_label, read_rows

Files = Mapping[str, Path]
"""What was found of a layout, by the published name in lower case without a suffix."""
Fields = dict[str, str]
"""What is known of a picture, by the fields of `Record`."""

METADATA_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
"""What each edition of `HAM10000_metadata` has; Dataverse's has `dataset` too."""
CONFIRM_TYPES = {
    "histopathology": "histo",
    "serial imaging showing no change": "follow_up",
    "single image expert consensus": "consensus",
    "confocal microscopy with consensus dermoscopy": "confocal",
}
"""HAM10000's `dx_type` for the `diagnosis_confirm_type` of the ISIC challenge."""
COLLECTIONS = {"HAM": "ham10000", "BCN": "bcn20000", "MSK": "msk"}
"""ISIC 2019's collections, by the letters that their lesion_ids begin with."""


@dataclass
class Source:
    """What was read.

    Attributes:
        class_names: The labels, in order.
        splits: Records sorted by image_id; those of "train" are to be split into folds,
            "validation_official" and "test_official" are there if their files are.
        images: The pictures of all splits, and perhaps more.
        notes: What a user should be told.
    """

    class_names: tuple[str, ...]
    splits: dict[str, list[Record]] = field(default_factory=dict)
    images: ImageFiles = field(default_factory=ImageFiles)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        split: str,
        records: Iterable[Record],
        images: ImageFiles,
        where: Path,
        others: Iterable[str] = (),
    ) -> None:
        """Adds a split.

        Args:
            split: Its name.
            records: Its pictures.
            images: The files of its pictures, and of no others.
            where: The table that names them, for the messages.
            others: The image_ids of pictures that are named and left out.

        Raises:
            SourceError: The table and the files do not name the same pictures, or one of
                them is in another split.
        """
        records = sorted(records, key=lambda record: record.image_id)
        listed = {record.image_id for record in records}
        check_same_pictures(listed.union(others), images, str(where))
        self.images.add(images)
        self.splits[split] = records


def read_ham10000(files: Files) -> Source:
    """Returns HAM10000 as Harvard Dataverse and Kaggle publish it."""
    table = files["ham10000_metadata"]
    records = [
        make_record(_metadata_fields(cells), where, CLASS_NAMES)
        for where, cells in read_rows(table, METADATA_COLUMNS)
    ]
    check_records(records, table)
    parts = (files[f"ham10000_images_part_{part}"] for part in (1, 2))
    source = Source(CLASS_NAMES)
    source.add("train", records, ImageFiles(parts), table)
    _add_official(source, files, "validation")
    _add_official(source, files, "test")
    return source


def read_isic2018(files: Files) -> Source:
    """Returns task 3 of the ISIC challenge 2018."""
    truth = files["isic2018_task3_training_groundtruth"]
    known = _known_lesions(files)
    records, _ = _read_truth(truth, CLASS_NAMES, known)
    lacking = [r.image_id for r in records if "lesion_id" not in known.get(r.image_id, {})]
    if lacking:
        raise SourceError(
            f"{truth}: the lesion of {len(lacking)} picture(s) is not known: "
            f"{some(lacking)}. Without it, pictures of one lesion would be trained on and "
            "tested on. Expected ISIC2018_Task3_Training_LesionGroupings.csv or "
            "HAM10000_metadata.csv beside the ground truth, with a row of each picture."
        )
    check_records(records, truth)
    source = Source(CLASS_NAMES)
    pictures = ImageFiles([files["isic2018_task3_training_input"]])
    source.add("train", records, pictures, truth)
    _add_official(source, files, "validation")
    _add_official(source, files, "test")
    return source


def read_isic2019(files: Files) -> Source:
    """Returns the ISIC challenge 2019; its official test set if the labels are there."""
    source = Source(ISIC2019_CLASS_NAMES)
    for split, part in (("train", "training"), ("test_official", "test")):
        truth = files.get(f"isic_2019_{part}_groundtruth")
        pictures = files.get(f"isic_2019_{part}_input")
        if truth is None or pictures is None:
            continue
        known = _isic2019_metadata(files.get(f"isic_2019_{part}_metadata"))
        records, unknown = _read_truth(truth, ISIC2019_CLASS_NAMES, known)
        if unknown:
            source.notes.append(
                f"{split}: {len(unknown)} picture(s) of none of the classes (UNK) were "
                "left out"
            )
        check_records(records, truth, one_diagnosis=False)
        if torn := lesions_with_two_diagnoses(records):
            source.notes.append(f"{split}: {len(torn)} lesion(s) have two diagnoses")
        source.add(split, records, ImageFiles([pictures]), truth, unknown)
    return source


def without_ham10000(source: Source) -> Source:
    """Returns ISIC 2019 without the pictures that HAM10000 has too.

    They are told by their lesion_id, or by their image_id where that has none.
    """
    ids = published_places().keys()
    splits = {
        split: [
            record
            for record in records
            if not record.lesion_id.startswith("HAM_")
            and record.image_id.removesuffix("_downsampled") not in ids
        ]
        for split, records in source.splits.items()
    }
    return replace(source, splits=splits)


def _add_official(source: Source, files: Files, part: str) -> None:
    """Adds an official split of ISIC 2018 if its labels and pictures are there."""
    truth = files.get(f"isic2018_task3_{part}_groundtruth")
    # The challenge calls them Input, Harvard Dataverse calls them Images.
    pictures = files.get(f"isic2018_task3_{part}_input") or files.get(
        f"isic2018_task3_{part}_images"
    )
    if truth is None or pictures is None:
        return
    records, _ = _read_truth(truth, source.class_names, {})
    check_records(records, truth)
    source.add(f"{part}_official", records, ImageFiles([pictures]), truth)


def _read_truth(
    path: Path, class_names: Sequence[str], known: Mapping[str, Fields]
) -> tuple[list[Record], list[str]]:
    """Returns the records of a table of labels, and the image_ids of those without one.

    Args:
        path: One-hot columns (ISIC), or those of `HAM10000_metadata` (the official test
            set of 2018 at Harvard Dataverse). Rows whose column UNK is 1 have no label.
        class_names: The labels; a one-hot column is named by one in capitals.
        known: What is known of each picture. A picture whose lesion is not known is
            taken for a lesion of its own.
    """
    columns = {name.upper(): name for name in class_names}
    records, unknown = [], []
    for row in read_rows(path, ("image", *columns), METADATA_COLUMNS):
        where, cells = row
        if cells.get("UNK", "").strip() in ("1", "1.0"):
            unknown.append(cells["image"].strip())
            continue
        fields = (
            _metadata_fields(cells)
            if "dx" in cells
            else {"image_id": cells["image"].strip(), "dx": one_hot_label(row, columns)}
        )
        more = known.get(fields["image_id"], {})
        if more.get("dx", fields["dx"]) != fields["dx"]:
            raise SourceError(
                f"{where}: {fields['image_id']} is {fields['dx']!r} here and "
                f"{more['dx']!r} in HAM10000_metadata. Expected one diagnosis."
            )
        own_lesion = {"lesion_id": fields["image_id"]}
        records.append(make_record({**own_lesion, **more, **fields}, where, class_names))
    return records, unknown


def _known_lesions(files: Files) -> dict[str, Fields]:
    """Returns what LesionGroupings and HAM10000_metadata tell, by image_id."""
    known: dict[str, Fields] = {}
    if table := files.get("isic2018_task3_training_lesiongroupings"):
        for _, cells in read_rows(table, ("image", "lesion_id", "diagnosis_confirm_type")):
            confirmed = cells["diagnosis_confirm_type"].strip()
            known[cells["image"].strip()] = _filled(
                lesion_id=cells["lesion_id"],
                dx_type=CONFIRM_TYPES.get(confirmed, confirmed),
            )
    if table := files.get("ham10000_metadata"):
        for _, cells in read_rows(table, METADATA_COLUMNS):
            fields = _metadata_fields(cells)
            known.setdefault(fields["image_id"], {}).update(fields)
    return known


def _isic2019_metadata(path: Path | None) -> dict[str, Fields]:
    """Returns what ISIC 2019's metadata tells, by image_id."""
    known: dict[str, Fields] = {}
    if path is None:
        return known
    columns = ("image", "age_approx", "anatom_site_general", "sex")
    for _, cells in read_rows(path, columns):
        lesion_id = cells.get("lesion_id", "").strip()
        letters = re.match("[A-Z]*", lesion_id)
        known[cells["image"].strip()] = _filled(
            lesion_id=lesion_id,
            age=cells["age_approx"],
            sex=cells["sex"],
            localization=cells["anatom_site_general"],
            dataset=COLLECTIONS.get(letters.group() if letters else "", ""),
        )
    return known


def _metadata_fields(cells: Mapping[str, str]) -> Fields:
    names = (*METADATA_COLUMNS, "dataset")
    return _filled(**{name: cells.get(name, "") for name in names})


def _filled(**cells: str) -> Fields:
    return {name: cell.strip() for name, cell in cells.items() if cell.strip()}
