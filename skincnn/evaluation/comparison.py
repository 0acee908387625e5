"""Several runs as one table: scores with intervals, paired differences, and their cost."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skincnn.config import Config, DataConfig, read_config
from skincnn.errors import ConfigError
from skincnn.evaluation.scoring import (
    CALIBRATED,
    MELANOMA_RECALL,
    MELANOMA_SENSITIVITY,
    MELANOMA_SPECIFICITY,
    calibrated_values,
    melanoma_recall,
)
from skincnn.files import sha256
from skincnn.inference.logit_adjustment import unadjusted_name
from skincnn.inference.predictions import arrays, class_names_of, read_predictions
from skincnn.inference.run_dir import read_report
from skincnn.lookup import look_up
from skincnn.metrics.bootstrap import (
    Estimate,
    bootstrap,
    estimate,
    lesion_weights,
    lesions_of_rates,
)
from skincnn.metrics.classification import METRICS, Scores
from skincnn.metrics.operating_points import find_targets
from skincnn.metrics.seed_variance import Spread, count_seeds_in, pooled_spread
from skincnn.presets import to_command
from skincnn.reporting.report_text import trained_by

SHOWN = ("macro_f1", "balanced_accuracy", "accuracy", "macro_auc")
"""Of `METRICS`, the columns beside the one that is sorted by."""
OF_MELANOMA = {
    MELANOMA_RECALL: "recall",
    MELANOMA_SENSITIVITY: "recall",
    MELANOMA_SPECIFICITY: "specificity",
}
"""Rates to that of `lesions_of_rates` which has as many lesions."""
MIN_RESAMPLES = 100
"""As of `evaluate.num_bootstrap`: the ends of an interval need some resamples beyond them."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run's predictions of one split, and what they cost.

    It equals itself alone: tables do not compare to one truth value.

    Attributes:
        folder: Its name.
        split: Of the predictions.
        predictions: The table, sorted by image_id.
        validation: That of validation, made in the same way; None where there is none.
        class_names: The names of the labels, in order.
        split_by: "lesion", or "image" for the leaky protocol.
        synthetic: Whether the pictures are made up.
        sha256: Of the file of the predictions.
        changed: Whether that is not the one that the run's report was made from.
        minutes: Of training.
        num_parameters: Of the model.
        command: What makes it again; "" where the folder does not tell.
        config: Its configuration, of a cross-validation on the folds of the preset; None
            for an ensemble, and where it is not known.
        folds: "0 1 2 / 3 / 4": trained on, the epoch chosen on, tested; "" as above.
        variant: Of the report's other ways to predict, such as "d4"; "" for the
            plain one.
        trained_by: The code, and what it ran on; "" where the report does not tell.
    """

    folder: str
    split: str
    predictions: pd.DataFrame
    validation: pd.DataFrame | None
    class_names: tuple[str, ...]
    split_by: str
    synthetic: bool
    sha256: str
    changed: bool
    minutes: float
    num_parameters: int
    command: str = ""
    config: Config | None = None
    folds: str = ""
    variant: str = ""
    trained_by: str = ""

    @property
    def name(self) -> str:
        """Returns what the tables call it."""
        return f"{self.folder} ({self.variant})" if self.variant else self.folder

    @property
    def seed(self) -> int | None:
        """Returns the seed of its configuration, if that is known."""
        return None if self.config is None else self.config.seed

    @property
    def pictures(self) -> str:
        """Returns what two runs must share for a paired difference."""
        columns = ["image_id", "lesion_id", "label"]
        rows = self.predictions[columns].to_csv(index=False)
        digest = hashlib.sha256((rows + ",".join(self.class_names)).encode()).hexdigest()
        return f"{len(self.predictions)} pictures ({digest[:8]})"

    @property
    def protocol(self) -> str:
        """Returns what two runs must share to be ranked side by side."""
        synthetic = "SYNTHETIC pictures, " if self.synthetic else ""
        return f"{synthetic}split by {self.split_by}, {self.pictures}"


@dataclass(frozen=True)
class Row:
    """What the comparison says of one run, or of the mean of several seeds.

    Attributes:
        name: What it is called.
        runs: The run; or those that differ by nothing but their seed.
        scores: Name to score, of the metric that is sorted by, of `SHOWN`, of
            "melanoma_recall" where there is such a class, and of `CALIBRATED`.
        differences: By how much each score exceeds that of `against` on the same
            resamples; empty for that row, and where the pictures are others.
        against: The name of the row that they are against.
        command: What makes it again, of runs that are there if it is of several; "" where
            the folder does not tell.
        recipe_differences: The differences again, with intervals that count other seeds
            in; empty as above, where no recipe has several seeds, and for what is no
            recipe's: one of several seeds, an ensemble, another way to ask a run.
        spread: What a seed does, by which those intervals are wider; None where no recipe
            has several seeds.
    """

    name: str
    runs: tuple[Run, ...]
    scores: dict[str, Estimate]
    differences: dict[str, Estimate]
    against: str
    command: str
    recipe_differences: dict[str, Estimate]
    spread: Spread | None


def read_run(workdir: Path, split: str, variant: str = "") -> Run:
    """Returns the predictions of a run's folder.

    Args:
        workdir: The folder.
        split: "test", or another that was evaluated.
        variant: Of `variant_names`; "" for the plain predictions.

    Raises:
        ConfigError: The folder holds no evaluated run, or no such split.
        DataError: The table is damaged.
    """
    table = f"{split}_{variant}" if variant else split
    path = workdir / "predictions" / f"{table}.csv"
    missing = [
        str(file.relative_to(workdir))
        for file in (path, workdir / "report.json")
        if not file.is_file()
    ]
    if missing:
        raise ConfigError(
            f"{workdir} holds no evaluated run: {', '.join(missing)} is missing. Expected "
            "the --workdir of a finished scripts/train.py; or make the split with "
            f"scripts/evaluate.py {workdir} --split {split}."
        )
    predictions = read_predictions(path).sort_values("image_id", ignore_index=True)
    digest = sha256(path)
    of_validation = path.with_name(f"val_{variant}.csv" if variant else "val.csv")
    report = read_report(workdir, "split_by", "training_seconds", "num_parameters")
    name = workdir.resolve().name
    how = _how(workdir, report)
    if variant:
        how["command"] = _command_of_variant(name, report, variant, how.get("command", ""))
    return Run(
        name,
        split,
        predictions,
        read_predictions(of_validation) if of_validation.is_file() else None,
        tuple(class_names_of(predictions)),
        report["split_by"],
        report.get("synthetic", False),
        digest,
        _written(report, split, variant) not in (None, digest),
        report["training_seconds"] / 60,
        report["num_parameters"],
        variant=variant,
        trained_by=trained_by(report.get("provenance")),
        **how,
    )


def variant_names(workdir: Path, split: str) -> list[str]:
    """Returns the report's other ways to predict a split: each `read_run` can read."""
    variants = read_report(workdir).get("variants") or []
    return [found["name"] for found in variants if split in found["sha256"]]


