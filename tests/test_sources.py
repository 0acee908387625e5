"""Bad input: each fault ends in one message that says what, where and how to mend it."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import jpeg

from tfds_ham10000 import sources
from tfds_ham10000.sources import IMAGE_ARCHIVES, METADATA_FILE, SourceError


def test_published_files_are_read(manual_dir: Path) -> None:
    records, images = sources.read_ham10000(manual_dir)
    sources.check_images(records, images)
    assert len(records) == 210
    assert images.image_ids == {record.image_id for record in records}
    assert [r.image_id for r in records] == sorted(r.image_id for r in records)
    assert math.isnan(records[0].age)
    assert records[1].age == 45
    assert images.read("ISIC_0000003") == jpeg(3)


def edit_csv(folder: Path, old: str, new: str) -> None:
    path = folder / METADATA_FILE
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


def damage_deflated(folder: Path) -> None:
    """Compresses the first archive again and spoils the first picture's stream."""
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
        r"lacks HAM10000_metadata\.csv\. Found: HAM10000_images.*doi:10\.7910",
    ),
    "archive missing": (lambda d: (d / IMAGE_ARCHIVES[1]).unlink(), "lacks .*part_2"),
    "archive is no zip": (
        lambda d: (d / IMAGE_ARCHIVES[0]).write_text("<html>"),
        r"part_1\.zip is not a zip archive",
    ),
    "archive is a folder": (
        lambda d: ((d / IMAGE_ARCHIVES[0]).unlink(), (d / IMAGE_ARCHIVES[0]).mkdir()),
        r"part_1\.zip is not a zip archive",
    ),
    "CSV is a spreadsheet": (
        lambda d: (d / METADATA_FILE).write_bytes(b"PK\x03\x04\xff\xfe\x00"),
        "cannot be read as a CSV file",
    ),
    "archive damaged inside": (
        lambda d: damage_deflated(d),
        r"1 picture\(s\) cannot be used: ISIC_0000000: cannot be unpacked",
    ),
    "column missing": (
        lambda d: edit_csv(d, "localization", "site"),
        r"lacks the column\(s\) localization.*Found: .*site",
    ),
    "no rows": (
        lambda d: (d / METADATA_FILE).write_text(",".join(sources.COLUMNS) + "\n"),
        "has no rows",
    ),
    "label typo": (
        lambda d: edit_csv(d, ",mel,", ",mell,"),
        r"line \d+: unknown label dx='mell' of ISIC_\d+.*Did you mean 'mel'",
    ),
    "age is a word": (lambda d: edit_csv(d, "45.0", "old"), r"line 3: the age .*'old'"),
    "age is negative": (lambda d: edit_csv(d, "45.0", "-1"), "impossible age"),
    "id twice": (
        lambda d: edit_csv(d, "ISIC_0000001", "ISIC_0000000"),
        r"1 image_id\(s\) stand in several rows: ISIC_0000000",
    ),
    "id empty": (lambda d: edit_csv(d, "ISIC_0000001", ""), "must not be empty"),
    "two diagnoses": (
        lambda d: edit_csv(d, "HAM_bcc_0,", "HAM_akiec_0,"),
        r"two diagnoses: HAM_akiec_0",
    ),
    "picture missing": (
        lambda d: edit_csv(d, "ISIC_0000001", "ISIC_9999999"),
        r"1 picture\(s\) are in the CSV but not in the archives: ISIC_9999999",
    ),
    "picture without a row": (
        lambda d: add_member(d, "ISIC_7777777.jpg", jpeg()),
        r"in the archives but not in the CSV: ISIC_7777777",
    ),
    "picture in both archives": (
        lambda d: add_member(d, "ISIC_0000000.jpg", jpeg(), archive=1),
        "'ISIC_0000000' is in the archives twice",
    ),
    "picture truncated": (
        lambda d: replace_member(d, "ISIC_0000004", jpeg()[:-200]),
        r"1 picture\(s\) cannot be used: ISIC_0000004: cannot be decoded",
    ),
    "picture is a page": (
        lambda d: replace_member(d, "ISIC_0000004", b"<html>403</html>"),
        "ISIC_0000004: is no JPEG file",
    ),
    "picture empty": (
        lambda d: replace_member(d, "ISIC_0000004", b""),
        "ISIC_0000004: is no JPEG file",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named(fault: str, manual_dir: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(manual_dir)
    with pytest.raises(SourceError, match=message):
        sources.check_images(*sources.read_ham10000(manual_dir))


def test_all_bad_pictures_are_counted_and_ten_are_named(manual_dir: Path) -> None:
    for number in range(0, 24, 2):
        replace_member(manual_dir, f"ISIC_{number:07d}", b"no picture")
    with pytest.raises(SourceError, match=r"^12 picture\(s\)") as caught:
        sources.check_images(*sources.read_ham10000(manual_dir))
    assert str(caught.value).count("ISIC_") == 10


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"nowhere is not a folder.*HAM10000_images_part_1"
    ):
        sources.read_ham10000(tmp_path / "nowhere")


def test_too_large_a_picture_is_refused_before_it_is_decoded(
    manual_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_PIXELS", 40 * 30 - 1)
    with pytest.raises(SourceError, match=r"40x30 pixels, expected at most 1199"):
        sources.check_images(*sources.read_ham10000(manual_dir))
    monkeypatch.setattr(sources, "MAX_BYTES", 10)
    with pytest.raises(SourceError, match=r"bytes, expected at most 10"):
        sources.check_images(*sources.read_ham10000(manual_dir))
