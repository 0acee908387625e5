"""Paths that users give: home directories, unusable names, special characters."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from skincnn.errors import ConfigError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
HOME = re.compile(rf"~({re.escape(os.sep)}|/|$)")
"""Beginning of a path in the home directory."""
PATTERN = re.compile(r"[\[\]*?\\\udc80-\udcff]")
"""Characters in a path with which TensorFlow cannot read a SavedModel: those of glob
patterns, because it treats the path as a pattern, and those with which Python represents
invalid UTF-8."""
ROOM = 160
"""Bytes reserved for the path of a file in a run directory, relative to that directory."""
MAX_PATH, MAX_NAME = 4095, 255
"""Maximum length in bytes of a path and of a name in it, on Linux."""


def to_path(path: str | os.PathLike[str], source: str = "") -> Path:
    """Returns a path in which `~` at the beginning is replaced by the home directory.

    If the path is not from an argument, `source` names its origin for the error messages.

    Raises:
        ConfigError: `path` is a URL or not a path, or the home directory is not known.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    start = f"{source}: expected" if source else "Expected"
    if not isinstance(text, str):
        raise ConfigError(
            f"{start} a path, as a string or pathlib.Path. Received: {type(path).__name__}."
        )
    if URL.match(text):
        raise ConfigError(
            f"{start} a path on this computer. Received the URL {text}. Download the "
            "files, or mount the bucket as a directory, first."
        )
    expanded = os.path.expanduser(text)
    if HOME.match(expanded):
        raise ConfigError(
            f"{start} a path. Received: {text}, but the home directory is not known. Set "
            "the environment variable HOME, or use an absolute path (for datasets, with "
            "--data-dir)."
        )
    return Path(expanded)


def decode_names(content: bytes) -> list[str]:
    """Returns the names in a text file with one per line, without empty lines.

    The names may have any encoding. A list with a byte order mark, as Windows writes it, is
    in UTF-8 or UTF-16.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", "replace").encode()
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return [os.fsdecode(line.rstrip(b"\r")) for line in lines if line.strip()]


def real_path(path: Path) -> Path:
    """Returns the absolute path without symbolic links.

    `Path.resolve` would fail at a link that leads to itself.
    """
    return Path(os.path.realpath(path))


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Returns the names of directories, with as many of their parents as make them unique.

    For example, the names of runs/a, x/run and y/run are "a", "x/run" and "y/run". Symbolic
    links are resolved first, so that the same directory always has the same name.
    """
    paths = [real_path(folder) for folder in folders]
    names = {path: path.name for path in paths}
    for count in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        given = list(names.values())
        names |= {
            path: Path(*path.parts[-count:]).as_posix()
            for path, name in names.items()
            if given.count(name) > 1
        }
    return [names[path] for path in paths]


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
    """Yields a path to `folder` without characters in `PATTERN`, for use inside the block.

    If `folder` contains such characters, the path is a symbolic link in a temporary
    directory. On Windows, `folder` is yielded unchanged.

    Raises:
        OSError: The link cannot be created.
    """
    if not PATTERN.search(str(folder)) or os.name == "nt":
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary, "saved_model")
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link
