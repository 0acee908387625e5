"""A training run: from a configuration to a folder with the best model."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from skincnn import __version__
from skincnn.config import Config, DataConfig
from skincnn.data import datasets, pipeline
from skincnn.data.cache import Cache, Images, keep_last
from skincnn.data.leakage import audit
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.metrics import METRICS
from skincnn.files import replacing, require_writable_folder, sha256, write_json
from skincnn.lookup import look_up
from skincnn.model.augment import AUGMENTATIONS, Augmentation
from skincnn.model.backbones import check_size
from skincnn.model.classifier import build_classifier, set_trainable
from skincnn.training.callbacks import Validation, epoch_callbacks
from skincnn.training.imbalance import STRATEGIES, Plan
from skincnn.training.losses import WeightedCrossEntropy
from skincnn.training.optimizers import build_optimizer

Load = Callable[[pd.DataFrame, DataConfig], Images]
"""From rows of a table to their pictures: `pipeline.load_images` of a dataset."""
PRODUCTS = (
    "config.json",
    "metadata.json",
    "history.csv",
    "logs",
    "checkpoints",
    "model.keras",
    "predictions",
    "report.json",
    "report.html",
    "figures",
    "export",
)
"""What a run's folder holds; overwriting a run removes these and nothing else."""


def check(config: Config) -> None:
    """Checks the names in the configuration against the tables of parts.

    Raises:
        ConfigError: A name is unknown, or pictures are too small for the backbone.
    """
    look_up(STRATEGIES, config.imbalance.strategy, "`imbalance.strategy`")
    look_up(METRICS, config.train.monitor, "`train.monitor`")
    for part in config.augment.parts:
        look_up(AUGMENTATIONS, part, "`augment.parts`")
    for size in (config.data.image_size, config.train.small_image_size):
        if size > 0:
            check_size(config.model.backbone, size)


def check_workdir(workdir: Path, overwrite: bool) -> None:
    """Checks that a run can be written to `workdir`, without touching it.

    Raises:
        ConfigError: It is a file, cannot be written to, holds a run and `overwrite` is
            not set, or holds files that look like a run's and are not.
    """
    require_writable_folder(workdir, "--workdir")
    found = [name for name in PRODUCTS if (workdir / name).exists()]
    if "config.json" in found and not overwrite:
        raise ConfigError(
            f"{workdir} holds a run already. Give another --workdir, or --overwrite to "
            "replace it."
        )
    if found and "config.json" not in found:
        raise ConfigError(
            f"{workdir} holds {', '.join(found)}, but no config.json: these are not a "
            "run's. Expected an empty folder or a run's; give another --workdir."
        )


def train(
    config: Config,
    workdir: Path,
    data_dir: Path | None = None,
    overwrite: bool = False,
    cache: Cache = "auto",
) -> None:
    """Trains a classifier and leaves the best epoch in `workdir`.

    Writes config.json, metadata.json, history.csv, logs/, checkpoints/ and model.keras,
    whose model takes pictures in 0..255 [batch, height, width, 3] and returns logits.
    All checks come before the folder is touched.

    Args:
        config: The whole configuration.
        workdir: The run's folder.
        data_dir: Where TFDS keeps built datasets.
        overwrite: Whether to replace a run that is in `workdir`.
        cache: Where decoded pictures are kept; see `cache.cached_images`.

    Raises:
        ConfigError: A name, a path or the weights cannot be used.
        DataError: The dataset is not built, or its splits leak.
        DivergedError: The loss or the outputs are no longer finite.
    """
    check(config)
    check_workdir(workdir, overwrite)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    # The label set is fixed, so the weights are looked for before any data is.
    names = datasets.class_names(config.data.dataset, data_dir)
    classifier = build_classifier(config.model, len(names), seed=config.seed, fused=True)
    builder = datasets.open_dataset(config.data.dataset, data_dir)
    tables = make_splits(builder, config.data)
    audited = audit(
        tables,
        names,
        inputs=[tensor.name for tensor in classifier.inputs],
        siblings_allowed=config.data.split_by == "image",
    )
    if len(tables["train"]) < config.data.batch_size:
        raise DataError(
            f"{len(tables['train'])} training pictures do not fill a batch of "
            f"--data.batch-size {config.data.batch_size}. Give a smaller one."
        )
    _clear(workdir)
    started = time.perf_counter()
    write_json(workdir / "config.json", config.to_dict())

    counts = np.bincount(tables["train"]["label"], minlength=len(names))
    load = functools.partial(pipeline.load_images, builder, cache=cache)
    validation = _validation(config, classifier, load, tables["val"], workdir)
    plan = STRATEGIES[config.imbalance.strategy](counts, config.imbalance)
    _fit(config, classifier, load, tables["train"], plan, validation, workdir / "logs")
    classifier.load_weights(validation.checkpoint)
    _save_plain(config, classifier, workdir / "model.keras")
    write_json(
        workdir / "metadata.json",
        {
            "skincnn": __version__,
            "versions": _versions(),
            "class_names": names,
            "made_up": builder.builder_config.made_up,
            "dataset": builder.info.full_name,
            "data_fingerprint": {
                name: pipeline.fingerprint(table) for name, table in tables.items()
            },
            "audit": audited,
            "class_counts": dict(zip(names, counts.tolist(), strict=True)),
            "best_epoch": validation.best_epoch,
            "num_parameters": int(classifier.count_params()),
            "seconds": round(time.perf_counter() - started, 1),
            "sha256": {"model.keras": sha256(workdir / "model.keras")},
        },
    )


