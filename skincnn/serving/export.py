"""Exports an evaluated run or ensemble as a SavedModel."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from skincnn.clinical_metadata import CLINICAL_FEATURES
from skincnn.commands import command_line
from skincnn.data.combined import open_datasets
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.results import (
    OodResult,
    SplitResult,
    read_result,
    result_path,
    split_name,
)
from skincnn.files import sha256, write_text
from skincnn.inference.load import require_classes
from skincnn.inference.logit_adjustment import adjusted_name, class_priors
from skincnn.inference.predictions import DISTANCE, arrays, read_predictions, table_path
from skincnn.inference.run_dir import MODEL_FILE, find_members, join_datasets, read_run_info
from skincnn.metrics.decision_rule import DEFAULT_OPERATING_POINT, TARGET, DecisionRule
from skincnn.model.orientations import ORIENTATIONS
from skincnn.records import read_record, write_record
from skincnn.reporting.labels import variant_flags
from skincnn.reporting.parity_result import write_parity
from skincnn.serving import parity
from skincnn.serving.export_info import (
    IMAGE_INPUTS,
    METADATA_INPUTS,
    OOD_FAILED,
    OOD_LEFT_OUT,
    ExportInfo,
    Preprocessing,
    info_path,
    read_export_info,
    render_usage,
)
from skincnn.serving.network import (
    RunNetwork,
    load_network,
    use_clinical_metadata,
    with_variant,
)
from skincnn.serving.saved_model import open_saved_model, write_saved_model
from skincnn.startup import KERAS_SETTINGS, set_keras
from skincnn.write_errors import explain_write_errors

TOLERANCE = 1e-5
"""Maximum difference in probability between a SavedModel and a Keras model that was trained
with TensorFlow on a CPU."""
DEVICE_TOLERANCE = 1e-3
"""Maximum difference in probability for a model trained on another device or with another
backend, where rounding errors differ. It is also the maximum difference in OOD distance of
any SavedModel, as a fraction of the OOD limit; without OOD detection, distances are not
compared."""
UNCHANGED = "Earlier exports are unchanged."
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


def export_saved_model(spec: ExportSpec, data_dir: Path | None = None) -> Path:
    """Writes the next version of a SavedModel and returns its path.

    The path is export/<name>/<version> in `spec.workdir`. The SavedModel is written to a
    temporary directory, which is renamed to the version if `parity.check_parity` finds that
    it reproduces the predictions table. The parity is written to results/, and usage
    instructions to export/. If the Keras backend is not TensorFlow, a subprocess with the
    TensorFlow backend exports the model. `data_dir` contains the built TFDS datasets; None
    for the default of TFDS.

    Raises:
        ConfigError: See `read_rule`, `load_networks` and `read_parity_images`; or the
            SavedModel cannot be written.
        DataError: The export does not reproduce the predictions of the Keras model; see
            also `load_networks` and `read_parity_images`.
        OSError: A file is not readable, or another file or a directory cannot be written.
    """
    rule = read_rule(spec)
    if keras.backend.backend() != "tensorflow":
        return _export_in_subprocess(spec, data_dir)
    networks = load_networks(spec, rule)
    spec.folder.mkdir(parents=True, exist_ok=True)
    temporary = spec.folder / f".tmp-{secrets.token_hex(4)}"
    with explain_write_errors(temporary, UNCHANGED):
        temporary.mkdir()
    try:
        with explain_write_errors(temporary, UNCHANGED):
            write_saved_model(networks, rule, temporary)
        contents, table = read_parity_images(spec.predictions, networks[0], data_dir)
        y_true, y_prob = arrays(table, rule.class_names)
        model = parity.decide(y_prob, table[DISTANCE].to_numpy(), rule)
        with_metadata = use_clinical_metadata(networks)
        predict = open_saved_model(
            temporary, rule.class_names, clinical_metadata=with_metadata
        )
        export = parity.predict_images(predict, contents, table)
        paths = sorted(path for path in temporary.rglob("*") if path.is_file())
        files = {path.relative_to(temporary).as_posix(): path for path in paths}
        is_exact = all(map(_is_trained_on_cpu, networks))
        result = parity.check_parity(
            y_true,
            model,
            export,
            rule,
            format_name="saved_model",
            variant=spec.variant,
            ood_detection=rule.max_distance is not None,
            num_bytes=sum(path.stat().st_size for path in paths),
            tolerance=TOLERANCE if is_exact else DEVICE_TOLERANCE,
            distance_tolerance=DEVICE_TOLERANCE,
        )
        write_parity(spec.workdir, result)
        hashes = {name: sha256(path) for name, path in files.items()}
        info = describe_export(
            spec, networks, rule, format_name="saved_model", files=hashes
        )
        write_record(info_path(temporary), info)
        version = _rename_to_next_version(temporary, spec.folder)
        usage = f"README_{spec.name}.md" if spec.variant else "README.md"
        write_text(spec.folder.with_name(usage), render_usage(info, spec.name))
        return version
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    if not thresholds and spec.operating_point != DEFAULT_OPERATING_POINT:
        raise ConfigError(
            f"`operating_point` {spec.operating_point} requires malignant and benign "
            "classes, and no class of unknown malignancy. Received the classes: "
            f"{', '.join(result.class_names)}. Omit it."
        )
    if thresholds and spec.operating_point not in thresholds:
        raise ConfigError(
            f"`operating_point` must be one of: {', '.join(thresholds)}. Received: "
            f"{spec.operating_point}."
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


def describe_export(
    spec: ExportSpec,
    networks: Sequence[RunNetwork],
    rule: DecisionRule,
    *,
    format_name: str,
    ood_fault: str = "",
    files: dict[str, str] | None = None,
) -> ExportInfo:
    """Returns the metadata of an export of these networks; see `ExportInfo`.

    `ood_fault` is the result of `parity.find_ood_fault`.
    """
    info = join_datasets([network.info for network in networks])
    strengths = [network.logit_adjustment for network in networks]
    clinical_metadata = use_clinical_metadata(networks)
    ood_off = ""
    if rule.max_distance is None:
        ood_off = ood_fault or (OOD_FAILED if spec.ood else OOD_LEFT_OUT)
    return ExportInfo(
        format=format_name,
        synthetic=info.synthetic,
        dataset=info.dataset,
        rule=rule,
        variant=spec.variant,
        logit_adjustment=tuple(one for one in strengths if one is not None),
        ood_off=ood_off,
        attribution=info.attribution,
        preprocessing=tuple(
            Preprocessing(
                stored_longest_side=network.info.stored_longest_side,
                **describe_preprocessing(network.config.data),  # type: ignore[arg-type]
            )
            for network in networks
        ),
        inputs=IMAGE_INPUTS | (METADATA_INPUTS if clinical_metadata else {}),
        clinical_features=CLINICAL_FEATURES if clinical_metadata else (),
        models_sha256=tuple(network.info.sha256[MODEL_FILE] for network in networks),
        predictions_sha256=sha256(spec.predictions),
        files=files or {},
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


def read_parity_images(
    predictions: Path, network: RunNetwork, data_dir: Path | None
) -> tuple[list[bytes], pd.DataFrame]:
    """Returns the image files that `parity.choose_images` selects, and their table rows.

    `predictions` is the path of a table of images from the datasets of `network`.

    Raises:
        ConfigError: See `open_datasets`.
        DataError: See `open_datasets`; or the table or a dataset is missing or damaged.
    """
    data = network.config.data
    dataset = open_datasets(data.datasets, data_dir, data.label_maps)
    table = read_predictions(predictions)
    table = table.iloc[parity.choose_images(table["label"])].reset_index(drop=True)
    return dataset.read_files(table), table


def find_runs(workdir: Path) -> tuple[Path, ...]:
    """Returns the runs of an ensemble from `skincnn train`; () for other directories.

    Raises:
        ConfigError: run.json is missing or damaged, or the runs are not in `workdir`.
    """
    is_ensemble = read_run_info(workdir).kind == "ensemble"
    return find_members(workdir) if is_ensemble else ()


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


def _export_in_subprocess(spec: ExportSpec, data_dir: Path | None) -> Path:
    """Exports in a subprocess with the TensorFlow backend of Keras."""
    # On the CPU, because this process may have allocated the GPU memory.
    overrides = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    before = dict(os.environ)
    os.environ.update(overrides)
    try:
        with concurrent.futures.ProcessPoolExecutor(
            1,
            multiprocessing.get_context("spawn"),
            initializer=set_keras,
            initargs=(KERAS_SETTINGS,),
        ) as executor:
            return executor.submit(export_saved_model, spec, data_dir).result()
    finally:
        for name in overrides:
            os.environ.pop(name)
        os.environ.update(before)


def _is_trained_on_cpu(network: RunNetwork) -> bool:
    device = network.info.device
    return device is None or (
        device.backend == "tensorflow"
        and all(name.startswith("cpu") for name in device.devices)
    )


def _rename_to_next_version(temporary: Path, folder: Path) -> Path:
    while True:
        numbers = (int(path.name) for path in list_versions(folder))
        target = folder / str(max(numbers, default=0) + 1)
        try:
            # Never overwrites a version: renaming to a nonempty directory fails.
            return temporary.rename(target)
        except OSError:
            if not target.exists():
                raise
