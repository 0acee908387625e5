"""Comparison of evaluated runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from PIL import Image

from skincnn.config.section import require
from skincnn.errors import ConfigError
from skincnn.evaluation import compared_runs, comparison
from skincnn.evaluation.external.result import external_name
from skincnn.paths import to_path
from skincnn.reporting import comparison_tables
from skincnn.reporting.plots import to_image
from skincnn.startup import own_settings

if TYPE_CHECKING:
    from skincnn.api.model import Model


@dataclass(frozen=True, repr=False)
class Comparison:
    """Scores of runs with intervals, and paired differences from the first run.

    Attributes:
        tables: The rows by evaluation protocol: the scored images, and what they are
            grouped by. Scores of different protocols are not comparable.
        sort: The metric by which the rows are sorted.
    """

    tables: comparison_tables.Tables
    sort: str

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per run or mean of runs, with ten columns for each score."""
        return comparison_tables.to_frame(self.tables)

    def to_markdown(self) -> str:
        """Returns the tables as Markdown, with the commands that reproduce the runs."""
        return comparison_tables.to_markdown(self.tables)

    @own_settings()
    def plot(self) -> Image.Image:
        """Returns a chart of the metric `sort`."""
        return to_image(comparison_tables.plot_comparison(self.tables, self.sort))

    def __repr__(self) -> str:
        return self.to_markdown()

    _repr_markdown_ = __repr__


def compare(
    runs: Sequence[str | Path | Model],
    split: str = "test",
    *,
    external: str = "",
    variants: bool = False,
    baseline: str = "",
    sort: str = "macro_f1",
    num_bootstrap: int = 2000,
    average_seeds: bool = False,
) -> Comparison:
    """Compares evaluated runs, ensembles or cross-validations.

    Args:
        runs: Runs or their directories. The first is the baseline of the differences.
        split: The split to compare on; all runs must have been evaluated on it.
        external: Name of an external dataset to compare on instead.
        variants: Whether to add a row for each variant, such as test-time augmentation.
        baseline: Variant of the first run to use as the baseline; implies `variants`.
        sort: The metric to sort by.
        num_bootstrap: Number of bootstrap resamples, 100 or more.
        average_seeds: Whether to add the mean of runs that differ only in the seed, which
            is then also the baseline, and intervals that include the variance between
            seeds.

    Raises:
        ConfigError: A run was not evaluated on the split, two run directories have the same
            name, or an argument is invalid.
    """
    require(num_bootstrap >= 100, "--num-bootstrap", "100 or more", num_bootstrap)
    if not runs:
        raise ConfigError("Give the directories of evaluated runs, such as runs/a runs/b.")
    split = external_name(external) if external else split
    paths = [to_path(run) if isinstance(run, str | Path) else run.path for run in runs]
    compared = [compared_runs.read_compared_run(path, split) for path in paths]
    if variants or baseline:
        compared += [
            compared_runs.read_compared_run(path, split, variant)
            for path in paths
            for variant in compared_runs.variant_names(path, split)
        ]
    compared = compared_runs.put_baseline_first(compared, baseline)
    tables = comparison.compare(compared, sort, num_bootstrap, average_seeds=average_seeds)
    return Comparison(tables, sort)
