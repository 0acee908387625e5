"""Finding and reading image files in directories and zip archives.

The dataset builder and the prediction commands find images with the same functions, so that
they use the same files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Protocol
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED

import numpy as np
import numpy.typing as npt

from tfds_ham10000.records import SourceError, join_first

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff"),
)
ARCHIVE_SUFFIXES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz")
SYSTEM_NAMES = (
    *("__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "lost+found"),
)
"""Lower-case names that operating systems and file servers add to directories."""
HIDDEN = "hidden, or added by the operating system"
NO_SUFFIX = "no supported suffix"
ARCHIVE = "an archive"
LOOP = "a link to a directory that contains it"
BROKEN_LINK = "a broken link"
SPECIAL = "a pipe or device"
UNLISTED = "cannot be read"
MAX_BYTES = 30_000_000
"""Maximum size of an image file in bytes. Larger files are not read."""
TOO_LARGE = f"expected at most {MAX_BYTES} bytes"
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)
"""Errors that reading an archive can raise. `zipfile` raises RuntimeError if the archive is
encrypted or the compression is not supported."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""Beginning of the text file that replaces a file until `git lfs pull` is run."""
LFS_ADVICE = "a Git LFS pointer, whose content was not downloaded. Run: git lfs pull"
COMPRESSION_METHODS = (ZIP_STORED, ZIP_DEFLATED, ZIP_BZIP2, ZIP_LZMA)


@dataclass
class Found:
    """The files in a directory, and everything in it that is not used.

    Attributes:
        files: The sorted paths of the files with one of the requested suffixes.
        skipped: Why each other file or directory is not used, by path.
    """

    files: list[Path] = field(default_factory=list)
    skipped: dict[Path, str] = field(default_factory=dict)


