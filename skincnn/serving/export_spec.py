"""What to export: the networks of an evaluated run or ensemble, and their rule."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from skincnn.commands import command_line
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.results import (
    OodResult,
    SplitResult,
    read_result,
    result_path,
    split_name,
)
from skincnn.files import sha256
from skincnn.inference.load import require_classes
from skincnn.inference.logit_adjustment import adjusted_name, class_priors, variant_flags
from skincnn.inference.predictions import table_path
from skincnn.inference.run_dir import MODEL_FILE, find_members, read_run_info
from skincnn.metrics.decision_rule import DEFAULT_OPERATING_POINT, TARGET, DecisionRule
from skincnn.model.orientations import ORIENTATIONS
from skincnn.records import read_record
from skincnn.serving.export_info import read_export_info
from skincnn.serving.network import RunNetwork, load_network, with_variant

MODEL_NAME = "skincnn"


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """The model to export and the options of the export.

    Attributes:
        workdir: Directory of the evaluated run or ensemble.
        runs: Run directories of the members of an ensemble; empty for a single run.
        tta: Test-time augmentation, a key of `ORIENTATIONS`; "" for none.
        logit_adjustment: Whether to adjust the logits, as evaluated for each run.
        ood: Whether to include OOD detection, unless the evaluation switched it off.
        operating_point: For the referral threshold, such as "sensitivity=0.90".
    """

    workdir: Path
    runs: tuple[Path, ...] = ()
    tta: str = ""
    logit_adjustment: bool = False
    ood: bool = True
    operating_point: str = DEFAULT_OPERATING_POINT

    @property
    def variant(self) -> str:
        """Name of the inference variant; see `SplitResult.variant`."""
        return adjusted_name(self.tta) if self.logit_adjustment else self.tta

    @property
    def predictions(self) -> Path:
        """Path of the predictions table that the export must reproduce."""
        return table_path(self.workdir, split_name("test", self.variant))

    @property
    def name(self) -> str:
        """Name of the model on a model server."""
        return f"{MODEL_NAME}_{self.variant}" if self.variant else MODEL_NAME

    @property
    def folder(self) -> Path:
        """The directory that contains all versions of the SavedModel."""
        return self.workdir / "export" / self.name


def read_rule(spec: ExportSpec) -> DecisionRule:
    """Returns the referral rule of an evaluated run or ensemble.

    Raises:
        ConfigError: `spec.tta` is not in `ORIENTATIONS`; the evaluation of `spec.variant`
            is missing or damaged, used fewer views, or lacks `spec.operating_point`; or
            run.json is missing or damaged.
    """
    if spec.tta not in ORIENTATIONS:
        raise ConfigError(
            "`tta` must be d4, whose eight views are fixed; an export cannot reproduce "
            f"predictions of random views. Received: {spec.tta}."
        )
    views = ORIENTATIONS[spec.tta]
    fix = _evaluation_command(spec)
    path = result_path(spec.workdir, split_name("test", spec.variant))
    result = read_record(path, SplitResult, fix)
    ood = read_record(result_path(spec.workdir, "ood"), OodResult, fix)
    if result.cost.num_views != len(views):
        raise ConfigError(
            f"{path}: the run was evaluated with {result.cost.num_views} views per "
            f"image. Expected {len(views)} views for `tta` {spec.tta}. {fix}"
        )
    thresholds = result.thresholds.get(TARGET, {})
    # Without a target, the operating point has no effect.
    choices = thresholds or {DEFAULT_OPERATING_POINT: None}
    if spec.operating_point not in choices:
        raise ConfigError(
            f"`operating_point` must be one of: {', '.join(choices)}. Received: "
            f"{spec.operating_point}. The classes are {', '.join(result.class_names)}."
        )
    return DecisionRule(
        class_names=result.class_names,
        declared=read_run_info(spec.workdir).declared,
        calibration_map=result.calibration_map,
        operating_point=spec.operating_point if thresholds else "",
        threshold=thresholds.get(spec.operating_point),
        max_distance=ood.limit if ood.is_on and spec.ood else None,
        set_thresholds=result.prediction_sets.thresholds,
    )


def load_networks(spec: ExportSpec, rule: DecisionRule) -> list[RunNetwork]:
    """Returns the network of each run, with the inference variant of the export.

    Raises:
        ConfigError: See `load_network`; or a run was not evaluated with logit adjustment.
        DataError: See `load_network`; or the classes of a run are not those of the rule.
    """
    name = split_name("test", spec.variant)
    networks = []
    for run in spec.runs or (spec.workdir,):
        network = load_network(run, ood=spec.ood)
        where = str(result_path(spec.workdir, name))
        fix = _evaluation_command(spec)
        require_classes(rule.class_names, network.info, run, where, fix)
        shift = strength = None
        if spec.logit_adjustment:
            # The result of an ensemble has no strength: each of its runs has its own.
            strength = read_result(run, name, SplitResult).logit_adjustment or 0.0
            priors = class_priors(rule.class_names, network.info.class_counts)
            shift = strength * np.log(priors)
        model = with_variant(network.model, ORIENTATIONS[spec.tta], shift)
        networks.append(replace(network, model=model, logit_adjustment=strength))
    return networks


def find_runs(workdir: Path) -> tuple[Path, ...]:
    """Returns the runs of an ensemble from `skincnn train`; () for other directories.

    Raises:
        ConfigError: run.json is missing or damaged, or the runs are not in `workdir`.
    """
    return find_members(workdir) if read_run_info(workdir).kind == "ensemble" else ()


def find_current_export(workdir: Path) -> Path | None:
    """Returns the latest SavedModel of a run's current model and rule, or None.

    Raises:
        ConfigError: See `read_rule`.
    """
    spec = ExportSpec(workdir=workdir)
    rule, models = read_rule(spec), (sha256(workdir / MODEL_FILE),)
    for path in reversed(list_versions(spec.folder)):
        with contextlib.suppress(ConfigError, DataError):
            info = read_export_info(path)
            if (info.models_sha256, info.rule) == (models, rule):
                return path
    return None


def list_versions(folder: Path) -> list[Path]:
    """Returns the paths in `folder` whose names are version numbers, in ascending order."""
    versions = (path for path in folder.glob("*") if path.name.isdecimal())
    return sorted(versions, key=lambda path: int(path.name))


def _evaluation_command(spec: ExportSpec) -> str:
    """Returns how to evaluate the variant of an export: one command, or two (ensemble)."""
    runs = spec.runs or (spec.workdir,)
    command = f"Run: {command_line('evaluate', *runs)}{variant_flags(spec.variant)}"
    if not spec.runs:
        return command
    return f"{command}; then: {command_line('evaluate', *runs, '--ensemble', spec.workdir)}"
