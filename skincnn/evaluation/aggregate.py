"""Combined results of several runs: ensembles and cross-validation."""

from __future__ import annotations

import dataclasses
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
from skincnn.files import remove
from skincnn.inference.predictions import (
    read_predictions,
    table_path,
    write_predictions,
)
from skincnn.inference.recognition import find_kind
from skincnn.inference.run_dir import (
    CONFIG_FILE,
    MODEL_FILE,
    RUN_FILE,
    Member,
    RunInfo,
    join_datasets,
    read_run,
)
from skincnn.metrics.bootstrap import Estimate
from skincnn.paths import unique_names
from skincnn.records import Part, Record, write_record
from skincnn.write_errors import explain_write_errors

PRODUCTS = ("predictions", "results", "figures", "report.html", "README.md", "checklists")
"""Files and directories, apart from run.json, that a new aggregate replaces. Exports are
versioned and kept."""
OUT_OF_FOLD = "out_of_fold"
T = TypeVar("T")
L = TypeVar("L", LeakageAudit, SplitLeakage)


@dataclass(frozen=True)
class EvaluatedRun:
    """A run and its evaluation: the contents of run.json and config.json, and the results.

    `name` is from `unique_names`. `results` are from `read_split_results`, by name, such as
    "test.d4".
    """

    name: str
    workdir: Path
    info: RunInfo
    config: Config
    results: dict[str, SplitResult]


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


def read_evaluated_runs(workdirs: Sequence[Path]) -> list[EvaluatedRun]:
    """Returns runs and their results.

    Raises:
        ConfigError: See `read_run` and `read_split_results`; or a run was not evaluated.
    """
    names = unique_names(workdirs)
    return [_read_run(name, path) for name, path in zip(names, workdirs, strict=True)]


def _read_run(name: str, workdir: Path) -> EvaluatedRun:
    info, config = read_run(workdir)
    results = read_split_results(workdir)
    missing = [result_path(workdir, s) for s in ("val", "test") if s not in results]
    if missing:
        raise ConfigError(
            f"{workdir} was not evaluated: {missing[0]} is missing. Run: "
            f"{command_line('evaluate', workdir)}"
        )
    return EvaluatedRun(name, workdir, info, config, results)


def combine_info(
    runs: Sequence[EvaluatedRun], kind: Literal["ensemble", "cross_validation"]
) -> RunInfo:
    """Returns the content of run.json for an ensemble or a cross-validation of runs.

    `RunInfo` describes the fields for several models.
    """
    infos = [run.info for run in runs]
    counted = infos if kind == "ensemble" else infos[:1]
    return join_datasets(infos).model_copy(
        update={
            "kind": kind,
            "device": _common([info.device for info in infos]),
            "provenance": _common([info.provenance for info in infos]),
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
    """Returns the largest value of each leakage count, by name of a result of `runs[0]`.

    Results without leakage, such as "val" and "test", are left out. A count is None if it
    is None in one of the runs.
    """
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
        ConfigError: The directory contains a run, or it has files with the names of those
            of an aggregate or a run, but contains neither; see `find_kind`.
    """
    names = (CONFIG_FILE, MODEL_FILE, RUN_FILE, *PRODUCTS)
    existing = ", ".join(name for name in names if (workdir / name).exists())
    kind = find_kind(workdir)
    if existing and kind not in ("ensemble", "cross_validation"):
        missing = f"{existing} but no ensemble or cross-validation"
        content = "a run" if kind == "run" else missing
        raise ConfigError(
            f"{workdir} contains {content}. Expected a new directory, or the directory of "
            "an earlier ensemble or cross-validation."
        )


def write_aggregate(workdir: Path, aggregate: Aggregate) -> None:
    """Writes an aggregate in place of the earlier one, if any, after `check_workdir`.

    run.json is written first, so that the directory is recognized if the command is
    repeated after an interruption, and the result of validation, without which there is no
    report, last.

    Raises:
        ConfigError: The earlier aggregate cannot be removed, or a file cannot be written;
            see also `check_workdir`.
    """
    check_workdir(workdir)
    for name in PRODUCTS:
        with explain_write_errors(workdir / name):
            remove(workdir / name)
    with explain_write_errors(workdir, "Afterward, repeat the command."):
        write_record(workdir / RUN_FILE, aggregate.info)
        write_predictions(workdir, aggregate.predictions)
        results = aggregate.results
        write_results(workdir, dict(sorted(results.items(), key=lambda x: x[0] == "val")))


def cross_validation_configs(config: Config, num_models: int) -> list[Config]:
    """Returns a copy of the configuration for each model, with the folds of the model.

    All folds except `FINAL_TEST_FOLD` are divided into `num_models` (2..9) test sets of
    adjacent folds. A model is validated on the first fold of the next test set (the last
    model on that of the first test set), and trained on the remaining folds. All models are
    therefore trained on `FINAL_TEST_FOLD`.

    Raises:
        ConfigError: `num_models` is out of range, or the configuration leaves out a source
            or is that of a final test.
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
        ConfigError: An image is in the test split, or in the validation split, of several
            runs, or a custom metric cannot be imported or fails; see also
            `read_evaluated_runs`.
        DataError: A predictions table is missing or damaged.
    """
    runs = read_evaluated_runs(workdirs)
    tables = {}
    for name, split in (("val", "val"), (OUT_OF_FOLD, "test")):
        parts = [read_predictions(table_path(workdir, split)) for workdir in workdirs]
        tables[name] = pd.concat(parts, ignore_index=True)
        repeated = tables[name]["image_id"].duplicated()
        if repeated.any():
            image = tables[name].loc[repeated, "image_id"].iloc[0]
            raise ConfigError(
                f"Image {image} is in the {split} split of several of the runs "
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

    A value of `num_*` is None (not known) if it is None in one of the objects. A value of
    `share_*` is None only if it is None in all objects, because it is also None for a split
    without melanomas.
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
