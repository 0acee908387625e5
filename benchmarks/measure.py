"""Ratios that hold on a noisy machine, and what they were measured on."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skincnn.cli import common

PAIRS = 8
Work = Callable[[], int]
"""Does something and returns how many pictures it did it to."""
Round = tuple[float, float, float]
"""The rate of the baseline, ours, and that of the baseline again."""


@dataclass(frozen=True)
class Result:
    """A ratio, or a plain value, beside what is asked of it.

    Attributes:
        name: What was compared with what.
        value: The median over the pairs; in `unit`.
        unit: "x" for a ratio of rates or sizes, "MiB", "MB", "pictures/s".
        low: The least of the pairs.
        high: The greatest of the pairs.
        pairs: How many there were.
        same: The least and the greatest ratio of the baseline to itself, measured in the
            same rounds: differences of this size mean nothing. None for plain values.
        at_least: What is asked for, if anything.
        at_most: What is asked for, if anything.
    """

    name: str
    value: float
    unit: str = "x"
    low: float | None = None
    high: float | None = None
    pairs: int = 1
    same: tuple[float, float] | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passed(self) -> bool | None:
        """Whether what is asked for was reached; None where nothing is."""
        if self.at_least is None and self.at_most is None:
            return None
        least = -float("inf") if self.at_least is None else self.at_least
        most = float("inf") if self.at_most is None else self.at_most
        return least <= self.value <= most


def compare(
    name: str,
    ours: Work,
    baseline: Work,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Result:
    """Returns the rate of `ours` over that of `baseline`, in pictures per second.

    After a round that does not count there are `PAIRS` rounds of baseline, ours,
    baseline. A pair is our rate over the mean of the two beside it.
    """
    rounds = [(rate(baseline), rate(ours), rate(baseline)) for _ in range(PAIRS + 1)]
    return summarise(name, rounds, at_least=at_least, at_most=at_most)


def summarise(
    name: str,
    rounds: Sequence[tuple[float, float, float]],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Result:
    """Returns the result of rates of baseline, ours, baseline; the first round is left out.

    Args:
        name: What was compared with what.
        rounds: At least two.
        at_least: What is asked for, if anything.
        at_most: What is asked for, if anything.
    """
    counted = rounds[1:]
    ratios = [our / statistics.mean([before, after]) for before, our, after in counted]
    same = [after / before for before, _, after in counted]
    return Result(
        name,
        statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        pairs=len(ratios),
        same=(min(same), max(same)),
        at_least=at_least,
        at_most=at_most,
    )


def peak_memory() -> int:
    """Returns the most memory that this process ever held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone; getrusage() also counts the one that started it.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_of(function: Callable[..., None], *arguments: Any) -> int:
    """Returns how much more memory a call needs than TensorFlow and the imports, in bytes.

    It runs in a process of its own. `function` must stand at the top of a module.
    """
    with concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=common.load_tensorflow
    ) as executor:
        return executor.submit(_peak_over_import, function, arguments).result()


def environment() -> dict[str, Any]:
    """Returns what the results depend on: versions, processor, and who else is busy."""
    packages = ("skincnn", "tensorflow", "keras", "tensorflow-datasets", "pillow")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "load_average": os.getloadavg(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def to_json(result: Result) -> dict[str, Any]:
    """Returns a result with whether it passed."""
    return {**dataclasses.asdict(result), "passed": result.passed}


def to_text(results: Sequence[Result]) -> str:
    """Returns a table for the terminal."""
    rows = [("", "median", "range", "same/same", "asked", "")]
    for result in results:
        rows.append(
            (
                result.name,
                _number(result.value, result.unit),
                _range(result.low, result.high),
                _range(*(result.same or (None, None))),
                _asked(result),
                {True: "ok", False: "NOT REACHED", None: ""}[result.passed],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _peak_over_import(function: Callable[..., None], arguments: tuple[Any, ...]) -> int:
    before = peak_memory()
    function(*arguments)
    return peak_memory() - before


def rate(work: Work) -> float:
    """Returns how many pictures a second some work does."""
    started = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - started)


def _number(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if unit == "x" else f"{value:.0f} {unit}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f} .. {high:.2f}"


def _asked(result: Result) -> str:
    if result.at_least is not None and result.at_least == result.at_most:
        return f"{result.at_least:g}"
    if result.at_least is not None:
        return f">= {result.at_least:g}"
    return "" if result.at_most is None else f"<= {result.at_most:g}"
