"""The setup of a training run: everything that is determined before the first step."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from skincnn.clinical_metadata import (
    CLINICAL_COLUMNS,
    CLINICAL_FEATURES,
    encode_clinical_metadata,
)
from skincnn.config import Config, DataConfig
from skincnn.config.section import require
from skincnn.data import pipeline
from skincnn.data.cache import Cache, Images
from skincnn.data.combined import CombinedDataset, class_names, open_datasets
from skincnn.data.leakage import LeakageAudit, audit
from skincnn.data.sampling import steps_per_epoch
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError, DataError
from skincnn.lookup import look_up
from skincnn.metrics.classification import find_metric
from skincnn.model.augment import find_augmentation
from skincnn.model.backbones import check_size
from skincnn.model.classifier import build_classifier, num_blocks
from skincnn.model.reproducibility import deterministic_ops, seeded
from skincnn.parts import custom_parts, hash_modules, is_custom, training_parts
from skincnn.training.callbacks import find_callback
from skincnn.training.checkpoints import Checkpoints, versions
from skincnn.training.devices import Devices, make_devices
from skincnn.training.distillation import SoftLabels, make_targets, predict_teacher
from skincnn.training.features import Features, compute_features
from skincnn.training.imbalance import Plan, find_strategy
from skincnn.training.losses import find_loss
from skincnn.training.optimizers import find_optimizer
from skincnn.training.schedules import find_schedule
from skincnn.training.stages import SCENARIOS, Segment, Stage, make_stages, segments

LoadImages = Callable[[pd.DataFrame, DataConfig], Images]
"""Function that loads the images of rows; see `skincnn.data.pipeline.load_images`."""
ComputeFeatures = Callable[[keras.Model, Images, int], Features]
"""Function with the signature of `skincnn.training.features.compute_features`."""


@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """The configuration, the model, the data and the devices of a training run.

    Attributes:
        classifier: A model from `build_classifier`, created in the scope of `devices`.
        tables: Tables of the splits "train", "val" and, except in a search, "test", with
            one row per image.
        compute_features: Function that computes features if `train.cached_views` > 0.
        soft_labels: Predictions of the teacher; None without distillation.

    Raises:
        ConfigError: A stage has more trainable blocks than the backbone.
        DataError: The clinical metadata are invalid, or missing for all training images.
    """

    config: Config
    classifier: keras.Model
    tables: Mapping[str, pd.DataFrame]
    load_images: LoadImages
    class_names: tuple[str, ...]
    devices: Devices
    compute_features: ComputeFeatures = compute_features
    soft_labels: SoftLabels | None = None

    def __post_init__(self) -> None:
        check_metadata(self.metadata["train"])
        _check_blocks(self.stages, self.classifier)

    @functools.cached_property
    def metadata(self) -> Mapping[str, pipeline.Metadata | None]:
        """Encoded clinical metadata by split; all None if the model uses only images."""
        if not self.config.model.clinical_metadata:
            return dict.fromkeys(self.tables)
        return {name: encode_clinical_metadata(rows) for name, rows in self.tables.items()}

    @functools.cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Labels of the training images, [num_images]."""
        return self.tables["train"]["label"].to_numpy(np.int64)

    @functools.cached_property
    def targets(self) -> npt.NDArray[np.float32] | None:
        """Targets from `make_targets`; None without distillation."""
        if self.soft_labels is None:
            return None
        return make_targets(self.labels, self.soft_labels, self.config.distillation)

    @functools.cached_property
    def class_counts(self) -> npt.NDArray[np.int64]:
        """Number of training images of each class, [num_classes]."""
        return np.bincount(self.labels, minlength=self.classifier.output_shape[-1])

    @functools.cached_property
    def plan(self) -> Plan:
        """The plan of the imbalance strategy.

        Raises:
            ConfigError: A custom strategy fails, or `imbalance.factors` does not have one
                factor for each class.
        """
        config = self.config.imbalance
        return find_strategy(config.strategy)(self.class_counts, config)

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the training run."""
        return make_stages(self.config)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Number of steps of each epoch."""
        batch_size = self.config.data.batch_size
        return steps_per_epoch(len(self.labels), batch_size, self.plan.epoch_counts)

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Data, software and device settings that a resumed run must match, as JSON."""
        return {
            "data": {name: pipeline.fingerprint(x) for name, x in self.tables.items()},
            "versions": versions(self.config.model.backbone),
            "backend": keras.backend.backend(),
            "precision": self.devices.precision,
            "num_devices": len(self.devices.names),
            "teacher": [*self.soft_labels.teacher.models.values()]
            if self.soft_labels
            else [],
            "modules": self.hash_modules(training_parts(self.config)),
        }

    @property
    def modules(self) -> dict[str, str]:
        """SHA-256 of the modules of all custom parts, by name; see `RunInfo.modules`."""
        return self.hash_modules(custom_parts(self.config))

    def hash_modules(self, names: Sequence[str]) -> dict[str, str]:
        """Returns the SHA-256 of the modules of custom parts, by name of the module.

        If the loss of the plan is custom, its module is included.

        Raises:
            ConfigError: See `skincnn.parts.hash_modules`.
        """
        loss = (self.plan.loss,) if is_custom(self.plan.loss) else ()
        return hash_modules((*names, *loss))

    def checkpoints(self, workdir: Path) -> Checkpoints:
        """Returns the checkpoints in a run directory."""
        return Checkpoints(workdir / "checkpoints", self.fingerprint)

    def segments(self, epoch: int = 0, step: int = 0) -> Iterator[Segment]:
        """Yields the segments after `epoch` epochs and `step` steps of the next epoch."""
        reweighting = round(self.plan.drw_start * self.stages[-1].epochs)
        return segments(self.config, epoch=epoch, step=step, reweighting=reweighting)

    def num_views(self, segment: Segment) -> int:
        """Returns the number of cached views of each image; 0 for training on images."""
        head_only = self.stages[segment.stage].trainable_blocks == 0
        return self.config.train.cached_views if head_only else 0

    def batches(self, inputs: Images | Features, segment: Segment) -> tf.data.Dataset:
        """Returns the training batches of a segment."""
        return pipeline.training_batches(
            inputs,
            self.labels,
            self.config.data.batch_size,
            seed=self.config.seed,
            epochs=segment.epochs,
            first_step=segment.first_step,
            variants=self.num_views(segment) or 1,
            targets=self.targets,
            metadata=self.metadata["train"],
            sampling_weights=self.plan.sampling_weights,
            epoch_counts=self.plan.epoch_counts,
        )

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Sets the devices, the precision, the seed and determinism inside the block."""
        with (
            deterministic_ops(self.config.train.deterministic),
            seeded(self.config.seed),
            self.devices.scope(),
        ):
            yield


