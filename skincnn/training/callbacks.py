"""Validation after each epoch, the best epoch's weights, and the state of the training."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from skincnn.errors import ConfigError, DivergedError
from skincnn.files import replacing, sha256, write_text
from skincnn.inference.predict import predict_probabilities
from skincnn.interruption import StopRequest
from skincnn.metrics.classification import METRICS
from skincnn.metrics.sample import Sample
from skincnn.training.state import Arrays, Progress, assign, weights_path

DIVERGED_LOSS = 30
EPOCH_METRICS = ("balanced_accuracy", "macro_f1", "accuracy")
"""Of `METRICS`, what every epoch's row has beside the one that is monitored."""
"""A training has diverged once an epoch's mean loss is so many times a guess's."""
ADVICE = (
    "Lower --optimizer.learning-rate, or raise --optimizer.warmup-epochs, and give "
    "--overwrite."
)


class Validation(keras.callbacks.Callback):
    """Predicts validation once an epoch, scores it, and keeps the best weights.

    All metrics go into the epoch's logs as `val_<name>`, so that the progress bar and
    TensorBoard show them, and into history.csv.

    Attributes:
        predictor: What predicts `batches`: the classifier, or its head from features on.
        batches: The validation pictures, or their features, in the order of the labels.
    """

    def __init__(
        self,
        classifier: keras.Model,
        batches: tf.data.Dataset,
        labels: npt.NDArray[np.int64],
        monitor: str,
        workdir: Path,
        progress: Progress,
    ):
        """Stores what to predict and where to write.

        Args:
            classifier: The model that is trained, without its augmentation.
            batches: The validation pictures, in the order of `labels`.
            labels: The true labels, [num_images].
            monitor: Name of `METRICS`.
            workdir: The run's folder, for checkpoints/ and history.csv.
            progress: Where the epoch's row and the best epoch are written down.
        """
        super().__init__()
        self.classifier = classifier
        self.predictor = classifier
        self.batches = batches
        self.labels = labels
        self.monitor = monitor
        self.workdir = workdir
        self.progress = progress
        self.probabilities = np.empty((0, 0), np.float32)  # of the last epoch
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the clock."""
        self._started = time.perf_counter() - self.progress.seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stops a training whose loss is no longer finite."""
        self.progress.seconds = time.perf_counter() - self._started
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            raise DivergedError(
                f"The loss became {loss} in epoch {self.progress.epoch + 1}, step "
                f"{batch + 1}. Expected a finite loss. {ADVICE}"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Scores validation, keeps the weights if they are the best, writes history."""
        logs = {} if logs is None else logs
        progress = self.progress
        trained = progress.seconds
        self._check_loss(logs["loss"])
        with averaged_weights(self.model.optimizer):
            self._check_weights()
            probabilities = predict_probabilities(self.predictor, self.batches)
            if not np.isfinite(probabilities).all():
                raise DivergedError(
                    f"The model's outputs are no longer finite after epoch "
                    f"{progress.epoch + 1}. {ADVICE}"
                )
            self.probabilities = probabilities
            sample = Sample(self.labels, probabilities)
            for name in dict.fromkeys((*EPOCH_METRICS, self.monitor)):
                logs[f"val_{name}"] = float(METRICS[name].function(sample))
            column = f"val_{self.monitor}"
            if all(
                METRICS[self.monitor].is_better(logs[column], than=row[column])
                for row in progress.history
            ):
                self._keep_weights(progress.epoch + 1)
        progress.history.append(
            {"epoch": progress.epoch + 1, "seconds": round(trained, 2), **logs}
        )
        progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, 0.0
        path = self.workdir / "history.csv"
        with disk(path):
            write_text(path, pd.DataFrame(progress.history).to_csv(index=False))

    def _keep_weights(self, epoch: int) -> None:
        path = weights_path(self.workdir / "checkpoints", epoch)
        with disk(path), replacing(path) as temporary:
            self.classifier.save_weights(temporary)
        self.progress.best_epoch = epoch
        self.progress.best_sha256 = sha256(path)

    def _check_loss(self, loss: float) -> None:
        guess = math.log(self.classifier.output_shape[-1])
        if loss > DIVERGED_LOSS * guess:
            raise DivergedError(
                f"The mean loss of epoch {self.progress.epoch + 1} is {loss:.4g}. Expected "
                f"less than {DIVERGED_LOSS} times that of a guess, {guess:.3g}. {ADVICE}"
            )

    def _check_weights(self) -> None:
        """A NaN in the pictures can leave NaN weights under a finite loss (ReLU)."""
        for weight in self.classifier.weights:
            if not np.isfinite(np.asarray(weight)).all():
                raise DivergedError(
                    f"The weights {weight.path} are no longer finite after epoch "
                    f"{self.progress.epoch + 1}. {ADVICE}"
                )


class Saving(keras.callbacks.Callback):
    """Saves the state after each epoch, and when the user asks the training to stop.

    Must run after `Validation`.
    """

    def __init__(
        self,
        progress: Progress,
        save: Callable[[], None],
        stop: StopRequest,
        first_step: int = 0,
        metrics: Arrays | None = None,
    ):
        """Stores what to do.

        Args:
            progress: How far the training is.
            save: Writes the state.
            stop: Whether the user asked to stop.
            first_step: Steps of the first epoch that were done before.
            metrics: The state in which the metrics of that epoch were then.
        """
        super().__init__()
        self.progress = progress
        self.save = save
        self.stop = stop
        self.first_step = first_step
        self.metrics = metrics

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Gives back the mean loss of the steps that were done before."""
        if self.metrics is not None:
            assign(metric_variables(self.model), self.metrics.get("metrics", []))
            self.metrics = None

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Saves and stops in the middle of an epoch, if asked to."""
        if batch + 1 < self.params["steps"] and self.stop.requested:
            self.progress.step = self.first_step + batch + 1
            self._save()
            self.stop.obey()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves; then stops, if asked to."""
        self.first_step = 0
        self._save()
        if self.stop.requested:
            self.stop.obey()

    def _save(self) -> None:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # inside an epoch the variables are empty
        with disk(Path("checkpoints")):
            self.save()


class EarlyStopping(keras.callbacks.Callback):
    """Ends the last stage when the monitored metric has not risen for some epochs."""

    def __init__(self, progress: Progress, patience: int, first_epoch: int):
        """Stores the rule.

        Args:
            progress: Which epoch was the best.
            patience: How many epochs without a better value; 0 for any number.
            first_epoch: Epochs before the last stage, which are not counted.
        """
        super().__init__()
        self.progress = progress
        self.patience = patience
        self.first_epoch = first_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Stops the training if it is time."""
        if is_patience_over(self.progress, self.patience, self.first_epoch):
            self.model.stop_training = True


def is_patience_over(progress: Progress, patience: int, first_epoch: int) -> bool:
    """Returns whether `patience` epochs from `first_epoch` on brought no better value."""
    since = max(progress.best_epoch, first_epoch)
    return patience > 0 and progress.epoch - since >= patience


@contextlib.contextmanager
def averaged_weights(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Puts the average of the weights into the model while the block runs.

    The weights come back bit by bit, which they do not from `SwapEMAWeights`: it swaps by
    adding and subtracting. Without an average nothing changes.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of loss scaling
    if not optimizer.use_ema:
        yield
        return
    variables = optimizer._trainable_variables
    weights = [np.array(variable) for variable in variables]
    assign(variables, [np.asarray(x) for x in optimizer._model_variables_moving_average])
    try:
        yield
    finally:
        assign(variables, weights)


def metric_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables in which the means of an epoch are counted."""
    return [variable for metric in model.metrics for variable in metric.variables]


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Says what to do where `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} could not be written: {error}. What was saved before is whole: make "
            "room, and go on with --resume."
        ) from error
