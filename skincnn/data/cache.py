"""Cache of decoded images, in memory or in a file that later runs reuse."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import psutil

from skincnn.files import replacing
from skincnn.lookup import look_up
from skincnn.write_errors import explain_write_errors

Images = npt.NDArray[np.uint8]
"""Images [num_images, height, width, 3] in 0..255."""
Fill = Callable[[Images], None]
"""Function that writes images into the array that it receives."""
Cache = Literal["auto", "memory", "disk"]
"""Where images are kept; see `cached_images`."""

ALIGNMENT = 64
"""Memory alignment, in bytes, that TensorFlow requires to share an array."""
CGROUP = Path("/sys/fs/cgroup")
"""Directory of the limits of the container, on Linux."""
CGROUP_MEMORY = (
    ("memory.max", "memory.current", "memory.stat"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
    ),
)
"""Files in `CGROUP`, in versions 2 and 1: the memory limit, the usage and its parts."""
MEMORY_SHARE = 0.5
"""Share of the available memory above which "auto" caches images on disk."""
STALE_SECONDS = 24 * 3600
"""Age from which a temporary file is assumed to be left over from a killed process."""


def cached_images(
    path: Path, shape: tuple[int, int, int, int], fill: Fill, cache: Cache
) -> Images:
    """Returns an array of images, read from the cache file or computed by `fill`.

    Args:
        path: The .npy cache file. Its name must identify the images.
        shape: [num_images, height, width, 3].
        fill: Writes all images into the array that it receives. Its exceptions are passed
            on, except system errors, such as a full disk, while the cache file is written.
        cache: Where to keep the images. "memory": in memory. "disk": in the file, which
            is written if it is missing or damaged. "auto": in the file if it is complete or
            if the images require more than half of the available memory, which the limit
            of a container reduces; otherwise in memory.

    Returns:
        uint8 array of `shape`, with aligned memory that TensorFlow can share. Changes to
        the array are not written to the file.

    Raises:
        ConfigError: `cache` is not valid, or the cache file is needed and cannot be
            written.
    """
    look_up(dict.fromkeys(get_args(Cache)), cache, "`cache`")
    if cache != "memory":
        images = _open(path, shape)
        if images is not None:
            return images
        too_large = math.prod(shape) > MEMORY_SHARE * _available_memory()
        if cache == "disk" or too_large:
            _write(path, shape, fill)
            return np.load(path, mmap_mode="c")
    empty: Images = empty_array(shape, np.uint8)
    fill(empty)
    return empty


def empty_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Returns an array of zeros whose memory TensorFlow can share.

    Unlike an array of `np.empty`, it has page-aligned memory, which is returned to the
    operating system as soon as the array is deleted.
    """
    count = math.prod(shape)
    memory = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1))
    return np.frombuffer(memory, dtype, count).reshape(shape)


def _available_memory() -> int:
    """Returns the available memory in bytes, at most that of the container."""
    available = int(psutil.virtual_memory().available)
    for names in CGROUP_MEMORY:
        # A ValueError means that there is no limit ("max").
        with contextlib.suppress(OSError, ValueError):
            limit, usage, parts = ((CGROUP / name).read_text() for name in names)
            # The usage includes cached files, which the system drops if necessary.
            cached = re.search(r"^inactive_file (\d+)$", parts, re.MULTILINE)
            free = int(limit) - int(usage) + (int(cached[1]) if cached else 0)
            available = min(available, free)
    return available


def _open(path: Path, shape: tuple[int, ...]) -> Images | None:
    """Returns the array in a file; None if it is missing, damaged or of another shape."""
    try:
        # Copy-on-write: DLPack shares only writable arrays with TensorFlow.
        images = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    # NumPy accepts a file that is longer than its array.
    complete = path.stat().st_size == images.offset + images.nbytes
    if images.shape != shape or images.dtype != np.uint8 or not complete:
        return None
    return images


def _write(path: Path, shape: tuple[int, ...], fill: Fill) -> None:
    size = math.prod(shape) / 2**20
    advice = (
        f"It requires {size:.0f} MiB of disk space in --data-dir. --cache memory requires "
        "no disk space."
    )
    with explain_write_errors(f"The image cache {path}", advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with replacing(path) as temporary:
            images = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            _allocate(temporary)
            fill(images)
            images.flush()
            del images  # Windows does not rename a file that is mapped into memory.


def _allocate(path: Path) -> None:
    """Reserves disk space for a sparse file, if the system offers `posix_fallocate`.

    Without the reservation, a full disk would cause SIGBUS.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _remove_stale(folder: Path) -> None:
    """Removes the temporary files of killed processes: those more than a day old."""
    for path in folder.glob(".tmp-*"):
        # Another process may have renamed the file or, on Windows, may use it.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
