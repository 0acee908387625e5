"""Reading a table, the user's own or a published one: one row per image, with a label.

The steps are: recognize a published dataset (`tfds_ham10000.published`) or find the user's
table (`find_table`), find the columns (`columns`), read their cells (`cells`), convert the
values (`labels`, `values`), and find the image of each row (`images`).
"""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, cast

import pandas as pd

from tfds_ham10000.groups import GroupBy
from tfds_ham10000.image_files import ARCHIVE, describe_skipped, find_files
from tfds_ham10000.layouts import CONFIRM_TYPES, Source
from tfds_ham10000.published.layout import TableFile, TableLayout
from tfds_ham10000.published.recognition import Recognized, recognize
from tfds_ham10000.records import UNKNOWN, OptionError, Record, SourceError, join_first
from tfds_ham10000.table.cells import TABLE_SUFFIXES, TablePath
from tfds_ham10000.table.columns import find_columns
from tfds_ham10000.table.images import TableImages, image_id_of
from tfds_ham10000.table.labels import CLASSES_FILE, map_labels
from tfds_ham10000.table.options import TableOptions
from tfds_ham10000.table.values import DERMOSCOPIC, PARSERS, parse_column, parse_id

FIELD_OF = {"image": "image_id", "label": "dx", "site": "localization"}
"""The field of `Record` for the fields of a table (`COLUMN_NAMES`) with another name."""
TRAINING_SPLIT = "train"
OWN_TABLE = TableLayout()
"""The layout of a table that belongs to no published dataset."""


def read_table_source(folder: Path, options: TableOptions) -> Source:
    """Returns the images in a directory that a table lists, with their records.

    Raises:
        SourceError: The table or a value in it is missing or invalid, an archive of images
            cannot be read, a row matches several images, or none (unless the layout permits
            this), an image is in several rows, images of a lesion have different labels,
            there are fewer than two classes, or the training split lacks a class.
        OptionError: The table that an option names does not exist, an option does not fit
            the table, or the directory contains several tables or published datasets of
            which no option names one.
        ValueError: See `Recognized.open`.
    """
    recognized = _recognize(folder, options)
    layout, table = recognized.layout, recognized.open()
    path = table.path
    given = {k: name for k, name in layout.columns.items() if name in ("", *table.names)}
    columns, notes = find_columns(table, {**given, **options.columns})
    _check_group_by(options.group_by, columns, path)
    cells = table.select(list(dict.fromkeys((*columns.values(), *layout.image_columns))))
    images = TableImages(folder, table.images, layout.other_images)
    cells[columns["image"]], ignored = images.relative(cells[columns["image"]])
    frame = pd.DataFrame({field: cells[name] for field, name in columns.items()})
    frame.index.name = "row"
    source = Source((), columns=columns, layout=layout.title)
    publication = [f"publication: {layout.reference}"] if layout.reference else []
    source.notes = [*publication, *layout.notes, *table.notes, *notes, *ignored]
    frame = _replace_cells(source, frame, layout, options)
    frame = _keep_dermoscopic(source, frame)
    frame = _map_labels(source, frame, options, path)
    values = _parse_values(frame, columns, path)
    values["lesion_id"] = _unique_lesions(values, source)
    _check_lesions(values, path)
    source.images = images
    values = _find_images(images, values, source, path, layout)
    # Images of the table that are left out, or in other columns, do not count as unused.
    images.select(cells[columns["image"]].drop(values.index))
    for name in layout.image_columns:
        images.select(cells[name])
    _note_unused(images, recognized, source)
    source.class_names = _class_names(values, f"{path}, column {columns['label']!r}")
    splits = values.pop("split")
    rows = cast("list[dict[str, Any]]", values.to_dict("records"))
    records = [Record(**row) for row in rows]
    for record, split in zip(records, splits, strict=True):
        source.splits.setdefault(split, []).append(record)
    for part in source.splits.values():
        part.sort(key=lambda record: record.image_id)
    _check_splits(source, path)
    return source


