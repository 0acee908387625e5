"""Run directories: their files, and the record of how a model was trained."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from skincnn.classes import LesionClass
from skincnn.commands import command_line
from skincnn.config import Config, read_config
from skincnn.data.characteristics import Characteristics, DatasetInfo, ImageFlow
from skincnn.data.identifiers import Identifiers
from skincnn.data.leakage import LeakageAudit
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.errors import ConfigError
from skincnn.records import Part, Record, read_record

RUN_FILE = "run.json"
CONFIG_FILE = "config.json"
SOME_SYNTHETIC = "Some images are synthetic."
MODEL_FILE = "model.keras"
TRAIN_AGAIN = (
    "Use a run directory written by `skincnn train`, or train again with --overwrite."
)
RESTORE = "Restore the file from a backup or, if this run is a copy, from the original run."
RESTORE_CONFIG = (
    f"{RESTORE} Otherwise, start `skincnn train` with the preset and the flags of this "
    "run and another --workdir, and copy the config.json that it writes there."
)
"""What to do if config.json is lost. No other file of a run contains the whole
configuration."""


class DeviceInfo(Part):
    """The devices, such as "cpu:0", and the numerical settings of a training run.

    Attributes:
        precision: Keras dtype policy of the backbone.
        backend: Keras backend.
        jit: Whether XLA compilation was used.
    """

    devices: tuple[str, ...]
    precision: str
    backend: str
    jit: bool


class Provenance(Part):
    """The code and hardware of a training run, which can affect the trained weights.

    Attributes:
        code: Git commit, or version of the package; see `skincnn.inference.provenance`.
        processor: Name of the processor.
        cores: Number of cores that the process could use.
        gpus: Name of each GPU.
    """

    code: str
    processor: str
    cores: int
    gpus: tuple[str, ...]


class NearDuplicateSearch(Part):
    """The result of a check of the search for near-duplicates.

    Of the `known_pairs` pairs of images with the same lesion_id, the search finds
    `found_pairs`. The ratio is an estimate of the share of near-duplicates with different
    lesion_ids that the search finds. Near-duplicates that are not found can be in different
    splits. `BuildReport` in `tfds_ham10000` describes which pairs count; both numbers are 0
    for synthetic images.
    """

    known_pairs: int
    found_pairs: int


class LabelConflict(Part):
    """Two copies or near-duplicates with contradictory labels.

    At least one of the labels is wrong. `first` and `second` are the image_ids.
    """

    first: str
    second: str
    first_label: str
    second_label: str


class Member(Part):
    """A run in an ensemble or a cross-validation.

    `name` is that of the run directory; see `skincnn.paths.unique_names`. `config` is the
    configuration of the run. For `audit` and `best_epoch`, see `RunInfo`.
    """

    name: str
    config: Config
    audit: LeakageAudit
    best_epoch: int | None


class Teacher(Part):
    """The models on whose predictions a model was trained; see `DistillationConfig`.

    Attributes:
        models: SHA-256 of each model file, by run directory.
        out_of_fold: Whether the predictions for each training image are averaged over only
            those models that were not trained on its group.
    """

    models: dict[str, str]
    out_of_fold: bool


class RunInfo(Record):
    """run.json: what was trained, with which software, on which data.

    "Several models" are those of an ensemble or a cross-validation. Except for `kind`,
    fields whose description does not mention several models are then those of the first
    model.

    Attributes:
        kind: Whether the directory contains a run, an ensemble or a cross-validation.
        skincnn: Version of this package.
        versions: Versions of Python and of the main packages for training, by name.
        device: The devices of the training run; None if they differ between models.
        provenance: Code and hardware; None if they differ between models.
        class_names: Class names, in the order of the model's outputs.
        declared: The classes that the dataset declares; see `skincnn.classes.describe`.
        datasets: The prepared datasets whose images the run uses; for several models,
            those of all models.
        leave_out: The source that is left out of training, and tested; "" for none.
        audit: Result of the leakage audit; for several models, the largest values.
        identifiers: For how many images of the splits the lesion and the patient are known.
        near_duplicates: Check of the searches for near-duplicates when the datasets were
            built, summed over the datasets.
        label_conflicts: Copies and near-duplicates in the datasets with contradictory
            labels.
        flow: Number of images from the source files to the splits; None for several models
            with different datasets.
        training_characteristics: Characteristics of the training images; None for several
            models with different training images.
        preprocessing: All settings that determine how images are read and preprocessed.
        data_fingerprint: `skincnn.data.pipeline.fingerprint` of each split, by name; empty
            for several models.
        class_counts: Number of training images by class; empty for several models.
        best_epoch: The selected epoch, counted from 1; None for several models.
        num_parameters: Number of parameters of the model, of all models of an ensemble
            together, or of the first model of a cross-validation.
        training_seconds: Training time in seconds, without validation, summed over all
            models; see `FitResult.seconds`.
        sha256: SHA-256 of the model file, by file name; empty for several models.
        members: The models of an ensemble or a cross-validation; empty for a run.
        teacher: The teacher of a distilled model; None for other models, and for several
            models with different teachers.
        modules: SHA-256 of the modules of custom parts, by name; empty for several models
            with different modules.
    """

    SCHEMA = 3

    kind: Literal["run", "ensemble", "cross_validation"] = "run"
    skincnn: str
    versions: dict[str, str]
    device: DeviceInfo | None
    provenance: Provenance | None
    class_names: tuple[str, ...]
    declared: dict[str, LesionClass] = Field(default={})
    datasets: tuple[DatasetInfo, ...]
    leave_out: str = ""
    audit: LeakageAudit
    identifiers: Identifiers
    near_duplicates: NearDuplicateSearch
    label_conflicts: tuple[LabelConflict, ...] = ()
    flow: ImageFlow | None
    training_characteristics: Characteristics | None
    preprocessing: dict[str, int | float | str | bool]
    data_fingerprint: dict[str, str]
    class_counts: dict[str, int]
    best_epoch: int | None
    num_parameters: int
    training_seconds: float
    sha256: dict[str, str]
    members: tuple[Member, ...] = ()
    teacher: Teacher | None = None
    modules: dict[str, str] = Field(default={})

    @property
    def dataset(self) -> str:
        """The full names of the TFDS datasets."""
        return " + ".join(dataset.full_name for dataset in self.datasets)

    @property
    def synthetic(self) -> bool:
        """Whether all images are synthetic."""
        return all(dataset.synthetic for dataset in self.datasets)

    @property
    def partly_synthetic(self) -> bool:
        """Whether the images of some datasets are synthetic, but not those of others."""
        return len({dataset.synthetic for dataset in self.datasets}) > 1

    @property
    def source_is_known(self) -> bool:
        """Whether all images are from HAM10000 or ISIC 2019, or are synthetic."""
        return all(dataset.attribution for dataset in self.datasets)

    @property
    def published(self) -> bool:
        """Whether all images are from HAM10000 or ISIC 2019."""
        return self.source_is_known and not (self.synthetic or self.partly_synthetic)

    @property
    def attribution(self) -> str:
        """Credits of HAM10000 and ISIC 2019, and a note on synthetic images, or ""."""
        texts = [
            SOME_SYNTHETIC
            if dataset.synthetic and self.partly_synthetic
            else dataset.attribution
            for dataset in self.datasets
        ]
        return " ".join(dict.fromkeys(filter(None, texts)))

    @property
    def stored_longest_side(self) -> int | None:
        """Size in pixels to which the longest side of larger images was reduced.

        None if it differs between datasets, or if the stored images have their original
        size.
        """
        sides = {dataset.stored_longest_side for dataset in self.datasets}
        return sides.pop() if len(sides) == 1 else None


def join_datasets(infos: Sequence[RunInfo]) -> RunInfo:
    """Returns the first of several run.json, with the datasets of all of them."""
    datasets: dict[str, DatasetInfo] = {}
    for info in infos:
        for dataset in info.datasets:
            datasets.setdefault(dataset.name, dataset)
    return infos[0].model_copy(update={"datasets": tuple(datasets.values())})


def read_run_info(workdir: Path, fix: str = TRAIN_AGAIN) -> RunInfo:
    """Returns the content of run.json.

    `fix` is a sentence for error messages that states how to recreate the directory. If
    run.json is damaged, the message also advises to restore the file. If run.json is
    missing, the advice of `advise_run`, if any, replaces `fix`, except in a directory of an
    earlier version of skincnn.

    Raises:
        ConfigError: The file is missing or damaged, or has another schema version.
    """
    path = workdir / RUN_FILE
    if not path.is_file() and (workdir / "metadata.json").is_file():
        raise ConfigError(
            f"{workdir} has the layout of an earlier version of skincnn: it contains "
            f"metadata.json instead of {RUN_FILE}. {fix}"
        )
    if not path.is_file():
        raise ConfigError(
            f"{workdir} contains no finished run: {RUN_FILE} is missing. "
            f"{advise_run(workdir) or fix}"
        )
    return read_record(path, RunInfo, f"{RESTORE} Otherwise: {fix}")


def advise_run(folder: Path) -> str:
    """Returns how to get a finished run in a directory that lacks one; "" if not known.

    The advice names the runs in subdirectories, or states how to finish or restore the run.
    """
    names = sorted(path.parent.name for path in folder.glob(f"*/{RUN_FILE}"))
    config = folder / CONFIG_FILE
    if not names and not config.is_file():
        return ""
    if not names and (folder / RUN_FILE).is_file():
        return f"{folder / MODEL_FILE} is missing. {RESTORE}"
    if not names:
        flags = ("--config", config, "--workdir", folder, "--resume")
        return f"Finish the run: {command_line('train', *flags)}"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"{folder} contains the run(s) {', '.join(names[:5])}{more}. Use one of them, such "
        f"as {shlex.quote(str(folder / names[0]))}"
    )


def read_run(workdir: Path) -> tuple[RunInfo, Config]:
    """Returns the content of run.json and the configuration of a finished run.

    Raises:
        ConfigError: A file is missing, damaged or of another schema version, images are no
            longer preprocessed as in training, or the directory is that of an ensemble or a
            cross-validation.
    """
    info, config = read_run_info(workdir), read_run_config(workdir)
    if not (workdir / MODEL_FILE).is_file():
        raise ConfigError(f"{workdir / MODEL_FILE} is missing. {RESTORE}")
    now = describe_preprocessing(config.data)
    if info.preprocessing != now:
        raise ConfigError(
            f"{workdir / RUN_FILE}: the training images were preprocessed with "
            f"{info.preprocessing}. Expected {now}, from config.json and this version of "
            f"skincnn. {TRAIN_AGAIN}"
        )
    return info, config


def read_run_config(workdir: Path) -> Config:
    """Returns the configuration of a run.

    Raises:
        ConfigError: The file is missing or damaged, or the directory is that of an ensemble
            or a cross-validation.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        info = read_run_info(workdir)
        if info.members:
            kind = "an ensemble" if info.kind == "ensemble" else "a cross-validation"
            names = ", ".join(member.name for member in info.members)
            raise ConfigError(
                f"{workdir} contains {kind}. Expected a single run, such as one of its "
                f"models: {names}."
            )
        raise ConfigError(
            f"{path}, the configuration of the run, is missing. {RESTORE_CONFIG}"
        )
    try:
        return read_config(path)
    except ConfigError as error:
        end = "" if str(error).endswith((".", "?")) else "."
        raise ConfigError(f"{error}{end} {RESTORE_CONFIG}") from error