def with_first(runs: Sequence[Run], variant: str) -> list[Run]:
    """Returns the runs, first of all the first folder's that was asked in a certain way.

    Args:
        runs: One or more.
        variant: Of `variant_names`; "" for the plain predictions.

    Raises:
        ConfigError: The first folder was not asked so.
    """
    of_first = [run for run in runs if run.folder == runs[0].folder]
    names = [run.variant for run in of_first]
    if variant not in names:
        known = ", ".join(name for name in names if name) or "only the plain predictions"
        raise ConfigError(
            f"--baseline {variant}: {runs[0].folder} was not asked so. It has {known}; "
            "scripts/evaluate.py makes others, as with --tta augment."
        )
    first = of_first[names.index(variant)]
    return [first, *(run for run in runs if run is not first)]


def compare(
    runs: Sequence[Run],
    sort_by: str,
    resamples: int,
    *,
    confidence: float = 0.95,
    average_seeds: bool = False,
) -> dict[str, list[Row]]:
    """Returns the rows of each protocol, the best first.

    A difference needs the same pictures: a leaky run that is tested on all pictures, out of
    fold, can be told from an honest one, in a table of its own.

    Args:
        runs: The runs; differences are against the first, or the mean of its seeds.
        sort_by: Name of `METRICS`.
        resamples: Of the lesions, the same ones for every run of the same pictures.
        confidence: Coverage, between 0 and 1.
        average_seeds: Whether runs that differ by the seed alone get a row more, with the
            mean of their scores, and all rows are compared with the mean of the first
            run's. Its interval is that of the mean over the same resamples: it tells of
            other lesions, and not of other seeds. `Row.recipe_differences` tell of both.

    Raises:
        ConfigError: There is no such metric, there are fewer than 100 resamples, or two
            runs have the same name.
    """
    if resamples < MIN_RESAMPLES:
        raise ConfigError(
            f"--num-bootstrap must be {MIN_RESAMPLES} or more. Received: {resamples}."
        )
    metric = look_up(METRICS, sort_by, "--sort")
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            "The folders must have different names, by which the table calls them. "
            f"Received twice: {', '.join(twice)}."
        )
    columns = tuple(dict.fromkeys((sort_by, *SHOWN)))
    values = {run.name: _bootstrap(run, columns, resamples) for run in runs}
    seeds = _seeds(runs) if average_seeds else []
    recipes = _recipes(runs, seeds)
    spread = pooled_spread(
        [
            [{name: found[0] for name, found in values[run.name].items()} for run in group]
            for group in recipes
        ]
    )
    groups: list[tuple[Run, ...]] = [*((run,) for run in runs), *seeds]
    against = max((group for group in groups if runs[0] in group), key=len)
    first = _mean(values, against)
    tables: dict[str, list[Row]] = {}
    for group in groups:
        paired = against[0].pictures == group[0].pictures and group != against
        found = _mean(values, group)
        differences = {
            name: estimate(found[name] - first[name], confidence)[0]
            for name in (found if paired else ())
        }
        row = Row(
            _name(group),
            group,
            {
                name: estimate(found[name], confidence, _lesions(group, name))[0]
                for name in found
            },
            differences,
            _name(against),
            _command(group),
            {
                name: count_seeds_in(
                    difference,
                    spread.half_width(name, len(group), len(against), confidence),
                )
                for name, difference in differences.items()
                if spread and group in recipes
            },
            spread,
        )
        tables.setdefault(group[0].protocol, []).append(row)
    for rows in tables.values():
        rows.sort(
            key=lambda row: row.scores[sort_by].value or 0.0,
            reverse=metric.higher_is_better,
        )
    return tables


