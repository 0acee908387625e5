"""One build of a dataset at a time, and nothing left of those that were killed."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def exclusive(dataset_dir: Path) -> Iterator[None]:
    """Waits until no other process builds a dataset, then keeps others from building it.

    The lock is the kernel's and dies with its process, however that ends. Whoever holds it
    therefore knows that the `incomplete.*` folders beside the dataset have no owner, and
    removes them.

    Args:
        dataset_dir: Where the finished dataset will lie, a folder named by its version.
    """
    folder = dataset_dir.parent
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{dataset_dir.name}.lock", thread_local=False)
    try:
        acquired = lock.acquire(timeout=0)
    except Timeout:
        print(f"Waiting for another process that builds {dataset_dir}", file=sys.stderr)
        acquired = lock.acquire()
    with acquired:
        for stale in folder.glob(f"incomplete.*_{dataset_dir.name}"):
            shutil.rmtree(stale)
        yield
