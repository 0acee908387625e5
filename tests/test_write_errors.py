"""Every command reports the cause of a file system error, and advice."""

from __future__ import annotations

import errno
import os
import re
import signal
import tempfile
from pathlib import Path

import pytest
import tensorflow as tf

from skincnn.cli import process
from skincnn.errors import ConfigError
from skincnn.files import replacing, write_text
from skincnn.write_errors import CAUSES, describe_cause, explain_write_errors


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "The disk is full. Free disk space"),
        (errno.EDQUOT, "Your disk quota is used up"),
        (errno.EROFS, "The file system is read-only"),
        (errno.EACCES, "Permission is denied"),
        (
            errno.EISDIR,
            "A file, a directory, or a link to a missing directory is in the way",
        ),
        (errno.ENOTDIR, "A file, a directory, or a link to a missing directory is in the"),
        (errno.EAGAIN, "The system permits no more processes, threads or memory"),
        (errno.ENOMEM, "The system permits no more processes, threads or memory"),
        (errno.ESTALE, "The disk or network drive does not respond"),
    ],
)
def test_each_command_names_the_cause_in_one_line(
    number: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def fail() -> None:
        raise OSError(number, os.strerror(number), "/data/x")

    with pytest.raises(SystemExit) as caught:
        process.main(fail)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: [Errno {number}] ")
    assert f"'/data/x'. {text}" in error
    assert error.count("\n") == 1


def test_errors_of_tensorflow_and_hdf5_have_a_cause() -> None:
    hdf5 = OSError("Can't write (errno = 28, error message = 'No space left on device')")
    op = tf.errors.ResourceExhaustedError(None, None, "/x; No space left on device")
    assert describe_cause(hdf5) == describe_cause(op) == CAUSES[errno.ENOSPC]
    thread = RuntimeError("can't start new thread")
    assert describe_cause(thread) == CAUSES[errno.EAGAIN]
    with pytest.raises(tf.errors.OpError):
        tf.io.write_file("/dev/full/x", b"x")
    for error in (KeyError("Permission denied"), FileNotFoundError(2, "none")):
        assert describe_cause(error) == ""


def test_a_full_temporary_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow writes a SavedModel there before it converts it to another format."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cure = (
        f"full, in the temporary directory {tmp_path}. Set the environment variable TMPDIR"
    )
    with tempfile.TemporaryDirectory() as folder:
        text = f"{{{{SaveV2}}}} {folder}/variables/x; No space left on device [Op:SaveV2]"
        op = tf.errors.ResourceExhaustedError(None, None, text)
        full = OSError(errno.ENOSPC, "No space left on device")
        named = OSError(errno.ENOSPC, "No space left on device", f"{folder}/x")
        for path, error in (("a.tflite", op), ("a.tflite", named), (folder, full)):
            with (
                pytest.raises(ConfigError, match=re.escape(cure)),
                explain_write_errors(path),
            ):
                raise error
    # A run in the same directory is not a temporary file.
    for path in (tmp_path / "runs/a", tmp_path / "tmp", "a.csv"):
        assert describe_cause(full, path) == CAUSES[errno.ENOSPC]
    files = OSError(errno.EMFILE, "Too many open files", f"{folder}/x")
    assert describe_cause(files) == CAUSES[errno.EMFILE]


def test_other_errors_are_not_explained() -> None:
    with pytest.raises(KeyError), explain_write_errors("x"):
        raise KeyError("x")
    with pytest.raises(BrokenPipeError), explain_write_errors("x"):
        raise BrokenPipeError
    with (
        pytest.raises(ConfigError, match=r"^x could not be written: .*Free.* Resume\.$"),
        explain_write_errors("x", "Resume."),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_system_without_fsync_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fail)
    write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"


def test_a_file_system_without_atomic_rename_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "replace", fail)
    with (
        pytest.raises(ConfigError, match=r"replace a file by renaming.*on a local disk"),
        explain_write_errors(path),
        replacing(path) as temporary,
    ):
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