def image_size(config: Config, epoch: int) -> int:
    """Returns the size of the pictures of an epoch, counted from 0 over both phases."""
    small = config.train.small_epochs
    if small > 0 and epoch < config.train.head_epochs + small:
        return config.train.small_image_size
    return config.data.image_size


def _validation(
    config: Config,
    classifier: keras.Model,
    load: Load,
    table: pd.DataFrame,
    workdir: Path,
) -> Validation:
    return Validation(
        classifier,
        pipeline.evaluation_batches(load(table, config.data)),
        table["label"].to_numpy(np.int64),
        config.train.monitor,
        workdir,
    )


def _fit(
    config: Config,
    classifier: keras.Model,
    load: Load,
    table: pd.DataFrame,
    plan: Plan,
    validation: Validation,
    logs: Path,
) -> None:
    """Runs the phases: the head alone, then all layers."""
    model = keras.Sequential([Augmentation(config.augment, config.seed), classifier])
    steps = len(table) // config.data.batch_size
    images_of = _images_of_epochs(config, load, table)
    # What cannot be read or kept is found here, and not in a thread of fit(), at least
    # for the first size of pictures; two sizes are never in memory at once.
    images_of(0)
    epochs_done = 0
    for backbone, epochs, rate, warmup in (
        (False, config.train.head_epochs, config.optimizer.head_learning_rate, 0.0),
        (
            True,
            config.train.epochs,
            config.optimizer.learning_rate,
            config.optimizer.warmup_epochs,
        ),
    ):
        if epochs == 0:
            continue
        set_trainable(classifier, None if backbone else 0, config.model.batch_norm)
        # An average over so few steps would be mostly the random head.
        ema = config.optimizer.ema if backbone else 0.0
        optimizer = build_optimizer(
            dataclasses.replace(config.optimizer, ema=ema),
            rate,
            steps * epochs,
            round(steps * warmup),
        )
        # What is frozen is fixed when a model is compiled: once for each phase.
        loss = WeightedCrossEntropy(plan.class_weights, plan.logit_shift)
        model.compile(optimizer, loss)
        # One dataset and one fit() for all sizes of a phase: the optimizer's state and
        # the average of the weights go on as if nothing had happened.
        batches = pipeline.training_batches(
            images_of,
            table["label"].to_numpy(np.int64),
            config.data.batch_size,
            seed=config.seed,
            epochs=range(epochs_done, epochs_done + epochs),
            sampling_weights=plan.sampling_weights,
        )
        model.fit(
            batches,
            steps_per_epoch=steps,
            initial_epoch=epochs_done,
            epochs=epochs_done + epochs,
            shuffle=False,  # the batches are shuffled already
            callbacks=epoch_callbacks(validation, optimizer, logs),
        )
        epochs_done += epochs


def _images_of_epochs(
    config: Config, load: Load, table: pd.DataFrame
) -> Callable[[int], Images]:
    """Returns the function from an epoch to its pictures; keeps those of one size."""

    def load_size(size: int) -> Images:
        return load(table, dataclasses.replace(config.data, image_size=size))

    images = keep_last(load_size)
    return lambda epoch: images(image_size(config, epoch))


def _clear(workdir: Path) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    # config.json goes last: a folder that is cleared half way is still known as a run's.
    for name in reversed(PRODUCTS):
        path = workdir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _save_plain(config: Config, classifier: keras.Model, path: Path) -> None:
    """Saves the model with Keras's own layers, so that the file needs no skincnn."""
    untrained = dataclasses.replace(config.model, weights="none")
    plain = build_classifier(untrained, classifier.output_shape[-1], seed=config.seed)
    plain.set_weights(classifier.get_weights())
    with replacing(path) as temporary:
        plain.save(temporary)


def _versions() -> dict[str, str]:
    packages = ("tensorflow", "keras", "tensorflow-datasets", "numpy", "scikit-learn")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }
