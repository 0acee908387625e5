"""Reading each published layout, and the message for each fault."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from source_files import (
    COLUMNS,
    IMAGE_ARCHIVES,
    METADATA_FILE,
    Rows,
    contents,
    jpeg,
    make_rows,
    one_hot,
    write_classes,
    write_dataverse,
    write_folder,
    write_groupings,
    write_isic2018,
    write_isic2019,
    write_kaggle,
    write_table,
    write_zip,
)

from tfds_ham10000 import folders, layouts, sources
from tfds_ham10000.image_decoding import CheckedImages, require_valid
from tfds_ham10000.layouts import Source
from tfds_ham10000.records import (
    CLASS_NAMES,
    ISIC2019_CLASS_NAMES,
    Record,
    SourceError,
    count_missing,
)
from tfds_ham10000.table.labels import read_declared_classes

Writer = Callable[[Path, Rows], Path]


def read_and_check(folder: Path, dataset: str = "isic2018") -> Source:
    """Reads and validates a folder as a build does."""
    source = sources.read_source(folder, dataset)
    ids = [r.image_id for records in source.splits.values() for r in records]
    require_valid(CheckedImages(source.images, ids, folder).errors, len(ids), "fail")
    return source


def expected(rows: Rows, *fields: str) -> list[Record]:
    """Returns the records of some rows, with only the given fields."""
    records = []
    for row in sorted(rows, key=lambda row: row["image_id"]):
        known = {name: row[name] for name in ("image_id", *fields) if name != "age"}
        age = float(row["age"]) if "age" in fields and row["age"] else math.nan
        records.append(Record(age=age, **known))
    return records


def same(actual: list[Record], expected: list[Record]) -> bool:
    """Returns whether records are equal; two missing ages (NaN) count as equal."""
    return list(map(repr, actual)) == list(map(repr, expected))


def write_isic2018_with_metadata(folder: Path, rows: Rows) -> Path:
    write_isic2018(folder, rows)
    (folder / "ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    write_table(folder / METADATA_FILE, rows, COLUMNS)
    return folder


WRITERS: dict[str, tuple[Writer, tuple[str, ...]]] = {
    "dataverse": (write_dataverse, COLUMNS[2:]),
    "dataverse .tab": (
        lambda d, rows: write_dataverse(d, rows, "HAM10000_metadata.tab"),
        COLUMNS[2:],
    ),
    "dataverse no suffix": (
        lambda d, rows: write_dataverse(d, rows, "HAM10000_metadata"),
        COLUMNS[2:],
    ),
    "kaggle": (write_kaggle, COLUMNS[2:-1]),
    "kaggle lower": (lambda d, rows: write_kaggle(d, rows, lower=True), COLUMNS[2:-1]),
    "kaggle nested": (
        lambda d, rows: write_kaggle(d / "archive (1)", rows).parent,
        COLUMNS[2:-1],
    ),
    "isic2018 packed": (write_isic2018, ("dx", "dx_type")),
    "isic2018 unpacked": (
        lambda d, rows: write_isic2018(d, rows, packed=False),
        ("dx", "dx_type"),
    ),
    "isic2018 with metadata": (write_isic2018_with_metadata, COLUMNS[2:]),
}


@pytest.mark.parametrize("layout", WRITERS)
def test_each_layout_of_ham10000_gives_the_same_records(
    layout: str, tmp_path: Path
) -> None:
    write, fields = WRITERS[layout]
    rows = make_rows(lesions=3)
    source = read_and_check(write(tmp_path / "manual é dir", rows))
    assert same(source.splits["train"], expected(rows, "lesion_id", *fields))
    assert set(source.splits) == {"train"}
    for image_id, content in contents(rows).items():
        assert source.images.read(image_id) == content


def test_official_splits_exist_if_their_files_do(tmp_path: Path) -> None:
    rows = make_rows(lesions=3)
    write_isic2018(tmp_path, rows)
    assert set(read_and_check(tmp_path).splits) == {"train"}
    validation, test = (make_rows(lesions=1, start=start) for start in (1000, 2000))
    write_isic2018(tmp_path, validation, "Validation", packed=False)
    write_isic2018(tmp_path, test, "Test")
    source = read_and_check(tmp_path)
    unknown = [{**row, "lesion_id": ""} for row in test]
    assert same(source.splits["test_official"], expected(unknown, "lesion_id", "dx"))
    assert len(source.splits["validation_official"]) == 7
    assert len(source.splits["train"]) == len(rows)


def test_dataverse_includes_the_official_test_set(tmp_path: Path) -> None:
    """Its table has the columns of HAM10000_metadata; its archive is named Images."""
    write_dataverse(tmp_path, make_rows(lesions=3))
    test = make_rows(lesions=1, start=2000)
    write_zip(
        tmp_path / "ISIC2018_Task3_Test_Images.zip",
        {f"a/{name}.jpg": content for name, content in contents(test).items()},
    )
    write_table(tmp_path / "ISIC2018_Task3_Test_GroundTruth.csv", test, COLUMNS)
    source = read_and_check(tmp_path)
    assert same(source.splits["test_official"], expected(test, "lesion_id", *COLUMNS[2:]))


def test_isic2019_images_without_a_lesion_id_have_an_unknown_lesion(
    tmp_path: Path,
) -> None:
    rows = make_rows(ISIC2019_CLASS_NAMES, lesions=3)
    rows[0] |= {"lesion_id": "", "age": "", "sex": ""}
    rows[1] |= {"lesion_id": "BCN_0000001"}
    rows[2] |= {"lesion_id": "MSK4_0000001", "image_id": "ISIC_0000002_downsampled"}
    source = read_and_check(write_isic2019(tmp_path, rows), "isic2019")
    records = source.splits["train"]
    assert source.class_names == ISIC2019_CLASS_NAMES
    assert (records[0].lesion_id, records[0].sex) == ("", "unknown")
    assert math.isnan(records[0].age)
    datasets = [record.dataset for record in records[:4]]
    assert datasets == ["unknown", "bcn20000", "msk", "ham10000"]
    assert records[2].image_id == "ISIC_0000002_downsampled"
    assert [record.dx for record in records] == [row["dx"] for row in rows]
    missing = count_missing(records)
    assert (missing["age"], missing["sex"], missing["localization"]) == (1, 1, 0)


def test_isic2019_test_images_without_a_class_are_skipped(tmp_path: Path) -> None:
    write_isic2019(tmp_path, make_rows(ISIC2019_CLASS_NAMES, lesions=2))
    test = make_rows(ISIC2019_CLASS_NAMES, lesions=1, start=500)
    stem = tmp_path / "ISIC_2019_Test"
    write_folder(
        Path(f"{stem}_Input"), {f"{name}.jpg": c for name, c in contents(test).items()}
    )
    assert set(read_and_check(tmp_path, "isic2019").splits) == {"train"}
    truth = [
        {**row, "UNK": 0.0, "score_weight": 1.0, "validation_weight": 0.0}
        for row in one_hot(test, ISIC2019_CLASS_NAMES)
    ]
    truth[0] |= {"MEL": 0.0, "UNK": 1.0}
    write_table(Path(f"{stem}_GroundTruth.csv"), truth, tuple(truth[0]))
    source = read_and_check(tmp_path, "isic2019")
    assert [r.image_id for r in source.splits["test_official"]] == [
        row["image_id"] for row in test[1:]
    ]
    assert "1 image(s) of unknown class (UNK) were left out" in source.notes[0]
    assert source.excluded == {"diagnosis not known (class UNK)": 1}


def test_isic2019_without_ham10000_omits_all_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(ISIC2019_CLASS_NAMES, lesions=2)
    lesions = ("", "", "BCN_0000001", "HAM_0000001", "")
    for row, lesion_id in zip(rows[:5], lesions, strict=True):
        row["lesion_id"] = lesion_id
    rows[1]["image_id"] = "ISIC_0000001_downsampled"
    listed = {"ISIC_0000000": None, "ISIC_0000001": None}
    monkeypatch.setattr(layouts, "published_assignments", lambda: listed)
    source = read_and_check(write_isic2019(tmp_path / "manual", rows), "isic2019")
    remaining = layouts.without_ham10000(source)
    kept = {record.image_id for record in remaining.splits["train"]}
    assert kept == {"ISIC_0000002", "ISIC_0000004"}
    assert remaining.excluded == {"also in HAM10000": len(rows) - 2}


@pytest.mark.parametrize("nested", [False, True])
def test_folders_of_classes_are_read(tmp_path: Path, nested: bool) -> None:
    rows = make_rows(("nevus", "another class é"), lesions=3)
    root = tmp_path / "manual"
    parent = root / "my images" if nested else root
    prefix = "my images/" if nested else ""
    write_classes(parent, rows)
    (parent / "nevus" / "Thumbs.db").write_bytes(b"")
    (root / "classes.json").write_text('{"nevus": {"malignant": false}}')
    source = read_and_check(root, "folder")
    assert source.class_names == ("another class é", "nevus")
    named = {f"{prefix}{row['dx']}/{row['image_id']}": row for row in rows}
    assert [r.image_id for r in source.splits["train"]] == sorted(named)
    for record in source.splits["train"]:
        row = named[record.image_id]
        assert (record.lesion_id, record.patient_id) == ("", "")
        assert record.dx == row["dx"]
        assert source.images.read(record.image_id) == jpeg(int(row["image_id"][5:]))
    assert "Thumbs.db" in source.notes[0]
    assert "classes.json" not in " ".join(source.notes)


NFC, NFD = "névus", "ne\u0301vus"


def test_names_of_classes_have_one_unicode_form(tmp_path: Path) -> None:
    """Programs for macOS write "é" as two characters (NFD)."""
    names = (f"Train/{NFD}/é.jpg", "Train/b/1.jpg", f"test/{NFC}/2.jpg")
    write_folder(tmp_path / "NFD e\u0301", {x: jpeg(i) for i, x in enumerate(names)})
    (tmp_path / "classes.json").write_text(json.dumps({NFD: {"malignant": False}}))
    source = read_and_check(tmp_path, "folder")
    assert source.class_names == ("b", NFC)
    assert [record.dx for record in source.splits["test_official"]] == [NFC]
    assert [record.image_id for record in source.splits["train"]] == [
        "NFD é/Train/b/1",
        f"NFD é/Train/{NFC}/é",
    ]
    [declared] = read_declared_classes(tmp_path, source.class_names)
    assert declared.name == NFC


def test_published_images_in_folders_have_their_published_lesions(tmp_path: Path) -> None:
    """The ids are those of two images of one lesion of HAM10000."""
    names = ("ISIC_0027419", "ISIC_0025030_downsampled", "ISIC_00274190", "other")
    files = [f"{dx}/{name}.jpg" for dx in "ab" for name in names]
    write_folder(tmp_path, {name: jpeg(i) for i, name in enumerate(files)})
    source = sources.read_source(tmp_path, "folder")
    lesions = {r.image_id: r.lesion_id for r in source.splits["train"]}
    assert [lesions[f"a/{name}"] for name in names] == ["HAM_0000118"] * 2 + [""] * 2


def test_folders_named_after_splits_are_splits(tmp_path: Path) -> None:
    write_classes(tmp_path / "Train", make_rows(("a", "b"), lesions=3))
    write_classes(tmp_path / "Test", make_rows(("a", "b"), lesions=1, start=10))
    write_classes(tmp_path / "val", make_rows(("a", "b"), lesions=1, start=20))
    source = read_and_check(tmp_path, "folder")
    sizes = {split: len(records) for split, records in source.splits.items()}
    assert sizes == {"train": 8, "test_official": 2, "validation_official": 2}
    assert source.splits["test_official"][0].image_id == "Test/a/ISIC_0000010"


@pytest.mark.parametrize("name", folders.SPLITS)
def test_every_name_of_a_split_is_known(name: str, tmp_path: Path) -> None:
    split = folders.SPLITS[name]
    write_classes(tmp_path / name.capitalize(), make_rows(("a", "b"), lesions=1))
    if split != "train":
        write_classes(tmp_path / "train", make_rows(("a", "b"), lesions=1, start=10))
    splits = read_and_check(tmp_path, "folder").splits
    assert {name: len(records) for name, records in splits.items()} == dict.fromkeys(
        {split, "train"}, 2
    )


def test_files_that_are_not_used_are_listed(tmp_path: Path) -> None:
    write_classes(tmp_path / "Train", make_rows(("a", "b"), lesions=3))
    names = ("Train/a/.ipynb_checkpoints/1.jpg", "Train/a/._2.jpg", "more/x/3.jpg")
    names += ("Train/b/notes.txt", "labels.csv", "@eaDir/4.jpg")
    write_folder(tmp_path, {name: jpeg(number) for number, name in enumerate(names)})
    source = read_and_check(tmp_path, "folder")
    assert len(source.splits["train"]) == 8
    text = "\n".join(source.notes)
    for name in ("Train/a/._2.jpg, Train/a/.ipynb_checkpoints", "more/x/ (1 image(s))"):
        assert name in text
    for name in ("Train/b/notes.txt", "labels.csv", "@eaDir"):
        assert name in text
    for number in range(300):
        (tmp_path / "Train" / "b" / f"{number}.txt").touch()
    notes = read_and_check(tmp_path, "folder").notes
    assert sum(map(len, notes)) < 1000
    assert any("... (301 in total)" in note for note in notes)


def test_linked_directories_are_read(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "in", make_rows(("a", "b"), lesions=3))
    write_folder(tmp_path / "elsewhere", {"9.jpg": jpeg(9)})
    (root / "a" / "more").symlink_to("../../elsewhere")
    (root / "a" / "loop").symlink_to("..")
    (root / "b" / "missing").symlink_to("nowhere")
    source = read_and_check(root, "folder")
    assert len(source.splits["train"]) == 9
    assert source.images.read("a/more/9") == jpeg(9)
    assert "a link to a directory that contains it): in/a/loop" in "".join(source.notes)
    assert "a broken link): in/b/missing" in "".join(source.notes)


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    write_classes(tmp_path, make_rows(("a", "b"), lesions=3))
    os.rename(tmp_path / "b", os.fsencode(tmp_path) + b"/b\xe9")
    (tmp_path / os.fsdecode(b"a/caf\xe9.jpg")).write_bytes(jpeg(100))
    source = read_and_check(tmp_path, "folder")
    assert source.class_names == ("a", "b\\xe9")
    assert source.images.read("a/caf\\xe9") == jpeg(100)
    assert {record.dx for record in source.splits["train"]} == {"a", "b\\xe9"}


def test_an_image_in_two_classes_is_an_error(tmp_path: Path) -> None:
    write_classes(tmp_path, make_rows(("a", "b"), lesions=3))
    shutil.copy(tmp_path / "a/ISIC_0000001.jpg", tmp_path / "a/copy.jpg")
    read_and_check(tmp_path, "folder")  # a copy with the same label is no contradiction
    shutil.copy(tmp_path / "a/ISIC_0000001.jpg", tmp_path / "b/copy.jpg")
    message = r"contradictory labels.*: a/ISIC_0000001 and a/copy and b/copy\."
    with pytest.raises(SourceError, match=message):
        read_and_check(tmp_path, "folder")


def test_class_directories_are_found_below_other_directories(tmp_path: Path) -> None:
    write_classes(tmp_path / "archive/data", make_rows(("a", "b"), lesions=3))
    assert read_and_check(tmp_path, "folder").class_names == ("a", "b")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/data.zip").touch()
    with pytest.raises(SourceError, match=r"no directories\. Unpack data\.zip first"):
        read_and_check(tmp_path / "packed", "folder")
    one_class = tmp_path / "archive/data/a"
    with pytest.raises(SourceError, match=f"use --manual-dir {one_class.parent}"):
        read_and_check(one_class, "folder")


def test_directories_that_may_be_the_classes_are_noted(tmp_path: Path) -> None:
    for number, hospital in enumerate(("north", "south")):
        rows = make_rows(("mel", "nv"), lesions=1, start=10 * number)
        write_classes(tmp_path / hospital, rows)
    (note,) = read_and_check(tmp_path, "folder").notes
    assert "each class (north, south) contains the directories mel, nv." in note
    (tmp_path / "north/1.jpg").write_bytes(jpeg(100))
    assert not read_and_check(tmp_path, "folder").notes


@pytest.mark.parametrize("given", ["", "a", "a/b/c/HAM10000_images_part_1"])
def test_the_directory_of_a_dataset_is_found_nearby(given: str, tmp_path: Path) -> None:
    folder = write_kaggle(tmp_path / "a/b/c", make_rows(lesions=3))
    with pytest.raises(SourceError, match=rf"Use --manual-dir {folder}$"):
        read_and_check(tmp_path / given)
    assert len(read_and_check(folder.parent).splits["train"]) == 28


def replace_archive(folder: Path, members: dict[str, bytes]) -> None:
    (folder / IMAGE_ARCHIVES[0]).unlink()
    write_zip(folder / IMAGE_ARCHIVES[0], members)


def rename_members(folder: Path) -> None:
    """Writes backslashes, as the ZIP programs of some versions of Windows do."""
    for name in IMAGE_ARCHIVES:
        with zipfile.ZipFile(folder / name) as archive:
            members = {n: archive.read(n) for n in archive.namelist()}
        write_zip(
            folder / name,
            {n.replace("part/", "part\\"): content for n, content in members.items()},
        )


def rewrite_table(encoding: str, separator: str) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        table = folder / METADATA_FILE
        table.write_text(table.read_text().replace(",", separator), encoding)

    return rewrite


VARIANTS: dict[str, Callable[[Path], object]] = {
    "backslashes": rename_members,
    "macOS files": lambda d: add_member(d, "__MACOSX/part/._ISIC_0000000.jpg", b"x"),
    "semicolons": rewrite_table("utf-8", ";"),
    "UTF-16": rewrite_table("utf-16", "\t"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_archives_and_tables_are_read(variant: str, manual_dir: Path) -> None:
    before = read_and_check(manual_dir).splits["train"]
    VARIANTS[variant](manual_dir)
    source = read_and_check(manual_dir)
    assert same(source.splits["train"], before)
    for image_id, content in contents(make_rows()).items():
        assert source.images.read(image_id) == content
    assert bool(source.notes) == (variant == "macOS files")


def edit_csv(folder: Path, old: str, new: str, name: str = METADATA_FILE) -> None:
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def add_member(folder: Path, name: str, content: bytes, archive: int = 0) -> None:
    with zipfile.ZipFile(folder / IMAGE_ARCHIVES[archive], "a") as file:
        file.writestr(name, content)


def replace_member(folder: Path, image_id: str, content: bytes) -> None:
    path = folder / IMAGE_ARCHIVES[int(image_id[-1]) % 2]
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, old in members.items():
            file.writestr(name, content if image_id in name else old)


def edit_archive(folder: Path, local: int, central: int, value: bytes) -> None:
    """Changes a field in the headers of the first member of the first archive."""
    path = folder / IMAGE_ARCHIVES[0]
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        start = content.index(signature) + offset
        content[start : start + len(value)] = value
    path.write_bytes(content)


def damage_deflated(folder: Path) -> None:
    """Recompresses the first archive and corrupts the stream of its first image."""
    path = folder / IMAGE_ARCHIVES[0]
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
        start = 30 + len(file.infolist()[0].filename)
    content = bytearray(path.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "CSV missing": (
        lambda d: (d / METADATA_FILE).unlink(),
        r"lacks HAM10000_metadata of .*\. Received: HAM10000_images.*doi:10\.7910",
    ),
    "archive missing": (lambda d: (d / IMAGE_ARCHIVES[1]).unlink(), "lacks .*part_2"),
    "archive is not a zip": (
        lambda d: (d / IMAGE_ARCHIVES[0]).write_text("<html>"),
        r"part_1\.zip is not a valid zip archive",
    ),
    "archive is an empty folder": (
        lambda d: ((d / IMAGE_ARCHIVES[0]).unlink(), (d / IMAGE_ARCHIVES[0]).mkdir()),
        r"105 image\(s\) are in the table but have no file: ISIC_0000000",
    ),
    "CSV is a spreadsheet": (
        lambda d: (d / METADATA_FILE).write_bytes(b"PK\x03\x04\xff\xfe\x00"),
        "is not a text file",
    ),
    "archive damaged inside": (
        lambda d: damage_deflated(d),
        r"1 image\(s\) are invalid: ISIC_0000000: cannot be read",
    ),
    "column missing": (
        lambda d: edit_csv(d, "localization", "site"),
        r"lacks the column\(s\) localization.*Received: .*site",
    ),
    "CSV is an Excel file": (
        lambda d: write_zip(d / METADATA_FILE, {"xl/workbook.xml": b""}),
        "metadata.csv cannot be read: .*Open it, and save it as CSV UTF-8",
    ),
    "archive in an archive": (
        lambda d: replace_archive(d, {"part_1.zip": b"PK"}),
        r"contains the archive\(s\) part_1\.zip, but no files .*Unpack .*part_1\.zip, and",
    ),
    "archive in a directory": (
        lambda d: (
            (d / IMAGE_ARCHIVES[0]).unlink(),
            write_folder(d / IMAGE_ARCHIVES[0], {"a.zip": b"PK"}),
        ),
        r"have no file: .*Unpack HAM10000_images_part_1\.zip/a\.zip\.",
    ),
    "archive with Deflate64": (
        lambda d: edit_archive(d, 8, 10, b"\x09\0"),
        "is compressed with Deflate64, which Python cannot read. Unpack it with",
    ),
    "archive with a password": (
        lambda d: edit_archive(d, 6, 8, b"\x01\0"),
        r"part_1\.zip is encrypted\. Unpack it with",
    ),
    "CSV empty": (lambda d: (d / METADATA_FILE).write_text(""), "Received: an empty file"),
    "no rows": (
        lambda d: (d / METADATA_FILE).write_text(",".join(COLUMNS) + "\n"),
        "has no rows",
    ),
    "too many cells": (
        lambda d: edit_csv(d, "45.0", "45,0"),
        "row 3 has more cells than the header has columns",
    ),
    "label typo": (
        lambda d: edit_csv(d, ",mel,", ",mell,"),
        r"row \d+: unknown label of ISIC_\d+.*dx='mell'\. Did you mean 'mel'",
    ),
    "age is a word": (
        lambda d: edit_csv(d, "45.0", "old"),
        r"row 3: invalid age of .*'old'",
    ),
    "age is negative": (lambda d: edit_csv(d, "45.0", "-1"), "invalid age of .*'-1'"),
    "id twice": (
        lambda d: edit_csv(d, "ISIC_0000001", "ISIC_0000000"),
        r"1 image_id\(s\) occur in several rows: ISIC_0000000",
    ),
    "id empty": (lambda d: edit_csv(d, "ISIC_0000001", ""), "must not be empty"),
    "lesion empty": (
        lambda d: edit_csv(d, "HAM_bcc_0,", ","),
        r"the lesion of 1 image\(s\) is unknown: ISIC_0000030",
    ),
    "two diagnoses": (
        lambda d: edit_csv(d, "HAM_bcc_0,", "HAM_akiec_0,"),
        r"several diagnoses: HAM_akiec_0",
    ),
    "image missing, another without a row": (
        lambda d: edit_csv(d, "ISIC_0000001", "ISIC_9999999"),
        r"1 image\(s\) are in the table but have no file: ISIC_9999999\. "
        r"1 image\(s\) are among the files but not in the table: ISIC_0000001",
    ),
    "image in both archives": (
        lambda d: add_member(d, "ISIC_0000000.jpg", jpeg(), archive=1),
        "'ISIC_0000000' occurs twice",
    ),
    "image truncated": (
        lambda d: replace_member(d, "ISIC_0000004", jpeg()[:-200]),
        r"1 image\(s\) are invalid: ISIC_0000004: cannot be decoded",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_reported(fault: str, manual_dir: Path) -> None:
    damage, message = FAULTS[fault]
    damage(manual_dir)
    with pytest.raises(SourceError, match=message):
        read_and_check(manual_dir)


TRUTH_2018 = "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
GROUPINGS = "ISIC2018_Task3_Training_LesionGroupings.csv"


def conflicting_metadata(folder: Path) -> None:
    rows = make_rows(lesions=3)
    rows[0] = {**rows[0], "dx": "mel"}
    write_table(folder / METADATA_FILE, rows, COLUMNS)


FAULTS_2018: dict[str, tuple[Callable[[Path], object], str]] = {
    "no lesions": (
        lambda d: (d / GROUPINGS).unlink(),
        r"the lesion of 28 image\(s\) is unknown: ISIC_0000000.*LesionGroupings",
    ),
    "an unknown lesion": (
        lambda d: write_groupings(d / GROUPINGS, make_rows(lesions=3)[1:]),
        r"the lesion of 1 image\(s\) is unknown: ISIC_0000000",
    ),
    "no label": (
        lambda d: edit_csv(d, "1.0", "0.0", TRUTH_2018),
        r"row 2: invalid label for image ISIC_0000000\. .*MEL=0\.0",
    ),
    "two labels": (
        lambda d: edit_csv(d, ",0.0,", ",1.0,", TRUTH_2018),
        r"row 2: invalid label for image ISIC_0000000\. .*=1\.0.*=1\.0",
    ),
    "a probability": (
        lambda d: edit_csv(d, "1.0", "0.5", TRUTH_2018),
        r"row 2: invalid label for image ISIC_0000000\. .*=0\.5",
    ),
    "repeated row": (
        lambda d: edit_csv(d, "ISIC_0000001", "ISIC_0000000", TRUTH_2018),
        r"1 image_id\(s\) occur in several rows: ISIC_0000000",
    ),
    "two tables": (
        lambda d: shutil.copy(d / TRUTH_2018, (d / TRUTH_2018).with_name("copy.csv")),
        r"contains 2 tables: .*Expected exactly one \.csv",
    ),
    "conflicting labels": (conflicting_metadata, r"'akiec' here and 'mel' in HAM10000"),
    "in training and test": (
        lambda d: write_isic2018(d, make_rows(lesions=1), "Test"),
        r"7 image\(s\) are in another split too",
    ),
}


@pytest.mark.parametrize("fault", FAULTS_2018)
def test_faults_of_the_challenge_files_are_reported(fault: str, tmp_path: Path) -> None:
    damage, message = FAULTS_2018[fault]
    write_isic2018(tmp_path, make_rows(lesions=3), packed=False)
    damage(tmp_path)
    with pytest.raises(SourceError, match=message):
        read_and_check(tmp_path)


FOLDER_FAULTS: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing": ((), r"contains no training images\..*Received: no directories"),
    "one class": (
        ("Train/a/1.jpg",),
        r"contains too few classes\. Expected.*Received: a\.",
    ),
    "no training": (("Test/a/1.jpg", "Test/b/1.jpg"), "contains no training images"),
    "an empty class": (("a/1.jpg", "b/1.txt"), "contains no images of b"),
    "a class in the test folder only": (
        ("Train/a/1.jpg", "Train/b/1.jpg", "Test/c/1.jpg"),
        "contains images of c, but the training directory does not",
    ),
    "an image outside class folders": (
        ("Train/a/1.jpg", "Train/b/1.jpg", "Train/2.jpg"),
        r"2 is not in a class directory",
    ),
    "two Unicode forms of a class": (
        (f"{NFC}/1.jpg", f"{NFD}/2.jpg", "b/1.jpg"),
        r"two class directories have the name 'névus', encoded as .ne.u0301.* Move the im",
    ),
    "repeated image_id": (("a/1.jpg", "a/1.png", "b/1.jpg"), "'a/1' occurs twice"),
    "repeated split": (
        ("val/a/1.jpg", "Validation/a/1.jpg", "Train/a/1.jpg", "Train/b/1.jpg"),
        "both contain the split 'validation_official'",
    ),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_faults_of_class_folders_are_reported(fault: str, tmp_path: Path) -> None:
    names, message = FOLDER_FAULTS[fault]
    write_folder(tmp_path, dict.fromkeys(names, jpeg()))
    with pytest.raises(SourceError, match=message):
        read_and_check(tmp_path, "folder")


def test_all_invalid_images_are_counted_and_ten_are_named(manual_dir: Path) -> None:
    for number in range(0, 24, 2):
        replace_member(manual_dir, f"ISIC_{number:07d}", b"not an image")
    with pytest.raises(SourceError, match=r"^12 image\(s\)") as caught:
        read_and_check(manual_dir)
    assert str(caught.value).count("ISIC_") == 10


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"nowhere is not a directory.*HAM10000_images_part_1"
    ):
        sources.read_source(tmp_path / "nowhere", "isic2018")


def test_an_unknown_layout_is_reported_with_the_known_layouts(tmp_path: Path) -> None:
    (tmp_path / "holiday.zip").write_bytes(b"")
    with pytest.raises(
        SourceError, match=r"Received: holiday\.zip\. Expected one of:"
    ) as caught:
        sources.read_source(tmp_path, "isic2018")
    for layout in sources.LAYOUTS[:2]:
        assert layout.title in str(caught.value)
        assert all(name in str(caught.value) for name in layout.required)
    write_isic2019(tmp_path, make_rows(ISIC2019_CLASS_NAMES, lesions=1))
    with pytest.raises(SourceError, match="Use --config isic2019"):
        sources.read_source(tmp_path, "isic2018")


def test_all_record_fields_except_age_are_text() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(Record)}
    assert fields.pop("age") == "float"
    assert set(fields.values()) == {"str"}
    assert len(CLASS_NAMES) == 7
