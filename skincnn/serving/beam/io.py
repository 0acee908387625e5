"""Where pictures lie on the file systems that Apache Beam knows, and reading them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from skincnn.errors import ConfigError
from skincnn.files import IMAGE_SUFFIXES, images_in, printable, require_writable_folder
from skincnn.serving.images import MAX_BYTES

AT_ONCE = 64
"""Pictures of a ZIP archive that one worker reads without opening it again."""
DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What a file may raise that is read: RuntimeError where a ZIP archive is encrypted, and
ValueError where a name in it is not in UTF-8."""


class Place(NamedTuple):
    """Where pictures are.

    Attributes:
        name: Of a picture, or of a ZIP archive.
        size: Its bytes.
        problem: Why there is nothing to read; else "".
        members: Of pictures in the archive, once it was looked into: the position among
            its members, of which two may have one name, and the name.
    """

    name: str
    size: int
    problem: str = ""
    members: Sequence[tuple[int, str]] = ()


class Picture(NamedTuple):
    """A file; one of a ZIP archive has its name in the archive after that of it."""

    name: str
    content: bytes


class Problem(NamedTuple):
    """A file that has no answer, and why."""

    file: str
    status: str


def match(pattern: str) -> list[Place]:
    """Returns the pictures and archives that a name, a folder or a pattern means.

    Returns:
        One with a problem where none is meant, so that it is told at the end.
    """
    places = [_place(found) for found in list_files(pattern)]
    return places or [Place(pattern, 0, "not read: there is no picture of this name")]


def look_up(name: str) -> Place:
    """Returns the place of a picture or an archive whose name is no pattern."""
    try:
        return _place(FileSystems.get_filesystem(name).metadata(name))
    except (OSError, ValueError) as error:
        return Place(name, 0, f"not read: {error}")


def list_files(pattern: str, limit: int | None = None) -> list[FileMetadata]:
    """Returns the files that a pattern means.

    Args:
        pattern: The name of a picture or a ZIP archive of them; a folder, where pictures
            are looked for, and which ends in / where it is not local; or a pattern, of
            which ** means any folders.
        limit: How many are enough, where it is a pattern.
    """
    if Path(pattern).is_dir():
        # Beam would leave out links that lead nowhere.
        return [FileMetadata(str(path), _size(path)) for path in images_in(Path(pattern))]
    if pattern.endswith("/"):
        folder = f"{pattern.rstrip('/')}/"
        # What would be special in a pattern may be part of the folder's name.
        below = re.sub(r"[][*?]", "?", folder) + "**"
        files = FileSystems.match([below])[0].metadata_list
        inside = [one for one in files if one.path.startswith(folder)]
        return [one for one in inside if one.path.lower().endswith(IMAGE_SUFFIXES)]
    if FileSystems.exists(pattern):
        return [FileSystems.get_filesystem(pattern).metadata(pattern)]
    if "://" in pattern:
        return list(FileSystems.match([pattern], [limit])[0].metadata_list)
    return _list_local(pattern, limit)


def look_into(place: Place) -> Iterator[Place]:
    """Yields a place as it is; of a ZIP archive the pictures in it, `AT_ONCE` each."""
    if place.problem or not place.name.lower().endswith(".zip"):
        yield place
        return
    problem, names = "not read: no picture is in the archive", []
    try:
        with _open(place.name) as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except DAMAGED as error:
        problem = f"not read: {error}"
    listed = enumerate(names)
    members = [one for one in listed if one[1].lower().endswith(IMAGE_SUFFIXES)]
    if not members:
        yield Place(place.name, 0, problem)
    for start in range(0, len(members), AT_ONCE):
        yield Place(place.name, 0, "", members[start : start + AT_ONCE])


def read(place: Place) -> Iterator[Picture | Problem]:
    """Yields each picture of a place, or why there is none."""
    name, size, problem, members = place
    if problem:
        yield Problem(name, problem)
    elif not members:
        yield _read(name, size, lambda: _open(name))
    else:
        yield from _read_archive(name, members)


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
        f"Give files of pictures, folders with {', '.join(IMAGE_SUFFIXES)} files, "
        f"patterns or --names. Received: {' '.join(patterns) or names or 'nothing'}."
    )


def require_empty(output: str, prefixes: Sequence[str]) -> None:
    """Checks that a folder, which need not be there, holds no results.

    Raises:
        ConfigError: It does, or is no folder, or one cannot look.
    """
    if set("*?[") & set(output):
        # Beam would take the names of its own files for patterns.
        raise ConfigError(f"--output must have no * ? [ in it. Received: {output}.")
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


def _read(name: str, size: int, opened: Callable[[], IO[bytes]]) -> Picture | Problem:
    """Returns a file, or why there is none; what is too large is not read."""
    if size > MAX_BYTES:
        expected = f"expected at most {MAX_BYTES} bytes. Received: {size}"
        return Problem(name, f"not read: {expected}")
    try:
        with opened() as file:
            return Picture(name, file.read(MAX_BYTES + 1))
    except DAMAGED as error:
        return Problem(name, f"not read: {error}")


def _read_archive(
    name: str, members: Sequence[tuple[int, str]]
) -> Iterator[Picture | Problem]:
    """Yields pictures; the archive may have changed, or gone, since it was looked into."""
    with contextlib.ExitStack() as stack:
        try:
            archive = zipfile.ZipFile(stack.enter_context(_open(name)))
            stack.enter_context(archive)
            names = archive.namelist()
            if any(names[at : at + 1] != [member] for at, member in members):
                raise OSError("the archive was changed after it was looked into")
        except DAMAGED as error:
            for _, member in members:
                yield Problem(f"{name}/{member}", f"not read: {error}")
            return
        for at, member in members:
            about = archive.infolist()[at]
            opened = functools.partial(archive.open, about)
            yield _read(f"{name}/{member}", about.file_size, opened)


def _list_local(pattern: str, limit: int | None) -> list[FileMetadata]:
    """Returns the files of this machine that a pattern means.

    Beam's own list leaves out links that lead nowhere: nobody would be told of them.
    """
    if os.path.islink(pattern):
        return [FileMetadata(pattern, 0)]
    # What is walked through has the current folder's name before it.
    pattern = pattern if "/" in pattern else f"./{pattern}"
    start = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    walked = os.walk(os.path.dirname(start)) if start != pattern else ()
    there = (os.path.join(folder, name) for folder, _, names in walked for name in names)
    files = (FileMetadata(path, 0) for path in there)
    meant = FileSystems.get_filesystem(pattern).match_files(files, pattern)
    paths = [one.path for one in itertools.islice(meant, limit)]
    return [FileMetadata(path, _size(Path(path))) for path in paths]


def _size(path: Path) -> int:
    """Returns the bytes of a file; 0 where that is not known, which reading tells."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _open(name: str) -> IO[bytes]:
    opened: IO[bytes] = FileSystems.open(
        name, compression_type=CompressionTypes.UNCOMPRESSED
    )
    return opened


def _place(found: FileMetadata) -> Place:
    name = printable(found.path)
    if name != found.path:
        return Place(name, 0, "not read: its name is not in UTF-8")
    return Place(name, found.size_in_bytes)