def _bootstrap(run: Run, columns: Sequence[str], resamples: int) -> dict[str, Scores]:
    """Returns the scores of a run in all resamples of its lesions."""
    weights = lesion_weights(run.predictions, resamples)
    functions = {name: METRICS[name].function for name in columns}
    functions |= melanoma_recall(run.class_names)
    values = bootstrap(functions, *arrays(run.predictions, run.class_names), weights)
    values |= dict.fromkeys(CALIBRATED, np.full(resamples + 1, np.nan))
    if run.validation is not None:
        values |= calibrated_values(
            run.predictions, run.validation, run.class_names, weights
        )
    return values


def _lesions(group: Sequence[Run], name: str) -> Any:
    """Returns the lesions of a rate; None for another score, and for a mean."""
    if len(group) > 1:
        return None
    [run] = group
    lesions = run.predictions["lesion_id"].tolist()
    counts = lesions_of_rates(lesions, *arrays(run.predictions, run.class_names))
    if name in OF_MELANOMA:
        melanoma = find_targets(run.class_names).get("melanoma")
        return counts[OF_MELANOMA[name]][list(melanoma.classes[:1])] if melanoma else None
    return counts.get(name)


def _seeds(runs: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Returns the runs that differ by their seed alone, where there are several."""
    found: dict[tuple[Config, str, str, str], list[Run]] = {}
    for run in runs:
        if run.config is not None:
            same = dataclasses.replace(run.config, seed=0)
            key = same, run.folds, run.protocol, run.variant
            found.setdefault(key, []).append(run)
    return [tuple(group) for group in found.values() if len(group) > 1]


def _recipes(runs: Sequence[Run], seeds: list[tuple[Run, ...]]) -> list[tuple[Run, ...]]:
    """Returns all runs of each recipe that were asked of the same as the first run is.

    None where that one is no recipe's, as an ensemble is not.
    """
    first = runs[0]
    alone = [(run,) for run in runs if not any(run in several for several in seeds)]
    return [
        group
        for group in (*seeds, *alone)
        if None not in (first.config, group[0].config)
        and (group[0].variant, group[0].pictures) == (first.variant, first.pictures)
    ]


def _mean(values: dict[str, dict[str, Scores]], group: Sequence[Run]) -> dict[str, Scores]:
    each = [values[run.name] for run in group]
    return {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}


def _name(group: Sequence[Run]) -> str:
    if len(group) == 1:
        return group[0].name
    seeds = "seed" if len(group) == 2 else "seeds"
    return f"mean of {group[0].name} and {len(group) - 1} other {seeds}"


def _command(group: Sequence[Run]) -> str:
    """Returns what makes a run again, or the mean of several."""
    first = group[0]
    if len(group) == 1:
        return first.command
    words = ["python", "scripts/compare.py", *(f"runs/{run.folder}" for run in group)]
    if first.split != "test":
        words += ["--split", first.split]
    if first.variant:
        words.append("--variants")
    return shlex.join([*words, "--average-seeds"])


def _how(workdir: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Returns the command, configuration and folds of a folder, as far as it tells."""
    name = shlex.quote(f"runs/{workdir.resolve().name}")
    models = report.get("models", [])
    parts = sorted(workdir.glob("model_*/config.json"))
    if models and len(parts) == len(models):
        config = _on_default_folds(read_config(parts[0]))
        command = to_command(config)
        command = command or f"python scripts/train.py --config {name}/model_1/config.json"
        command += f" --folds {len(parts)} --workdir {name}"
        return {
            "command": command,
            "config": config,
            "folds": f"all, out of fold by {len(parts)} models",
        }
    if models:
        names = " ".join(shlex.quote(f"runs/{model['name']}") for model in models)
        return {"command": f"python scripts/evaluate.py {names} --ensemble {name}"}
    if not (workdir / "config.json").is_file():
        return {}
    config = read_config(workdir / "config.json")
    folds = (config.data.train_folds, config.data.validation_folds, config.data.test_folds)
    command = to_command(config) or f"python scripts/train.py --config {name}/config.json"
    return {
        "command": f"{command} --workdir {name}",
        "config": config,
        "folds": " / ".join(" ".join(map(str, part)) for part in folds),
    }


def _on_default_folds(config: Config) -> Config:
    data = dataclasses.replace(
        config.data,
        train_folds=DataConfig.train_folds,
        validation_folds=DataConfig.validation_folds,
        test_folds=DataConfig.test_folds,
    )
    return dataclasses.replace(config, data=data)


def _command_of_variant(
    name: str, report: dict[str, Any], variant: str, command: str
) -> str:
    """Returns what asks a run that is there in another way."""
    views = unadjusted_name(variant)
    flags = []
    if views:
        num_views = _find_variant(report, variant)["num_views"]
        flags.append(f"--tta {views} --num-views {num_views}")
    if views != variant:
        flags.append("--logit-adjustment")
    # An ensemble asks no model: its runs are asked, before it is made.
    models = [model["name"] for model in report.get("models", [])]
    asked = [
        f"python scripts/evaluate.py {shlex.quote(f'runs/{run}')} {' '.join(flags)}"
        for run in models or [name]
    ]
    return " && ".join([*asked, command] if models else asked)


def _find_variant(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(found for found in report["variants"] if found["name"] == name)


def _written(report: dict[str, Any], split: str, variant: str) -> str | None:
    """Returns the SHA-256 of the table that a report was made from, None if not known."""
    if variant:
        return str(_find_variant(report, variant)["sha256"][split])
    content = report.get("splits", {}).get(split, {})
    return content.get("sha256")
