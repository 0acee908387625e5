"""Many files answered batch by batch; while one is computed the next is read."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from skincnn.files import printable
from skincnn.serving.predictor import Predictor, find_patients, predict, read_files

AT_ONCE = 2
"""Batches: one that the network computes, and one that is read and decoded meanwhile."""


@dataclass(frozen=True)
class Batch:
    """Files, and what was answered.

    Attributes:
        contents: From `predictor.read_files`.
        patients: What is known of the patients, a row for each file.
        table: From `predictor.predict`.
    """

    contents: list[bytes | str]
    patients: pd.DataFrame
    table: pd.DataFrame


def answer_files(
    predictor: Predictor,
    paths: Sequence[Path],
    batch_size: int,
    patients: pd.DataFrame | None = None,
) -> Generator[Batch, None, None]:
    """Yields the answers about all files, in their order.

    Args:
        predictor: The model.
        paths: The files.
        batch_size: Files at a time; `AT_ONCE` times as many are in memory.
        patients: See `predictor.find_patients`.
    """

    def work(start: int) -> Batch:
        part = paths[start : start + batch_size]
        names = [Path(printable(path)) for path in part]
        contents, known = read_files(part), find_patients(names, patients)
        return Batch(contents, known, predict(predictor, names, contents, known))

    starts = iter(range(0, len(paths), batch_size))
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as executor:
        begun = collections.deque(
            executor.submit(work, start) for start in itertools.islice(starts, AT_ONCE)
        )
        while begun:
            batch = begun.popleft().result()
            begun.extend(
                executor.submit(work, start) for start in itertools.islice(starts, 1)
            )
            yield batch
