"""Lists and reads images on the file systems that Apache Beam supports."""

from __future__ import annotations

import contextlib
import functools
import lzma
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from skincnn.errors import ConfigError
from skincnn.files import require_writable_folder
from skincnn.paths import decode_names
from skincnn.serving.images import MAX_BYTES
from skincnn.serving.prefetch import files_to_read
from tfds_ham10000.image_files import (
    ARCHIVE_ERRORS,
    IMAGE_SUFFIXES,
    describe_archive_problem,
    describe_skipped,
    find_files,
    find_members,
    printable,
    require_file,
    skip_reason,
)

MEMBERS_PER_REF = 64
"""Maximum number of images of a ZIP archive in one `FileRef`."""
READ_ERRORS = (*ARCHIVE_ERRORS, ValueError, lzma.LZMAError)
"""Errors that reading a file can raise. A member name that is not valid UTF-8 raises
ValueError."""


class FileRef(NamedTuple):
    """A reference to an image file, to a ZIP archive, or to images in a ZIP archive.

    Attributes:
        name: Name of the image or the archive.
        problem: The reason why the file cannot be read; "" if none is known.
        members: Index and path of each referenced image in a ZIP archive, where a path can
            occur twice; empty for a reference to a whole file.
    """

    name: str
    problem: str = ""
    members: Sequence[tuple[int, str]] = ()


class ImageFile(NamedTuple):
    """Name and content of an image file. In an archive, the name is <archive>/<member>.

    For a file that cannot be read, `content` is the reason, as in `serving.prefetch`.
    """

    name: str
    content: bytes | str


def match(pattern: str) -> list[FileRef]:
    """Returns references to the files that match a pattern; see `list_files`.

    A reference has a `problem` if the name of the file is not valid UTF-8. If no file
    matches, the result is one reference with the pattern as name and a `problem`.
    """
    refs = list(map(_refer, list_files(pattern)))
    return refs or [FileRef(pattern, "unreadable: no file matches this name or pattern")]


def read_names(path: str) -> list[FileRef]:
    """Returns references to the files that a text file lists; see `decode_names`.

    Spaces around a name are removed. A reference has a `problem` if the name is not valid
    UTF-8.

    Raises:
        OSError, ValueError: The text file cannot be read.
    """
    with FileSystems.open(path) as file:
        content = b"".join(iter(file.readline, b""))  # `read` can return only a part
    return [_refer(name.strip()) for name in decode_names(content)]


def list_files(pattern: str, limit: int | None = None) -> list[str]:
    """Returns the names of the files that a pattern matches.

    Args:
        pattern: Path of an image, a ZIP archive, or a directory (remote directories must
            end in /), which is searched recursively for images, see
            `tfds_ham10000.image_files.find_files`; or a name with wildcards: * matches any
            text without slashes, ** also text with slashes. a/**.jpg matches a/x.jpg and
            a/b/x.jpg, but a/**/*.jpg matches only the latter. Local directories that
            cannot be listed are among the files.
        limit: Maximum number of files for a name with wildcards, None for all; ignored for
            directories.

    Raises:
        OSError, ValueError: The file system cannot be read or is not supported.
    """
    if Path(pattern).is_dir():
        return list(map(str, files_to_read(find_files(Path(pattern)))))
    if pattern.endswith("/"):
        folder = f"{pattern.rstrip('/')}/"
        names = _match(f"{folder}**")
        return [x for x in names if not skip_reason(PurePosixPath(x.removeprefix(folder)))]
    if FileSystems.exists(pattern):
        return [pattern]
    # Beam would not search the working directory.
    return _match(pattern if "/" in pattern else f"./{pattern}", limit)


def list_members(ref: FileRef) -> Iterator[FileRef]:
    """Yields references to the images in an archive; yields any other reference as is.

    Each reference contains at most `MEMBERS_PER_REF` images. For an archive that cannot be
    read or contains no images, yields one reference to the archive with a `problem`.
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
        yield FileRef(ref.name, problem)
    for start in range(0, len(members), MEMBERS_PER_REF):
        yield FileRef(ref.name, "", members[start : start + MEMBERS_PER_REF])


def read(ref: FileRef) -> Iterator[ImageFile]:
    """Yields each image of a reference from `list_members`.

    A reference to a whole ZIP archive would yield the archive as one file. For an image
    that cannot be read, the content is the reason; see `ImageFile`.
    """
    name, problem, members = ref
    if members:
        yield from _read_archive(name, members)
    else:
        yield ImageFile(name, problem or _read(lambda: _open(name)))


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
        found = any(list_files(pattern, 1) for pattern in patterns)
        if found or (names is not None and read_names(names)):
            return
    except (OSError, ValueError) as error:
        text = "Check the names of the images and of the --names file."
        raise ConfigError(f"The images cannot be listed: {error}. {text}") from error
    raise ConfigError(
        "Expected image files, ZIP archives, patterns, directories with "
        f"{', '.join(IMAGE_SUFFIXES)} files, or --names FILE. No image was found in: "
        f"{' '.join(patterns) or names or 'the arguments'}."
    )


def require_empty(output: str, prefix: str) -> None:
    """Checks that the directory `output`, if it exists, contains no files <prefix>-*.

    Raises:
        ConfigError: `output` contains such files, cannot be listed, is not a writable
            directory, or its path contains a wildcard character.
    """
    if set("*?[") & set(output):
        # Beam would interpret the names of its temporary and output files as patterns.
        raise ConfigError(f"--output must not contain *, ? or [. Received: {output}.")
    if "://" not in output:
        require_writable_folder(Path(output), "--output")
    try:
        paths = _match(FileSystems.join(output, f"{prefix}-*"), 1)
    except (OSError, ValueError) as error:
        text = f"The --output directory {output} cannot be listed: {error}"
        raise ConfigError(f"{text}. Use another --output.") from error
    if paths:
        raise ConfigError(
            f"--output must be a directory without predictions. Received: {output}, which "
            f"contains {paths[0]}. Use another --output, or remove these files."
        )


def _refer(name: str) -> FileRef:
    is_valid = printable(name) == name
    problem = "" if is_valid else "unreadable: the file name is not valid UTF-8"
    return FileRef(printable(name), problem)


def _read(open_file: Callable[[], IO[bytes]]) -> bytes | str:
    """Returns the first `MAX_BYTES` + 1 bytes, or the reason if this fails."""
    try:
        with open_file() as file:
            return file.read(MAX_BYTES + 1)
    except READ_ERRORS as error:
        return f"unreadable: {getattr(error, 'strerror', None) or error}"


def _read_archive(name: str, members: Sequence[tuple[int, str]]) -> Iterator[ImageFile]:
    with contextlib.ExitStack() as stack:
        try:
            archive = zipfile.ZipFile(stack.enter_context(_open(name)))
            stack.enter_context(archive)
        except READ_ERRORS as error:
            for _, member in members:
                yield ImageFile(f"{name}/{member}", f"unreadable: {error}")
            return
        for index, member in members:
            open_file = functools.partial(archive.open, archive.infolist()[index])
            yield ImageFile(f"{name}/{member}", _read(open_file))


def _match(pattern: str, limit: int | None = None) -> list[str]:
    return [file.path for file in FileSystems.match([pattern], [limit])[0].metadata_list]


def _open(name: str) -> IO[bytes]:
    if "://" not in name:
        require_file(Path(name))
    file: IO[bytes] = FileSystems.open(name, compression_type=CompressionTypes.UNCOMPRESSED)
    return file
