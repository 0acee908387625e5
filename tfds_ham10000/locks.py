"""Locks between processes and free space, also on file systems without support for them."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""Error numbers of file systems without locks, such as some network file systems."""


def free_space(folder: Path) -> float:
    """Returns the number of free bytes; infinity if the file system does not report it.

    Raises:
        OSError: The directory does not exist.
    """
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return math.inf
    return usage.free if usage.total > 0 else math.inf  # some network drives report 0


@contextlib.contextmanager
def hold_lock(path: Path, on_busy: Callable[[str], None]) -> Iterator[None]:
    """Holds an exclusive lock on the file `path`, which is created and then removed.

    The lock is released when this process ends for any reason. If the file system does not
    support locks, a second file, with the suffix .pid, names this process, and a warning is
    printed. The file of a process that was killed on this machine is ignored; that of a
    process that was killed on another machine has to be deleted by hand.

    If another process holds the lock, `on_busy` is called with a hint for the user (or "").
    It may raise an error; otherwise the function waits.

    Raises:
        OSError: A file cannot be created.
    """
    lock: BaseFileLock = FileLock(path, thread_local=False, fallback_to_soft=False)
    hint = ""
    try:
        _acquire(lock, on_busy, hint)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        marker = path.with_name(f"{path.name}.pid")
        hint = f"If no other process uses the directory, delete {marker}."
        print(
            f"warning: the file system of {path.parent} does not support locks "
            f"({error.strerror}). The file {marker.name} is used instead. Do not use this "
            "directory from several machines at the same time.",
            file=sys.stderr,
        )
        lock = SoftFileLock(marker, thread_local=False)
        _acquire(lock, on_busy, hint)
    try:
        yield
    finally:
        if os.name == "posix":
            # Remove the file before the release: afterward, another process may hold the
            # lock. On Windows, the release removes it.
            path.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: BaseFileLock, on_busy: Callable[[str], None], hint: str) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_busy(hint)
        lock.acquire()
