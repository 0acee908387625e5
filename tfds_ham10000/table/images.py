"""The images of a table: in directories, zip archives and HDF5 files."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from tfds_ham10000.image_files import (
    IMAGE_SUFFIXES,
    MAX_BYTES,
    ImageFiles,
    find_files,
    printable,
)
from tfds_ham10000.records import SourceError

HDF5_SUFFIXES = (".hdf5", ".h5")


class TableImages(ImageFiles):
    """The images that the rows of a table name, by image_id."""

    def __init__(self, folder: Path):
        """Lists the images at any depth of a directory, and of the archives in it.

        An archive is a zip archive, or an HDF5 file with one dataset per image: the bytes
        of the image file as a scalar, as in ISIC 2024, or as an array of uint8. `skipped`
        contains the files that are neither images nor archives.

        Raises:
            SourceError: An archive cannot be read.
        """
        super().__init__()
        self._inside = ImageFiles([folder], make_id=str)
        self._arrays: dict[str, h5py.Dataset] = {}
        self._key_of: dict[str, str] = {}
        archives = find_files(folder, (".zip", *HDF5_SUFFIXES)).files
        for path in archives:
            prefix = path.relative_to(folder).as_posix()
            if path.suffix.lower() == ".zip":
                self._inside.add(ImageFiles([path], make_id=_below(prefix)))
            else:
                self._arrays |= _datasets(path, prefix)
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
        """The sorted paths of the images that no cell names."""
        return sorted(self._keys().difference(self._key_of.values()))

    def named_twice(self) -> list[str]:
        """Returns the paths of the images that several image_ids refer to."""
        counts = Counter(self._key_of.values())
        return sorted(key for key, count in counts.items() if count > 1)

    def select(self, cells: Iterable[str]) -> dict[str, list[str]]:
        """Finds the image of each cell; `image_id_of(cell)` becomes its image_id.

        A cell is the name of a file, or the end of its path. The suffix may be missing, and
        case is ignored.

        Returns:
            The paths of the matching images, for each cell that does not match exactly one.
        """
        keys_of = defaultdict(list)
        for key in self._keys():
            keys_of[_stem(key)].append(key)
        problems: dict[str, list[str]] = {}
        for cell in cells:
            end = f"/{match_key(cell)}"
            keys = [k for k in keys_of[_stem(cell)] if f"/{match_key(k)}".endswith(end)]
            if len(keys) > 1:
                exact = [key for key in keys if f"/{key}".endswith(f"/{cell}")]
                keys = exact or keys
            if len(keys) == 1:
                self._key_of[image_id_of(cell)] = keys[0]
            else:
                problems[cell] = sorted(keys)
        return problems

    def size(self, image_id: str) -> int:
        """Returns the size of an image file in bytes."""
        key = self._key_of[image_id]
        return (
            int(self._arrays[key].nbytes) if key in self._arrays else self._inside.size(key)
        )

    def read(self, image_id: str) -> bytes:
        """Returns the bytes of an image file. This method is thread-safe.

        Raises:
            SourceError: The file is larger than 30 MB or cannot be read.
        """
        key = self._key_of[image_id]
        if key not in self._arrays:
            return self._inside.read(key)
        if self._arrays[key].nbytes > MAX_BYTES:
            raise SourceError(f"more than {MAX_BYTES} bytes")
        try:
            value = self._arrays[key][()]
        except (OSError, RuntimeError) as error:
            raise SourceError(f"cannot be read ({error})") from error
        return value if isinstance(value, bytes) else np.asarray(value).tobytes()

    def _keys(self) -> set[str]:
        return self._inside.image_ids | self._arrays.keys()


def image_id_of(cell: str) -> str:
    """Returns the path in a cell, with forward slashes and without an image suffix."""
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


def _datasets(path: Path, prefix: str) -> dict[str, h5py.Dataset]:
    """Returns the datasets at any depth of an HDF5 file, by path."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[f"{prefix}/{name}"] = item

    try:
        h5py.File(path).visititems(visit)
    except (OSError, RuntimeError) as error:
        raise SourceError(f"{path} is not a valid HDF5 file: {error}.") from error
    return found
