"""The runs of a comparison: predictions, cost, and the command that makes each again."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from skincnn.config import Config, DataConfig, read_config
from skincnn.errors import ConfigError
from skincnn.evaluation.results import SplitResult, read_split_results, split_name
from skincnn.files import sha256
from skincnn.inference.logit_adjustment import unadjusted_name
from skincnn.inference.predictions import class_names_of, read_predictions, table_path
from skincnn.inference.run_dir import CONFIG_FILE, Provenance, RunInfo, read_run_info
from skincnn.presets import to_command


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """The predictions of a run for one split, and what they cost.

    A run equals only itself: tables have no single truth value.

    Attributes:
        folder: Name of the run directory.
        split: Split of the predictions.
        predictions: The predictions table, sorted by image_id.
        validation: The validation table of the same variant; None if it is missing.
        class_names: Names of the classes, in order.
        split_by: "lesion", or "image" for the leaky protocol.
        synthetic: Whether the images are synthetic.
        sha256: SHA-256 of the file of the predictions table.
        changed: Whether the file has changed since its result was written.
        minutes: Training time.
        num_parameters: Number of parameters; see `RunInfo`.
        command: The command that makes it again; "" if not known.
        config: Its configuration, with the folds of the preset for a cross-validation;
            None for an ensemble.
        folds: Folds of training, validation and test, as "0 1 2 / 3 / 4"; "" for an
            ensemble.
        variant: "" for the model as is; see `SplitResult`.
        trained_by: Code and hardware of the training; "" if not known.
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
        """Name in the tables."""
        return f"{self.folder} ({self.variant})" if self.variant else self.folder

    @property
    def seed(self) -> int | None:
        """Seed of the configuration, if there is one."""
        return None if self.config is None else self.config.seed

    @property
    def images(self) -> str:
        """Identifies the images and labels; paired differences need equal ones."""
        columns = ["image_id", "lesion_id", "label"]
        rows = self.predictions[columns].to_csv(index=False)
        digest = hashlib.sha256((rows + ",".join(self.class_names)).encode()).hexdigest()
        return f"{len(self.predictions)} images ({digest[:8]})"

    @property
    def protocol(self) -> str:
        """Identifies the protocol; runs are ranked within one protocol only."""
        synthetic = "SYNTHETIC images, " if self.synthetic else ""
        return f"{synthetic}split by {self.split_by}, {self.images}"


def read_compared_run(workdir: Path, split: str, variant: str = "") -> ComparedRun:
    """Returns the predictions of a run directory.

    Args:
        workdir: The directory of a run, an ensemble or a cross-validation.
        split: "test", or another split that was evaluated.
        variant: A variant from `variant_names`; "" for the model as is.

    Raises:
        ConfigError: The directory holds no evaluated run, or no such split.
        DataError: A table is damaged.
    """
    info = read_run_info(
        workdir,
        "Make it again with scripts/train.py --overwrite, or evaluate.py --ensemble.",
    )
    results = read_split_results(workdir)
    table = split_name(split, variant)
    path = table_path(workdir, table)
    if table not in results or not path.is_file():
        raise ConfigError(
            f"{workdir} was not evaluated on {split}: {path} or its result is missing. "
            f"Make it with scripts/evaluate.py {workdir} --split {split}."
        )
    digest = sha256(path)
    validation = table_path(workdir, split_name("val", variant))
    predictions = read_predictions(path).sort_values("image_id", ignore_index=True)
    run = ComparedRun(
        workdir.resolve().name,
        split,
        predictions,
        read_predictions(validation) if validation.is_file() else None,
        tuple(class_names_of(predictions)),
        _split_by(workdir, info),
        info.synthetic,
        digest,
        results[table].predictions_sha256 != digest,
        info.training_seconds / 60,
        info.num_parameters,
        variant=variant,
        trained_by=describe_provenance(info.provenance),
    )
    run = _with_recipe(run, workdir, info)
    if variant:
        command = _command_of_variant(run, info, results[table])
        run = dataclasses.replace(run, command=command)
    return run


