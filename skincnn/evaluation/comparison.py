"""Comparison of runs: scores with intervals, paired differences, seed variance."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skincnn.config import Config, EvaluateConfig
from skincnn.errors import ConfigError
from skincnn.evaluation.compared_runs import ComparedRun
from skincnn.evaluation.external.result import PREFIX
from skincnn.evaluation.resampled import VALIDATION_SEED, Resampled, seed_of
from skincnn.evaluation.scoring import (
    CALIBRATED,
    calibrated_values,
    find_support,
    melanoma_recall,
)
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.classification import find_metric
from skincnn.metrics.intervals import (
    Difference,
    Support,
    estimate,
    estimate_difference,
)
from skincnn.metrics.sample import Scores
from skincnn.metrics.seed_variance import (
    SeedVariance,
    estimate_recipe_difference,
    pool_seed_variance,
)

SHOWN = ("macro_f1", "balanced_accuracy", "accuracy", "macro_auc")
"""Keys of `METRICS` that are shown in addition to the metric to sort by."""
Group = tuple[ComparedRun, ...]
Values = dict[str, dict[str, Scores]]
"""Values of each metric on all images and on each resample, by run name and metric name."""


@dataclass(frozen=True)
class Row:
    """One run, or the mean of several runs that differ only by their seed.

    A recipe is a training configuration without its seed.

    Attributes:
        scores: Scores by name: the metric to sort by, `SHOWN`, "melanoma_recall" if
            melanoma is a class, and `CALIBRATED`.
        differences: Paired difference in each score, row minus baseline; empty for the
            baseline and for runs on other images. The intervals cover the sampling of
            images, for these trained runs only.
        baseline: Name of the row of the baseline.
        command: The command that reproduces the scores.
        recipe_differences: `differences` with intervals and p-values that include the
            variance between seeds; also empty if `spread` is None, or if `runs` are not all
            the runs of a recipe on the same images and with the same variant as the first
            run.
        spread: The variance between seeds; None if `average_seeds` of `compare` is False,
            or if no recipe has several runs on the same images and with the same variant as
            the first run. Also None if the first run is an ensemble.
    """

    name: str
    runs: Group
    scores: dict[str, Estimate]
    differences: dict[str, Difference]
    baseline: str
    command: str
    recipe_differences: dict[str, Difference]
    spread: SeedVariance | None


def compare(
    runs: Sequence[ComparedRun],
    sort_by: str,
    num_bootstrap: int,
    *,
    confidence: float = 0.95,
    average_seeds: bool = False,
) -> dict[str, list[Row]]:
    """Returns the rows by protocol, sorted from best to worst by `sort_by`.

    Args:
        runs: The first run is the baseline. Differences require runs on the same images.
        sort_by: A key of `METRICS`, or a custom metric, `module:function`.
        num_bootstrap: Number of resamples. Runs on the same images have the same resamples.
        confidence: Confidence level of the intervals, between 0 and 1.
        average_seeds: Whether to add rows with the means of runs that differ only by their
            seed. The baseline is then the mean of the first run and of the runs that differ
            from it only by their seed. Only the intervals of `Row.recipe_differences`
            include the variance between seeds.

    Raises:
        ConfigError: The metric does not exist, cannot be imported or fails, `num_bootstrap`
            (100 or more) or `confidence` is out of range, or a run is repeated.
    """
    config = EvaluateConfig(num_bootstrap=num_bootstrap, confidence=confidence)
    metric = find_metric(sort_by, "`sort`")
    names = [run.name for run in runs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"Give each run once. Received several times: {', '.join(repeated)}."
        )
    columns = tuple(dict.fromkeys((sort_by, *SHOWN)))
    values = {run.name: _bootstrap(run, columns, config) for run in runs}
    seeds = _group_seeds(runs) if average_seeds else []
    recipes = _find_recipes(runs, seeds)
    spread = pool_seed_variance(
        [[values[run.name] for run in recipe] for recipe in recipes]
    )
    groups: list[Group] = [*((run,) for run in runs), *seeds]
    baseline = max((group for group in groups if runs[0] in group), key=len)
    tables: dict[str, list[Row]] = {}
    for group in groups:
        is_recipe = group in recipes
        row = _make_row(group, baseline, values, confidence, spread, is_recipe=is_recipe)
        tables.setdefault(group[0].protocol, []).append(row)
    for rows in tables.values():
        rows.sort(key=lambda row: metric.rank(row.scores[sort_by].value))
    return tables


def _make_row(
    group: Group,
    baseline: Group,
    values: Values,
    confidence: float,
    spread: SeedVariance | None,
    *,
    is_recipe: bool,
) -> Row:
    """Returns the row of a group; `is_recipe` is True if `_find_recipes` returned it."""
    mean, baseline_mean = _mean(values, group), _mean(values, baseline)
    paired = baseline[0].images == group[0].images and group != baseline
    changes = {name: mean[name] - baseline_mean[name] for name in (mean if paired else ())}
    sizes = len(group), len(baseline)
    supports = _find_supports(group[0], tuple(mean))
    return Row(
        _name(group),
        group,
        {
            name: estimate(scores, confidence, [supports[name]])[0]
            for name, scores in mean.items()
        },
        {
            name: estimate_difference(change, confidence, supports[name])
            for name, change in changes.items()
        },
        _name(baseline),
        _command(group),
        {
            name: estimate_recipe_difference(
                name, change, spread, sizes, confidence, supports[name]
            )
            for name, change in changes.items()
            if spread and is_recipe
        },
        spread,
    )


def _bootstrap(
    run: ComparedRun, columns: Sequence[str], config: EvaluateConfig
) -> dict[str, Scores]:
    """Returns the scores of a run on all images and on each resample."""
    declared = run.info.declared
    sample = Resampled(run.predictions, config, seed_of(run.split), declared)
    functions = {name: find_metric(name, "`sort`").function for name in columns}
    values = sample.bootstrap(functions | melanoma_recall(sample))
    values |= dict.fromkeys(CALIBRATED, np.full(len(sample.all_weights), np.nan))
    if run.validation is not None:
        validation = Resampled(run.validation, config, VALIDATION_SEED, declared)
        values |= calibrated_values(sample, validation)
    return values


def _find_supports(run: ComparedRun, names: Sequence[str]) -> dict[str, Support | None]:
    sample = Resampled(run.predictions, EvaluateConfig(), declared=run.info.declared)
    return {name: find_support(sample, name) for name in names}


def _group_seeds(runs: Sequence[ComparedRun]) -> list[Group]:
    """Returns the groups of several runs that differ only by their seed."""
    groups: dict[tuple[Config, str, str, str], list[ComparedRun]] = {}
    for run in runs:
        if run.config is not None:
            same = dataclasses.replace(run.config, seed=0)
            key = same, run.folds, run.protocol, run.variant
            groups.setdefault(key, []).append(run)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _find_recipes(runs: Sequence[ComparedRun], seeds: Sequence[Group]) -> list[Group]:
    """Returns, for each recipe comparable with that of `runs[0]`, the group of its runs.

    Comparable groups have the same images and variant. An ensemble has no recipe, so the
    list is empty if `runs[0]` is an ensemble.
    """
    first = runs[0]
    single = [(run,) for run in runs if not any(run in group for group in seeds)]
    return [
        group
        for group in (*seeds, *single)
        if None not in (first.config, group[0].config)
        and (group[0].variant, group[0].images) == (first.variant, first.images)
    ]


def _mean(values: Values, group: Group) -> dict[str, Scores]:
    parts = [values[run.name] for run in group]
    return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}


def _name(group: Group) -> str:
    if len(group) == 1:
        return group[0].name
    seeds = "seed" if len(group) == 2 else "seeds"
    return f"mean of {group[0].name} and {len(group) - 1} other {seeds}"


def _command(group: Group) -> str:
    first = group[0]
    if len(group) == 1:
        return first.command
    words = ["skincnn", "compare", *(f"runs/{run.folder}" for run in group)]
    if first.split.startswith(PREFIX):
        words += ["--external", first.split.removeprefix(PREFIX)]
    elif first.split != "test":
        words += ["--split", first.split]
    if first.variant:
        words.append("--variants")
    return shlex.join([*words, "--average-seeds"])
