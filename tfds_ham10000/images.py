"""Where the picture files are: in zip archives, in folders, or in both."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from tfds_ham10000.records import SourceError, some

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")
MAX_BYTES = 30_000_000


class Images(Protocol):
    """Pictures by image_id."""

    def read(self, image_id: str) -> bytes:
        """Returns a picture's file."""
        ...


class ImageFiles:
    """The picture files of some zip archives and folders, by image_id."""

    def __init__(
        self,
        paths: Iterable[Path] = (),
        *,
        name: Callable[[PurePosixPath], str] = lambda path: path.stem,
    ):
        """Lists the picture files, at any depth; reads none.

        Args:
            paths: Zip archives and folders.
            name: Makes an image_id of the path below the folder or inside the archive.

        Raises:
            SourceError: A path is neither, or two files share an image_id.
        """
        self._files: dict[str, tuple[zipfile.ZipFile | Path, str]] = {}
        for path in paths:
            for place, member in _list(path):
                image_id = name(PurePosixPath(member))
                if image_id in self._files:
                    raise SourceError(
                        f"{path}: the picture {image_id!r} is there twice: "
                        f"{self._files[image_id][1]} and {member}. Expected each picture "
                        "once; remove one of them."
                    )
                self._files[image_id] = (place, member)

    @property
    def image_ids(self) -> set[str]:
        """The image_id of each picture."""
        return set(self._files)

    def add(self, others: ImageFiles) -> None:
        """Adds the files of `others`.

        Raises:
            SourceError: An image_id is in both.
        """
        shared = sorted(self.image_ids & others.image_ids)
        if shared:
            raise SourceError(
                f"{len(shared)} picture(s) are in two of the splits: {some(shared)}. "
                "Expected each picture in one."
            )
        self._files.update(others._files)

    def size(self, image_id: str) -> int:
        """Returns the number of bytes of a picture's file."""
        place, member = self._files[image_id]
        if isinstance(place, zipfile.ZipFile):
            return place.getinfo(member).file_size
        return (place / member).stat().st_size

    def read(self, image_id: str) -> bytes:
        """Returns a picture's file as it is. May be called from several threads.

        Raises:
            SourceError: It is larger than 30 MB, or it cannot be read.
        """
        place, member = self._files[image_id]
        try:
            if (size := self.size(image_id)) > MAX_BYTES:
                raise SourceError(f"{size} bytes, expected at most {MAX_BYTES}")
            if isinstance(place, zipfile.ZipFile):
                return place.read(member)
            return (place / member).read_bytes()
        # zlib: damaged; RuntimeError: encrypted; NotImplementedError: unknown compression.
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            EOFError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise SourceError(f"cannot be read ({error})") from error


def check_same_pictures(image_ids: Iterable[str], images: ImageFiles, where: str) -> None:
    """Checks that a table and the files name the same pictures.

    Raises:
        SourceError: They do not; tells the first ten of each kind, and how many.
    """
    listed = set(image_ids)
    messages = [
        f"{len(ids)} picture(s) are {what}: {some(sorted(ids))}."
        for what, ids in (
            ("in the table but not among the files", listed - images.image_ids),
            ("among the files but not in the table", images.image_ids - listed),
        )
        if ids
    ]
    if messages:
        raise SourceError(
            f"{where}: {' '.join(messages)} Expected the same pictures in both; "
            "download what is missing again."
        )


def _list(path: Path) -> Iterator[tuple[zipfile.ZipFile | Path, str]]:
    """Yields the archive or folder, and the path in it, of each picture."""
    if path.is_dir():
        members = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
        yield from ((path, p.as_posix()) for p in members if is_picture(p))
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(
            f"{path} is not a zip archive ({error}). Download it again."
        ) from error
    for name in archive.namelist():
        if is_picture(PurePosixPath(name)):
            yield archive, name


def is_picture(path: PurePosixPath | Path) -> bool:
    """Returns whether a file's name is that of a picture that is not hidden."""
    # macOS adds hidden copies of each file under __MACOSX/._name.
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