def check(config: Config) -> None:
    """Checks the names, the image sizes and `train.cached_views` in a configuration.

    Raises:
        ConfigError: A name is unknown, a custom part cannot be imported or does not accept
            its arguments, a preset of KerasHub cannot be loaded, the backbone does not
            support an image size, or `train.cached_views` is positive although no stage
            trains only the head.
    """
    find_strategy(config.imbalance.strategy)
    if name := config.loss.name:
        expected = "a custom `module:function`; other losses belong to `imbalance.strategy`"
        require(is_custom(name), "loss.name", expected, name)
        find_loss(name)
    find_metric(config.train.monitor)
    for name in config.evaluate.metrics:
        find_metric(name, "`evaluate.metrics`")
    look_up(SCENARIOS, config.train.scenario, "`train.scenario`")
    find_optimizer(config.optimizer.name)
    find_schedule(config.optimizer.schedule)
    for name in config.train.callbacks:
        find_callback(name)
    head_stages = [x for x in make_stages(config) if x.trainable_blocks == 0]
    if config.train.cached_views > 0 and not head_stages:
        raise ConfigError(
            "`train.cached_views` must be 0 if no stage trains only the head. "
            f"Received: {config.train.cached_views} with `train.scenario` "
            f"{config.train.scenario}."
        )
    for part in config.augment.parts:
        find_augmentation(part)
    check_size(config.model.backbone, config.data.image_size, "`data.image_size`")
    if size := config.train.progressive_image_size:
        check_size(config.model.backbone, size, "`train.progressive_image_size`")


