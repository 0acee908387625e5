"""The images of a table: in directories, zip archives and HDF5 files, or arrays."""

from __future__ import annotations

import functools
import io
import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from tfds_ham10000.image_files import (
    IMAGE_SUFFIXES,
    MAX_BYTES,
    ImageFiles,
    find_files,
    printable,
)
from tfds_ham10000.records import SourceError

HDF5_SUFFIXES = (".hdf5", ".h5")
ABSOLUTE = re.compile(r"([A-Za-z]:)?/")
"""The beginning of an absolute path of any operating system, with forward slashes."""


class StoredImage(Protocol):
    """An image in an HDF5 file or in an array."""

    @property
    def num_bytes(self) -> int:
        """The size in bytes."""
        ...

    def read(self) -> bytes:
        """Returns the bytes of an image file. This method is thread-safe.

        Raises:
            SourceError: The file cannot be read.
        """
        ...


@dataclass(frozen=True)
class ArrayImage:
    """An image without compression: uint8 [height, width, 3]; `read` encodes it as PNG."""

    array: npt.NDArray[np.uint8]

    @property
    def num_bytes(self) -> int:
        """The size of the array in bytes."""
        return self.array.nbytes

    def read(self) -> bytes:
        """Returns a PNG file."""
        buffer = io.BytesIO()
        Image.fromarray(self.array).save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True)
class _Hdf5Image:
    file: h5py.File
    name: bytes

    @property
    def num_bytes(self) -> int:
        return int(h5py.h5d.open(self.file.id, self.name).get_storage_size())

    def read(self) -> bytes:
        try:
            value = self.file[self.name][()]
        except (OSError, RuntimeError) as error:
            raise SourceError(f"cannot be read ({error})") from error
        return value if isinstance(value, bytes) else np.asarray(value).tobytes()


