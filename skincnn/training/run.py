"""Trains the model of a configuration, and writes the run directory."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import pandas as pd

from skincnn import __version__
from skincnn.config import Config, read_config
from skincnn.data.cache import Cache
from skincnn.data.characteristics import describe_flow, describe_images
from skincnn.data.combined import CombinedDataset
from skincnn.data.identifiers import find_identifiers
from skincnn.data.leakage import LeakageAudit
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.errors import ConfigError
from skincnn.files import (
    remove,
    replacing,
    require_space,
    require_writable_folder,
    sha256,
    write_json,
)
from skincnn.inference.provenance import provenance
from skincnn.inference.recognition import find_kind
from skincnn.inference.run_dir import (
    CONFIG_FILE,
    MODEL_FILE,
    RESTORE_CONFIG,
    RUN_FILE,
    LabelConflict,
    NearDuplicateSearch,
    RunInfo,
)
from skincnn.model.classifier import build_classifier
from skincnn.records import write_record
from skincnn.training.callbacks import RESUME
from skincnn.training.checkpoints import describe_changes, num_bytes, versions
from skincnn.training.devices import dtype_policy
from skincnn.training.fitting import FitResult, fit
from skincnn.training.setup import TrainingSetup, check, prepare
from skincnn.write_errors import explain_write_errors

PRODUCTS = (
    *(CONFIG_FILE, RUN_FILE, "history.csv", "logs", "checkpoints", MODEL_FILE),
    *("predictions", "results", "ood.npz", "report.html", "README.md", "figures"),
    *("checklists", "export"),
)
"""The files and subdirectories of a run; --overwrite removes only these."""


def train(
    config: Config,
    workdir: Path,
    data_dir: Path | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    cache: Cache = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    rehearse: Callable[[TrainingSetup], None] = lambda setup: None,
) -> None:
    """Trains a classifier and writes the model of the selected epoch to `workdir`.

    Writes config.json, run.json, history.csv, logs/, checkpoints/ and model.keras. The
    model takes images [batch, height, width, 3] in 0..255 and returns logits [batch,
    num_classes]. With `model.clinical_metadata`, the model takes a dictionary of `images`
    and `metadata`. The directory does not change before all checks have passed.

    Args:
        config: The full configuration.
        workdir: The run directory; lock it with `skincnn.training.devices.run_folder`.
        data_dir: The root directory of built datasets; None for the default of TFDS.
        overwrite: Whether to replace an existing run in `workdir`.
        resume: Whether to resume an interrupted run in `workdir`. A finished run does not
            change; if there is no run, a new one starts. With `train.deterministic`, a run
            that is resumed on the same machine gives the same weights as an uninterrupted
            run.
        cache: Where to keep decoded images; see `skincnn.data.cache.cached_images`.
        callbacks: The user's callbacks; see `skincnn.training.callbacks.UserCallbacks`.
        rehearse: A function that is called before the directory changes, unless a run is
            resumed. It raises an exception if a later step would fail.

    Raises:
        ConfigError: The configuration or the initial weights are invalid, the dataset does
            not exist, the teacher cannot be used (see `predict_teacher`), `workdir` cannot
            be used (see `check_workdir`), the devices do not support the configuration or
            have too little memory, a callback or another custom part fails, or writing a
            file fails.
        DataError: The dataset has not been built or is damaged, the splits do not pass the
            leakage audit or are too small, required lesion_ids or clinical metadata are
            missing or invalid, a model of the teacher is damaged or has other classes or
            training images, or the run to resume is damaged or has other data, software or
            devices.
        OSError: See `prepare` and `fit`.
        DivergedError: The loss has diverged, or the weights or outputs are not finite.
        Terminated, KeyboardInterrupt: A signal or Ctrl-C stopped training; the run can be
            resumed.
    """
    check(config)
    check_workdir(workdir, config, overwrite=overwrite, resume=resume)
    resume = resume and (workdir / CONFIG_FILE).exists()
    if resume and (workdir / RUN_FILE).exists():
        return
    setup, dataset, leakage = prepare(config, data_dir, cache)
    if not resume:
        rehearse(setup)
        clear(workdir)
        with explain_write_errors(workdir):
            write_json(workdir / CONFIG_FILE, config.to_dict())
    result = fit(setup, workdir, callbacks=callbacks)
    with explain_write_errors(workdir, RESUME):
        save_model(config, setup.classifier, workdir / MODEL_FILE)
        write_record(
            workdir / RUN_FILE, _describe(setup, dataset, leakage, result, workdir)
        )
    setup.checkpoints(workdir).remove(result.best_epoch)


def save_model(config: Config, classifier: keras.Model, path: Path) -> None:
    """Saves a classifier in float32 to a file that Keras can load without this package.

    Loading a backbone of KerasHub requires KerasHub, and layers of a custom backbone
    require the user's module.

    Unlike the archive that Keras writes, this one has fixed dates: a ZIP archive cannot
    store dates before 1980, which a computer without a battery-backed clock may show.

    Raises:
        OSError: See `skincnn.files.replacing`. Layers of a custom backbone can raise other
            exceptions.
    """
    untrained = dataclasses.replace(config.model, weights="none")
    with dtype_policy("float32"):
        model = build_classifier(
            untrained,
            classifier.output_shape[-1],
            seed=config.seed,
            image_size=config.data.image_size,
        )
    model.set_weights(classifier.get_weights())
    with (
        replacing(path) as temporary,
        tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as folder,
    ):
        require_space(temporary, 2 * num_bytes(model))  # the directory and the archive
        model.save(folder, zipped=False)
        with zipfile.ZipFile(temporary, "w") as archive:
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    info = zipfile.ZipInfo(file.relative_to(folder).as_posix())
                    archive.writestr(info, file.read_bytes())


def check_workdir(
    workdir: Path, config: Config, *, overwrite: bool = False, resume: bool = False
) -> None:
    """Checks that a run can be written to `workdir`, without changing the directory.

    Raises:
        ConfigError: `workdir` is not a writable directory; it contains files that a run
            would overwrite, but no run (see `find_kind`); it contains a run without a
            config.json; it contains a run, and neither `overwrite` nor `resume` is set; the
            run to resume has a different configuration or a damaged config.json; or
            `overwrite` and `resume` are both set.
    """
    require_writable_folder(workdir, "--workdir")
    if overwrite and resume:
        raise ConfigError("Use either --overwrite or --resume. Received: both.")
    existing = [name for name in PRODUCTS if (workdir / name).exists()]
    if not existing:
        return
    if find_kind(workdir) != "run":
        raise ConfigError(
            f"{workdir} contains {', '.join(existing)} but no run of skincnn, and is "
            "therefore not a run directory. Use another --workdir."
        )
    if CONFIG_FILE not in existing:
        raise ConfigError(
            f"{workdir} contains a run, but its {CONFIG_FILE} is missing. Use another "
            f"--workdir, or restore the run. {RESTORE_CONFIG}"
        )
    if resume:
        path = workdir / CONFIG_FILE
        if changes := describe_changes(read_config(path).to_dict(), config.to_dict()):
            raise ConfigError(
                f"The run in {workdir} was started with a different configuration: "
                f"{changes}. To resume the run, use the same preset and flags, or "
                f"--config {shlex.quote(str(path))}"
            )
    elif not overwrite:
        raise ConfigError(
            f"{workdir} already contains a run. Use another --workdir, --resume to "
            "resume the run, or --overwrite to replace the run (in Python: resume=True or "
            "overwrite=True)."
        )


def clear(workdir: Path, products: Sequence[str] = PRODUCTS) -> None:
    """Removes `products` from a directory, which is created if it does not exist.

    The first product, which identifies the directory as a run or a search, is removed last,
    so that the removal can be repeated after an interruption. All other files are kept.

    Raises:
        ConfigError: A product cannot be removed.
        OSError: The directory cannot be created.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    for name in reversed(products):
        with explain_write_errors(workdir / name):
            remove(workdir / name)


