"""Run directories: their files, and the record of how a model was trained."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from skincnn.classes import LesionClass
from skincnn.config import Config, read_config
from skincnn.data.characteristics import Characteristics, DatasetInfo, ImageFlow
from skincnn.data.identifiers import Identifiers
from skincnn.data.leakage import LeakageAudit
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.errors import ConfigError
from skincnn.records import Part, Record, read_record

RUN_FILE = "run.json"
CONFIG_FILE = "config.json"
MODEL_FILE = "model.keras"
TRAIN_AGAIN = (
    "Use a run directory written by scripts/train.py, or train again with --overwrite."
)


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
    """The code and hardware of a training run, which can affect the trained weights."""

    code: str
    """Git commit (with "-dirty" for uncommitted changes), or version of the package."""
    processor: str
    cores: int
    gpus: tuple[str, ...]


class NearDuplicateSearch(Part):
    """How many pairs of images with the same lesion_id the search finds as near-duplicates.

    `found_pairs` / `known_pairs` is an estimate of the share of near-duplicates with
    different lesion_ids that the search finds. Near-duplicates that are not found can be in
    different splits.
    """

    known_pairs: int
    found_pairs: int


class LabelConflict(Part):
    """Two near-duplicates with different labels, of which at least one is wrong."""

    first: str
    second: str
    first_label: str
    second_label: str


class Member(Part):
    """A run in an ensemble or a cross-validation; `name` is that of the run directory."""

    name: str
    config: Config
    audit: LeakageAudit
    best_epoch: int | None


class Teacher(Part):
    """The models on whose predictions a model was trained; see `DistillationConfig`.

    Attributes:
        models: SHA-256 of each model file, by run directory.
        out_of_fold: Whether each training image was predicted only by models that were not
            trained on its group.
    """

    models: dict[str, str]
    out_of_fold: bool


class RunInfo(Record):
    """run.json: what was trained, with which software, on which data.

    "Several models" are those of an ensemble or a cross-validation.

    Attributes:
        kind: Whether the directory contains a run, an ensemble or a cross-validation.
        skincnn: Version of this package.
        versions: Versions of Python and of the packages that affect training, by name.
        device: The devices of the training run; None if they differ between models.
        provenance: Code and hardware; None if they differ between models.
        class_names: Class names, in the order of the model's outputs.
        declared: The classes that the dataset declares; see `skincnn.classes.describe`.
        datasets: The prepared datasets whose images the run uses; for several models,
            those of all models.
        leave_out: The source that is left out of training, and tested; "" for none.
        audit: Result of the leakage audit; for several models, the largest values.
        identifiers: Number of images of the splits whose lesion and patient are known.
        near_duplicates: Results of the searches for near-duplicates when the datasets were
            built.
        label_conflicts: Near-duplicates in the datasets with different labels.
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
        training_seconds: Training time, summed over all models.
        sha256: SHA-256 of the model file, by file name; empty for several models.
        members: The models of an ensemble or a cross-validation; empty for a run.
        teacher: The teacher of a distilled model; None for other models, and for several
            models with different teachers.
        modules: SHA-256 of the modules of custom parts, by name.
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
        """Whether any images are synthetic."""
        return any(dataset.synthetic for dataset in self.datasets)

    @property
    def source_is_known(self) -> bool:
        """Whether the source of all images is known: they are published or synthetic."""
        return all(dataset.attribution for dataset in self.datasets)

    @property
    def published(self) -> bool:
        """Whether all images are published and none are synthetic."""
        return self.source_is_known and not self.synthetic

    @property
    def attribution(self) -> str:
        """Source and license of the published images; "" for the user's own images."""
        texts = (dataset.attribution for dataset in self.datasets)
        return " ".join(dict.fromkeys(filter(None, texts)))

    @property
    def stored_longest_side(self) -> int | None:
        """Longest side of the stored images in pixels.

        None if it differs between datasets, or if the images have their original size.
        """
        sides = {dataset.stored_longest_side for dataset in self.datasets}
        return sides.pop() if len(sides) == 1 else None


def read_run_info(workdir: Path, fix: str = TRAIN_AGAIN) -> RunInfo:
    """Returns the content of run.json.

    `fix` is the last sentence of an error message: how to recreate the directory.

    Raises:
        ConfigError: The file is missing or damaged, or has another schema version.
    """
    path = workdir / RUN_FILE
    if not path.is_file() and (workdir / "metadata.json").is_file():
        raise ConfigError(
            f"{workdir} has the layout of an earlier version of skincnn: it holds "
            f"metadata.json instead of {RUN_FILE}. {fix}"
        )
    if not path.is_file():
        raise ConfigError(
            f"{workdir} contains no finished run: {RUN_FILE} is missing. "
            f"{advise_run_below(workdir) or fix}"
        )
    return read_record(path, RunInfo, fix)


def advise_run_below(folder: Path) -> str:
    """Returns a sentence with the names of the runs in a directory, or ""."""
    names = sorted(path.parent.name for path in folder.glob(f"*/{RUN_FILE}"))
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"{folder} contains the run(s) {', '.join(names[:5])}{more}. Use one of them, such "
        f"as {shlex.quote(str(folder / names[0]))}"
    )


def read_run(workdir: Path) -> tuple[RunInfo, Config]:
    """Returns the content of run.json and the configuration of a finished run.

    Raises:
        ConfigError: A file is missing, damaged or of another schema version, or images are
            no longer preprocessed as in training.
    """
    info = read_run_info(workdir)
    for name in (CONFIG_FILE, MODEL_FILE, "history.csv"):
        if not (workdir / name).is_file():
            raise ConfigError(
                f"{workdir} contains no finished run: {name} is missing. {TRAIN_AGAIN}"
            )
    config = read_config(workdir / CONFIG_FILE)
    now = describe_preprocessing(config.data)
    if info.preprocessing != now:
        raise ConfigError(
            f"{workdir / RUN_FILE}: the training images were preprocessed with "
            f"{info.preprocessing}. Expected {now}, from config.json and this version of "
            f"skincnn. {TRAIN_AGAIN}"
        )
    return info, config


def find_members(workdir: Path) -> tuple[Path, ...]:
    """Returns `workdir` for a run, and the runs of an ensemble or a cross-validation.

    Raises:
        ConfigError: run.json is missing or damaged, or the runs are not in `workdir`, where
            train.py writes them.
    """
    info = read_run_info(workdir)
    if info.kind == "run":
        return (workdir,)
    runs = tuple(workdir / member.name for member in info.members)
    missing = [run.name for run in runs if not (run / MODEL_FILE).is_file()]
    if missing:
        raise ConfigError(
            f"{workdir} does not contain the directories of its runs "
            f"{', '.join(missing)}. Give the directories of the runs instead."
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
        reason = str(error).strip()
        raise ConfigError(f"{path} cannot be read: {reason}. {TRAIN_AGAIN}") from error
    if history.empty or not {"epoch", "loss"} <= set(history):
        columns = ", ".join(map(str, history))
        raise ConfigError(
            f"{path} must have the columns epoch and loss and a row for each epoch. "
            f"Received: {len(history)} rows; columns: {columns or 'none'}. {TRAIN_AGAIN}"
        )
    return history
