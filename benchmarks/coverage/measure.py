"""Measures the coverage of each interval, and renders docs/coverage.md."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from benchmarks.coverage.cases import PARTS, Case, Simulation
from benchmarks.coverage.population import MELANOMA, RAREST, SHARES, Population
from benchmarks.coverage.smallest import HIGHEST, LOWEST
from skincnn.config import EvaluateConfig

_simulation: Simulation
CHUNK = 20
"""Number of test sets that a process simulates at a time."""
CAUSES = f"""\
Some intervals cannot have a coverage near .95, because few lesions determine them. For
these, the column *smallest* shows the smallest coverage, of {LOWEST:.2f} or more, that any
interval can have with the same number of lesions, averaged over the test sets:

- For a rate, only the lesions in its denominator count. If each lesion has one image, the
  number of successes is binomial. An interval misses the true rate for some numbers of
  successes, and the coverage is 1 minus the sum of their probabilities. With few lesions,
  this sum has few possible values.
- For a difference in recall between two models with the same true recall, only the n
  lesions in which the models differ count. Each of these lesions favors either model with
  the same probability. All of them favor the same model by chance in 2 of 2^n cases, which
  is more than {1 - LOWEST:.2f} for fewer than 5 lesions: the interval must then contain 0.

If few lesions determine a rate that is close to 1, only the upper end of the interval can
miss the true score (*true score below* is 0.000). This should happen in .025 of the test
sets, so that the coverage is about .975. Differences of similar models have larger
coverages than .95 if few lesions of rare classes determine them, for the reason given
above."""
COVERED = """\
The other intervals of the report are computed with the same functions as those in the
tables:

- Test-time augmentation, logit adjustment, ensembles and their members, and corrupted
  images: as scores and paired differences.
- Scores per patient: as scores per lesion.
- The share of images that are rejected as out-of-distribution: as accuracy.
- Malignant lesions, and operating points, prevalences, probability bands and classes that
  the tables omit: as melanoma, and as those that the tables show."""


@dataclass(frozen=True)
class Settings:
    """The amount of work: see `measure_coverage` of `benchmarks.__main__`."""

    num_simulations: int
    num_lesions: int
    num_resamples: int
    num_true: int
    num_workers: int


@dataclass
class Row:
    """Coverage of one interval: counts over the test sets in which it exists.

    `smallest` is the sum of `Case.smallest`; 0 if it is not computed.
    """

    num: int = 0
    below: int = 0
    above: int = 0
    smallest: float = 0.0

    def add(self, case: Case) -> None:
        """Counts one test set."""
        if case.interval.low is None or case.interval.high is None:
            return
        self.num += 1
        self.below += case.truth < case.interval.low
        self.above += case.truth > case.interval.high
        self.smallest += case.smallest or 0.0

    def merge(self, other: Row) -> None:
        """Adds the counts of other test sets."""
        self.num += other.num
        self.below += other.below
        self.above += other.above
        self.smallest += other.smallest

    @property
    def coverage(self) -> float:
        """Share of the intervals that contain the true score."""
        return 1 - (self.below + self.above) / self.num


Rows = dict[str, Row]


def measure(settings: Settings) -> list[Rows]:
    """Returns the coverage of each interval by name, for each of `PARTS`.

    The table of each part is printed when it is complete.
    """
    EvaluateConfig(num_bootstrap=settings.num_resamples)  # before processes start
    parts = []
    with ProcessPoolExecutor(
        settings.num_workers, initializer=_prepare, initargs=(settings,)
    ) as pool:
        for index, part in enumerate(PARTS):
            num = part.multiple * settings.num_simulations
            firsts = range(0, num, CHUNK)
            tasks = [(index, first, min(first + CHUNK, num)) for first in firsts]
            rows: Rows = {}
            for chunk in tqdm(pool.map(_simulate, tasks), part.title, len(tasks)):
                for name, row in chunk.items():
                    rows.setdefault(name, Row()).merge(row)
            tqdm.write("\n".join(_table(rows)))
            parts.append(rows)
    return parts


def _prepare(settings: Settings) -> None:
    """Prepares a process for `_simulate`."""
    global _simulation
    population = Population(settings.num_true)
    _simulation = Simulation(population, settings.num_lesions, settings.num_resamples)


def _simulate(task: tuple[int, int, int]) -> Rows:
    """Returns the counts of the test sets of a task.

    A task contains the index of the part, and the first number and the end of the numbers
    of its test sets.
    """
    index, first, last = task
    rows: Rows = {}
    for number in range(first, last):
        rng = np.random.default_rng([index, number])
        for case in PARTS[index].function(_simulation, rng, number):
            rows.setdefault(case.name, Row()).add(case)
    return rows


def to_markdown(parts: Sequence[Rows], settings: Settings) -> str:
    """Returns the page docs/coverage.md."""
    num = settings.num_simulations
    most = num * max(part.multiple for part in PARTS)
    errors = [f"{math.sqrt(0.95 * 0.05 / count):.3f}" for count in (num, most)]
    lesions = settings.num_lesions
    outside = sum(not _is_inside(row) for row in _all(parts))
    lines = [
        "# Coverage of the confidence intervals",
        "",
        f"This page is generated by `python -m benchmarks coverage`. {num:,} to {most:,} "
        f"test sets of {lesions:,} lesions were simulated for each table, with "
        f"{settings.num_resamples:,} bootstrap resamples of each test set; "
        "`benchmarks/coverage/population.py` describes the simulated population. A "
        "coverage is computed from the test sets in which the interval exists. A 95 % "
        "interval should contain the true score in .95 of the test sets. The standard "
        f"error of a coverage of .95 is {errors[0]} for {num:,} and {errors[1]} for "
        f"{most:,} test sets. {outside} of {len(list(_all(parts)))} coverages are outside "
        f"{LOWEST:.2f} to {HIGHEST:.2f} and are shown in bold.",
        "",
        f"The rarest class, df, has about {lesions * SHARES[RAREST]:.0f} lesions in a test "
        f"set, melanoma (mel) {lesions * SHARES[MELANOMA]:.0f}. The true rates at an "
        "operating point are those at the threshold that gives the operating point in the "
        "population. For the referral rule, prediction sets and subgroups, the true scores "
        "are those at the thresholds that were chosen on a simulated validation set. Two "
        "compared models have the same true scores, as do a subgroup and the other images.",
        "",
        CAUSES,
        "",
        COVERED,
    ]
    for part, rows in zip(PARTS, parts, strict=True):
        lines += ["", f"## {part.title}", "", *_table(rows)]
    return "\n".join([*lines, ""])


def _table(rows: Rows) -> list[str]:
    header = ["interval", "test sets", "coverage", "true score below", "above"]
    with_smallest = any(row.smallest for row in rows.values())
    header += ["smallest"] if with_smallest else []
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for name, row in rows.items():
        coverage = f"{row.coverage:.3f}"
        cells = [
            name.replace("_", " "),
            f"{row.num:,}",
            coverage if _is_inside(row) else f"**{coverage}**",
            f"{row.below / row.num:.3f}",
            f"{row.above / row.num:.3f}",
        ]
        if with_smallest:
            cells.append(f"{row.smallest / row.num:.3f}" if row.smallest else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _is_inside(row: Row) -> bool:
    return LOWEST <= round(row.coverage, 3) <= HIGHEST


def _all(parts: Sequence[Rows]) -> itertools.chain[Row]:
    return itertools.chain.from_iterable(rows.values() for rows in parts)
