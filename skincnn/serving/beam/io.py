"""Lists and reads images on the file systems that Apache Beam supports."""

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
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from skincnn.errors import ConfigError
from skincnn.files import require_writable_folder
from skincnn.serving.images import MAX_BYTES
from tfds_ham10000.image_files import (
    IMAGE_SUFFIXES,
    describe_archive_problem,
    describe_skipped,
    find_files,
    find_members,
    printable,
    skip_reason,
)

MEMBERS_PER_REF = 64
"""Maximum number of images of a ZIP archive in one `FileRef`."""
READ_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""Errors that reading a file can raise. An encrypted ZIP archive raises RuntimeError, and a
member name that is not valid UTF-8 raises ValueError."""


class FileRef(NamedTuple):
    """A reference to an image file, to a ZIP archive, or to images in a ZIP archive.

    Attributes:
        name: Name of the image or the archive.
        size: Size of the file in bytes; 0 if unknown.
        problem: The reason why the file cannot be read; "" if none is known.
        members: Index and path of each referenced image in a ZIP archive, where a path can
            occur twice; empty for a reference to a whole file.
    """

    name: str
    size: int
    problem: str = ""
    members: Sequence[tuple[int, str]] = ()


class ImageFile(NamedTuple):
    """Name and content of an image file. In an archive, the name is <archive>/<member>."""

    name: str
    content: bytes


class UnreadableFile(NamedTuple):
    """A file that cannot be predicted; `status` is the reason."""

    file: str
    status: str


def match(pattern: str) -> list[FileRef]:
    """Returns references to the matching files, or one with a `problem` if none matches."""
    refs = [_file_ref(file) for file in list_files(pattern)]
    return refs or [FileRef(pattern, 0, "unreadable: no file matches this name or pattern")]


def look_up(name: str) -> FileRef:
    """Returns a reference to a file by literal name, with a `problem` if no file exists."""
    try:
        return _file_ref(FileSystems.get_filesystem(name).metadata(name))
    except (OSError, ValueError) as error:
        return FileRef(name, 0, f"unreadable: {error}")


def list_files(pattern: str, limit: int | None = None) -> list[FileMetadata]:
    """Returns the files that a pattern matches.

    Args:
        pattern: Path of an image, a ZIP archive, or a directory (remote directories must
            end in /), which is searched recursively for images, see
            `tfds_ham10000.image_files.find_files`; or a pattern, in which ** matches any
            number of directories.
        limit: Maximum number of files to return for a pattern; None for all.
    """
    if Path(pattern).is_dir():
        # Beam would skip broken links.
        paths = find_files(Path(pattern)).files
        return [FileMetadata(str(path), _size(path)) for path in paths]
    if pattern.endswith("/"):
        folder = f"{pattern.rstrip('/')}/"
        # The directory name may contain wildcard characters.
        matching = re.sub(r"[][*?]", "?", folder) + "**"
        files = FileSystems.match([matching])[0].metadata_list
        inside = [file for file in files if file.path.startswith(folder)]
        names = (PurePosixPath(file.path.removeprefix(folder)) for file in inside)
        return [x for x, name in zip(inside, names, strict=True) if not skip_reason(name)]
    if FileSystems.exists(pattern):
        return [FileSystems.get_filesystem(pattern).metadata(pattern)]
    if "://" in pattern:
        return list(FileSystems.match([pattern], [limit])[0].metadata_list)
    return _list_local(pattern, limit)


def list_members(ref: FileRef) -> Iterator[FileRef]:
    """Yields references to the images in an archive; yields any other reference as is.

    Each reference contains at most `MEMBERS_PER_REF` images.
    """
    if ref.problem or not ref.name.lower().endswith(".zip"):
        yield ref
        return
    problem, members = "unreadable: the archive contains no images", []
    try:
        with _open(ref.name) as file, zipfile.ZipFile(file) as archive:
            if description := describe_archive_problem(ref.name, archive):
                problem = f"unreadable: {description}"
            else:
                found, _ = find_members(archive)
                members = [(index, str(path)) for index, path in found.items()]
    except READ_ERRORS as error:
        problem = f"unreadable: {error}"
    if not members:
        yield FileRef(ref.name, 0, problem)
    for start in range(0, len(members), MEMBERS_PER_REF):
        yield FileRef(ref.name, 0, "", members[start : start + MEMBERS_PER_REF])


def read(ref: FileRef) -> Iterator[ImageFile | UnreadableFile]:
    """Yields an `ImageFile` or `UnreadableFile` for each image of a reference."""
    name, size, problem, members = ref
    if problem:
        yield UnreadableFile(name, problem)
    elif not members:
        yield _read(name, size, lambda: _open(name))
    else:
        yield from _read_archive(name, members)


def list_skipped(patterns: Sequence[str]) -> list[str]:
    """Returns a line for each reason why files in local directories are not used."""
    skipped: dict[str, str] = {}
    for folder in map(Path, patterns):
        if folder.is_dir():
            found = find_files(folder).skipped
            skipped |= {printable(path): reason for path, reason in found.items()}
    return describe_skipped(skipped)


def require_images(patterns: Sequence[str], names: str | None) -> None:
    """Checks that a pattern matches a file, or that the text file `names` lists a name.

    Raises:
        ConfigError: Neither is the case, or the files cannot be listed.
    """
    try:
        if any(list_files(pattern, 1) for pattern in patterns):
            return
        if names is not None:
            with FileSystems.open(names) as file:
                if any(line.strip() for line in file):
                    return
    except (OSError, ValueError) as error:
        raise ConfigError(f"The images cannot be listed: {error}") from error
    raise ConfigError(
        f"Expected image files, patterns, directories with {', '.join(IMAGE_SUFFIXES)} "
        f"files, or --names FILE. Received: {' '.join(patterns) or names or 'nothing'}."
    )


def require_empty(output: str, prefixes: Sequence[str]) -> None:
    """Checks that the directory `output`, if it exists, contains no files <prefix>-*.

    Raises:
        ConfigError: `output` contains predictions, cannot be listed, contains a wildcard
            character in its path, or is not a writable directory.
    """
    if set("*?[") & set(output):
        # Beam would interpret the names of its temporary and output files as patterns.
        raise ConfigError(f"--output must not contain *, ? or [. Received: {output}.")
    if "://" not in output:
        require_writable_folder(Path(output), "--output")
    try:
        patterns = [FileSystems.join(output, f"{prefix}-*") for prefix in prefixes]
        results = FileSystems.match(patterns, [1] * len(patterns))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The --output directory {output} cannot be listed: {error}"
        ) from error
    paths = [file.path for result in results for file in result.metadata_list]
    if paths:
        raise ConfigError(
            f"--output must be a directory without predictions. Received: {output}, which "
            f"contains {paths[0]}. Use another --output, or remove these files."
        )


def _read(
    name: str, size: int, open_file: Callable[[], IO[bytes]]
) -> ImageFile | UnreadableFile:
    """Reads a file; returns an `UnreadableFile` if this fails or the file is too large."""
    if size > MAX_BYTES:
        expected = f"expected at most {MAX_BYTES} bytes. Received: {size} bytes"
        return UnreadableFile(name, f"unreadable: {expected}")
    try:
        with open_file() as file:
            return ImageFile(name, file.read(MAX_BYTES + 1))
    except READ_ERRORS as error:
        return UnreadableFile(name, f"unreadable: {error}")


def _read_archive(
    name: str, members: Sequence[tuple[int, str]]
) -> Iterator[ImageFile | UnreadableFile]:
    """Yields the given images of an archive after checking that it has not changed."""
    with contextlib.ExitStack() as stack:
        try:
            archive = zipfile.ZipFile(stack.enter_context(_open(name)))
            stack.enter_context(archive)
            names = find_members(archive)[0]
            if any(str(names.get(index)) != member for index, member in members):
                raise OSError("the archive changed while the pipeline was running")
        except READ_ERRORS as error:
            for _, member in members:
                yield UnreadableFile(f"{name}/{member}", f"unreadable: {error}")
            return
        for index, member in members:
            info = archive.infolist()[index]
            open_file = functools.partial(archive.open, info)
            yield _read(f"{name}/{member}", info.file_size, open_file)


def _list_local(pattern: str, limit: int | None) -> list[FileMetadata]:
    """Returns the matching local files, including broken links, which Beam would skip."""
    if os.path.islink(pattern):
        return [FileMetadata(pattern, 0)]
    # Paths from os.walk start with a directory, so the pattern must contain one, too.
    pattern = pattern if "/" in pattern else f"./{pattern}"
    start = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    walk = os.walk(os.path.dirname(start)) if start != pattern else ()
    existing = (os.path.join(folder, name) for folder, _, names in walk for name in names)
    files = (FileMetadata(path, 0) for path in existing)
    matches = FileSystems.get_filesystem(pattern).match_files(files, pattern)
    paths = [file.path for file in itertools.islice(matches, limit)]
    return [FileMetadata(path, _size(Path(path))) for path in paths]


def _size(path: Path) -> int:
    """Returns the size of a file in bytes, or 0 for a file that cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _open(name: str) -> IO[bytes]:
    file: IO[bytes] = FileSystems.open(name, compression_type=CompressionTypes.UNCOMPRESSED)
    return file


def _file_ref(file: FileMetadata) -> FileRef:
    name = printable(file.path)
    if name != file.path:
        return FileRef(name, 0, "unreadable: the file name is not valid UTF-8")
    return FileRef(name, file.size_in_bytes)