def prepare(
    config: Config, data_dir: Path | None = None, cache: Cache = "auto"
) -> tuple[TrainingSetup, CombinedDataset, LeakageAudit]:
    """Returns the setup, the dataset and the leakage audit of a training run.

    The arguments are those of `skincnn.training.run.train`; call `check(config)` first.

    Raises:
        ConfigError: The backbone has fewer blocks than configured; see also `build`,
            `class_names`, `open_datasets`, `CombinedDataset.links`, `make_splits` and
            `predict_teacher`.
        DataError: A dataset has not been built, the splits do not pass the leakage audit
            or are too small, or required clinical metadata are missing or invalid; see also
            `make_splits` and `predict_teacher`.
        OSError: See `make_splits` and `predict_teacher`.
    """
    # Invalid initial weights are reported before a missing dataset: the class names of
    # published datasets are known even if these have not been built.
    data = config.data
    names = class_names(data.datasets, data_dir, data.label_maps)
    classifier, devices = build(config, len(names))
    dataset = open_datasets(data.datasets, data_dir, data.label_maps)
    tables = make_splits(dataset, data)
    inputs = [tensor.name for tensor in classifier.inputs]
    if config.model.clinical_metadata:
        inputs += CLINICAL_COLUMNS
    leakage = audit(
        tables,
        names,
        inputs=inputs,
        siblings_allowed=data.split_by == "image",
        may_lack_classes=("test",) if data.leave_out else (),
    )
    _warn_of_upscaling(config.data, dataset)
    require_full_batch(tables["train"], config.data)
    load_images = functools.partial(pipeline.load_images, dataset, cache=cache)
    setup = TrainingSetup(
        config,
        classifier,
        tables,
        load_images,
        names,
        devices,
        soft_labels=predict_teacher(config, tables, dataset, cache),
    )
    return setup, dataset, leakage


def build(config: Config, num_classes: int) -> tuple[keras.Model, Devices]:
    """Returns the classifier and the devices of a configuration.

    Raises:
        ConfigError: The devices, the backbone or the initial weights cannot be used.
    """
    devices = make_devices(config.train, config.data.batch_size)
    with devices.scope():
        classifier = build_classifier(
            config.model,
            num_classes,
            seed=config.seed,
            fused=True,
            image_size=config.data.image_size,
        )
    return classifier, devices


def require_full_batch(table: pd.DataFrame, config: DataConfig) -> None:
    """Raises a `DataError` if the training images do not fill a batch."""
    if len(table) < config.batch_size:
        raise DataError(
            f"{len(table)} training images do not fill a batch of {config.batch_size} "
            "images. Use a smaller --data.batch-size."
        )


def check_metadata(metadata: pipeline.Metadata | None) -> None:
    """Raises a `DataError` if the model uses clinical metadata, but no image has any.

    `metadata` is that of the training images, or None if the model uses images only.
    """
    unknown = [name.endswith("_unknown") for name in CLINICAL_FEATURES]
    if metadata is not None and metadata[:, unknown].all():
        raise DataError(
            "`model.clinical_metadata` is True, but no training image has an age, a sex or "
            "a site. Use a dataset with clinical metadata, or "
            "--model.clinical-metadata False."
        )


def _check_blocks(stages: tuple[Stage, ...], classifier: keras.Model) -> None:
    largest = max((stage.trainable_blocks or 0 for stage in stages), default=0)
    if largest > num_blocks(classifier):
        raise ConfigError(
            "`train.trainable_blocks` and `trainable_blocks` in `train.stages` must be at "
            f"most {num_blocks(classifier)}, the number of blocks of the backbone, or -1 "
            f"for all. Received: {largest}."
        )


def _warn_of_upscaling(config: DataConfig, dataset: CombinedDataset) -> None:
    for part in dataset.parts:
        longest_side = part.builder.builder_config.longest_side
        if longest_side is not None and config.image_size > longest_side * 3 / 4:
            print(
                f"warning: {part.name} stores 4:3 images at "
                f"{longest_side}x{longest_side * 3 // 4} pixels, which --data.image-size "
                f"{config.image_size} upscales. The dataset without a size in its name has "
                "the original images.",
                file=sys.stderr,
            )
