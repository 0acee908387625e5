"""Builds that are killed, run out of disk space, or run concurrently."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, Prepare, limited_file_size
from source_files import make_image, make_rows, write_classes

from tfds_ham10000 import image_decoding
from tfds_ham10000.ham10000_dataset_builder import Builder, build_lock

VERSION = str(Builder.VERSION)


def start(data_dir: Path, *arguments: object) -> subprocess.Popen[str]:
    command = (ROOT / "scripts" / "prepare_data.py", "--data-dir", data_dir, *arguments)
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not any(folder.rglob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def lock_of(dataset_dir: Path) -> Iterator[None]:
    """Holds the lock of a build as another process would."""
    with (dataset_dir.parent / f".{dataset_dir.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.slow
def test_concurrent_builds_after_a_killed_build_write_one_dataset(tmp_path: Path) -> None:
    killed = start(tmp_path, "--config", "demo_tiny")
    wait_for(tmp_path, "incomplete.*")
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert list(tmp_path.rglob("incomplete.*"))
    assert not list(tmp_path.rglob("dataset_info.json"))
    # Hold the lock until both builds wait for it, so that they always run concurrently.
    with lock_of(tmp_path / "ham10000" / "demo_tiny" / VERSION):
        both = [start(tmp_path, "--config", "demo_tiny") for _ in range(2)]
        for process in both:
            assert process.stderr is not None
            assert any("Waiting for another" in line for line in process.stderr)
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert not list(tmp_path.rglob("incomplete.*"))
    assert sum(f" in {tmp_path}" in stderr for _, stderr in outputs) == 1, outputs
    splits = [[line for line in out.splitlines() if "fold_" in line] for out, _ in outputs]
    assert splits[0] == splits[1]
    assert len(splits[0]) == 10


def test_a_full_disk_leaves_no_files_and_exits_with_one_message(
    manual_dir: Path, tmp_path: Path, prepare: Prepare
) -> None:
    data_dir = tmp_path / "built"
    with limited_file_size(4096):
        done = prepare("isic2018", data_dir, "--manual-dir", manual_dir)
    assert done.returncode == 2, done.stderr
    assert f"cannot be written to {data_dir}/ham10000/isic2018" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(data_dir.rglob("*.tfrecord*"))
    assert not list(data_dir.rglob("incomplete.*"))


def test_too_little_disk_space_is_reported_before_any_work(
    manual_dir: Path, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: SimpleNamespace(total=1000, free=1000)
    )
    done = prepare("isic2018", tmp_path / "built", "--manual-dir", manual_dir)
    assert done.returncode == 2, done.stderr
    assert "require 0 MB of disk space, but only 0 MB are free" in done.stderr
    assert "Checking images" not in done.stderr
    assert not list((tmp_path / "built").rglob("incomplete.*"))


def test_a_drive_that_reports_no_free_space_is_used(
    manual_dir: Path, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=0, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    done = prepare("isic2018", tmp_path / "built", "--manual-dir", manual_dir)
    assert done.returncode == 0, done.stderr


def test_too_little_disk_space_for_converted_images_is_reported(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    manual_dir = write_classes(tmp_path / "manual", make_rows(("a", "b"), lesions=10))
    make_image().save(manual_dir / "a" / "converted.png")
    full = os.open("/dev/full", os.O_RDWR)
    tempfile = SimpleNamespace(TemporaryFile=lambda dir: os.fdopen(full, "r+b", 0))
    monkeypatch.setattr(image_decoding, "tempfile", tempfile)
    data_dir = tmp_path / "built"
    done = prepare("folder", data_dir, "--manual-dir", manual_dir)
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert not list(data_dir.rglob("incomplete.*"))


def test_folders_of_killed_builds_are_deleted_once_no_build_is_running(
    tmp_path: Path,
) -> None:
    dataset_dir = tmp_path / "isic2018" / VERSION
    stale = tmp_path / "isic2018" / f"incomplete.ABC123_{VERSION}"
    (stale / "deep").mkdir(parents=True)
    other = tmp_path / "isic2018" / "incomplete.ABC123_1.0.0"
    other.mkdir()
    waiting = threading.Thread(target=lambda: build_lock(dataset_dir).__enter__())
    with lock_of(dataset_dir):
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
        assert stale.is_dir()
    waiting.join(timeout=60)
    assert not stale.exists()
    assert other.is_dir()
