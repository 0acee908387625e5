"""Comparison of evaluated runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from skincnn.config.section import require, require_count, require_text
from skincnn.errors import ConfigError
from skincnn.evaluation import compared_runs, comparison
from skincnn.evaluation.external.result import external_name
from skincnn.paths import to_path, unique_names
from skincnn.reporting import comparison_tables
from skincnn.reporting.plots import to_image
from skincnn.startup import own_settings

if TYPE_CHECKING:
    from skincnn.api.data import PathLike
    from skincnn.api.model import Model


@dataclass(frozen=True, repr=False)
class Comparison:
    """Scores of runs with intervals, and paired differences from the baseline.

    Attributes:
        tables: The rows by evaluation protocol. Runs have the same protocol if they were
            scored on the same images with the same labels, and their images were assigned
            to splits in the same way. Scores of different protocols are not comparable.
        sort: The metric by which the rows are sorted.
    """

    tables: comparison_tables.Tables
    sort: str

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per run, variant or mean of runs, with ten columns per score.

        For example, the columns of macro_f1 are macro_f1, macro_f1_low and macro_f1_high
        (the score and its interval); macro_f1_difference_value, _low, _high and _p (the
        paired difference from the baseline, its interval and its p-value); and
        macro_f1_recipe_difference_low, _high and _p (the interval and the p-value of this
        difference if the variance between seeds is included; see `average_seeds` of
        `compare`). Numbers that do not exist are missing values.
        """
        return comparison_tables.to_frame(self.tables)

    def to_markdown(self) -> str:
        """Returns the tables as Markdown, with the commands that reproduce the rows."""
        return comparison_tables.to_markdown(self.tables)

    @own_settings()
    def plot(self) -> Image.Image:
        """Returns a chart of the metric `sort` with its intervals."""
        return to_image(comparison_tables.plot_comparison(self.tables, self.sort))

    def __repr__(self) -> str:
        return self.to_markdown()

    _repr_markdown_ = __repr__


def compare(
    runs: PathLike | Model | Sequence[PathLike | Model],
    *,
    split: str = "test",
    external: str = "",
    variants: bool = False,
    baseline: str = "",
    sort: str = "macro_f1",
    num_bootstrap: int = 2000,
    average_seeds: bool = False,
) -> Comparison:
    """Compares evaluated runs, ensembles or cross-validations.

    Args:
        runs: One or several runs or their directories. The first is the baseline of the
            differences, unless `baseline` or `average_seeds` selects another one.
        split: The split to compare on, such as "out_of_fold" for cross-validations; all
            runs must have been evaluated on it.
        external: Name of an external dataset to compare on instead of `split`.
        variants: Whether to add a row for each variant, such as test-time augmentation.
        baseline: Variant of the first run to use as the baseline, such as "d4"; implies
            `variants`. By default, the baseline is the model as is.
        sort: The metric to sort by: a name that `skincnn compare --help sort` lists, or a
            custom metric, `module:function`.
        num_bootstrap: Number of bootstrap resamples, 100 or more.
        average_seeds: Whether to add the means of runs that differ only in the seed, and,
            for the differences, intervals that include the variance between seeds. The
            intervals of the scores do not include it. The mean that contains the first run,
            if any, is then the baseline.

    Raises:
        ConfigError: A run does not exist or was not evaluated on the split, a file of a run
            is missing or damaged, a run directory is given twice, an argument is invalid,
            or a custom metric fails.
        DataError: A predictions table is damaged.
        OSError: A predictions table is not readable.
    """
    require_count("num_bootstrap", num_bootstrap, minimum=100)
    require_text("split", split)
    require_text("baseline", baseline)
    given: list[Any] = list(runs) if isinstance(runs, Iterable) else [runs]
    if _is_run(runs):
        given = [runs]
    are_runs = all(map(_is_run, given)) and not isinstance(runs, Mapping)
    require(are_runs, "runs", "run directories or Run objects", runs)
    if not given:
        raise ConfigError(
            "Expected the directories of evaluated runs, such as runs/a runs/b. Received: "
            "none."
        )
    split = external_name(external) if external else split
    paths = [to_path(getattr(run, "path", run)) for run in given]
    named = list(zip(paths, unique_names(paths), strict=True))
    compared = [
        compared_runs.read_compared_run(path, split, folder=name) for path, name in named
    ]
    if variants or baseline:
        compared += [
            compared_runs.read_compared_run(path, split, variant, name)
            for path, name in named
            for variant in compared_runs.variant_names(path, split)
        ]
    compared = compared_runs.put_baseline_first(compared, baseline)
    tables = comparison.compare(compared, sort, num_bootstrap, average_seeds=average_seeds)
    return Comparison(tables, sort)


def _is_run(value: object) -> bool:
    return isinstance(value, str | os.PathLike) or hasattr(value, "path")
