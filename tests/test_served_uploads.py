"""Temporary storage of uploads to the page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT
from page_server import upload

from skincnn.errors import DataError
from skincnn.serving.web import uploads


def test_an_upload_is_deleted_when_it_is_read(tmp_path: Path) -> None:
    assert uploads.take(upload(tmp_path, b"abc"), tmp_path) == (b"abc", "x.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["a/x.jpg", "a/b/x.jpg", "../x.jpg", "../outside/x.jpg", "none", "a"]
)
def test_no_other_file_is_read_or_deleted(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    path = folder / name
    (folder / "a/b").mkdir(parents=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_bytes(b"abc")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="no longer exists"):
        uploads.take({"path": str(path), "orig_name": "x.jpg"}, folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_directory_of_a_killed_server_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import os, signal\n"
        "from skincnn.serving.web import uploads\n"
        "with uploads.make_folder() as folder:\n"
        "    (folder / 'x').write_text('an upload')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob("skincnn-page-*/x")
    other = tmp_path / "skincnn-page-of-another-program"
    other.mkdir()
    link = tmp_path / "skincnn-page-12345678"
    link.symlink_to(other)
    with uploads.make_folder() as first:
        assert not left.parent.exists()
        (first / "x").write_text("an upload")
        with uploads.make_folder() as second:
            assert second != first
            assert (first / "x").exists(), "its server is running"
    assert sorted(tmp_path.glob("*skincnn-*")) == [link, other]
