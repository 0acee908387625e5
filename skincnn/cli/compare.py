"""Compares evaluated runs: scores with intervals, paired differences, and a chart."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro

from skincnn.cli import common
from skincnn.cli.help.text import parse_arguments
from skincnn.files import replacing, require_writable_folder, write_text


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compares evaluated runs, sorted by score from best to worst.

    Intervals are computed by bootstrap over patients, lesions or images, whichever are
    known. Differences from the first run are paired: both runs are scored on the same
    resamples. Significant differences between the trained models are bold (p < 0.05; in
    a table of more than five differences, with a false discovery rate of 5 %). The
    intervals do not cover the variance between training runs: to compare two recipes,
    train several seeds of each, and use --average-seeds. An additional table then has
    intervals that include the variance between seeds. Runs with different images, with
    synthetic images, or with lesions in several splits (--data.split-by image) are in
    separate tables. Each table is followed by a table of scores of the calibrated
    probabilities (melanoma AUC, sensitivity and specificity at the threshold with 90 %
    specificity on validation, log loss), if the predictions for the validation split
    exist. The last table lists the commands that reproduce the rows.

    For example:
      skincnn compare runs/a runs/b
      skincnn compare runs/* --sort balanced_accuracy --split val
      skincnn compare runs/a --variants
      skincnn compare runs/a runs/b --baseline augment
      skincnn compare runs/a_0 runs/a_1 runs/b_0 runs/b_1 --average-seeds
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of evaluated runs, ensembles or cross-validations. The first run is the
    baseline of the differences, unless --baseline or --average-seeds selects another."""
    split: str = "test"
    """The split to compare on, such as out_of_fold for cross-validations; all runs must
    have been evaluated on this split."""
    external: str = ""
    """Name of an external dataset to compare on instead of a split; all runs must have been
    evaluated on it with `skincnn evaluate --external`."""
    variants: bool = False
    """Add a row for each variant (--tta, --logit-adjustment) that was evaluated on the
    split with `skincnn evaluate`."""
    baseline: str = ""
    """Variant of the first run, such as augment, to use as the baseline instead of the
    model without test-time augmentation and logit adjustment. Implies --variants."""
    sort: str = "macro_f1"
    """The metric to sort by, such as balanced_accuracy."""
    num_bootstrap: int = 2000
    """Number of bootstrap resamples, 100 or more."""
    average_seeds: bool = False
    """Add rows with the means of runs that differ only in the seed, and compare all runs
    with the mean over the seeds of the first run, if there are several."""
    output: Path = Path("runs/compare")
    """The directory for compare.md, compare.csv and compare.png."""


def command() -> None:
    """Parses the arguments, prints the tables, and writes the tables and a chart."""
    arguments = parse_arguments(Arguments)
    require_writable_folder(arguments.output, "--output")
    common.load_tensorflow(arguments.workdirs)
    from skincnn.api.compare import compare

    options = dataclasses.asdict(arguments)
    folder = options.pop("output")
    compared = compare(options.pop("workdirs"), **options)
    text = compared.to_markdown()
    print(text)
    write_text(folder / "compare.md", text)
    write_text(folder / "compare.csv", compared.to_frame().to_csv(index=False))
    with replacing(folder / "compare.png") as temporary:
        compared.plot().save(temporary, "PNG")
    print(f"table  {folder / 'compare.md'}\nchart  {folder / 'compare.png'}")