def find_published(folder: Path, options: TableOptions) -> Recognized | None:
    """Returns the published dataset to which the table belongs, or None.

    Raises:
        OptionError: The table of the options does not exist; or the options name no table,
            and the directory contains several published datasets.
    """
    path = None if options.table is None else find_table(folder, options.table)
    return recognize(folder, path)


def _recognize(folder: Path, options: TableOptions) -> Recognized:
    if recognized := find_published(folder, options):
        return recognized
    path = find_table(folder, options.table)
    return Recognized(OWN_TABLE, [TableFile(path, ())], [])


def find_table(folder: Path, name: str | None) -> Path:
    """Returns the path of the table: `name`, or the only table in a directory.

    `name` is relative to `folder` or else to the working directory. Without `name`, tables
    in subdirectories are considered only if there are none in `folder` itself, and files
    such as README.txt do not count as tables.

    Raises:
        OptionError: The file `name` does not exist, or `name` is None and the directory
            contains several tables.
        SourceError: The directory contains no table.
    """
    if name is not None:
        paths = [path for path in (folder / name, Path(name)) if path.is_file()]
        if not paths:
            raise OptionError(
                f"--table {name}: the file does not exist in {folder} (--manual-dir) or in "
                "the working directory. Expected the path of a table, relative to one of "
                "them."
            )
        return paths[0]
    everywhere = [p for p in find_files(folder, TABLE_SUFFIXES).files if not _is_text(p)]
    for tables in ([p for p in everywhere if p.parent == folder], everywhere):
        if len(tables) == 1:
            return tables[0]
        if tables:
            names = [str(table.relative_to(folder)) for table in tables]
            raise OptionError(
                f"{folder} contains {len(tables)} tables: {join_first(names)}. Use --table "
                f"to name one of them, such as --table {shlex.quote(names[0])}"
            )
    skipped = find_files(folder).skipped.items()
    archives = [path.name for path, reason in skipped if reason == ARCHIVE]
    advice = f" Unpack {join_first(sorted(archives))} first." if archives else ""
    raise SourceError(
        f"{folder} contains no table. Expected a file with one row per image and one of "
        f"the suffixes {', '.join(TABLE_SUFFIXES)}.{advice}{_advise_parent(folder)}"
    )


def _advise_parent(folder: Path) -> str:
    """Returns a sentence if the parent of a directory contains a table, or ""."""
    parent = folder.absolute().parent
    with contextlib.suppress(OSError):
        for path in sorted(parent.iterdir()):
            if path.suffix.lower() in TABLE_SUFFIXES and not _is_text(path):
                advice = f"--manual-dir {shlex.quote(str(parent))}"
                return f" {path} exists: if it is the table, use {advice}"
    return ""


def _is_text(path: Path) -> bool:
    return path.stem.lower().startswith(("readme", "license", "licence", "attribution"))


def _check_group_by(
    group_by: GroupBy | None, columns: Mapping[str, str], path: TablePath
) -> None:
    if group_by is not None and f"{group_by}_id" not in columns:
        raise OptionError(
            f"--group-by {group_by}: {path} has no column of {group_by}s. Name the column, "
            f"as in --columns {group_by}_id=COLUMN."
        )


def _replace_cells(
    source: Source, frame: pd.DataFrame, layout: TableLayout, options: TableOptions
) -> pd.DataFrame:
    """Replaces the cells of a published table, and drops the rows to leave out.

    `TableLayout.cells` contains the replacements.
    """
    for field, column in source.columns.items():
        meaning = layout.cells.get(column)
        if meaning is None or (field == "label" and options.label_map):
            continue
        replaced = [meaning.get(cell, cell) for cell in frame[field]]
        kept = pd.Series([cell is not None for cell in replaced], frame.index)
        for cell, count in frame[field][~kept].value_counts().items():
            source.excluded[f"{field} {cell!r}" if cell else f"no {field}"] += int(count)
        frame = frame.assign(**{field: replaced})[kept]
    return frame


