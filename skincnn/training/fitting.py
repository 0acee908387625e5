"""Fitting: stages of training, cut into segments that can be stopped and gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from skincnn.clinical_metadata import CLINICAL_FEATURES, encode_clinical_metadata
from skincnn.config import AugmentConfig, Config, DataConfig
from skincnn.data import pipeline
from skincnn.data.cache import Images
from skincnn.data.sampling import steps_per_epoch
from skincnn.errors import ConfigError, DataError, MemoryFullError
from skincnn.files import sha256
from skincnn.inference.run_dir import DeviceInfo
from skincnn.interruption import StopRequest
from skincnn.model.augment import Augmentation
from skincnn.model.augmented import AugmentedClassifier
from skincnn.model.classifier import block_of_variables, num_blocks, set_trainable
from skincnn.model.mixing import Mixing
from skincnn.training.callbacks import (
    EarlyStopping,
    Saving,
    Validation,
    is_patience_over,
    metric_variables,
)
from skincnn.training.devices import Devices, make_devices, stop_request
from skincnn.training.features import Features, build_head, compute_features, steps_per_call
from skincnn.training.imbalance import STRATEGIES
from skincnn.training.losses import build_loss
from skincnn.training.optimizers import build_optimizer
from skincnn.training.stages import (
    Segment,
    Stage,
    first_epoch_of_last,
    make_stages,
    segments,
)
from skincnn.training.state import (
    Arrays,
    Progress,
    assign,
    load_state,
    save_state,
    versions,
    weights_path,
)
from skincnn.training.tensorboard import ConfusionImages, sample_grid, write_image

Load = Callable[[pd.DataFrame, DataConfig], Images]
"""From rows of a table to their pictures: `pipeline.load_images` of a dataset."""
Compute = Callable[[keras.Model, Images, int], Features]
"""From a classifier, pictures and a number of orientations to `compute_features`."""


class Training:
    """Stages of training, cut into segments, each of which begins from a saved state.

    A training that was killed begins in the same way as each stage of one that was not,
    so that nothing can be forgotten in one of the two.

    Attributes:
        progress: How far the training is.
        whole: The classifier with its augmentation, whose variables are saved.
        model: What trains: the whole, or the classifier's head on cached features.
        counts: Training pictures of each class, [num_classes].
        stages: What trains when.
        made_by: What must be equal where a state is read again.
        checkpoints: The folder of the states and of the best weights.
        callbacks: Others, to run after our own.
        quiet: Whether nothing is printed while it trains.
    """

    def __init__(
        self,
        config: Config,
        classifier: keras.Model,
        tables: Mapping[str, pd.DataFrame],
        load: Load,
        workdir: Path,
        class_names: Sequence[str] = (),
        devices: Devices | None = None,
        compute: Compute = compute_features,
    ):
        """Stores what to train on; reads and writes nothing.

        Args:
            config: The whole configuration.
            classifier: A model of `build_classifier`, made in the scope of `devices`.
            tables: The rows of "train" and "val".
            load: Gives their pictures.
            workdir: The run's folder.
            class_names: The names of the classes; by default their numbers.
            devices: What it runs on; by default what the configuration comes to.
            compute: Gives the features of pictures, for `train.cached_views`.
        """
        self.config = config
        self.classifier = classifier
        self.load = load
        self.compute = compute
        self.workdir = workdir
        self.devices = devices or make_devices(config.train, config.data.batch_size)
        self.checkpoints = workdir / "checkpoints"
        self.table, self.val = tables["train"], tables["val"]
        self.labels = self.table["label"].to_numpy(np.int64)
        self.metadata: dict[str, pipeline.Metadata | None] = dict.fromkeys(tables)
        if config.model.clinical_metadata:
            # Those of the test as well: a word that is not known is said now.
            self.metadata = {
                name: encode_clinical_metadata(rows) for name, rows in tables.items()
            }
            _require_patients(self.metadata["train"])
        self.counts = np.bincount(self.labels, minlength=classifier.output_shape[-1])
        self.plan = STRATEGIES[config.imbalance.strategy](self.counts, config.imbalance)
        self.stages = make_stages(config)
        _check_blocks(self.stages, classifier)
        self.steps = steps_per_epoch(
            len(self.table), config.data.batch_size, self.plan.epoch_counts
        )
        self.class_names = class_names or [str(label) for label in range(len(self.counts))]
        self.patience = config.train.patience, first_epoch_of_last(self.stages)
        self.progress = Progress()
        self.callbacks: list[keras.callbacks.Callback] = []
        self.quiet = False
        self._pictures: Images | None = None
        self.feature_seconds = 0.0  # of computing features, which no epoch counts
        self._features: tuple[tuple[int, int], Features] | None = None
        self._val_features: tuple[int, Features] | None = None
        self._compiled: tuple[int, bool, int] | None = None
        self.made_by = {
            "data": {name: pipeline.fingerprint(table) for name, table in tables.items()},
            "versions": versions(),
            "computation": self.devices.made_by,
        }

    def fit(self) -> None:
        """Trains what is left to train, and leaves the best weights in the classifier."""
        with self.devices.scope():
            self._fit()

    def _fit(self) -> None:
        state = load_state(self.checkpoints, self.made_by)
        if state is not None:
            self.progress = state[0]
            print(
                f"Going on with {self.workdir} in epoch {self.progress.epoch + 1}, step "
                f"{self.progress.step + 1}"
            )
        self._begin()
        with stop_request() as stop:
            for segment in segments(
                self.config,
                epoch=self.progress.epoch,
                step=self.progress.step,
                reweighting=self.plan.reweighting_epoch(self.stages[-1].epochs),
            ):
                if is_patience_over(self.progress, *self.patience):
                    break
                with _memory(self.config.data.batch_size, segment.image_size):
                    self._fit_segment(segment, stop)
        self._load_best()

    def _begin(self) -> None:
        self.whole = augmented(self.config.augment, self.classifier, self.config.seed)
        self.model: keras.Model = self.whole
        self._val_pictures = self.load(self.val, self.config.data)
        self.validation = Validation(
            self.classifier,
            pipeline.evaluation_batches(self._val_pictures, self.metadata["val"]),
            self.val["label"].to_numpy(np.int64),
            self.config.train.monitor,
            self.workdir,
            self.progress,
        )

    def test_rates(
        self,
        stage: int,
        rates: npt.NDArray[np.float64],
        is_over: Callable[[Sequence[float]], bool],
    ) -> list[float]:
        """Returns the loss of a step of training at each rate; nothing is written.

        The layers, the loss and the pictures are those with which `stage` begins; the
        weights are those with which the training begins, and are spoiled.

        Args:
            stage: The number of the stage, counted from 0.
            rates: At least two, each the same multiple of the one before.
            is_over: Whether to stop, told the losses so far.
        """
        reweighting = self.plan.reweighting_epoch(self.stages[-1].epochs)
        parts = segments(self.config, reweighting=reweighting)
        segment = next(part for part in parts if part.stage == stage)
        start = segment.epochs.start
        epochs = range(start, start - (-len(rates) // self.steps))
        segment = dataclasses.replace(segment, epochs=epochs)
        self._begin()
        pictures = self._read(segment)
        self._compile(segment)
        self.model.steps_per_execution = 1  # train_on_batch() has no more
        optimizer: Any = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of loss scaling
        optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(
            float(rates[0]), 1, float(rates[1] / rates[0])
        )
        losses: list[float] = []
        batches = self._batches(pictures, segment).take(len(rates))
        with _memory(self.config.data.batch_size, segment.image_size):
            for inputs, labels in batches.as_numpy_iterator():
                logs = self.model.train_on_batch(inputs, labels, return_dict=True)
                losses.append(float(logs["loss"]))
                if is_over(losses):
                    break
        return losses

    def _read(self, segment: Segment) -> Images:
        # Those of another size are let go first: both are never in memory at once.
        if self._pictures is None or self._pictures.shape[1] != segment.image_size:
            self._pictures = None
            fields = dataclasses.replace(self.config.data, image_size=segment.image_size)
            self._pictures = self.load(self.table, fields)
        return self._pictures

    def _batches(self, pictures: Images, segment: Segment) -> tf.data.Dataset:
        """Returns the batches of a segment; features are those of the present weights."""
        return pipeline.training_batches(
            self._inputs(pictures, segment),
            self.labels,
            self.config.data.batch_size,
            seed=self.config.seed,
            epochs=segment.epochs,
            first_step=segment.first_step,
            variants=self._orientations(segment) or 1,
            metadata=self.metadata["train"],
            sampling_weights=self.plan.sampling_weights,
            epoch_counts=self.plan.epoch_counts,
        )

    def _fit_segment(self, segment: Segment, stop: StopRequest) -> None:
        config, logs = self.config, self.workdir / "logs"
        with stop.at_once():  # reading pictures and computing features take long
            pictures = self._read(segment)
            self._compile(segment)
            metrics = self._restore(segment)
            batches = self._batches(pictures, segment)
            self._set_validation(segment)
        if segment.epochs.start == 0 and segment.first_step == 0:
            grid = sample_grid(pictures, self.labels, config.augment, config.seed)
            write_image(logs / "pictures", "training_pictures", 0, grid)
        self.model.fit(
            batches,
            steps_per_epoch=self.steps - segment.first_step,
            initial_epoch=segment.epochs.start,
            epochs=segment.epochs.stop,
            shuffle=False,  # the batches are shuffled already
            verbose=0 if self.quiet else "auto",
            callbacks=[
                self.validation,
                keras.callbacks.TensorBoard(logs, write_graph=False),
                ConfusionImages(self.validation, self.class_names, logs / "pictures"),
                Saving(self.progress, self._save, stop, segment.first_step, metrics),
                EarlyStopping(self.progress, *self.patience),
                *self.callbacks,
            ],
        )

    def _orientations(self, segment: Segment) -> int:
        """Returns in how many orientations features are trained on; 0 for pictures."""
        head_alone = self.stages[segment.stage].trainable_blocks == 0
        return self.config.train.cached_views if head_alone else 0

    def _inputs(self, pictures: Images, segment: Segment) -> Images | Features:
        """Returns what the model trains on."""
        orientations = self._orientations(segment)
        kind = segment.stage, segment.image_size
        if self._features is not None and (orientations == 0 or self._features[0] != kind):
            self._features = None
        if orientations == 0:
            return pictures
        if self._features is None:
            features = self._compute(pictures, orientations)
            self._features = kind, features
        return self._features[1]

    def _compute(self, pictures: Images, orientations: int) -> Features:
        started = time.perf_counter()
        features = self.compute(self.classifier, pictures, orientations)
        self.feature_seconds += time.perf_counter() - started
        return features

    def _set_validation(self, segment: Segment) -> None:
        """Gives validation the kind of input that the model is trained on."""
        inputs: Images | Features = self._val_pictures
        cached = self._orientations(segment) > 0
        if cached:
            if self._val_features is None or self._val_features[0] != segment.stage:
                found = self._compute(self._val_pictures, 1)
                self._val_features = segment.stage, found
            inputs = self._val_features[1]
        else:
            self._val_features = None
        self.validation.batches = pipeline.evaluation_batches(inputs, self.metadata["val"])
        self.validation.predictor = self.model if cached else self.classifier

    def _compile(self, segment: Segment) -> None:
        """Compiles where the layers that train, or the loss, are not those of before."""
        cached = self._orientations(segment) > 0
        steps = steps_per_call(self.steps - segment.first_step) if cached else 1
        kind = (segment.stage, segment.reweighted, steps)
        if self._compiled == kind:
            return
        stage = self.stages[segment.stage]
        # What is frozen is fixed when a model is compiled.
        set_trainable(self.classifier, stage.trainable_blocks, self.config.model.batch_norm)
        self.model = build_head(self.classifier) if cached else self.whole
        decay = self.config.optimizer.layer_decay
        optimizer = build_optimizer(
            dataclasses.replace(self.config.optimizer, ema_momentum=stage.ema_momentum),
            stage.learning_rate,
            self.steps * stage.epochs,
            round(self.steps * stage.warmup_epochs),
            blocks=block_of_variables(self.classifier) if decay < 1 else None,
        )
        loss = build_loss(self.plan, self.config.loss, reweighted=segment.reweighted)
        if self.devices.precision == "mixed_float16":
            # compile() would not: the model's own policy is float32, the classifier's not.
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        first = self._compiled is None
        self._compiled = kind
        self.model.compile(optimizer, loss, jit_compile=self.devices.jit)
        self.model.steps_per_execution = steps
        self.model.optimizer.build(self.model.trainable_variables)
        if first and not self.quiet:
            print(f"Training on {_on(self.devices.describe(self.model))}")

    def _restore(self, segment: Segment) -> Arrays | None:
        """Gives the variables the values of the last state, if there is one.

        Returns:
            The state of the metrics, for an epoch that was begun.
        """
        state = load_state(self.checkpoints, self.made_by)
        self.progress.stage = segment.stage
        if state is None:
            return None
        progress, arrays = state
        assign(self.whole.variables, arrays["model"])
        if progress.stage == segment.stage:
            assign(self.model.optimizer.variables, arrays["optimizer"])
        return arrays if segment.first_step else None

    def _save(self) -> None:
        variables = {
            "model": self.whole.variables,
            "optimizer": self.model.optimizer.variables,
            "metrics": metric_variables(self.model),
        }
        save_state(self.checkpoints, self.progress, variables, self.made_by)

    def _load_best(self) -> None:
        path = weights_path(self.checkpoints, self.progress.best_epoch)
        if not path.is_file() or sha256(path) != self.progress.best_sha256:
            raise DataError(
                f"{path} is missing or damaged: its SHA-256 is not the one that was "
                "written down. Train anew with --overwrite."
            )
        self.classifier.load_weights(path)


def augmented(
    config: AugmentConfig, classifier: keras.Model, seed: int
) -> AugmentedClassifier:
    """Returns the model that fit() trains: the classifier behind what varies pictures."""
    mixing = None if config.mix == "none" else Mixing(config, seed)
    return AugmentedClassifier(Augmentation(config, seed), classifier, mixing)


@contextlib.contextmanager
def _memory(batch_size: int, image_size: int) -> Iterator[None]:
    """Says what to change when the device's memory is full."""
    try:
        yield
    except Exception as error:
        # TensorFlow's error has this name, JAX's this text; neither is imported here.
        full = type(error).__name__ == "ResourceExhaustedError"
        if not full and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryFullError(
            f"The device's memory is full with batches of {batch_size} pictures of "
            f"{image_size} px. Give a smaller --data.batch-size (and a learning rate that "
            "is smaller in proportion), a smaller --data.image-size, or a smaller "
            "--model.backbone; then train anew with --overwrite."
        ) from error


def _check_blocks(stages: tuple[Stage, ...], classifier: keras.Model) -> None:
    """Checks before the first stage what the later ones ask for."""
    asked = max((stage.trainable_blocks or 0 for stage in stages), default=0)
    if asked > num_blocks(classifier):
        raise ConfigError(
            f"`train.trainable_blocks` or `train.stages`: the backbone has {num_blocks(classifier)} "
            f"blocks. Received: {asked}. Give at most so many, or -1 for everything."
        )


def _require_patients(metadata: pipeline.Metadata | None) -> None:
    """Checks that something is known: untrained weights would answer what is said later."""
    unknown = [name.endswith("_unknown") for name in CLINICAL_FEATURES]
    if metadata is not None and metadata[:, unknown].all():
        raise DataError(
            "`model.clinical_metadata` is True, and no training picture has an age, a sex or a "
            "site. Expected some of these in the dataset; or give --model.clinical-metadata False."
        )


def _on(device: DeviceInfo) -> str:
    return (
        f"{', '.join(device.devices)} in {device.precision}: {device.backend}, "
        f"XLA {'on' if device.jit else 'off'}"
    )
