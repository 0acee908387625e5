"""Compares runs: one table sorted by a metric, intervals, paired differences, a chart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from skincnn.errors import ConfigError
from skincnn.files import replacing, write_text


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compares any number of runs on the same pictures, the best first.

    Intervals are by bootstrap over lesions. Differences to the first folder are paired:
    both runs are scored on the same resamples, so an interval without 0 tells these two
    runs apart. It does not tell their recipes apart: another seed is another run, which
    moves scores too. For that, train several seeds of each and give --average-seeds: a
    further table then has intervals of other lesions and other seeds.
    Runs with other test pictures, with synthetic ones, or with the leaky --data.split-by
    image, are put into tables of their own. Each is followed by one of what needs
    calibrated probabilities: the AUC of melanoma, how many are found at the threshold that
    gave 90 % specificity on validation, and the calibration error; and by the command that
    makes each run again.

    For example:
      python scripts/compare.py runs/cpu runs/slower
      python scripts/compare.py runs/* --sort balanced_accuracy --split val
      python scripts/compare.py runs/cpu --variants
      python scripts/compare.py runs/cpu runs/slower --baseline random
      python scripts/compare.py runs/a_0 runs/a_1 runs/b_0 runs/b_1 --average-seeds
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of evaluated runs; differences are against the first."""
    split: str = "test"
    """Whose predictions: a file of predictions/."""
    variants: bool = False
    """Give each other way to predict that evaluate.py has scored (--tta,
    --logit-adjustment) a row."""
    baseline: str = ""
    """Compare all rows with the first folder's answers in this way, such as random, and
    not with its plain ones; --variants are there as well then."""
    sort: str = "macro_f1"
    """The metric to sort by."""
    num_bootstrap: int = 2000
    """Resamples of the lesions, 100 or more."""
    average_seeds: bool = False
    """Add the mean of runs that differ by their seed alone, compare all rows with the mean
    of the first one's seeds, and say which recipes differ by more than seeds explain."""
    output: Path = Path("runs/compare")
    """The folder for compare.md, compare.csv and compare.png."""


def command() -> None:
    """Parses, compares, prints the table, and writes it with its chart."""
    arguments = tyro.cli(Arguments)
    from skincnn.evaluation import compared_runs, comparison
    from skincnn.reporting import comparison_tables
    from skincnn.reporting.plots import to_png

    if not arguments.workdirs:
        raise ConfigError("Give the folders of evaluated runs, such as runs/cpu runs/gpu.")
    runs = [
        compared_runs.read_compared_run(path, arguments.split)
        for path in arguments.workdirs
    ]
    if arguments.variants or arguments.baseline:
        runs += [
            compared_runs.read_compared_run(path, arguments.split, variant)
            for path in arguments.workdirs
            for variant in compared_runs.variant_names(path, arguments.split)
        ]
    runs = compared_runs.put_baseline_first(runs, arguments.baseline)
    tables = comparison.compare(
        runs, arguments.sort, arguments.num_bootstrap, average_seeds=arguments.average_seeds
    )
    text = comparison_tables.to_markdown(tables)
    print(text)
    folder = arguments.output
    frame = comparison_tables.to_frame(tables)
    write_text(folder / "compare.md", text)
    write_text(folder / "compare.csv", frame.to_csv(index=False))
    chart = to_png(comparison_tables.plot_comparison(tables, arguments.sort))
    with replacing(folder / "compare.png") as temporary:
        temporary.write_bytes(chart)
    print(f"table  {folder / 'compare.md'}\nchart  {folder / 'compare.png'}")
