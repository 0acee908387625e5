"""The runs of a comparison: predictions, configurations and commands."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from skincnn.config import Config, DataConfig
from skincnn.data.identifiers import Unit
from skincnn.errors import ConfigError
from skincnn.evaluation.external.result import PREFIX, external_name, read_external
from skincnn.evaluation.results import SplitResult, read_split_results, split_name
from skincnn.inference.commands import EVALUATED_BY_DEFAULT, evaluate_command
from skincnn.inference.logit_adjustment import unadjusted_name
from skincnn.inference.predictions import (
    class_names_of,
    file_sha256,
    read_predictions,
    table_fingerprint,
    table_path,
)
from skincnn.inference.run_dir import (
    CONFIG_FILE,
    Provenance,
    RunInfo,
    read_run_config,
    read_run_info,
)
from skincnn.lookup import suggest
from skincnn.presets import to_command


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """The predictions of a run on one split, and how they were computed.

    `==` compares the identity of runs, because `==` of two tables is not a single value.

    Attributes:
        folder: Name of the run directory; see `skincnn.paths.unique_names`.
        variant: "" for the model as is; see `SplitResult`.
        predictions: The predictions table, sorted by image_id.
        validation: The validation table of the same variant; None if the file is missing.
        fingerprint: See `table_fingerprint`.
        sha256: SHA-256 of the predictions file.
        changed: Whether the predictions file has changed since its result was written.
        is_leaky: Whether lesions or groups of images are in several splits of a model.
        unit: What the bootstrap resamples; see `SplitResult.unit`.
        config: The configuration, with the default folds for a cross-validation; None for
            an ensemble.
        folds: Training, validation and test folds, such as "0 1 2 / 3 / 4", and the source
            that is left out, if any; a description for a cross-validation; "" for an
            ensemble.
        command: The command that reproduces the predictions; for a variant of a single run,
            the trained run is required.
    """

    folder: str
    info: RunInfo
    split: str
    variant: str
    predictions: pd.DataFrame
    validation: pd.DataFrame | None
    fingerprint: str
    sha256: str
    changed: bool
    is_leaky: bool
    unit: Unit
    config: Config | None
    folds: str
    command: str

    @property
    def name(self) -> str:
        """Name in comparison tables, such as "run (d4)"."""
        return f"{self.folder} ({self.variant})" if self.variant else self.folder

    @property
    def images(self) -> str:
        """Text that identifies the images, groups, labels and classes.

        It is equal for runs that can be compared image by image.
        """
        columns = ["image_id", "group_id", "label"]
        rows = self.predictions[columns].to_csv(index=False)
        text = rows + ",".join(class_names_of(self.predictions))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{len(self.predictions)} images ({digest[:8]})"

    @property
    def protocol(self) -> str:
        """Text that identifies the protocol. Runs are ranked only within a protocol."""
        synthetic = "SYNTHETIC images, " if self.info.synthetic else ""
        if self.info.partly_synthetic:
            synthetic = "partly SYNTHETIC images, "
        split_by = f"split by {self.unit}"
        if self.is_leaky:
            split_by = "split by image"
        elif self.unit == "image":
            split_by += " (lesions are not known)"
        return f"{synthetic}{split_by}, {self.images}"


def read_compared_run(
    workdir: Path, split: str, variant: str = "", folder: str = ""
) -> ComparedRun:
    """Returns the predictions of a run, an ensemble or a cross-validation.

    `split` is a split, or "external.<dataset>". `variant` is one of `variant_names`, or ""
    for the model as is. `folder` is the name of the run; by default, that of its directory.

    Raises:
        ConfigError: The run or this evaluation does not exist, or a file is damaged.
        DataError: A predictions table is damaged.
        OSError: The predictions table exists, but is not readable.
    """
    info = read_run_info(
        workdir,
        "Recreate the directory with `skincnn train --overwrite` or, for an ensemble of "
        "existing runs, with `skincnn evaluate --ensemble`.",
    )
    results = _read_results(workdir)
    table = split_name(split, variant)
    path = table_path(workdir, table)
    if table not in results or not path.is_file():
        raise ConfigError(
            f"{workdir} was not evaluated on {split}: {path} or its result is missing. Use "
            "another split (out_of_fold for a cross-validation) or external dataset; for a "
            f"single run: {evaluate_command(workdir, table)}"
        )
    digest = file_sha256(path)
    predictions = read_predictions(path).sort_values("image_id", ignore_index=True)
    validation = table_path(workdir, split_name("val", variant))
    configs = [member.config for member in info.members]
    configs = configs or [read_run_config(workdir)]
    folder = folder or workdir.resolve().name
    members = _member_paths(workdir, folder, info)
    config, folds, command = _find_recipe(folder, info, configs[0], members)
    command = _add_evaluation(folder, members, results[table], command)
    return ComparedRun(
        folder=folder,
        info=info,
        split=split,
        variant=variant,
        predictions=predictions,
        validation=read_predictions(validation) if validation.is_file() else None,
        fingerprint=table_fingerprint(predictions),
        sha256=digest,
        changed=results[table].predictions_sha256 != digest,
        is_leaky=bool(info.audit.num_shared_lesions or info.audit.num_shared_groups),
        unit=results[table].unit,
        config=config,
        folds=folds,
        command=command,
    )


def variant_names(workdir: Path, split: str) -> list[str]:
    """Returns the variants, except the model as is, that were evaluated on a split.

    Raises:
        ConfigError: See `read_split_results`.
    """
    return [
        result.variant
        for result in read_split_results(workdir).values()
        if result.split == split and result.variant
    ]


def put_baseline_first(runs: Sequence[ComparedRun], variant: str) -> list[ComparedRun]:
    """Returns the runs in a new order: the given variant of the first run comes first.

    Raises:
        ConfigError: The first run has no such variant.
    """
    variants = {run.variant: run for run in runs if run.folder == runs[0].folder}
    if variant not in variants:
        known = ", ".join(name for name in variants if name) or "none"
        hint = suggest(variants, variant)
        raise ConfigError(
            f"`baseline` must be a variant of the first run, {runs[0].folder} (variants: "
            f"{known}). Received: {variant}.{hint} To create a variant, run "
            "`skincnn evaluate`, for example with --tta augment."
        )
    first = variants[variant]
    return [first, *(run for run in runs if run is not first)]


def describe_provenance(provenance: Provenance | None) -> str:
    """Returns the code and hardware of a training run as text; "" for None."""
    if provenance is None:
        return ""
    if provenance.gpus:
        return f"{provenance.code}, {len(provenance.gpus)} x {provenance.gpus[0]}"
    cores = f"{provenance.cores} core{'s' if provenance.cores > 1 else ''}"
    return f"{provenance.code}, {cores} of {provenance.processor}"


def _read_results(workdir: Path) -> dict[str, SplitResult]:
    """Returns the results of splits and of external datasets, by name of the table."""
    external = {external_name(e.name): e.scores for e in read_external(workdir)}
    return read_split_results(workdir) | external


def _evaluate_flag(split: str) -> str:
    """Returns the flag with which `skincnn evaluate` evaluates a split; "" for "val"."""
    if split.startswith(PREFIX):
        return f"--external {shlex.quote(split.removeprefix(PREFIX))}"
    return "" if split == "val" else f"--split {split}"


def _member_paths(workdir: Path, folder: str, info: RunInfo) -> list[str]:
    """Returns the paths of the members of an ensemble or a cross-validation, for a command.

    Those that `skincnn train` trained together are in subdirectories of `workdir`.
    """
    return [
        f"runs/{folder}/{member.name}"
        if (workdir / member.name / CONFIG_FILE).is_file()
        else f"runs/{member.name}"
        for member in info.members
    ]


def _find_recipe(
    folder: str, info: RunInfo, first: Config, members: Sequence[str]
) -> tuple[Config | None, str, str]:
    """Returns `config`, `folds` and `command` of a `ComparedRun`.

    The command is that for the model as is on the test split, or on "out_of_fold". `first`
    is the configuration of the run, or of its first member; `members` are from
    `_member_paths`.
    """
    name, count = shlex.quote(f"runs/{folder}"), len(info.members)
    if info.kind == "ensemble":
        paths = shlex.join(members)
        return None, "", f"skincnn evaluate {paths} --ensemble {name}"
    names = ("train_folds", "validation_folds", "test_folds")
    if info.kind == "run":
        file, flags = f"{name}/config.json", ""
        parts = (" ".join(map(str, getattr(first.data, part))) for part in names)
        folds = " / ".join(parts)
        if first.data.leave_out:
            folds += f", source {first.data.leave_out} left out"
    else:
        file, flags = f"{name}/model_1/config.json", f" --folds {count}"
        folds = f"1 to 9, out of fold by {count} models"
        defaults = {part: getattr(DataConfig, part) for part in names}
        data = dataclasses.replace(first.data, **defaults)
        first = dataclasses.replace(first, data=data)
    command = to_command(first) or f"skincnn train --config {file}"
    return first, folds, f"{command}{flags} --workdir {name}"


def _add_evaluation(
    folder: str, members: Sequence[str], result: SplitResult, as_is: str
) -> str:
    """Returns the command for a result; `as_is` is that from `_find_recipe`.

    `members` are from `_member_paths`.
    """
    views = unadjusted_name(result.variant)
    flags = []
    if result.split not in EVALUATED_BY_DEFAULT:
        flags.append(_evaluate_flag(result.split))
    if views:
        flags.append(f"--tta {views} --num-views {result.cost.num_views}")
    if views != result.variant:
        flags.append("--logit-adjustment")
    if not flags:
        return as_is
    # An ensemble averages existing predictions, so its members are evaluated first.
    commands = [
        f"skincnn evaluate {shlex.quote(path)} {' '.join(flags)}"
        for path in members or [f"runs/{folder}"]
    ]
    if members:
        return " && ".join([*commands, as_is])
    return " && ".join(commands if result.variant else [as_is, *commands])
