"""Ensembles: the mean predictions of several runs for the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from skincnn.config import EvaluateConfig
from skincnn.errors import ConfigError
from skincnn.evaluation.aggregate import (
    Aggregate,
    EvaluatedRun,
    MembersResult,
    combine_info,
    describe_member,
    read_evaluated_runs,
    worst_leakage,
)
from skincnn.evaluation.ood import choose_max_distance, score_all_ood
from skincnn.evaluation.resampled import Resampled
from skincnn.evaluation.results import InferenceCost, split_name
from skincnn.evaluation.scoring import InferenceVariant, score_differences, score_variants
from skincnn.inference.ood_images import OOD_SET, OOD_TABLE
from skincnn.inference.predictions import (
    DISTANCE,
    ENERGY,
    PROBABILITY_PREFIX,
    averaged_columns,
    mean_predictions,
    read_predictions,
    read_table,
    table_path,
)


def combine_runs(workdirs: Sequence[Path]) -> Aggregate:
    """Returns the results of an ensemble of several evaluated runs.

    The probabilities in the predictions tables of the runs are averaged; no model is
    loaded. The ensemble has only those splits and variants (test-time augmentation, logit
    adjustment) that all runs have. The calibration and the thresholds are chosen on the
    validation predictions of the ensemble.

    Raises:
        ConfigError: There are fewer than two runs, a run is repeated, or a custom metric
            cannot be imported or fails; see also `read_evaluated_runs` and
            `average_variant`.
        DataError: A predictions table is missing or damaged.
    """
    names = [workdir.resolve().name for workdir in workdirs]
    if len(workdirs) < 2 or len({w.resolve() for w in workdirs}) < len(workdirs):
        raise ConfigError(
            "An ensemble requires two or more different runs. Received: "
            f"{', '.join(names)}."
        )
    runs = read_evaluated_runs(workdirs)
    common = _common([list(run.results) for run in runs])
    config = runs[0].config.evaluate
    as_is = average_variant(runs, common, "")
    variants = [
        average_variant(runs, common, variant)
        for variant in dict.fromkeys(runs[0].results[name].variant for name in common)
        if variant and {f"val.{variant}", f"test.{variant}"} <= set(common)
    ]
    ood = average_ood(runs)
    tables, scores = score_variants(
        [as_is, *variants],
        {split: runs[0].results[split].stored_in for split in as_is.tables},
        worst_leakage(runs),
        config,
        choose_max_distance(as_is.tables["val"], ood),
        runs[0].info.declared,
    )
    return Aggregate(
        combine_info(runs, "ensemble"),
        {**tables, **ood},
        {
            **scores,
            **score_all_ood(as_is.tables, ood, config),
            "members": compare_members(runs, as_is.tables["test"], config),
        },
    )


def average_variant(
    runs: Sequence[EvaluatedRun], common: Sequence[str], variant: str
) -> InferenceVariant:
    """Returns the mean predictions of the runs for one variant; see `SplitResult.variant`.

    `common` contains the names of the predictions tables that all runs have.

    Raises:
        ConfigError: The runs differ in the images, lesion_ids, labels, columns or numbers
            of views.
        DataError: A predictions table is missing or damaged.
    """
    results = [runs[0].results[name] for name in common]
    splits = [result.split for result in results if result.variant == variant]
    splits.sort(key=lambda split: (split != "val", split != "test"))
    costs = [run.results[split_name("test", variant)].cost for run in runs]
    counts = [cost.num_views for cost in costs]
    if len(set(counts)) > 1:
        raise ConfigError(
            f"The runs were evaluated with different numbers of views ({variant}): "
            f"{', '.join(map(str, counts))}. Evaluate them with the same --num-views."
        )
    tables = {}
    for split in splits:
        name = split_name(split, variant)
        first = read_predictions(table_path(runs[0].workdir, name))
        others = [_read_like(run, name, first) for run in runs[1:]]
        tables[split] = mean_predictions([first, *others])
    seconds = sum(cost.seconds_per_image for cost in costs)
    cost = InferenceCost(num_views=counts[0], seconds_per_image=seconds)
    return InferenceVariant(variant, tables, cost)


def compare_members(
    runs: Sequence[EvaluatedRun], table: pd.DataFrame, config: EvaluateConfig
) -> MembersResult:
    """Returns the test scores of each run, and paired differences, ensemble minus run.

    `table` is the test predictions table of the ensemble.

    Raises:
        ConfigError: A run differs from `table` in the images, lesion_ids, labels or
            columns, or a custom metric cannot be imported or fails.
        DataError: A predictions table is missing or damaged.
    """
    ensemble = Resampled(table, config)
    members = []
    for run in runs:
        member = Resampled(_read_like(run, "test", table), config)
        members.append(describe_member(run, score_differences(ensemble, member)))
    return MembersResult(split="test", members=tuple(members))


def average_ood(runs: Sequence[EvaluatedRun]) -> dict[str, pd.DataFrame]:
    """Returns the mean predictions of the OOD images that all runs have, by table name.

    Raises:
        DataError: A table of OOD images is damaged.
    """
    parts = [_read_ood(run) for run in runs]
    means = {}
    for name in _common([list(part) for part in parts]):
        tables = [part[name] for part in parts]
        images = _common([table["image_id"].tolist() for table in tables])
        if images:
            means[name] = mean_predictions(
                [table.set_index("image_id").loc[images].reset_index() for table in tables]
            )
    return means


def _read_ood(run: EvaluatedRun) -> dict[str, pd.DataFrame]:
    """Returns the tables of OOD images of a run by name; empty files are skipped."""
    folder = table_path(run.workdir, OOD_TABLE).parent
    paths = [*folder.glob(f"{OOD_TABLE}.csv"), *sorted(folder.glob(f"{OOD_TABLE}.*.csv"))]
    classes = [f"{PROBABILITY_PREFIX}{name}" for name in run.info.class_names]
    columns = (OOD_SET, "image_id", *classes, ENERGY, DISTANCE)
    return {path.stem: read_table(path, columns) for path in paths if path.stat().st_size}


def _read_like(run: EvaluatedRun, name: str, like: pd.DataFrame) -> pd.DataFrame:
    """Returns table `name` of a run, with its rows in the order of the table `like`."""
    table = read_predictions(table_path(run.workdir, name))
    same_images = set(table["image_id"]) == set(like["image_id"])
    if same_images:
        table = table.set_index("image_id").loc[like["image_id"]].reset_index()
    columns = ["lesion_id", "label"]
    if (
        not same_images
        or averaged_columns(table) != averaged_columns(like)
        or not table[columns].equals(like[columns])
    ):
        raise ConfigError(
            f"{run.workdir} differs from the first run in the images, lesion_ids, labels "
            f"or columns of the predictions table {name}. Expected runs on the same "
            "dataset with the same --data.test-folds and --data.validation-folds."
        )
    return table


def _common(lists: Sequence[list[str]]) -> list[str]:
    """Returns the elements that all lists contain, in the order of the first list."""
    return [name for name in lists[0] if all(name in other for other in lists)]
