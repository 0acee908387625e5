"""Compares evaluated runs: scores with intervals, paired differences, and a chart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from skincnn.config.section import require
from skincnn.errors import ConfigError
from skincnn.files import replacing, write_text


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compares evaluated runs, sorted by score from best to worst.

    Intervals are computed by bootstrap over patients, lesions or images, whichever are
    known. Differences from the first run are paired: both runs are scored on the same
    resamples. Significant differences of the trained models are bold; in a table of
    more than five, with a false discovery rate of 5 %. The intervals do not cover the
    variance between training runs: to compare two recipes, train several seeds of each
    and use --average-seeds. An additional table then has intervals that also cover the
    sampling of seeds. Runs with different images, with synthetic images, or with
    lesions in several splits (--data.split-by image) are in separate tables. Each table
    is followed by a table of scores of the calibrated probabilities (AUC of melanoma,
    sensitivity and specificity at the threshold with 90 % specificity on validation,
    log loss). The last table lists the commands that reproduce the runs.

    For example:
      python scripts/compare.py runs/a runs/b
      python scripts/compare.py runs/* --sort balanced_accuracy --split val
      python scripts/compare.py runs/a --variants
      python scripts/compare.py runs/a runs/b --baseline augment
      python scripts/compare.py runs/a_0 runs/a_1 runs/b_0 runs/b_1 --average-seeds
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of evaluated runs, ensembles or cross-validations. The first run is the
    baseline of the differences."""
    split: str = "test"
    """The split to compare on; all runs must have been evaluated on this split."""
    external: str = ""
    """Name of an external dataset to compare on instead of a split; all runs must have been
    evaluated on it with scripts/evaluate.py --external."""
    variants: bool = False
    """Add a row for each variant (--tta, --logit-adjustment) that was evaluated with
    scripts/evaluate.py."""
    baseline: str = ""
    """Variant of the first run, such as augment, to use as the baseline instead of the
    model without test-time augmentation and logit adjustment. Implies --variants."""
    sort: str = "macro_f1"
    """The metric to sort by, such as balanced_accuracy."""
    num_bootstrap: int = 2000
    """Number of bootstrap resamples, 100 or more."""
    average_seeds: bool = False
    """Add a row with the mean of runs that differ only in the seed, and compare all runs
    with the mean over the seeds of the first run."""
    output: Path = Path("runs/compare")
    """The directory for compare.md, compare.csv and compare.png."""


def command() -> None:
    """Parses the arguments, prints the tables, and writes the tables and a chart."""
    arguments = tyro.cli(Arguments)
    from skincnn.evaluation import compared_runs, comparison
    from skincnn.evaluation.external.result import external_name

    num_bootstrap = arguments.num_bootstrap
    require(num_bootstrap >= 100, "--num-bootstrap", "100 or more", num_bootstrap)
    if not arguments.workdirs:
        raise ConfigError("Give the directories of evaluated runs, such as runs/a runs/b.")
    paths, split = arguments.workdirs, arguments.split
    if arguments.external:
        split = external_name(arguments.external)
    runs = [compared_runs.read_compared_run(path, split) for path in paths]
    if arguments.variants or arguments.baseline:
        runs += [
            compared_runs.read_compared_run(path, split, variant)
            for path in paths
            for variant in compared_runs.variant_names(path, split)
        ]
    runs = compared_runs.put_baseline_first(runs, arguments.baseline)
    tables = comparison.compare(
        runs, arguments.sort, num_bootstrap, average_seeds=arguments.average_seeds
    )
    from skincnn.reporting import comparison_tables
    from skincnn.reporting.plots import to_png

    text = comparison_tables.to_markdown(tables)
    print(text)
    folder = arguments.output
    frame = comparison_tables.to_frame(tables)
    write_text(folder / "compare.md", text)
    write_text(folder / "compare.csv", frame.to_csv(index=False))
    figure = comparison_tables.plot_comparison(tables, arguments.sort)
    with replacing(folder / "compare.png") as temporary:
        temporary.write_bytes(to_png(figure))
    print(f"table  {folder / 'compare.md'}\nchart  {folder / 'compare.png'}")
