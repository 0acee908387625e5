"""The training loop: one call to `keras.Model.fit` for each segment."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from skincnn.config import AugmentConfig
from skincnn.data import pipeline
from skincnn.data.cache import Images
from skincnn.errors import DataError, MemoryFullError
from skincnn.files import sha256
from skincnn.inference.run_dir import DeviceInfo
from skincnn.model.augment import Augmentation
from skincnn.model.augmented import AugmentedClassifier
from skincnn.model.classifier import block_of_variables, set_trainable
from skincnn.model.mixing import Mixing
from skincnn.progress import is_terminal
from skincnn.training.callbacks import (
    SaveCheckpoint,
    TotalEpochs,
    UserCallbacks,
    Validation,
    is_patience_over,
    make_callbacks,
    metric_variables,
)
from skincnn.training.checkpoints import (
    Arrays,
    Checkpoints,
    Progress,
    assign,
    weights_path,
)
from skincnn.training.devices import stop_request
from skincnn.training.distillation import DistillationLoss
from skincnn.training.features import Features, build_head, steps_per_execution
from skincnn.training.losses import build_loss
from skincnn.training.optimizers import build_optimizer
from skincnn.training.setup import TrainingSetup
from skincnn.training.stages import Segment, start_of_last
from skincnn.training.tensorboard import ConfusionImages, sample_grid, write_image

Verbose = Literal["auto", 0, 1, 2]
"""As for `keras.Model.fit`, but auto is 1 on a terminal, and otherwise 2 (no bars)."""


@dataclass(frozen=True)
class FitResult:
    """The result of a training run.

    The classifier of the setup has the weights of `best_epoch`.

    Attributes:
        best_epoch: The epoch with the best monitored metric, counted from 1; the last epoch
            if `train.keep_epoch` is last.
        history: One row per epoch, as in history.csv.
        seconds: Duration in seconds of the training steps of all epochs, and of computing
            features in this call of `fit`. Validation is not included.
        device: Devices and numerical settings of training.
    """

    best_epoch: int
    history: tuple[Mapping[str, float], ...]
    seconds: float
    device: DeviceInfo


def fit(
    setup: TrainingSetup,
    workdir: Path,
    *,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Verbose = "auto",
) -> FitResult:
    """Trains the classifier of a setup and loads the weights of the selected epoch.

    Writes checkpoints/, logs/ and history.csv to `workdir`, and resumes from the last
    checkpoint, if any. Each segment (one call to `keras.Model.fit`) also starts by loading
    the last checkpoint, so that resumed and uninterrupted runs give the same weights with
    `train.deterministic`. The user's callbacks, first `train.callbacks` and then
    `callbacks`, run last; see `UserCallbacks`. With `verbose` 0, nothing is printed to
    standard output; see `Verbose`.

    Raises:
        ConfigError: The device memory is full, a file cannot be written, or a callback or
            another custom part fails.
        DataError: A checkpoint does not match the setup, the file with the best weights is
            missing or damaged, or the dataset is damaged.
        OSError: A damaged checkpoint cannot be renamed.
        DivergedError: The loss has diverged, or the weights or outputs are not finite.
        Terminated, KeyboardInterrupt: A signal or Ctrl-C stopped training; the run can be
            resumed.
    """
    checkpoints = setup.checkpoints(workdir)
    if verbose == "auto":
        # Keras cannot print in a program without a console.
        verbose = 0 if sys.stdout is None else 1 if is_terminal(sys.stdout) else 2
    with setup.scope():
        checkpoint = checkpoints.load()
        progress = Progress() if checkpoint is None else checkpoint[0]
        segments = list(setup.segments(progress.epoch, progress.step))
        if checkpoint is not None and segments and verbose:
            print(
                f"Resuming {workdir} in epoch {progress.epoch + 1}, step "
                f"{progress.step + 1}"
            )
        user_callbacks = UserCallbacks(make_callbacks(setup.config, workdir, callbacks))
        loop = _Loop(setup, workdir, progress, user_callbacks, verbose)
        with loop.stop:
            for segment in segments:
                if loop.is_over():
                    break
                with explain_full_memory(setup.config.data.batch_size, segment.image_size):
                    loop.fit_segment(segment)
        user_callbacks.finish()
        _load_best(setup.classifier, checkpoints, progress)
        return FitResult(
            progress.best_epoch,
            tuple(progress.history),
            sum(row["seconds"] for row in progress.history) + loop.inputs.feature_seconds,
            setup.devices.describe(loop.trainable.model),
        )


@dataclass
class _Loop:
    """The state that the segments of a training run share."""

    setup: TrainingSetup
    workdir: Path
    progress: Progress
    user_callbacks: UserCallbacks
    verbose: Verbose

    def __post_init__(self) -> None:
        setup = self.setup
        self.checkpoints = setup.checkpoints(self.workdir)
        self.stop = stop_request()
        self.trainable = TrainableModel(setup, verbose=bool(self.verbose))
        self.inputs = Inputs(setup)
        self.stopped = False

    def fit_segment(self, segment: Segment) -> None:
        setup, logs = self.setup, self.workdir / "logs"
        with self.stop.immediate():  # loading images and computing features take minutes
            images = self.inputs.train_images(segment)
            self.trainable.compile(segment)
            metrics = self._restore(segment)
            batches = setup.batches(self.inputs.train(segment), segment)
            validation = self._validation(segment)
        if segment.epochs.start == 0 and segment.first_step == 0:
            grid = sample_grid(
                images, setup.labels, setup.config.augment, setup.config.seed
            )
            write_image(logs / "images", "training_images", 0, grid)
        self.trainable.model.fit(
            batches,
            steps_per_epoch=setup.steps_per_epoch - segment.first_step,
            initial_epoch=segment.epochs.start,
            epochs=segment.epochs.stop,
            shuffle=False,  # the batches are already shuffled
            verbose=self.verbose,
            callbacks=[
                TotalEpochs(sum(stage.epochs for stage in setup.stages)),
                validation,
                keras.callbacks.TensorBoard(logs, write_graph=False),
                ConfusionImages(validation, setup.class_names, logs / "images"),
                SaveCheckpoint(
                    self.progress, self._save, self.stop, segment.first_step, metrics
                ),
                keras.callbacks.LambdaCallback(on_epoch_end=self._stop_early),
                self.user_callbacks,
            ],
        )
        self.stopped = self.trainable.model.stop_training

    def is_over(self) -> bool:
        """Returns whether to stop early.

        Training stops early if a callback of the user has stopped it, or if the monitored
        metric no longer improves.
        """
        first_epoch = start_of_last(self.setup.stages)
        patience = self.setup.config.train.patience
        patience_over = is_patience_over(self.progress, patience, first_epoch)
        return self.stopped or patience_over

    def _stop_early(self, *_: object) -> None:
        if self.is_over():
            self.trainable.model.stop_training = True

    def _restore(self, segment: Segment) -> Arrays | None:
        """Restores the model and, within a stage, the optimizer from the last checkpoint.

        Returns the arrays of the checkpoint if the segment starts within an epoch;
        otherwise, or if there is no checkpoint, None.
        """
        checkpoint = self.checkpoints.load()
        self.progress.stage = segment.stage
        if checkpoint is None:
            return None
        progress, arrays = checkpoint
        assign(self.trainable.augmented.variables, arrays["model"])
        if progress.stage == segment.stage:
            assign(self.trainable.model.optimizer.variables, arrays["optimizer"])
        return arrays if segment.first_step else None

    def _save(self) -> None:
        variables = {
            "model": self.trainable.augmented.variables,
            "optimizer": self.trainable.model.optimizer.variables,
            "metrics": metric_variables(self.trainable.model),
        }
        self.checkpoints.save(self.progress, variables)

    def _validation(self, segment: Segment) -> Validation:
        """Returns the validation callback, for features if training uses features."""
        setup = self.setup
        return Validation(
            setup.classifier,
            pipeline.evaluation_batches(self.inputs.val(segment), setup.metadata["val"]),
            setup.tables["val"]["label"].to_numpy(np.int64),
            setup.config.train.monitor,
            self.workdir,
            self.progress,
            self.trainable.model if setup.num_views(segment) > 0 else None,
            setup.config.train.keep_epoch == "last",
        )


class TrainableModel:
    """The model to train, which is compiled again if a segment changes the settings.

    With `verbose`, the devices are printed after the first compilation.

    Attributes:
        augmented: The classifier with augmentation; checkpoints contain its variables.
        model: `augmented`, or the head of the classifier if training uses features.
    """

    def __init__(self, setup: TrainingSetup, *, verbose: bool = True):
        self.setup = setup
        self.verbose = verbose
        config = setup.config
        self.augmented = build_augmented(config.augment, setup.classifier, config.seed)
        self.model: keras.Model = self.augmented
        self._compiled: tuple[int, bool, int] | None = None

    def compile(self, segment: Segment) -> None:
        """Compiles the model for a segment, if the settings have changed.

        Raises:
            ConfigError: See `set_trainable`, `build_optimizer` and `build_loss`.
        """
        setup, config = self.setup, self.setup.config
        cached = setup.num_views(segment) > 0
        steps = setup.steps_per_epoch - segment.first_step
        steps = steps_per_execution(steps) if cached else 1
        key = segment.stage, segment.reweighted, steps
        if self._compiled == key:
            return
        stage = setup.stages[segment.stage]
        # Must precede compile(), which fixes the trainable weights.
        set_trainable(setup.classifier, stage.trainable_blocks, config.model.batch_norm)
        self.model = build_head(setup.classifier) if cached else self.augmented
        decay = config.optimizer.layer_decay
        optimizer = build_optimizer(
            dataclasses.replace(config.optimizer, ema_momentum=stage.ema_momentum),
            stage.learning_rate,
            setup.steps_per_epoch * stage.epochs,
            round(setup.steps_per_epoch * stage.warmup_epochs),
            blocks=block_of_variables(setup.classifier) if decay < 1 else None,
        )
        if setup.devices.precision == "mixed_float16":
            # compile() wraps the optimizer only if the dtype policy of the model itself is
            # mixed_float16, but that of `augmented` is float32.
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        loss = build_loss(setup.plan, config.loss, reweighted=segment.reweighted)
        if setup.soft_labels is not None:
            loss = DistillationLoss(loss, config.distillation)
        self.model.compile(optimizer, loss, jit_compile=setup.devices.jit)
        self.model.steps_per_execution = steps
        self.model.optimizer.build(self.model.trainable_variables)
        if self._compiled is None and self.verbose:
            device = setup.devices.describe(self.model)
            print(
                f"Training on {', '.join(device.devices)} in {device.precision}: "
                f"{device.backend}, XLA {'on' if device.jit else 'off'}"
            )
        self._compiled = key


class Inputs:
    """The images or cached features for the training and validation of the segments.

    To save memory, training images of only one size, and features of only one stage and
    size, are kept at a time. `feature_seconds` is the time spent on computing features, in
    seconds, which is not part of any epoch.

    Raises:
        ConfigError, DataError: See `skincnn.data.pipeline.load_images`.
    """

    def __init__(self, setup: TrainingSetup):
        self.setup = setup
        self.val_images = setup.load_images(setup.tables["val"], setup.config.data)
        self.feature_seconds = 0.0
        self._train_images: Images | None = None
        self._features: dict[str, tuple[tuple[int, int], Features]] = {}

    def train_images(self, segment: Segment) -> Images:
        """Returns the training images at the image size of a segment."""
        images, size = self._train_images, segment.image_size
        if images is None or images.shape[1] != size:
            # Release the previous images before loading the next images.
            images = self._train_images = None
            config = dataclasses.replace(self.setup.config.data, image_size=size)
            images = self.setup.load_images(self.setup.tables["train"], config)
            self._train_images = images
        return images

    def train(self, segment: Segment) -> Images | Features:
        """Returns the training inputs of a segment: images or cached features."""
        images = self.train_images(segment)
        return self._inputs("train", images, segment, self.setup.num_views(segment))

    def val(self, segment: Segment) -> Images | Features:
        """Returns the validation inputs of a segment: images or cached features."""
        num_views = min(1, self.setup.num_views(segment))
        return self._inputs("val", self.val_images, segment, num_views)

    def _inputs(
        self, split: str, images: Images, segment: Segment, num_views: int
    ) -> Images | Features:
        key = segment.stage, images.shape[1]
        if split in self._features and (num_views == 0 or self._features[split][0] != key):
            del self._features[split]
        if num_views == 0:
            return images
        if split not in self._features:
            started = time.perf_counter()
            features = self.setup.compute_features(self.setup.classifier, images, num_views)
            self._features[split] = key, features
            self.feature_seconds += time.perf_counter() - started
        return self._features[split][1]


def build_augmented(
    config: AugmentConfig, classifier: keras.Model, seed: int
) -> AugmentedClassifier:
    """Returns the classifier preceded by augmentation and, if configured, by mixing.

    Raises:
        ConfigError: See `Augmentation`.
    """
    mixing = None if config.mix == "none" else Mixing(config, seed)
    return AugmentedClassifier(Augmentation(config, seed), classifier, mixing)


@contextlib.contextmanager
def explain_full_memory(batch_size: int, image_size: int) -> Iterator[None]:
    """Raises a `MemoryFullError` if the device memory becomes full inside the block."""
    try:
        yield
    except Exception as error:
        # Recognize the error of TensorFlow by name and the error of JAX by text, because
        # JAX may not be installed.
        full = type(error).__name__ == "ResourceExhaustedError"
        if not full and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryFullError(
            f"The device memory is full with batches of {batch_size} images of "
            f"{image_size}x{image_size} pixels. Use a smaller --data.batch-size (and "
            "decrease the learning rate in proportion), smaller images (--data.image-size, "
            "--train.progressive-image-size) or a smaller --model.backbone, and start "
            "again with --overwrite."
        ) from error


def _load_best(
    classifier: keras.Model, checkpoints: Checkpoints, progress: Progress
) -> None:
    path = weights_path(checkpoints.folder, progress.best_epoch)
    if not path.is_file() or sha256(path) != progress.best_sha256:
        raise DataError(
            f"{path} is missing or damaged. Expected a file with the SHA-256 "
            f"{progress.best_sha256}. Start again with --overwrite."
        )
    classifier.load_weights(path)
