"""The walk through directories and archives that building and prediction share."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from conftest import deny_listing

from tfds_ham10000.image_files import (
    BROKEN_LINK,
    HIDDEN,
    LOOP,
    NO_SUFFIX,
    SPECIAL,
    ImageFiles,
    describe_skipped,
    find_files,
    find_members,
    printable,
    read_file,
)
from tfds_ham10000.records import SourceError

NAMES = {
    "b/1.JPG": "",
    "b/2.tiff": "",
    "d.jpg/a b.png": "",
    "notes.txt": NO_SUFFIX,
    ".hidden.jpg": HIDDEN,
    "b/._1.JPG": HIDDEN,
    "b/Thumbs.db": HIDDEN,
    "~$1.jpg": HIDDEN,
    "more.tar.gz": "an archive",
}
SYSTEM_FOLDERS = (
    *(".ipynb_checkpoints", "__MACOSX", ".git", "lost+found", "System Volume Information"),
    *("@eaDir", "#recycle", "@Recycle", "@Recently-Snapshot"),
)


def write_all(folder: Path) -> None:
    for name in (*NAMES, *(f"b/{name}/3.jpg" for name in SYSTEM_FOLDERS)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_every_entry_is_found_or_skipped_with_a_reason(tmp_path: Path) -> None:
    write_all(tmp_path)
    found = find_files(tmp_path)
    assert found.files == sorted(tmp_path / n for n, reason in NAMES.items() if not reason)
    expected = {tmp_path / name: reason for name, reason in NAMES.items() if reason}
    expected |= {tmp_path / "b" / name: HIDDEN for name in SYSTEM_FOLDERS}
    assert found.skipped == expected
    assert find_files(tmp_path, (".txt",)).files == [tmp_path / "notes.txt"]


def test_an_archive_is_searched_by_the_same_rules(tmp_path: Path) -> None:
    write_all(tmp_path / "files")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in (tmp_path / "files").rglob("*"):
            archive.write(path, path.relative_to(tmp_path / "files"))
        members, skipped = find_members(archive)
    found = find_files(tmp_path / "files")
    assert sorted(map(str, members.values())) == [
        str(path.relative_to(tmp_path / "files")) for path in found.files
    ]
    # An archive lists the files in a directory that is skipped.
    assert len(skipped) == len(found.skipped)
    assert set(skipped.values()) == set(found.skipped.values())


def test_links_are_followed_but_loops_are_not(tmp_path: Path) -> None:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "outside/deep").mkdir(parents=True)
    (tmp_path / "outside/deep/1.jpg").touch()
    (tmp_path / "root/a/link").symlink_to(tmp_path / "outside")
    (tmp_path / "outside/deep/back").symlink_to(tmp_path / "root")
    (tmp_path / "root/a/b/up").symlink_to("..")
    (tmp_path / "root/a/b/self").symlink_to("self")
    (tmp_path / "root/lost.png").symlink_to("nowhere")
    (tmp_path / "root/lost").symlink_to("nowhere")
    os.mkfifo(tmp_path / "root/pipe.jpg")
    found = find_files(tmp_path / "root")
    names = [str(path.relative_to(tmp_path / "root")) for path in found.files]
    # What is not a readable file is reported when it is read.
    assert names == ["a/link/deep/1.jpg", "lost.png"]
    reasons = {str(p.relative_to(tmp_path / "root")): r for p, r in found.skipped.items()}
    assert reasons == {
        "a/link/deep/back": LOOP,
        "a/b/up": LOOP,
        "a/b/self": BROKEN_LINK,
        "lost": BROKEN_LINK,
        "pipe.jpg": SPECIAL,
    }


def test_a_directory_that_cannot_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    deny_listing(monkeypatch, tmp_path / "a")
    expected = {tmp_path / "a": "cannot be read (Permission denied)"}
    assert find_files(tmp_path).skipped == expected


def test_identical_files_are_found_in_directories_and_archives(tmp_path: Path) -> None:
    for name, text in {"a": "same", "b": "same", "c": "size", "d": "longer"}.items():
        (tmp_path / f"{name}.jpg").write_text(text)
    (tmp_path / "lost.jpg").symlink_to("nowhere")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("e.jpg", "longer")
    files = ImageFiles([tmp_path, tmp_path / "x.zip"])
    assert files.identical() == [["a", "b"], ["d", "e"]]
    assert files.size("lost") == 0


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zeros.jpg").symlink_to("/dev/zero")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    files = ImageFiles([tmp_path])
    assert files.skipped == {
        f"{tmp_path.name}/{name}": SPECIAL for name in ("pipe.jpg", "zeros.jpg")
    }
    for name in ("pipe.jpg", "zeros.jpg", "."):
        with pytest.raises(SourceError, match="pipe or device"):
            read_file(tmp_path / name)
    with pytest.raises(SourceError, match="No such file"):
        files.read("broken")


def test_skipped_files_are_summarized() -> None:
    skipped = {f"{n:04d}.txt": NO_SUFFIX for n in range(1000)} | {".a": HIDDEN}
    hidden, others = describe_skipped(skipped)
    assert hidden == f"1 file(s) or directories were not used ({HIDDEN}): .a"
    assert others.startswith("1000 file(s) or directories were not used (no supported")
    assert others.endswith("0009.txt, ... (1000 in total)")
    assert describe_skipped({}) == []


def test_names_with_any_bytes_are_printable() -> None:
    assert printable(Path("a/é\n.jpg")) == "a/é\n.jpg"
    assert printable(os.fsdecode(b"bad\xff.jpg")) == r"bad\xff.jpg"
