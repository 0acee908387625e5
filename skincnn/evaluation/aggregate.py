"""Combined results of several runs: ensembles and cross-validation."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from skincnn.commands import command_line
from skincnn.config import FINAL_TEST_FOLD, NUM_FOLDS, Config
from skincnn.data.characteristics import combine_flows
from skincnn.data.leakage import LeakageAudit, SplitLeakage
from skincnn.errors import ConfigError
from skincnn.evaluation.ood import distance_limit
from skincnn.evaluation.results import (
    SplitResult,
    read_split_results,
    result_path,
    write_results,
)
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.inference.predictions import (
    read_predictions,
    table_path,
    write_predictions,
)
from skincnn.inference.run_dir import CONFIG_FILE, RUN_FILE, Member, RunInfo, read_run
from skincnn.metrics.bootstrap import Estimate
from skincnn.records import Part, Record, write_record

PRODUCTS = (
    *("predictions", "results", "figures", "report.html", "README.md", "checklists"),
    RUN_FILE,
)
"""Files and directories that a new aggregate replaces. Exports are versioned and kept."""
OUT_OF_FOLD = "out_of_fold"
T = TypeVar("T")
L = TypeVar("L", LeakageAudit, SplitLeakage)


@dataclass(frozen=True)
class EvaluatedRun:
    """A run and its evaluation: the contents of run.json, config.json and results/.

    `results` are by name, such as "test.d4".
    """

    workdir: Path
    info: RunInfo
    config: Config
    results: dict[str, SplitResult]

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.workdir.resolve().name


class MemberScores(Part):
    """The test scores of one model of an ensemble or a cross-validation.

    `differences` are paired, ensemble minus model; a cross-validation has none, because its
    models are tested on different images.
    """

    name: str
    metrics: dict[str, Estimate]
    differences: dict[str, Estimate]


class MembersResult(Record):
    """results/members.json: scores of the models, in the order of `RunInfo.members`."""

    split: str
    members: tuple[MemberScores, ...]


@dataclass(frozen=True)
class Aggregate:
    """An ensemble or a cross-validation: run.json, and predictions and results by name."""

    info: RunInfo
    predictions: dict[str, pd.DataFrame]
    results: dict[str, Record]


def read_evaluated_run(workdir: Path) -> EvaluatedRun:
    """Returns a run and its results.

    Raises:
        ConfigError: See `read_run` and `read_split_results`; or the run was not evaluated.
    """
    info, config = read_run(workdir)
    results = read_split_results(workdir)
    missing = [result_path(workdir, s) for s in ("val", "test") if s not in results]
    if missing:
        raise ConfigError(
            f"{workdir} was not evaluated: {missing[0]} is missing. Run: "
            f"{command_line('evaluate', workdir)}"
        )
    return EvaluatedRun(workdir, info, config, results)


def combine_info(
    runs: Sequence[EvaluatedRun], kind: Literal["ensemble", "cross_validation"]
) -> RunInfo:
    """Returns the content of run.json for an ensemble or a cross-validation of runs."""
    infos = [run.info for run in runs]
    datasets = {d.name: d for info in reversed(infos) for d in info.datasets}
    counted = infos if kind == "ensemble" else infos[:1]
    return infos[0].model_copy(
        update={
            "kind": kind,
            "device": _common([info.device for info in infos]),
            "provenance": _common([info.provenance for info in infos]),
            "datasets": tuple(datasets.values()),
            "audit": _worst([info.audit for info in infos]),
            "flow": combine_flows([info.flow for info in infos]),
            "training_characteristics": _common(
                [info.training_characteristics for info in infos]
            ),
            "data_fingerprint": {},
            "class_counts": {},
            "best_epoch": None,
            "num_parameters": sum(info.num_parameters for info in counted),
            "training_seconds": sum(info.training_seconds for info in infos),
            "sha256": {},
            "teacher": _common([info.teacher for info in infos]),
            "modules": _common([info.modules for info in infos]) or {},
            "members": tuple(
                Member(
                    name=run.name,
                    config=run.config,
                    audit=run.info.audit,
                    best_epoch=run.info.best_epoch,
                )
                for run in runs
            ),
        }
    )


def describe_member(
    run: EvaluatedRun, differences: dict[str, Estimate] | None = None
) -> MemberScores:
    """Returns the test scores of a run, with paired differences, ensemble minus run."""
    metrics = run.results["test"].metrics
    return MemberScores(name=run.name, metrics=metrics, differences=differences or {})


def worst_leakage(runs: Sequence[EvaluatedRun]) -> dict[str, SplitLeakage]:
    """Returns the maximum of each leakage count over the runs, by name of the result."""
    leakage: dict[str, SplitLeakage] = {}
    for split in runs[0].results:
        parts = [run.results[split].leakage for run in runs if split in run.results]
        known = [part for part in parts if part is not None]
        if known:
            leakage[split] = _worst(known)
    return leakage


def check_workdir(workdir: Path) -> None:
    """Checks that an aggregate may be written to a directory.

    Raises:
        ConfigError: The directory holds a run, or a README.md that is not a model card.
    """
    if (workdir / CONFIG_FILE).exists():
        raise ConfigError(
            f"{workdir} holds a run. Expected a new directory, or the directory of an "
            "earlier ensemble or cross-validation."
        )
    if (workdir / "README.md").exists() and not (workdir / RUN_FILE).exists():
        raise ConfigError(
            f"{workdir} holds a README.md, which the model card would replace. Expected a "
            "new directory, or the directory of an earlier ensemble or cross-validation."
        )


def write_aggregate(workdir: Path, aggregate: Aggregate) -> None:
    """Writes an aggregate after `check_workdir`, and removes the earlier one, if any."""
    check_workdir(workdir)
    for name in PRODUCTS:
        if (workdir / name).is_dir():
            shutil.rmtree(workdir / name)
        else:
            (workdir / name).unlink(missing_ok=True)
    write_predictions(workdir, aggregate.predictions)
    write_results(workdir, aggregate.results)
    write_record(workdir / RUN_FILE, aggregate.info)


def cross_validation_configs(config: Config, num_models: int) -> list[Config]:
    """Returns a copy of the configuration for each model, with the folds of the model.

    The folds are divided into `num_models` (2..9) test sets of adjacent folds. A model is
    validated on the first fold of the next test set, and trained on the remaining folds.
    `FINAL_TEST_FOLD` is in no test set, so all models are trained on it.

    Raises:
        ConfigError: `num_models` is out of range, or the configuration leaves out a source.
    """
    if config.data.leave_out:
        raise ConfigError(
            "--folds cannot be used with --data.leave-out, which determines the test "
            "images. Train a model for each source."
        )
    tested = [fold for fold in range(NUM_FOLDS) if fold != FINAL_TEST_FOLD]
    if not 2 <= num_models <= len(tested):
        raise ConfigError(f"--folds must be in 2..{len(tested)}. Received: {num_models}.")
    groups = [part.tolist() for part in np.array_split(tested, num_models)]
    configs = []
    for number, test in enumerate(groups):
        validation = groups[(number + 1) % num_models][0]
        data = dataclasses.replace(
            config.data,
            test_folds=tuple(test),
            validation_folds=(validation,),
            train_folds=tuple(
                fold for fold in range(NUM_FOLDS) if fold not in (*test, validation)
            ),
        )
        configs.append(dataclasses.replace(config, data=data))
    return configs


def pool(workdirs: Sequence[Path]) -> Aggregate:
    """Pools the out-of-fold predictions of several runs, and returns their results.

    The runs must have the configurations from `cross_validation_configs`. The calibration
    and the thresholds are chosen on the pooled validation predictions. The referral rule
    includes out-of-distribution detection only if it is switched on in all runs.

    Raises:
        ConfigError: An image is in the test split, or in the validation split, of two runs;
            see also `read_evaluated_run`.
        DataError: A predictions table is missing or damaged.
    """
    runs = [read_evaluated_run(workdir) for workdir in workdirs]
    tables = {}
    for name, split in (("val", "val"), (OUT_OF_FOLD, "test")):
        parts = [read_predictions(table_path(workdir, split)) for workdir in workdirs]
        tables[name] = pd.concat(parts, ignore_index=True)
        repeated = tables[name]["image_id"].duplicated()
        if repeated.any():
            image = tables[name].loc[repeated, "image_id"].iloc[0]
            raise ConfigError(
                f"Image {image} is in the {split} split of two of the runs "
                f"{', '.join(map(str, workdirs))}. Expected runs with different folds."
            )
    as_is = InferenceVariant("", tables, runs[0].results["test"].cost)
    stored_in = {
        "val": "validation folds of all models",
        OUT_OF_FOLD: "out-of-fold predictions",
    }
    rules = [run.results["test"].triage for run in runs]
    is_on = all(rule is not None and rule.max_distance is not None for rule in rules)
    max_distance = distance_limit(tables["val"]) if is_on else None
    config = runs[0].config.evaluate
    declared = runs[0].info.declared
    _, scores = score_variants([as_is], stored_in, {}, config, max_distance, declared)
    members = MembersResult(split="test", members=tuple(map(describe_member, runs)))
    return Aggregate(
        combine_info(runs, "cross_validation"), tables, {**scores, "members": members}
    )


def _common(values: Sequence[T]) -> T | None:
    """Returns the common value, or None if the values differ."""
    return values[0] if all(value == values[0] for value in values) else None


def _worst(parts: Sequence[L]) -> L:
    """Returns an object with the largest value of each field and each dictionary key.

    A number is None if it is not known (None) in one of the objects. A share can also be
    None because there are no such images, so it is None only if it is None in all objects.
    """
    fields = {
        field.name: _largest(
            [getattr(part, field.name) for part in parts],
            skip_none=field.name.startswith("share_"),
        )
        for field in dataclasses.fields(parts[0])
    }
    return type(parts[0])(**fields)


def _largest(values: Sequence[Any], *, skip_none: bool) -> Any:
    """Returns the largest value; for dictionaries, the largest value of each key.

    The result is None if one value is None, or, with `skip_none`, if all values are None.
    """
    if isinstance(values[0], dict):
        return {
            key: _largest([part[key] for part in values], skip_none=skip_none)
            for key in values[0]
        }
    known = [value for value in values if value is not None]
    if len(known) < len(values) and not skip_none:
        return None
    return max(known, default=None)
