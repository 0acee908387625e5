"""A training run: from a configuration to a folder with the best model."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

from skincnn import __version__
from skincnn.clinical_metadata import CLINICAL_FEATURES
from skincnn.config import Config, DataConfig
from skincnn.data import datasets, pipeline
from skincnn.data.cache import Cache
from skincnn.data.leakage import audit
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError, DataError
from skincnn.files import replacing, sha256, write_json
from skincnn.inference.run_dir import CONFIG_FILE, MODEL_FILE, RUN_FILE, RunInfo
from skincnn.lookup import look_up
from skincnn.metrics.classification import METRICS
from skincnn.model.augment import AUGMENTATIONS
from skincnn.model.backbones import check_size
from skincnn.model.classifier import build_classifier
from skincnn.records import write_record
from skincnn.training.callbacks import disk
from skincnn.training.devices import Devices, dtype_policy, make_devices
from skincnn.training.fitting import Training
from skincnn.training.imbalance import STRATEGIES
from skincnn.training.optimizers import OPTIMIZERS
from skincnn.training.provenance import provenance
from skincnn.training.schedules import SCHEDULES
from skincnn.training.stages import SCENARIOS, make_stages
from skincnn.training.state import remove_states, versions
from skincnn.training.workdir import check_workdir, clear


def check(config: Config) -> None:
    """Checks the names in the configuration against the tables of parts.

    Raises:
        ConfigError: A name is unknown, or pictures are too small for the backbone.
    """
    look_up(STRATEGIES, config.imbalance.strategy, "`imbalance.strategy`")
    look_up(METRICS, config.train.monitor, "`train.monitor`")
    look_up(SCENARIOS, config.train.scenario, "`train.scenario`")
    look_up(OPTIMIZERS, config.optimizer.name, "`optimizer.name`")
    look_up(SCHEDULES, config.optimizer.schedule, "`optimizer.schedule`")
    heads = [stage for stage in make_stages(config) if stage.trainable_blocks == 0]
    if config.train.cached_views > 0 and not heads:
        raise ConfigError(
            "`train.cached_views` must be 0 where no stage trains the head alone. "
            f"Received: {config.train.cached_views} with `train.scenario` "
            f"{config.train.scenario}."
        )
    for part in config.augment.parts:
        look_up(AUGMENTATIONS, part, "`augment.parts`")
    for size in (config.data.image_size, config.train.progressive_image_size):
        if size > 0:
            check_size(config.model.backbone, size)


def train(
    config: Config,
    workdir: Path,
    data_dir: Path | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    cache: Cache = "auto",
) -> None:
    """Trains a classifier and leaves the best epoch in `workdir`.

    Writes config.json, run.json, history.csv, logs/, checkpoints/ and model.keras,
    whose model takes pictures in 0..255 [batch, height, width, 3], with `model.clinical_metadata`
    a dictionary of these `images` and of `metadata`, and returns logits.
    All checks come before the folder is touched.

    Args:
        config: The whole configuration.
        workdir: The run's folder; see `files.locked` for keeping others out.
        data_dir: Where TFDS keeps built datasets.
        overwrite: Whether to replace a run that is in `workdir`.
        resume: Whether to go on where a run that is in `workdir` was when it was stopped,
            however that happened; one that is done is left as it is. On one machine, with
            `train.deterministic`, the weights are those of a run that was not stopped.
        cache: Where decoded pictures are kept; see `cache.cached_images`.

    Raises:
        ConfigError: A name, a path or the weights cannot be used, memory or disk is full,
            or the run to be resumed had another configuration.
        DataError: The dataset is not built, its splits leak, its metadata hold nothing or
            words that are not known (with `model.clinical_metadata`), or it is not the one with
            which the run to be resumed was begun.
        DivergedError: The loss, the weights or the outputs are no longer finite.
        Terminated, KeyboardInterrupt: The user stopped the training; the step was
            finished, and the state is saved.
    """
    check(config)
    check_workdir(workdir, config, overwrite=overwrite, resume=resume)
    resume = resume and (workdir / CONFIG_FILE).exists()
    if resume and (workdir / RUN_FILE).exists():
        return
    training, facts = prepare(config, workdir, data_dir, cache)
    _run(training, facts, resume=resume)


def prepare(
    config: Config, workdir: Path, data_dir: Path | None = None, cache: Cache = "auto"
) -> tuple[Training, dict[str, Any]]:
    """Returns a training that may begin, and what is known of its data; writes nothing.

    Args:
        config: The whole configuration, of which `check` has passed.
        workdir: The run's folder.
        data_dir: Where TFDS keeps built datasets.
        cache: Where decoded pictures are kept; see `cache.cached_images`.

    Raises:
        ConfigError: The weights cannot be used.
        DataError: The dataset is not built, or its splits leak or are too small.
    """
    # The label set is fixed, so the weights are looked for before any data is.
    names = datasets.class_names(config.data.dataset, data_dir)
    classifier, devices = build(config, len(names))
    builder = datasets.open_dataset(config.data.dataset, data_dir)
    tables = make_splits(builder, config.data)
    audited = audit(
        tables,
        names,
        inputs=[tensor.name for tensor in classifier.inputs]
        + list(CLINICAL_FEATURES if config.model.clinical_metadata else ()),
        siblings_allowed=config.data.split_by == "image",
    )
    _warn_of_enlarging(config, builder.builder_config.longest_side)
    require_a_batch(tables["train"], config.data)
    training = Training(
        config,
        classifier,
        tables,
        functools.partial(pipeline.load_images, builder, cache=cache),
        workdir,
        names,
        devices,
    )
    return training, {
        "class_names": names,
        "synthetic": builder.builder_config.synthetic,
        "dataset": builder.info.full_name,
        "attribution": builder.builder_config.attribution,
        "stored_longest_side": builder.builder_config.longest_side,
        "audit": audited,
    }


def build(config: Config, num_classes: int) -> tuple[keras.Model, Devices]:
    """Returns the classifier that a configuration trains, and what it runs on.

    Raises:
        ConfigError: The weights or the devices cannot be used.
    """
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    devices = make_devices(config.train, config.data.batch_size)
    with devices.scope():
        classifier = build_classifier(
            config.model, num_classes, seed=config.seed, fused=True
        )
    return classifier, devices


def require_a_batch(table: pd.DataFrame, config: DataConfig) -> None:
    """Checks that there are pictures for a training step.

    Raises:
        DataError: There are not.
    """
    if len(table) < config.batch_size:
        raise DataError(
            f"{len(table)} training pictures do not fill a batch of "
            f"--data.batch-size {config.batch_size}. Give a smaller one."
        )


def _run(training: Training, facts: dict[str, Any], *, resume: bool) -> None:
    """Trains, and writes what `train` promises."""
    config, classifier, workdir = training.config, training.classifier, training.workdir
    if not resume:
        clear(workdir)
        with disk(workdir):
            write_json(workdir / CONFIG_FILE, config.to_dict())
    training.fit()
    with disk(workdir):
        _save_plain(config, classifier, workdir / MODEL_FILE)
        write_record(workdir / RUN_FILE, _describe(training, facts))
    remove_states(training.checkpoints, training.progress.best_epoch)


def _describe(training: Training, facts: dict[str, Any]) -> RunInfo:
    """Returns the content of run.json."""
    names, progress = facts["class_names"], training.progress
    seconds = sum(row["seconds"] for row in progress.history) + training.feature_seconds
    return RunInfo(
        skincnn=__version__,
        versions=versions(),
        device=training.devices.describe(training.model),
        provenance=provenance(),
        **facts,
        preprocessing=describe_preprocessing(training.config.data),
        data_fingerprint=training.made_by["data"],
        class_counts=dict(zip(names, training.counts.tolist(), strict=True)),
        best_epoch=progress.best_epoch,
        num_parameters=int(training.classifier.count_params()),
        training_seconds=round(seconds, 1),
        sha256={MODEL_FILE: sha256(training.workdir / MODEL_FILE)},
    )


def _warn_of_enlarging(config: Config, longest_side: int | None) -> None:
    if longest_side is not None and config.data.image_size > longest_side * 3 / 4:
        print(
            f"warning: {config.data.dataset} stores pictures of 4:3 at "
            f"{longest_side}x{longest_side * 3 // 4} pixels, and --data.image-size "
            f"{config.data.image_size} enlarges them. The dataset without a size in its "
            "name keeps them whole.",
            file=sys.stderr,
        )


def _save_plain(config: Config, classifier: keras.Model, path: Path) -> None:
    """Saves the model in float32 with Keras's own layers, so that it needs no skincnn."""
    untrained = dataclasses.replace(config.model, weights="none")
    with dtype_policy("float32"):
        plain = build_classifier(untrained, classifier.output_shape[-1], seed=config.seed)
    plain.set_weights(classifier.get_weights())
    with replacing(path) as temporary:
        plain.save(temporary)
