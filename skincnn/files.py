"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from skincnn.errors import ConfigError, DataError

SCHEMA = 1
"""Of metadata.json, of runs and of what is exported: what its names mean. It is raised
where one gets another meaning, or is there no more."""
SEAL = "sha256_of_the_rest"
"""In a metadata.json of what is exported: it says when a threshold, say, was changed."""
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"),
    *(".tif", ".tiff"),
)
"""How the names of pictures end, in lower case, where a folder is searched for them. TIFF
is not read: who has such files is told, and does not miss their answers."""


def images_in(folder: Path) -> list[Path]:
    """Returns the pictures in a folder and in those below, by their names, in order."""
    found = sorted(folder.rglob("*"))
    return [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]


def printable(name: str | Path) -> str:
    r"""Returns a file's name as UTF-8 can hold it: other bytes become \xff and the like."""
    return os.fsencode(name).decode(errors="backslashreplace")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place on success.

    The written file is synced before it is renamed, so that a crash or a full disk
    leaves either the old file or the new one. On an exception the temporary file is
    removed and the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffixes stay last: Keras chooses the format of a file by them.
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
    """Keeps other processes out of `folder`, which is made where it is missing.

    The lock is the kernel's and dies with its process, however that ends. A folder that
    holds nothing else at the end goes away with it.

    Args:
        folder: For whoever asks in the same way.
        wait: Whether to wait for another process that has it.

    Raises:
        ConfigError: Another process has it, or it cannot be written to.
    """
    require_writable_folder(folder, "--workdir")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", thread_local=False)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise ConfigError(
            f"{folder} is in use by another process. Wait until it is done, or give "
            "another --workdir."
        ) from error
    try:
        yield
    finally:
        # Before it is released: afterwards it may be another's.
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()
        if made and not any(folder.iterdir()):
            folder.rmdir()


def require_writable_folder(path: Path, flag: str) -> None:
    """Checks that `path` is, or can be made, a folder that can be written to.

    Args:
        path: The folder; nothing is made.
        flag: The flag that named it, for the message.

    Raises:
        ConfigError: It is, or lies below, a file, or may not be written to.
    """
    existing = next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
    if not existing.is_dir():
        raise ConfigError(
            f"{flag} must be a folder. Received: {path}, and {existing} is a file."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{flag} must be a folder that can be written to. Received: {path}, and "
            f"{existing} may not be written. Give another one."
        )


def require_writable_file(path: Path, flag: str) -> None:
    """Checks that `path` is, or can be made, a file that `replacing` can write.

    Args:
        path: The file; nothing is made.
        flag: The flag that named it, for the message.

    Raises:
        ConfigError: It is something else, or its folder may not be written to.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"{flag} must be a file. Received: {path}, which is none.")
    require_writable_folder(path.parent, f"The place of {flag}")


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all; refuses NaN."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_sealed_json(path: Path, content: dict[str, Any]) -> None:
    """Writes an object with the SHA-256 of all else that is in it, as `SEAL`."""
    write_json(path, {**content, SEAL: _seal(content)})


def read_sealed_json(path: Path, cure: str) -> dict[str, Any]:
    """Returns what `write_sealed_json` wrote, of the schema that is read here.

    Args:
        path: The file.
        cure: What makes it anew, for the message.

    Raises:
        ConfigError: It cannot be read, or is of another schema.
        DataError: It has changed since it was written, or has no seal.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. {cure}") from error
    require_schema(path, content, cure)
    seal = content.pop(SEAL, None)
    if seal is None:
        raise DataError(
            f"{path} has no {SEAL}: it was changed, or written by an earlier version of "
            f"skincnn. {cure}"
        )
    if seal != _seal(content):
        raise DataError(f"{path} has changed since it was written. {cure}")
    return typing.cast(dict[str, Any], content)


def _seal(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def require_schema(path: Path, content: Any, cure: str) -> None:
    """Checks that a metadata.json is of the schema that is read here.

    Args:
        path: The file, for the message.
        content: What it holds.
        cure: What makes it anew, for the message.

    Raises:
        ConfigError: It is of another, or of none.
    """
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise ConfigError(
            f"{path} was written by another version of skincnn: its schema is {found!r}. "
            f"Expected {SCHEMA}. {cure}"
        )


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