class TableImages(ImageFiles):
    """The images that the rows of a table name, by image_id."""

    def __init__(self, folder: Path, stored: Mapping[str, StoredImage], other: str = ""):
        """Lists the images at any depth of a directory, and of the archives in it.

        An archive is a zip archive, or an HDF5 file with one dataset per image: the bytes
        of the image file as a scalar, as in ISIC 2024, or as an array of uint8. `skipped`
        is that of `ImageFiles`, without these archives.

        Args:
            folder: The directory.
            stored: Further images, by name. These images, and those in HDF5 files, are
                ignored if an image file in a directory or zip archive has the same name,
                whatever its directory, suffix and case.
            other: Regular expression of the names, without a suffix and ignoring case, of
                images that do not count as `unused`, such as masks.

        Raises:
            SourceError: An archive cannot be read, or has two files with the same path.
        """
        super().__init__()
        self._inside = ImageFiles([folder], make_id=str)
        self._other = re.compile(other, re.IGNORECASE) if other else None
        arrays: dict[str, StoredImage] = dict(stored)
        self._key_of: dict[str, str] = {}
        archives = find_files(folder, (".zip", *HDF5_SUFFIXES)).files
        for path in archives:
            prefix = path.relative_to(folder).as_posix()
            if path.suffix.lower() == ".zip":
                self._inside.add(ImageFiles([path], make_id=_below(prefix)))
            else:
                arrays |= _hdf5_images(path, prefix)
        stems = {_stem(key) for key in self._inside.image_ids}
        self._arrays = {k: image for k, image in arrays.items() if _stem(k) not in stems}
        read = {printable(folder.name / path.relative_to(folder)) for path in archives}
        self.skipped = {
            name: reason
            for name, reason in self._inside.skipped.items()
            if name not in read
        }

    @property
    def image_ids(self) -> set[str]:
        """The image_ids that `select` assigned."""
        return set(self._key_of)

    @property
    def unused(self) -> list[str]:
        """The sorted paths of images that `select` did not assign, except `other` ones."""
        unused = self._keys().difference(self._key_of.values())
        if self._other is not None:
            unused = {key for key in unused if not self._other.fullmatch(_stem(key))}
        return sorted(unused)

    def named_twice(self) -> list[str]:
        """Returns the paths of the images that several image_ids refer to."""
        counts = Counter(self._key_of.values())
        return sorted(key for key, count in counts.items() if count > 1)

    def relative(self, cells: pd.Series) -> tuple[pd.Series, list[str]]:
        """Shortens absolute paths, such as those of another computer, to match the images.

        The first directories, as far as all paths have them in common, are removed one by
        one, until one of the first 100 paths matches an image. The cells are unchanged if
        one of them is not an absolute path, or if none of these 100 paths matches.

        Returns:
            The cells; and a list that is empty, or contains a note on the removed
            directories.
        """
        paths = cells.str.replace("\\", "/")
        if not paths.str.match(ABSOLUTE).all():
            return cells, []
        directories = [path.split("/")[:-1] for path in paths]
        same = itertools.takewhile(
            lambda names: len(set(names)) == 1, zip(*directories, strict=False)
        )
        ignored = ""
        for names in same:
            ignored += f"{names[0]}/"
            if any(self._find(path.removeprefix(ignored)) for path in paths[:100]):
                note = f"{ignored} at the beginning of all paths in the table is ignored"
                return paths.str.removeprefix(ignored), [note]
        return cells, []

    def select(self, cells: Iterable[str]) -> dict[str, list[str]]:
        """Finds the image of each cell; `image_id_of(cell)` becomes its image_id.

        A cell is the name of a file, or the end of its path. Case and the suffix of an
        image are ignored, unless several images match and some of them match exactly.

        Returns:
            The paths of the matching images, for each cell that does not match exactly one.
        """
        problems: dict[str, list[str]] = {}
        for cell in cells:
            keys = self._find(cell)
            if len(keys) > 1:
                exact = [key for key in keys if f"/{key}".endswith(f"/{cell}")]
                keys = exact or keys
            if len(keys) == 1:
                self._key_of[image_id_of(cell)] = keys[0]
            else:
                problems[cell] = sorted(keys)
        return problems

    def size(self, image_id: str) -> int:
        """Returns the size of an image in bytes; 0 if its file cannot be read."""
        key = self._key_of[image_id]
        if key in self._arrays:
            return self._arrays[key].num_bytes
        return self._inside.size(key)

    def read(self, image_id: str) -> bytes:
        """Returns the bytes of an image file. This method is thread-safe.

        Raises:
            SourceError: The image is larger than 30 MB, is a pipe or device, or cannot be
                read.
        """
        key = self._key_of[image_id]
        if key not in self._arrays:
            return self._inside.read(key)
        if (size := self._arrays[key].num_bytes) > MAX_BYTES:
            raise SourceError(f"{size} bytes, expected at most {MAX_BYTES} bytes")
        return self._arrays[key].read()

    def _find(self, cell: str) -> list[str]:
        """Returns the paths of all images that match a cell."""
        end = f"/{match_key(cell)}"
        keys = self._keys_of.get(_stem(cell), [])
        return [key for key in keys if f"/{match_key(key)}".endswith(end)]

    @functools.cached_property
    def _keys_of(self) -> dict[str, list[str]]:
        """The paths of all images by name without suffix."""
        keys_of = defaultdict(list)
        for key in self._keys():
            keys_of[_stem(key)].append(key)
        return keys_of

    def _keys(self) -> set[str]:
        return self._inside.image_ids | self._arrays.keys()


def image_id_of(cell: str) -> str:
    """Returns the path in a cell, with forward slashes and without an image suffix.

    Dots and slashes at the beginning, as in `../images/a.jpg`, are removed.
    """
    path = cell.replace("\\", "/").lstrip("./")
    stem, dot, suffix = path.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else path


def match_key(cell: str) -> str:
    """Returns `image_id_of(cell)` in a form that ignores case and Unicode normalization.

    macOS stores "é" as two characters in the names of files.
    """
    return unicodedata.normalize("NFC", image_id_of(cell)).lower()


def _below(prefix: str) -> Callable[[PurePosixPath], str]:
    return lambda path: f"{prefix}/{path}"


def _stem(path: str) -> str:
    return PurePosixPath(match_key(path)).name


def _hdf5_images(path: Path, prefix: str) -> dict[str, StoredImage]:
    """Returns the datasets at any depth of an HDF5 file, by path."""
    found: dict[str, StoredImage] = {}

    def visit(name: bytes, info: Any) -> None:
        if info.type == h5py.h5o.TYPE_DATASET:
            found[f"{prefix}/{name.decode(errors='replace')}"] = _Hdf5Image(file, name)

    try:
        file = h5py.File(path)
        # Six times as fast as `file.visititems`, which matters for 400,000 images.
        h5py.h5o.visit(file.id, visit, info=True)
    except (OSError, RuntimeError) as error:
        raise SourceError(f"{path} is not a valid HDF5 file: {error}.") from error
    return found
