"""A lock so that only one process builds a dataset, and cleanup after killed builds."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def build_lock(dataset_dir: Path) -> Iterator[None]:
    """Waits until no other process builds the dataset, and excludes others meanwhile.

    The operating system releases the lock when its process ends for any reason. The
    `incomplete.*` folders beside the dataset therefore belong to killed builds, and are
    deleted.

    Args:
        dataset_dir: The folder of the finished dataset, named by its version.
    """
    folder = dataset_dir.parent
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{dataset_dir.name}.lock", thread_local=False)
    try:
        acquired = lock.acquire(timeout=0)
    except Timeout:
        print(f"Waiting for another process to build {dataset_dir}", file=sys.stderr)
        acquired = lock.acquire()
    with acquired:
        for incomplete in folder.glob(f"incomplete.*_{dataset_dir.name}"):
            shutil.rmtree(incomplete)
        yield
