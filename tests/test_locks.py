"""Locks on file systems with and without flock, and after killed processes."""

from __future__ import annotations

import errno
import fcntl
import io
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

from skincnn.errors import ConfigError
from skincnn.files import locked, require_space
from tfds_ham10000 import locks

HOLD = """
import sys
from pathlib import Path
from tfds_ham10000.locks import hold_lock
with hold_lock(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""
NO_FLOCK = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Lets flock fail as on network file systems without locks."""

    def fail(file: object, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", fail)


@pytest.mark.parametrize("no_flock", NO_FLOCK, indirect=True)
@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_lock_file_is_used_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    for _ in range(2):  # files of an earlier lock do not matter
        with locked(folder):
            warning = capsys.readouterr().err
            assert warning.startswith(f"warning: the file system of {folder} does not")
            assert warning.count("\n") == 1
            marker = folder / ".lock.pid"
            assert str(os.getpid()) in marker.read_text()
            with (
                pytest.raises(ConfigError, match=f"delete {marker}"),
                locked(folder),
            ):
                pass
        assert not folder.exists()
        capsys.readouterr()


@pytest.mark.parametrize("no_flock", [errno.EIO], indirect=True)
@pytest.mark.usefixtures("no_flock")
def test_other_errors_of_flock_are_explained(tmp_path: Path) -> None:
    message = r"/\.lock could not be written: .*Input/output error.* does not respond"
    with pytest.raises(ConfigError, match=message), locked(tmp_path):
        pass


def test_a_lock_file_that_cannot_be_created_is_explained(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(ConfigError, match=r"/\.lock could not be written: .*directory"),
        locked(tmp_path),
    ):
        pass


def test_a_run_that_is_not_writable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    message = r"^The run directory must be a writable .*permissions, or copy the run \(cp"
    with pytest.raises(ConfigError, match=message), locked(tmp_path):
        pass
    message = "^--workdir must be a writable .*not writable. Use another directory.$"
    with pytest.raises(ConfigError, match=message), locked(tmp_path / "new"):
        pass


def test_a_directory_that_cannot_be_created_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "mkdir", fail)
    with (
        pytest.raises(ConfigError, match=r"run.*The disk is full"),
        locked(tmp_path / "run"),
    ):
        pass


def test_a_file_system_for_appending_only_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class File(io.BytesIO):
        def write(self, content: bytes) -> int:
            if self.tell() < len(self.getvalue()):
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return super().write(content)

    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: File())
    message = r"run could not be written: .*not support this operation\. Use a dir.* local"
    with pytest.raises(ConfigError, match=message), locked(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())


def test_errors_while_a_lock_is_held_are_not_changed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "run"):
        (tmp_path / "missing").unlink()


def test_the_lock_file_of_a_killed_process_is_ignored(tmp_path: Path) -> None:
    """A sitecustomize module replaces flock by a function that fails."""
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, fcntl, os\n"
        "def fail(*_): raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))\n"
        "fcntl.flock = fail\n"
    )
    path = tmp_path / "x.lock"
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert (tmp_path / "x.lock.pid").exists()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)


@pytest.mark.parametrize("number", [errno.ENOSYS, 0])
def test_free_space_that_is_not_reported_is_not_full(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < locks.free_space(tmp_path) < math.inf

    def disk_usage(folder: Path) -> SimpleNamespace:
        if number:
            raise OSError(number, os.strerror(number))
        return SimpleNamespace(total=0, free=0)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    assert locks.free_space(tmp_path) == math.inf
    require_space(tmp_path / "weights.h5", 1)
