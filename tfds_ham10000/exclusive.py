"""One build of a dataset at a time, and nothing left of those that were killed."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path


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
    # The file stays: were it removed, two processes could hold locks on two files.
    with (folder / f".{dataset_dir.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another process that builds {dataset_dir}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        for stale in folder.glob(f"incomplete.*_{dataset_dir.name}"):
            shutil.rmtree(stale)
        yield