def find_files(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> Found:
    """Returns the files with one of the suffixes at any depth of a directory.

    Hidden files and directories, those in `SYSTEM_NAMES`, pipes and devices are skipped.
    Links are followed, except to a directory that contains the link. A broken link with one
    of the suffixes, and a file without read permission, are among the files, so that
    reading them reports the reason.

    Args:
        folder: The directory. If it cannot be read, `files` is empty and `skipped` states
            why.
        suffixes: Lower-case suffixes of the files to find, such as ".jpg".
    """
    found = Found()
    pending: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while pending:
        path, parents = pending.pop()
        try:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in parents:
                found.skipped[path] = LOOP
                continue
            with os.scandir(path) as entries:
                names = [(entry.name, *_kind(entry)) for entry in entries]
        except OSError as error:
            found.skipped[path] = f"{UNLISTED} ({error.strerror})"
            continue
        for name, is_dir, is_special in names:
            reason = skip_reason(PurePath(name), suffixes) or (
                SPECIAL if is_special else ""
            )
            if is_dir and reason != HIDDEN:
                pending.append((path / name, parents | {identity}))
            elif not reason:
                found.files.append(path / name)
            elif reason == HIDDEN or os.path.exists(path / name):
                found.skipped[path / name] = reason
            else:
                found.skipped[path / name] = BROKEN_LINK
    found.files.sort()
    return found


def skip_reason(path: PurePath, suffixes: Collection[str] = IMAGE_SUFFIXES) -> str:
    """Returns why a file is not used, or "" for a file with one of the suffixes.

    A hidden file is not used, whatever its suffix. `path` is the path relative to the
    directory or archive that is searched.
    """
    hidden = (".", "~$")  # "~$" is a file with which Office locks another one
    if any(x.startswith(hidden) or x.lower() in SYSTEM_NAMES for x in path.parts):
        return HIDDEN
    suffix = path.suffix.lower()
    if suffix in suffixes:
        return ""
    return ARCHIVE if suffix in ARCHIVE_SUFFIXES else NO_SUFFIX


def find_members(
    archive: zipfile.ZipFile, suffixes: Collection[str] = IMAGE_SUFFIXES
) -> tuple[dict[int, PurePosixPath], dict[PurePosixPath, str]]:
    """Returns the files in an archive that are used, and those that are not.

    Returns:
        The path of each file with one of the suffixes that is not hidden, by its index in
        `archive.infolist()`; and why each other file is not used, by path.
    """
    files: dict[int, PurePosixPath] = {}
    skipped: dict[PurePosixPath, str] = {}
    for index, info in enumerate(archive.infolist()):
        # Some programs for Windows write backslashes, contrary to the ZIP specification.
        name = info.filename.replace("\\", "/")
        if name.endswith("/"):  # a directory
            continue
        path = PurePosixPath(name)
        if reason := skip_reason(path, suffixes):
            skipped[path] = reason
        else:
            files[index] = path
    return files, skipped


def describe_archive_problem(
    path: object, archive: zipfile.ZipFile, suffixes: Collection[str] = IMAGE_SUFFIXES
) -> str:
    """Returns why the files of an archive cannot be read and what to do, or "".

    The files cannot be read if the archive is encrypted, has a compression method that
    Python does not support, or contains archives instead of files with one of the suffixes.
    The text names `path`.
    """
    files, skipped = find_members(archive, suffixes)
    inner = [str(name) for name, reason in skipped.items() if reason == ARCHIVE]
    if inner and not files:
        return (
            f"{path} contains the archive(s) {join_first(inner)}, but no files with the "
            f"suffix {' or '.join(suffixes)}. Unpack {path}, and use the archive(s) in it."
        )
    members = [archive.infolist()[index] for index in files]
    problem = ""
    methods = {member.compress_type for member in members}
    if any(member.flag_bits & 1 for member in members):
        problem = "is encrypted"
    elif unsupported := sorted(methods.difference(COMPRESSION_METHODS)):
        name = "Deflate64" if unsupported == [9] else f"ZIP method {unsupported[0]}"
        problem = f"is compressed with {name}, which Python cannot read"
    if not problem:
        return ""
    return (
        f"{path} {problem}. Unpack it with another program, such as 7-Zip, and use the "
        "directory, or pack the directory again with the method Deflate."
    )


def describe_skipped(skipped: Mapping[str, str]) -> list[str]:
    """Returns a line for each reason in `skipped`, with the first names.

    `skipped` contains why each file or directory is not used, by name.
    """
    names_of = defaultdict(list)
    for name, reason in sorted(skipped.items()):
        names_of[reason].append(name)
    return [
        f"{len(names)} file(s) or directories were not used ({reason}): {join_first(names)}"
        for reason, names in sorted(names_of.items())
    ]


def printable(name: str | os.PathLike[str]) -> str:
    r"""Returns a file name; bytes that are not valid UTF-8 are escaped, as in `\xff`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def read_file(path: Path) -> bytes:
    """Returns the content of an image file.

    Raises:
        SourceError: The path is a directory, pipe or device, or the file is too large.
        OSError: The file cannot be read.
        ValueError: The path contains a null character.
    """
    require_file(path)
    if path.stat().st_size > MAX_BYTES:
        raise SourceError(TOO_LARGE)
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)  # The file may have grown.
    if len(content) > MAX_BYTES:
        raise SourceError(TOO_LARGE)
    return content


def require_file(path: Path) -> None:
    """Raises a `SourceError` if `path` exists, but is not a regular file.

    Opening a pipe blocks until it has a writer; a device can be endless. For a directory
    that cannot be listed, the error is the OSError that states why.
    """
    if path.exists() and not path.is_file():
        if path.is_dir():
            os.scandir(path).close()
        raise SourceError("expected a file. Received: a directory, pipe or device")


def is_lfs_pointer(path: Path) -> bool:
    """Returns whether a file is a Git LFS pointer; False if it cannot be read."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER
    return False


@contextlib.contextmanager
def open_npz(path: Path, fix: str) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """Yields the arrays of an .npz file, each of which is read when it is used.

    `fix` is a sentence for the error message that states how to get the file.

    Raises:
        SourceError: The file cannot be read, is not a valid .npz file, or lacks an array.
    """
    try:
        if is_lfs_pointer(path):
            raise SourceError(f"{path} is {LFS_ADVICE}")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except SourceError:
        raise
    # NumPy advises to allow pickle, which executes code, and returns the array of a .npy.
    except (ValueError, KeyError, TypeError, *ARCHIVE_ERRORS) as error:
        cause = getattr(error, "strerror", None)
        problem = f"cannot be read: {cause}" if cause else "is not a valid .npz file"
        raise SourceError(f"{path} {problem}. {fix}") from error


class Images(Protocol):
    """Encoded images by image_id."""

    def read(self, image_id: str) -> bytes:
        """Returns the bytes of an image file.

        Raises:
            SourceError: The file cannot be read.
        """
        ...


class ImageFiles:
    """The image files in zip archives and directories, by image_id.

    Attributes:
        skipped: Why each other file or directory is not used, by name. The name starts with
            that of the archive or directory in `paths`.
    """

    def __init__(
        self,
        paths: Iterable[Path] = (),
        *,
        make_id: Callable[[PurePosixPath], str] = lambda path: path.stem,
    ):
        r"""Lists the image files at any depth of archives and directories.

        See `find_files` for the files that are skipped. Backslashes in the names in an
        archive separate directories.

        Args:
            paths: Zip archives and directories.
            make_id: Returns the image_id for the path of a file in an archive or directory;
                by default, the file name without the suffix. In a directory, bytes of the
                path that are not valid UTF-8 are escaped, as in `\xff`.

        Raises:
            SourceError: A path is neither a zip archive nor a directory, an archive cannot
                be read, or two files have the same image_id.
        """
        self._files: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo] | Path] = {}
        self._names: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        for path in paths:
            for name, file in self._list(path):
                image_id = make_id(PurePosixPath(name))
                if image_id in self._files:
                    raise SourceError(
                        f"The image {image_id!r} occurs twice, as {self._names[image_id]} "
                        f"and {path}/{name}. Remove one of them."
                    )
                self._files[image_id], self._names[image_id] = file, f"{path}/{name}"

    @property
    def image_ids(self) -> set[str]:
        """The image_ids of all files."""
        return set(self._files)

    def add(self, other: ImageFiles) -> None:
        """Adds the files of `other`, which must have different image_ids."""
        self._files.update(other._files)
        self._names.update(other._names)
        self.skipped.update(other.skipped)

    def size(self, image_id: str) -> int:
        """Returns the size of an image file in bytes; 0 if it cannot be determined."""
        file = self._files[image_id]
        if isinstance(file, tuple):
            return file[1].file_size
        try:
            return file.stat().st_size
        except OSError:
            return 0

    def read(self, image_id: str) -> bytes:
        """Returns the bytes of an image file. This method is thread-safe.

        Raises:
            SourceError: The file is larger than 30 MB, is a pipe or device, or cannot be
                read.
        """
        file = self._files[image_id]
        if (size := self.size(image_id)) > MAX_BYTES:
            raise SourceError(f"{size} bytes, expected at most {MAX_BYTES} bytes")
        try:
            if isinstance(file, tuple):
                archive, member = file
                return archive.read(member)
            return read_file(file)
        except ARCHIVE_ERRORS as error:
            raise SourceError(f"cannot be read ({error})") from error

    def identical(self) -> list[list[str]]:
        """Returns the sorted image_ids of each group of byte-identical files.

        Only files whose size occurs several times are read. Files that cannot be read are
        omitted.
        """
        of_size, same = defaultdict(list), defaultdict(list)
        for image_id in self.image_ids:
            of_size[self.size(image_id)].append(image_id)
        for image_ids in of_size.values():
            for image_id in image_ids if len(image_ids) > 1 else ():
                with contextlib.suppress(SourceError):
                    digest = hashlib.sha256(self.read(image_id)).digest()
                    same[digest].append(image_id)
        return sorted(sorted(ids) for ids in same.values() if len(ids) > 1)

    def _list(
        self, path: Path
    ) -> Iterator[tuple[str, tuple[zipfile.ZipFile, zipfile.ZipInfo] | Path]]:
        """Yields the name and location of each image file in an archive or directory."""
        if path.is_dir():
            found = find_files(path)
            self.skipped |= {
                printable(path.name / name.relative_to(path)): reason
                for name, reason in found.skipped.items()
            }
            for file in found.files:
                yield printable(file.relative_to(path).as_posix()), file
            return
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise SourceError(
                f"{path} is not a valid zip archive: {error}. Download it again."
            ) from error
        if problem := describe_archive_problem(path, archive):
            raise SourceError(problem)
        members, skipped = find_members(archive)
        self.skipped |= {str(path.name / name): reason for name, reason in skipped.items()}
        for index, name in members.items():
            yield str(name), (archive, archive.infolist()[index])


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Returns whether an entry is a directory, and whether it is a pipe or device."""
    try:
        is_dir = entry.is_dir()
        return is_dir, not is_dir and not entry.is_file() and os.path.exists(entry.path)
    except OSError:  # a link to itself
        return False, False
