"""Atomic writes, locks and checks of files and directories."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skincnn.errors import ConfigError
from skincnn.paths import require_usable_path

NO_RENAME = (errno.EEXIST, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Error numbers of file systems that cannot replace a file by renaming, or cannot sync."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path; the file written to it replaces `path` after the block.

    The temporary file is in the same directory, which is created if necessary, and is
    synced before it is renamed. A crash or a full disk therefore never leaves an incomplete
    file at `path`. If the block raises an exception, `path` is unchanged.

    Raises:
        OSError: The file cannot be written. Its errno is ENOTSUP if the file system cannot
            replace a file by renaming another one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary file has the same suffixes, from which Keras infers the file format.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        _sync(temporary)
        try:
            temporary.replace(path)
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
            text = "the file system cannot replace a file by renaming"
            raise OSError(errno.ENOTSUP, text, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds an exclusive lock on a directory, which is created if it does not exist.

    The lock only affects processes that use this function; see
    `tfds_ham10000.locks.hold_lock`. A directory that this function created is removed if it
    is empty at the end. With `wait`, the function waits while another process holds the
    lock.

    Raises:
        ConfigError: Another process holds the lock and `wait` is False, or `folder` is
            not a directory, is not writable, or cannot be created.
    """
    require_writable_folder(folder, "--workdir")
    # Here, because importing the dataset builder takes a second, and --help needs no lock.
    from tfds_ham10000.locks import hold_lock

    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)

    def on_busy(hint: str) -> None:
        if not wait:
            raise ConfigError(
                f"{folder} is in use by another process. Wait until it has finished, or "
                f"use another directory. {hint}".rstrip()
            )
        text = f"waiting for another process that uses {folder}. {hint}"
        print(text.rstrip(), file=sys.stderr)

    try:
        with hold_lock(folder / ".lock", on_busy):
            yield
    finally:
        if created and not any(folder.iterdir()):
            folder.rmdir()


def _sync(path: Path) -> None:
    # Windows syncs only files that are open for writing.
    with path.open("r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in NO_SYNC:
                raise


def require_writable_folder(path: Path, flag: str) -> None:
    """Raises a `ConfigError` if files cannot be written to the directory `path`.

    The directory need not exist. `flag` is the command-line flag of the path, for the error
    message.
    """
    require_usable_path(path, flag)
    existing = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not os.path.isdir(existing):
        broken = os.path.islink(existing) and not os.path.exists(existing)
        kind = "a symbolic link to a missing directory" if broken else "a file"
        raise ConfigError(
            f"{flag} must be a directory. Received: {path}, but {existing} is {kind}."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{flag} must be a writable directory. Received: {path}, but {existing} is not "
            "writable. Use another directory."
        )


def require_writable_file(path: Path, flag: str) -> None:
    """Raises a `ConfigError` if `replacing` cannot write the file `path`.

    `flag` is the command-line flag of the path, for the error message.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(
            f"{flag} must be a file. Received: {path}, which is not a regular file."
        )
    require_writable_folder(path.parent, f"The parent directory of {flag}")


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` to `path` as indented JSON, atomically; rejects NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def json_sha256(value: Any) -> str:
    """Returns the SHA-256 of a JSON value in hexadecimal; the order of keys is ignored."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
