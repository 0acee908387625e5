"""Reads and predicts batches of image files in background threads."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from skincnn.serving.predictor import Predictor, predict_files
from skincnn.serving.tables import select_clinical_metadata
from tfds_ham10000 import image_files
from tfds_ham10000.image_files import printable

NUM_IN_FLIGHT = 2
"""Number of batches that are read or predicted ahead of the batch in use."""


@dataclass(frozen=True)
class Batch:
    """A batch of files and their predictions.

    Attributes:
        contents: Content of each file, or the reason why it could not be read.
        clinical_metadata: Table of the `CLINICAL_COLUMNS`, one row per file.
        table: The predictions; see `predict_files`.
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
    """Yields the batches of files in order; see `predict_sources`.

    `clinical_metadata` is the result of `serving.tables.read_clinical_metadata`.
    """
    names = [Path(printable(path)) for path in paths]
    rows = select_clinical_metadata(names, clinical_metadata)
    reads = [functools.partial(read_file, path) for path in paths]
    return predict_sources(predictor, names, reads, rows, batch_size)


def predict_sources(
    predictor: Predictor,
    names: Sequence[Path],
    reads: Sequence[Callable[[], bytes | str]],
    clinical_metadata: pd.DataFrame,
    batch_size: int,
) -> Generator[Batch, None, None]:
    """Yields the batches in order, and predicts later batches in the background.

    Up to `NUM_IN_FLIGHT` later batches are read or predicted at a time.

    Args:
        predictor: The model.
        names: Printable name of each image.
        reads: For each image, a function that returns the content of its file, or the
            reason why it cannot be read.
        clinical_metadata: Table of the `CLINICAL_COLUMNS`, one row per image.
        batch_size: Number of images in a batch.
    """

    def predict(start: int) -> Batch:
        part = slice(start, start + batch_size)
        contents = [read() for read in reads[part]]
        rows = clinical_metadata.iloc[part]
        table = predict_files(predictor, names[part], contents, rows)
        return Batch(contents, rows, table)

    starts = range(0, len(names), batch_size)
    with concurrent.futures.ThreadPoolExecutor(NUM_IN_FLIGHT) as executor:
        futures = [executor.submit(predict, start) for start in starts[:NUM_IN_FLIGHT]]
        for number in range(len(starts)):
            batch = futures.pop(0).result()
            later = starts[number + NUM_IN_FLIGHT :][:1]
            futures += [executor.submit(predict, start) for start in later]
            yield batch


def files_to_read(found: image_files.Found) -> list[Path]:
    """Returns the sorted files, and directories whose files cannot be listed.

    `read_file` returns the reason why a directory cannot be read.
    """
    reasons = found.skipped.items()
    unlisted = [path for path, why in reasons if why.startswith(image_files.UNLISTED)]
    return sorted(found.files + unlisted)


def read_file(path: Path) -> bytes | str:
    """Returns the content of an image file, or the reason why it cannot be read."""
    try:
        return image_files.read_file(path)
    # ValueError: a SourceError, or a null character in the name
    except (OSError, ValueError) as error:
        return f"unreadable: {getattr(error, 'strerror', None) or error}"