def _describe(
    setup: TrainingSetup,
    dataset: CombinedDataset,
    leakage: LeakageAudit,
    result: FitResult,
    workdir: Path,
) -> RunInfo:
    """Returns the content of run.json."""
    reports = [part.builder.read_report() for part in dataset.parts]
    declared = dataset.declared
    train = setup.tables["train"]
    train = train.assign(label=train["label"].map(dict(enumerate(setup.class_names))))
    class_counts = zip(setup.class_names, setup.class_counts.tolist(), strict=True)
    return RunInfo(
        skincnn=__version__,
        versions=versions(setup.config.model.backbone),
        device=result.device,
        provenance=provenance(),
        class_names=setup.class_names,
        declared=declared,
        datasets=dataset.describe(setup.tables),
        leave_out=setup.config.data.leave_out,
        audit=leakage,
        identifiers=find_identifiers(pd.concat(setup.tables.values())),
        near_duplicates=NearDuplicateSearch(
            known_pairs=sum(report.known_pairs for report in reports),
            found_pairs=sum(report.found_pairs for report in reports),
        ),
        label_conflicts=tuple(
            LabelConflict(first=a, second=b, first_label=c, second_label=d)
            for a, b, c, d in dataset.label_conflicts()
        ),
        flow=describe_flow(dataset, setup.tables, setup.config.data),
        training_characteristics=describe_images(train, setup.class_names, declared),
        preprocessing=describe_preprocessing(setup.config.data),
        data_fingerprint=setup.fingerprint["data"],
        class_counts=dict(class_counts),
        best_epoch=result.best_epoch,
        num_parameters=int(setup.classifier.count_params()),
        training_seconds=round(result.seconds, 1),
        teacher=setup.soft_labels.teacher if setup.soft_labels else None,
        modules=setup.modules,
        sha256={MODEL_FILE: sha256(workdir / MODEL_FILE)},
    )