def _keep_dermoscopic(source: Source, frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of images known to be dermatoscopic; all rows if there are none."""
    if "image_type" not in frame:
        return frame
    types = frame["image_type"]
    kept = types.str.lower().isin(DERMOSCOPIC)
    if not kept.any() or kept.all():
        return frame
    for name, count in types[~kept].value_counts().items():
        source.excluded[f"image type {name!r}"] += int(count)
    source.notes.append(
        "only dermatoscopic images are used; --columns image_type= uses all images"
    )
    return frame[kept]


def _map_labels(
    source: Source, frame: pd.DataFrame, options: TableOptions, path: TablePath
) -> pd.DataFrame:
    """Returns the rows that have a class, with the class names as labels."""
    column = source.columns["label"]
    labels, notes = map_labels(frame["label"], column, options.label_map, path)
    source.notes += notes
    kept = labels.notna()
    left_out = frame["label"][~kept].value_counts()
    for label, count in left_out.items():
        source.excluded[f"label {label!r} is left out by --label-map"] += int(count)
    return frame.assign(label=labels)[kept]


def _class_names(values: pd.DataFrame, where: str) -> tuple[str, ...]:
    names = tuple(sorted(values["dx"].unique()))
    if len(names) < 2:
        raise SourceError(
            f"{where}: expected images of at least two classes. Received: "
            f"{', '.join(names) or 'none'}."
        )
    return names


def _parse_values(
    frame: pd.DataFrame, columns: Mapping[str, str], path: TablePath
) -> pd.DataFrame:
    """Returns the fields of the record of each row, and its split."""
    values = pd.DataFrame({"split": TRAINING_SPLIT, "lesion_id": ""}, index=frame.index)
    values["patient_id"] = ""
    parsed: list[Any]
    for field, name in columns.items():
        cells = frame[field].rename(name)
        if field in PARSERS:
            parse, expected = PARSERS[field]
            advice = f"use --columns {field}= to leave out the column"
            parsed = parse_column(cells, parse, str(path), expected, advice)
        elif field in ("lesion_id", "patient_id"):
            parsed = [parse_id(cell) for cell in cells]
        elif field == "image_type":
            continue
        elif field in ("dx_type", "dataset"):
            parsed = [CONFIRM_TYPES.get(cell, cell) or UNKNOWN for cell in cells]
        else:
            parsed = cells.tolist()
        values[FIELD_OF.get(field, field)] = parsed
    return values


def _unique_lesions(values: pd.DataFrame, source: Source) -> pd.Series:
    """Returns the lesion_ids, with the patient_id in front of those that are ambiguous.

    A lesion_id is ambiguous if several patients have it. It is not changed in rows without
    a patient.
    """
    known = values[(values["lesion_id"] != "") & (values["patient_id"] != "")]
    patients = known.groupby("lesion_id")["patient_id"].nunique()
    repeated = patients.index[patients > 1]
    lesions = values["lesion_id"]
    if len(repeated) == 0:
        return lesions
    source.notes.append(
        f"{len(repeated)} lesion_id(s) occur with several patients, such as "
        f"{repeated[0]!r}: they are different lesions, stored as <patient_id>/<lesion_id>"
    )
    combined = values["patient_id"] + "/" + lesions
    return lesions.mask(lesions.isin(repeated) & (values["patient_id"] != ""), combined)


def _check_lesions(values: pd.DataFrame, path: TablePath) -> None:
    known = values[values["lesion_id"] != ""]
    num_labels = known.groupby("lesion_id")["dx"].transform("nunique")
    conflicting = known[num_labels > 1]
    if conflicting.empty:
        return
    lesions = [
        f"lesion {lesion}: "
        + ", ".join(f"row {row} {dx!r}" for row, dx in rows["dx"].items())
        for lesion, rows in conflicting.groupby("lesion_id")
    ]
    raise SourceError(
        f"{path}: {len(lesions)} lesion(s) have several labels: "
        f"{join_first(lesions, '; ')}. Expected the same label for all images of a "
        "lesion. Correct the labels or the lesion_ids, or use --columns lesion_id= to "
        "leave out the column."
    )


def _find_images(
    images: TableImages,
    values: pd.DataFrame,
    source: Source,
    path: TablePath,
    layout: TableLayout,
) -> pd.DataFrame:
    """Finds the image of each row, and returns the rows that have one, with image_ids."""
    cells = values["image_id"]
    image_ids = cells.map(image_id_of)
    rows_of = defaultdict(list)
    for (row, image_id), label in zip(image_ids.items(), values["dx"], strict=True):
        rows_of[image_id].append(f"row {row} {label!r}")
    repeated = [
        f"{image_id or 'empty'}: {join_first(rows)}"
        for image_id, rows in rows_of.items()
        if len(rows) > 1 or not image_id
    ]
    if repeated:
        raise SourceError(
            f"{path}: {len(repeated)} image(s) occur in several rows, or are not named: "
            f"{join_first(repeated, '; ')}. Expected one row per image: correct the names, "
            "or delete the repeated rows."
        )
    problems = images.select(cells)
    absent = [cell for cell, keys in problems.items() if not keys]
    if layout.images_may_be_missing and absent:
        source.notes.append(
            f"{len(absent)} image(s) of {path.name} have no file and were left out: "
            f"{join_first(absent)}"
        )
        problems = {cell: keys for cell, keys in problems.items() if keys}
    if not problems and (names := images.named_twice()):
        raise SourceError(
            f"{path}: {len(names)} image file(s) are named in several rows, in different "
            f"spellings: {join_first(names)}. Expected one row per image: delete the "
            "repeated rows."
        )
    if problems:
        missing = [] if layout.images_may_be_missing else absent
        several = [f"{c} ({', '.join(keys)})" for c, keys in problems.items() if keys]
        row_of = {cell: row for row, cell in cells.items()}
        texts = []
        if missing:
            first = [f"{cell} (row {row_of[cell]})" for cell in missing]
            texts.append(f"{len(missing)} image(s) have no file: {join_first(first)}.")
        if several:
            texts.append(
                f"{len(several)} image(s) have several files: {join_first(several)}."
            )
        raise SourceError(
            f"{path}: {' '.join(texts)} Expected the name or the path of one image file "
            "below --manual-dir in each row. Add missing files, write the paths of files "
            "that have the same name, or delete the rows."
            f"{layout.files and f' {layout.title} consists of {layout.files}.'}"
        )
    return values.assign(image_id=image_ids)[image_ids.isin(images.image_ids)]


def _note_unused(images: TableImages, recognized: Recognized, source: Source) -> None:
    """Counts the images that are not in the table, and adds notes on unused files."""
    unused = images.unused
    if unused:
        source.excluded["not in the table"] += len(unused)
    skipped = dict.fromkeys(unused, "not in the table") | {
        name: reason
        for name, reason in images.skipped.items()
        if PurePath(name).name not in recognized.file_names | {CLASSES_FILE}
    }
    source.notes += describe_skipped(skipped)


def _check_splits(source: Source, path: TablePath) -> None:
    """Checks that the training split has all classes."""
    training = source.splits.get(TRAINING_SPLIT, [])
    counts = Counter(record.dx for record in training)
    missing = [name for name in source.class_names if not counts[name]]
    if missing:
        raise SourceError(
            f"{path}: the training split has no images of {join_first(missing)}. Expected "
            "images of every class in rows with the split train, which are divided into "
            "folds for training, validation and testing. --columns split= ignores the "
            "splits."
        )
