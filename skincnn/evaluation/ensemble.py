"""An ensemble: the mean of what several runs say of the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skincnn.config import Config
from skincnn.errors import ConfigError
from skincnn.evaluation.aggregate import KEYS, check_folder, describe_models, write_combined
from skincnn.evaluation.scoring import metric_values, score_differences, score_variant
from skincnn.inference.ood import UNKNOWN_TABLE, score_unknown
from skincnn.inference.predictions import (
    DISTANCE,
    mean_predictions,
    read_predictions,
    write_predictions,
)
from skincnn.inference.run_dir import read_report, read_run
from skincnn.metrics.bootstrap import lesion_weights

SAME = ("lesion_id", "label")
"""Columns in which tables of the same pictures agree."""


def combine_runs(workdir: Path, runs: Sequence[Path]) -> dict[str, Any]:
    """Writes the report of the mean probabilities of several evaluated runs.

    No model is asked again: everything comes from the tables of the runs, and what all of
    them have (splits, test-time augmentation) the ensemble has, too. Its temperature and
    thresholds are its own, chosen on validation.

    Args:
        workdir: The folder to write to.
        runs: Two or more, evaluated on the same pictures; the headline is the first's.

    Returns:
        The content of report.json: as of a run, and `models`, each with its scores and
        `differences`, what the ensemble has over it.

    Raises:
        ConfigError: There are fewer than two runs, a folder holds no evaluated run, or
            they were tested on other pictures or classes, or one of them twice.
    """
    names = [run.resolve().name for run in runs]
    if len(runs) < 2 or len({run.resolve() for run in runs}) < len(runs):
        raise ConfigError(
            f"An ensemble needs two or more different runs. Received: {', '.join(names)}."
        )
    check_folder(workdir)
    _, config = read_run(runs[0])
    reports = [read_report(run, *KEYS) for run in runs]
    splits = _common([list(report["splits"]) for report in reports])
    kinds = _common([[kind["name"] for kind in report["variants"]] for report in reports])
    tables = {split: mean_table(runs, split) for split in splits}
    class_names = reports[0]["class_names"]
    headline = reports[0]["headline"]
    if headline not in splits:
        headline = "test"
    seconds_alone = sum(report["seconds_per_image"] for report in reports)
    variants = []
    for kind in kinds:
        found = {split: mean_table(runs, f"{split}_{kind}") for split in splits}
        parts = [_find(report["variants"], kind) for report in reports]
        counts = [part["num_views"] for part in parts]
        if len(set(counts)) > 1:
            raise ConfigError(
                f"The runs were evaluated with {', '.join(map(str, counts))} views "
                f"({kind}). Evaluate them with the same --num-views."
            )
        seconds = sum(part["seconds_per_image"] for part in parts)
        variants.append(
            {
                "name": kind,
                "num_views": counts[0],
                "seconds_per_image": seconds,
                "cost": seconds / seconds_alone,
                "sha256": write_predictions(workdir, found, f"_{kind}"),
                **score_variant(found, tables, headline, class_names, config),
            }
        )
    weights = lesion_weights(tables[headline], config.evaluate.num_bootstrap)
    together = metric_values(tables[headline], class_names, weights)
    models = describe_models(runs, reports, headline)
    for run, model in zip(runs, models, strict=True):
        alone = _read(run, headline, tables[headline])
        model["differences"] = score_differences(
            together,
            metric_values(alone, class_names, weights),
            config.evaluate.confidence,
        )
    return write_combined(
        workdir,
        config,
        reports,
        tables,
        {split: reports[0]["splits"][split]["fold"] for split in splits},
        headline=headline,
        protocol=(
            f"Ensemble: the mean of the probabilities of {len(runs)} models "
            f"({', '.join(names)}). What each was trained on, and where its epoch was "
            "chosen, is said of each model."
        ),
        folds={
            part: sorted(set().union(*(report["folds"][part] for report in reports)))
            for part in reports[0]["folds"]
        },
        seconds_per_image=seconds_alone,
        num_parameters=sum(report["num_parameters"] for report in reports),
        models=models,
        variants=variants,
        unknown=_score_unknown(runs, tables, config),
    )


def mean_table(runs: Sequence[Path], name: str) -> pd.DataFrame:
    """Returns the first run's predictions/<name>.csv with the mean answers of all.

    Args:
        runs: Folders of evaluated runs.
        name: A split, or a split and a kind of test-time augmentation.

    Raises:
        ConfigError: The runs were tested on other pictures or classes.
        DataError: A table is not there, or damaged.
    """
    first = read_predictions(runs[0] / "predictions" / f"{name}.csv")
    tables = [first, *(_read(run, name, first) for run in runs[1:])]
    return mean_predictions(tables)


def _read(run: Path, name: str, like: pd.DataFrame) -> pd.DataFrame:
    """Returns a run's table, its rows in the order of another's."""
    table = read_predictions(run / "predictions" / f"{name}.csv")
    same_pictures = set(table["image_id"]) == set(like["image_id"])
    if same_pictures:
        table = table.set_index("image_id").loc[like["image_id"]].reset_index()
    columns = list(SAME)
    if (
        not same_pictures
        or list(table.columns) != list(like.columns)
        or not table[columns].equals(like[columns])
    ):
        raise ConfigError(
            f"{run} was tested on other pictures, labels or classes ({name}) than the "
            "first run. Expected runs of one dataset with the same --data.test-folds and "
            "--data.validation-folds."
        )
    return table


def _score_unknown(
    runs: Sequence[Path], tables: dict[str, pd.DataFrame], config: Config
) -> dict[str, Any] | None:
    """Returns what `score_unknown` says of pictures that all runs were asked about.

    None where one of them was asked about none, or has no distances.
    """
    paths = [run / "predictions" / UNKNOWN_TABLE for run in runs]
    try:
        found = [pd.read_csv(path) for path in paths]
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return None
    if not all(DISTANCE in table for table in (*found, *tables.values())):
        return None
    pictures = _common([table["image_id"].tolist() for table in found])
    asked = [table.set_index("image_id").loc[pictures].reset_index() for table in found]
    return score_unknown(tables, mean_predictions(asked), config) if pictures else None


def _common(lists: Sequence[list[str]]) -> list[str]:
    """Returns what all lists hold, in the order of the first."""
    return [name for name in lists[0] if all(name in other for other in lists)]


def _find(variants: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(variant for variant in variants if variant["name"] == name)
