"""Reads and predicts batches of image files in background threads."""

from __future__ import annotations

import concurrent.futures
import stat
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from skincnn.serving.images import MAX_BYTES, TOO_LARGE
from skincnn.serving.predictor import Predictor, predict_files
from skincnn.serving.tables import select_clinical_metadata
from tfds_ham10000.image_files import printable

NUM_IN_FLIGHT = 2
"""Number of batches that are read or predicted ahead of the batch in use."""


@dataclass(frozen=True)
class Batch:
    """A batch of files with their predictions.

    Attributes:
        contents: Content of each file, or the reason why it could not be read.
        clinical_metadata: Table of the `CLINICAL_COLUMNS`, one row per file.
        table: The result of `predict_files`.
    """

    contents: list[bytes | str]
    clinical_metadata: pd.DataFrame
    table: pd.DataFrame


def predict_batches(
    predictor: Predictor,
    paths: Sequence[Path],
    batch_size: int,
    clinical_metadata: pd.DataFrame | None = None,
) -> Generator[Batch, None, None]:
    """Yields the batches in order, and predicts later batches in the background.

    Up to `NUM_IN_FLIGHT` later batches are read or predicted at a time. `clinical_metadata`
    is the result of `serving.tables.read_clinical_metadata`.
    """

    def predict(start: int) -> Batch:
        part = paths[start : start + batch_size]
        contents = [read_file(path) for path in part]
        names = [Path(printable(path)) for path in part]
        rows = select_clinical_metadata(names, clinical_metadata)
        return Batch(contents, rows, predict_files(predictor, names, contents, rows))

    starts = range(0, len(paths), batch_size)
    with concurrent.futures.ThreadPoolExecutor(NUM_IN_FLIGHT) as executor:
        futures = [executor.submit(predict, start) for start in starts[:NUM_IN_FLIGHT]]
        for number in range(len(starts)):
            batch = futures.pop(0).result()
            later = starts[number + NUM_IN_FLIGHT :][:1]
            futures += [executor.submit(predict, start) for start in later]
            yield batch


def read_file(path: Path) -> bytes | str:
    """Returns the content of a file, or the reason why it cannot be read.

    A file larger than `MAX_BYTES` is not read.
    """
    try:
        status = path.stat()
        # Opening a pipe blocks until it has a writer; a device reports a size of 0.
        if not stat.S_ISREG(status.st_mode):
            return "unreadable: expected a file. Received: a directory, pipe or device"
        if status.st_size > MAX_BYTES:
            return TOO_LARGE
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # The file may have grown.
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        return f"unreadable: {getattr(error, 'strerror', None) or error}"
    return content if len(content) <= MAX_BYTES else TOO_LARGE
