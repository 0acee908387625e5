"""Measurement of speed ratios, robust to noise, and of peak memory."""

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
from typing import Any, TypeVar

import pandas as pd

from skincnn.cli import common

PAIRS = 8
"""Number of rounds from which a speed ratio is computed."""
DECIMALS = ("x", "min", "GB")
"""Units of values that are shown with two decimals."""
Work = Callable[[], int]
"""A function that processes images and returns the number of images."""
Round = tuple[float, float, float]
"""Rates of the baseline, of the candidate, and of the baseline again, in images/s."""
Limit = float | None
"""A lower or upper target, if any."""
Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Size:
    """The amount of work in a training benchmark.

    Attributes:
        image_size: Height and width of the images in pixels.
        batch_size: Number of images per step.
        steps: Number of training steps per measurement.
        affine_steps: Number of batches per measurement of flip, rotation and zoom.
    """

    image_size: int = 224
    batch_size: int = 32
    steps: int = 4
    affine_steps: int = 8


@dataclass(frozen=True)
class Result:
    """A measured value and its targets.

    For `compare` and `summarize`, each round measures the rate of the baseline before and
    after that of the candidate. `baseline_ratio` is then the range, over the rounds, of the
    rate after divided by the rate before; a `value` within this range may be noise. For
    other results, `baseline_ratio` is None.
    """

    name: str  # usually "candidate / baseline"
    value: float  # in `unit`; the median over the rounds for `compare` and `summarize`
    unit: str = "x"  # "x" (ratio or count), "MB", "MiB", "GB", "min", "ms", "images/s"
    low: float | None = None  # the smallest value of a round
    high: float | None = None  # the largest value of a round
    pairs: int = 1  # number of rounds
    baseline_ratio: tuple[float, float] | None = None
    at_least: Limit = None
    at_most: Limit = None

    @property
    def passed(self) -> bool | None:
        """Whether the value meets the targets; None without a target."""
        if self.at_least is None and self.at_most is None:
            return None
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)


def compare(name: str, candidate: Work, baseline: Work, **limits: float) -> Result:
    """Returns the median rate of `candidate` relative to `baseline`.

    After a warm-up round, each of `PAIRS` rounds measures baseline, candidate, baseline.
    The ratio of a round is the rate of the candidate divided by the mean rate of the
    baseline. `limits` are the `at_least` and `at_most` of the result.
    """
    rounds = [(rate(baseline), rate(candidate), rate(baseline)) for _ in range(PAIRS + 1)]
    return summarize(name, rounds, **limits)


def summarize(
    name: str, rounds: Sequence[Round], at_least: Limit = None, at_most: Limit = None
) -> Result:
    """Returns the median ratio over all rounds except the first, the warm-up round."""
    measured = rounds[1:]
    ratios = [value / statistics.mean([before, after]) for before, value, after in measured]
    baseline_ratios = [after / before for before, _, after in measured]
    return Result(
        name,
        statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        pairs=len(ratios),
        baseline_ratio=(min(baseline_ratios), max(baseline_ratios)),
        at_least=at_least,
        at_most=at_most,
    )


def peak_memory() -> int:
    """Returns the peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage() would include the memory of the parent process before exec.
        lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_of(function: Callable[..., None], *arguments: Any) -> int:
    """Returns the peak memory of a call in bytes, minus the peak memory of the imports.

    The call runs in a new process, so `function` must be defined at module level.
    """
    return in_new_process(_peak_over_import, function, arguments)


def in_new_process(function: Callable[..., Returned], *arguments: Any) -> Returned:
    """Returns the result of a call in a new process that has loaded TensorFlow."""
    with concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=common.load_tensorflow
    ) as executor:
        return executor.submit(function, *arguments).result()


def environment() -> dict[str, Any]:
    """Returns the time, platform, load and package versions of a measurement."""
    packages = ("skincnn", "tensorflow", "keras", "tensorflow-datasets", "pillow")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "load_average": os.getloadavg(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def to_json(result: Result) -> dict[str, Any]:
    """Returns the fields of a result and whether the value meets the targets."""
    return {**dataclasses.asdict(result), "passed": result.passed}


def to_text(results: Sequence[Result]) -> str:
    """Returns a table of the results, as text for the terminal."""
    header = ("", "value", "range", "baseline/baseline", "target", "")
    rows = [
        (
            result.name,
            f"{result.value:.{2 if result.unit in DECIMALS else 0}f} {result.unit}",
            _range(result.low, result.high),
            _range(*(result.baseline_ratio or (None, None))),
            _target(result),
            {True: "ok", False: "MISSED", None: ""}[result.passed],
        )
        for result in results
    ]
    return pd.DataFrame(rows, columns=header).to_string(index=False)


def rate(work: Work) -> float:
    """Returns the number of images that a function processes per second."""
    started = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - started)


def _peak_over_import(function: Callable[..., None], arguments: tuple[Any, ...]) -> int:
    before = peak_memory()
    function(*arguments)
    return peak_memory() - before


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f} .. {high:.2f}"


def _target(result: Result) -> str:
    if result.at_least is not None and result.at_least == result.at_most:
        return f"{result.at_least:g}"
    if result.at_least is not None:
        return f">= {result.at_least:g}"
    return "" if result.at_most is None else f"<= {result.at_most:g}"
