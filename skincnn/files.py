"""Atomic writes, locks and checks of files and directories."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from skincnn.errors import ConfigError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"),
    *(".tif", ".tiff"),
)
"""Lower-case suffixes of image files in a directory. TIFF cannot be read; it is listed so
that such files are reported instead of being silently skipped."""


def images_in(folder: Path) -> list[Path]:
    """Returns the image files in a directory and its subdirectories, sorted by path."""
    paths = sorted(folder.rglob("*"))
    return [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]


def printable(name: str | Path) -> str:
    r"""Returns a file name as valid UTF-8, with each invalid byte written as `\xff`."""
    return os.fsencode(name).decode(errors="backslashreplace")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path` that replaces it on success.

    The temporary file is synced before it is renamed, so that a crash or a full disk
    leaves either the old file or the new one. An exception removes the temporary file and
    keeps the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name keeps its suffixes: Keras infers the format of a file from them.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds an exclusive lock on a directory, which is created if it does not exist.

    Only processes that use this function are kept out. The lock ends with its process. A
    directory that this function created is removed if it is still empty at the end.

    Args:
        folder: The directory.
        wait: Whether to wait for another process that holds the lock.

    Raises:
        ConfigError: Another process holds the lock and `wait` is False, or the directory
            is not writable.
    """
    require_writable_folder(folder, "--workdir")
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise ConfigError(
                f"{folder} is in use by another process. Wait until it has finished, or "
                "give another --workdir."
            ) from error
        print(f"waiting for another process that uses {folder}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        # Removed before the release: after it, another process may hold the lock.
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()
        if created and not any(folder.iterdir()):
            folder.rmdir()


def require_writable_folder(path: Path, flag: str) -> None:
    """Raises a `ConfigError` if a path is not, and cannot become, a writable directory.

    The error names the flag that the path belongs to.
    """
    existing = next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
    if not existing.is_dir():
        raise ConfigError(
            f"{flag} must be a directory. Received: {path}, but {existing} is a file."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{flag} must be a writable directory. Received: {path}, but {existing} is not "
            "writable. Give another directory."
        )


def require_writable_file(path: Path, flag: str) -> None:
    """Raises a `ConfigError` if `replacing` could not write to a path."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(
            f"{flag} must be a file. Received: {path}, which is not a regular file."
        )
    require_writable_folder(path.parent, f"The parent of {flag}")


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. NaN raises a `ValueError`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def json_sha256(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
