"""Where decoded pictures are kept: in memory, or in a file that later runs use again."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil

from skincnn.errors import ConfigError
from skincnn.files import replacing

Images = npt.NDArray[np.uint8]
"""Pictures [num_images, height, width, 3] in 0..255."""
Fill = Callable[[Images], None]
Cache = Literal["auto", "memory", "disk"]

ALIGNMENT = 64
"""Bytes to a multiple of which TensorFlow wants memory to begin."""
MEMORY_SHARE = 0.5
"""Share of the available memory that pictures may take before they go to a file."""
STALE_SECONDS = 24 * 3600


def cached_images(
    path: Path, shape: tuple[int, int, int, int], fill: Fill, cache: Cache
) -> Images:
    """Returns an array of pictures, made by `fill` or found in a file.

    Args:
        path: The .npy file that holds, or is to hold, these very pictures: its name says
            what made them.
        shape: [num_images, height, width, 3].
        fill: Writes every picture into the array that it is given.
        cache: "memory" makes the pictures in memory; "disk" uses the file, and makes it
            first where it is missing or damaged; "auto" uses the file where it is there,
            else memory where the pictures take at most half of what is available, else
            the file.

    Returns:
        An array whose memory is aligned, so that TensorFlow can share it. What is
        written to one that comes from a file stays in memory.

    Raises:
        ConfigError: The file cannot be written.
    """
    if cache != "memory":
        images = _open(path, shape)
        if images is not None:
            return images
        if cache == "disk" or not _fits(shape):
            _write(path, shape, fill)
            return np.load(path, mmap_mode="c")
    empty: Images = empty_array(shape, np.uint8)
    fill(empty)
    return empty


def empty_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Returns an array of zeros whose memory TensorFlow can share.

    It begins at a page, which memory of `np.empty` does not, and goes back to the system
    as soon as it is let go.
    """
    count = int(np.prod(shape, dtype=np.int64))
    memory = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1))
    return np.frombuffer(memory, dtype, count).reshape(shape)


def _num_bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _fits(shape: tuple[int, ...]) -> bool:
    return _num_bytes(shape) <= MEMORY_SHARE * psutil.virtual_memory().available


def _open(path: Path, shape: tuple[int, ...]) -> Images | None:
    """Returns the array in a file, or None where there is none of exactly this shape."""
    try:
        # Copy on write: DLPack, by which TensorFlow shares it, wants a writable array.
        images = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    # A file that was cut cannot be mapped; one that is too long is not ours.
    whole = path.stat().st_size == images.offset + images.nbytes
    if images.shape != shape or images.dtype != np.uint8 or not whole:
        return None
    return images


def _write(path: Path, shape: tuple[int, ...], fill: Fill) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with replacing(path) as temporary:
            _reserve(temporary, shape)
            images = np.load(temporary, mmap_mode="r+")
            fill(images)
            images.flush()
    except OSError as error:
        raise ConfigError(
            f"The pictures could not be kept in {path}: {error}. Expected "
            f"{_num_bytes(shape) / 2**20:.0f} MiB to be free there. Give another "
            "--data-dir, or --cache memory."
        ) from error


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """Writes an .npy file whose space on the disk is certain.

    Writing to a mapped file on a full disk would kill the process (SIGBUS).
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        size = file.tell() + _num_bytes(shape)
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _remove_stale(folder: Path) -> None:
    """Removes what killed processes left half-written a day ago or earlier."""
    for path in folder.glob(".tmp-*"):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            path.unlink(missing_ok=True)
