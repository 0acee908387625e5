"""Access to the source image files, in zip archives and directories."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import Protocol

from tfds_ham10000.records import SourceError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")
MAX_BYTES = 30_000_000
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)
"""Errors that reading an archive can raise. `zipfile` raises RuntimeError if the archive is
encrypted or the compression is not supported."""


class Images(Protocol):
    """Encoded images by image_id."""

    def read(self, image_id: str) -> bytes:
        """Returns the bytes of an image file."""
        ...


class ImageFiles:
    """The image files in zip archives and directories, by image_id."""

    def __init__(
        self,
        paths: Iterable[Path] = (),
        *,
        make_id: Callable[[PurePosixPath], str] = lambda path: path.stem,
    ):
        """Lists the image files at any depth of archives and directories.

        Args:
            paths: Zip archives and directories.
            make_id: Returns the image_id for the path of a file in an archive or directory.

        Raises:
            SourceError: A path is neither a zip archive nor a directory, or two files have
                the same image_id.
        """
        self._files: dict[str, tuple[zipfile.ZipFile | Path, str]] = {}
        for path in paths:
            for container, member in _list(path):
                image_id = make_id(PurePosixPath(member))
                if image_id in self._files:
                    raise SourceError(
                        f"{path}: the image {image_id!r} occurs twice, as "
                        f"{self._files[image_id][1]} and {member}. Remove one of them."
                    )
                self._files[image_id] = (container, member)

    @property
    def image_ids(self) -> set[str]:
        """The image_ids of all files."""
        return set(self._files)

    def add(self, other: ImageFiles) -> None:
        """Adds the files of `other`, which must have different image_ids."""
        self._files.update(other._files)

    def size(self, image_id: str) -> int:
        """Returns the size of an image file in bytes."""
        container, member = self._files[image_id]
        if isinstance(container, zipfile.ZipFile):
            return container.getinfo(member).file_size
        return (container / member).stat().st_size

    def read(self, image_id: str) -> bytes:
        """Returns the bytes of an image file. This method is thread-safe.

        Raises:
            SourceError: The file is larger than 30 MB or cannot be read.
        """
        container, member = self._files[image_id]
        try:
            if (size := self.size(image_id)) > MAX_BYTES:
                raise SourceError(f"{size} bytes, expected at most {MAX_BYTES} bytes")
            if isinstance(container, zipfile.ZipFile):
                return container.read(member)
            return (container / member).read_bytes()
        except ARCHIVE_ERRORS as error:
            raise SourceError(f"cannot be read ({error})") from error


def has_suffix(path: PurePath, suffixes: Collection[str] = IMAGE_SUFFIXES) -> bool:
    """Returns whether a file has one of `suffixes`, ignoring case, and is not hidden."""
    # In archives, macOS adds a hidden metadata file for each file, __MACOSX/._name.
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def _list(path: Path) -> Iterator[tuple[zipfile.ZipFile | Path, str]]:
    """Yields the archive or directory of each image file, and the path inside it."""
    if path.is_dir():
        members = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
        yield from ((path, p.as_posix()) for p in members if has_suffix(p))
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(
            f"{path} is not a valid zip archive: {error}. Download it again."
        ) from error
    for name in archive.namelist():
        if has_suffix(PurePosixPath(name)):
            yield archive, name
