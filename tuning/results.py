"""result.json: the result of one training of a search."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from skincnn.errors import ConfigError
from skincnn.records import Record, read_record, write_record

RESULT_FILE = "result.json"


class TrialResult(Record):
    """The result of one training.

    Attributes:
        score: The objective on validation in the best epoch.
        best_epoch: The best epoch, counted from 1.
        epochs: Number of completed epochs.
        seconds: Duration, everything included.
        error: Why the training failed; "" if it did not.
        retry: Whether it could succeed when the search is run again.
    """

    score: float = 0.0
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    error: str = ""
    retry: bool = False


def read_result(folder: Path) -> TrialResult | None:
    """Returns the result of the training in a directory; None if it has not finished.

    A damaged file is renamed, with a warning.
    """
    path = folder / RESULT_FILE
    if not path.exists():
        return None
    try:
        return read_record(path, TrialResult, "The configuration is trained again.")
    except ConfigError as error:
        damaged = path.replace(path.with_name(f"{RESULT_FILE}.damaged"))
        print(f"warning: {error} The file was renamed to {damaged.name}.", file=sys.stderr)
        return None


def write_result(folder: Path, result: TrialResult) -> None:
    """Writes the result and removes the checkpoints, which are not needed any more."""
    write_record(folder / RESULT_FILE, result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