def variant_names(workdir: Path, split: str) -> list[str]:
    """Returns the variants with which a run was evaluated on a split."""
    return [
        result.variant
        for result in read_split_results(workdir).values()
        if result.split == split and result.variant
    ]


def put_baseline_first(runs: Sequence[ComparedRun], variant: str) -> list[ComparedRun]:
    """Returns the runs with a variant of the first run at the front.

    Args:
        runs: One or more runs.
        variant: A variant from `variant_names`; "" for the model as is.

    Raises:
        ConfigError: The first run has no such variant.
    """
    of_first = [run for run in runs if run.folder == runs[0].folder]
    names = [run.variant for run in of_first]
    if variant not in names:
        known = ", ".join(name for name in names if name) or "none"
        raise ConfigError(
            f"--baseline must be a variant of the first run, {runs[0].folder}: {known}. "
            f"Received: {variant}. Make it with scripts/evaluate.py, as with --tta augment."
        )
    first = of_first[names.index(variant)]
    return [first, *(run for run in runs if run is not first)]


def describe_provenance(provenance: Provenance | None) -> str:
    """Returns the code and the hardware of a training as text; "" if not known."""
    if provenance is None:
        return ""
    if provenance.gpus:
        return f"{provenance.code}, {len(provenance.gpus)} x {provenance.gpus[0]}"
    cores = f"{provenance.cores} core{'s' if provenance.cores > 1 else ''}"
    return f"{provenance.code}, {cores} of {provenance.processor}"


def _split_by(workdir: Path, info: RunInfo) -> str:
    """Returns "image" if any of the models was trained on a split by image."""
    configs = [member.config for member in info.members]
    configs = configs or [read_config(workdir / CONFIG_FILE)]
    leaky = any(config.data.split_by == "image" for config in configs)
    return "image" if leaky else "lesion"


def _with_recipe(run: ComparedRun, workdir: Path, info: RunInfo) -> ComparedRun:
    """Returns the run with its command, configuration and folds."""
    name = shlex.quote(f"runs/{run.folder}")
    if info.kind == "ensemble":
        members = " ".join(shlex.quote(f"runs/{member.name}") for member in info.members)
        command = f"python scripts/evaluate.py {members} --ensemble {name}"
        return dataclasses.replace(run, command=command)
    if info.kind == "cross_validation":
        config = _on_default_folds(info.members[0].config)
        file = f"{name}/model_1/config.json"
        command = to_command(config) or f"python scripts/train.py --config {file}"
        count = len(info.members)
        return dataclasses.replace(
            run,
            command=f"{command} --folds {count} --workdir {name}",
            config=config,
            folds=f"all, out of fold by {count} models",
        )
    config = read_config(workdir / CONFIG_FILE)
    folds = (config.data.train_folds, config.data.validation_folds, config.data.test_folds)
    command = to_command(config) or f"python scripts/train.py --config {name}/config.json"
    return dataclasses.replace(
        run,
        command=f"{command} --workdir {name}",
        config=config,
        folds=" / ".join(" ".join(map(str, part)) for part in folds),
    )


def _on_default_folds(config: Config) -> Config:
    data = dataclasses.replace(
        config.data,
        train_folds=DataConfig.train_folds,
        validation_folds=DataConfig.validation_folds,
        test_folds=DataConfig.test_folds,
    )
    return dataclasses.replace(config, data=data)


def _command_of_variant(run: ComparedRun, info: RunInfo, result: SplitResult) -> str:
    """Returns the command that predicts a variant of runs that exist."""
    views = unadjusted_name(run.variant)
    flags = []
    if views:
        flags.append(f"--tta {views} --num-views {result.cost.num_views}")
    if views != run.variant:
        flags.append("--logit-adjustment")
    # An ensemble predicts nothing: its members are evaluated first.
    members = [member.name for member in info.members]
    commands = [
        f"python scripts/evaluate.py {shlex.quote(f'runs/{name}')} {' '.join(flags)}"
        for name in members or [run.folder]
    ]
    return " && ".join([*commands, run.command] if members else commands)
