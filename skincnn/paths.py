"""Paths that users give: home directories, unusable names, special characters."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from skincnn.errors import ConfigError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
PATTERN = re.compile(r"[\[\]*?\\\udc80-\udcff]")
"""Characters in a path with which TensorFlow cannot read a SavedModel: wildcards, because
it treats the path as a pattern, and those with which Python represents invalid UTF-8."""
ROOM = 160
"""Bytes reserved for the path of a file in a run directory, relative to that directory."""
MAX_PATH, MAX_NAME = 4095, 255
"""Maximum length in bytes of a path and of a name in it, on Linux."""


def to_path(path: str | os.PathLike[str]) -> Path:
    """Returns a path in which `~` at the beginning is replaced by the home directory.

    Raises:
        ConfigError: `path` is a URL.
    """
    text = os.fspath(path)
    if URL.match(text):
        raise ConfigError(
            f"Expected a path on this computer. Received the URL {text}. Download the "
            "files, or mount the bucket as a directory, first."
        )
    return Path(os.path.expanduser(text))


def real_path(path: Path) -> Path:
    """Returns the absolute path without symbolic links.

    `Path.resolve` would fail at a link that leads to itself.
    """
    return Path(os.path.realpath(path))


def require_usable_path(path: Path, flag: str) -> None:
    """Raises a `ConfigError` that names `flag` if TensorFlow cannot write to `path`.

    TensorFlow reads and writes only names that are valid UTF-8. A path that is too long
    would fail only when its longest file is written, after training.
    """
    name = os.fsencode(path).decode(errors="backslashreplace")
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and not str(path.absolute()).isascii():
        raise ConfigError(
            f"{flag} must be a path in ASCII, because your settings (LANG, LC_ALL) encode "
            f"names as {encoding}, and TensorFlow encodes them as UTF-8. Received: {name}. "
            "Set PYTHONUTF8=1, or use another directory."
        )
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{flag} must be a path that is valid UTF-8, because TensorFlow can write to "
            f"no other. Received: {name}. Rename the directory, or use another one."
        ) from error
    if os.name != "nt" and (
        len(os.fsencode(path.absolute())) > MAX_PATH - ROOM
        or any(len(os.fsencode(part)) > MAX_NAME for part in path.parts)
    ):
        raise ConfigError(
            f"{flag} must be a path of at most {MAX_PATH - ROOM} bytes, with at most "
            f"{MAX_NAME} bytes in each name. Received: {name[:80]}... Use a shorter path."
        )


@contextlib.contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """Yields a path of `folder` that does not match `PATTERN`, for use inside the block.

    If necessary, the path leads through a symbolic link in a temporary directory.
    """
    if not PATTERN.search(str(folder)) or os.name == "nt":
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary, "saved_model")
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link