def find_members(workdir: Path) -> tuple[Path, ...]:
    """Returns the runs of an ensemble or a cross-validation; for a run, only `workdir`.

    Raises:
        ConfigError: A directory of a run, or its model file, is missing in `workdir`, where
            `skincnn train` writes it; see also `read_run_info`.
    """
    info = read_run_info(workdir)
    if info.kind == "run":
        return (workdir,)
    runs = tuple(workdir / member.name for member in info.members)
    missing = [run.name for run in runs if not (run / MODEL_FILE).is_file()]
    if missing:
        raise ConfigError(
            f"{workdir} does not contain the directories of its runs "
            f"{', '.join(missing)} with their {MODEL_FILE}. Give the directories of the "
            "runs instead."
        )
    return runs


def read_history(workdir: Path) -> pd.DataFrame:
    """Returns history.csv of a run, with one row for each epoch.

    Raises:
        ConfigError: The file is missing or damaged, or has no rows.
    """
    path = workdir / "history.csv"
    try:
        history = pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().rstrip(".")
        raise ConfigError(f"{path} cannot be read: {reason}. {RESTORE}") from error
    texts = history.select_dtypes(exclude="number").columns
    if history.empty or len(texts) or not {"epoch", "loss"} <= set(history):
        columns = ", ".join(map(str, history)) or "none"
        if len(texts) and not history.empty:
            columns += f"; not numeric: {', '.join(map(str, texts))}"
        raise ConfigError(
            f"{path} must have the columns epoch and loss, and a row of numbers for each "
            f"epoch. Received: {len(history)} rows; columns: {columns}. {RESTORE}"
        )
    return history
