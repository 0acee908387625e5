"""Where pictures lie on the file systems that Apache Beam knows, and reading them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from skincnn.errors import ConfigError
from skincnn.files import PICTURE_SUFFIXES, require_writable_folder
from skincnn.serving.pictures import MAX_BYTES


class Place(NamedTuple):
    """Where a picture is, and its bytes; or the problem why there is none."""

    name: str
    size: int
    problem: str = ""


class Picture(NamedTuple):
    """A file."""

    name: str
    content: bytes


class Problem(NamedTuple):
    """A file that has no answer, and why."""

    file: str
    status: str


def match(pattern: str) -> list[Place]:
    """Returns the pictures that a name, a folder or a pattern means.

    Returns:
        One with a problem where none is meant, so that it is told at the end.
    """
    places = [_place(found) for found in list_files(pattern)]
    return places or [Place(pattern, 0, "not read: there is no picture of this name")]


def look_up(name: str) -> Place:
    """Returns the place of a picture whose name is no pattern."""
    try:
        return _place(FileSystems.get_filesystem(name).metadata(name))
    except (OSError, ValueError) as error:
        return Place(name, 0, f"not read: {error}")


def list_files(pattern: str, limit: int | None = None) -> list[FileMetadata]:
    """Returns the files that a pattern means.

    Args:
        pattern: The name of a file; a folder, where pictures are looked for, and which
            ends in / where it is not local; or a pattern, of which ** means any folders.
        limit: How many are enough, where it is a pattern.
    """
    if pattern.endswith("/") or Path(pattern).is_dir():
        folder = f"{pattern.rstrip('/')}/"
        # What would be special in a pattern may be part of the folder's name.
        below = re.sub(r"[][*?]", "?", folder) + "**"
        files = FileSystems.match([below])[0].metadata_list
        inside = [one for one in files if one.path.startswith(folder)]
        return [one for one in inside if one.path.lower().endswith(PICTURE_SUFFIXES)]
    if FileSystems.exists(pattern):
        return [FileSystems.get_filesystem(pattern).metadata(pattern)]
    # Beam finds nothing in the current folder without its name.
    pattern = pattern if "/" in pattern else f"./{pattern}"
    return list(FileSystems.match([pattern], [limit])[0].metadata_list)


def read(place: Place) -> Picture | Problem:
    """Returns a file, or why there is none; what is too large is not read."""
    name, size, problem = place
    if problem:
        return Problem(name, problem)
    if size > MAX_BYTES:
        expected = f"expected at most {MAX_BYTES} bytes. Received: {size}"
        return Problem(name, f"not read: {expected}")
    try:
        with FileSystems.open(name, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            return Picture(name, file.read(MAX_BYTES + 1))
    except OSError as error:
        return Problem(name, f"not read: {error}")


def require_pictures(patterns: Sequence[str], names: str | None) -> None:
    """Checks that there is something to ask about.

    Args:
        patterns: See `list_files`.
        names: A text file with the name of a picture on each line.

    Raises:
        ConfigError: There is nothing, or one cannot look.
    """
    try:
        if any(list_files(pattern, 1) for pattern in patterns):
            return
        if names is not None:
            with FileSystems.open(names) as file:
                if any(line.strip() for line in file):
                    return
    except (OSError, ValueError) as error:
        raise ConfigError(f"The pictures cannot be looked for: {error}") from error
    raise ConfigError(
        f"Give files of pictures, folders with {', '.join(PICTURE_SUFFIXES)} files, "
        f"patterns or --names. Received: {' '.join(patterns) or names or 'nothing'}."
    )


def require_empty(output: str, prefixes: Sequence[str]) -> None:
    """Checks that a folder, which need not be there, holds no results.

    Raises:
        ConfigError: It does, or is no folder, or one cannot look.
    """
    if "://" not in output:
        require_writable_folder(Path(output), "--output")
    try:
        patterns = [FileSystems.join(output, f"{prefix}-*") for prefix in prefixes]
        found = FileSystems.match(patterns, [1] * len(patterns))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--output cannot be looked at: {error}") from error
    held = [one.path for result in found for one in result.metadata_list]
    if held:
        raise ConfigError(
            f"--output must be a folder without earlier answers. Received: {output}, with "
            f"{held[0]}. Give another one, or remove them."
        )


def _place(found: FileMetadata) -> Place:
    name = found.path.encode(errors="backslashreplace").decode()
    if name != found.path:
        return Place(name, 0, "not read: its name is not in UTF-8")
    return Place(name, found.size_in_bytes)
