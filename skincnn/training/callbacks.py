"""Validation, checkpoints and the user's callbacks in training, and early stopping."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from skincnn.config import Config
from skincnn.errors import ConfigError, DivergedError
from skincnn.files import replacing, require_space, sha256, write_text
from skincnn.inference.predict import predict_probabilities
from skincnn.interruption import StopRequest
from skincnn.metrics.classification import Metric, find_metric
from skincnn.metrics.sample import Sample
from skincnn.parts import CustomPart, describe, find_custom, is_custom, locate
from skincnn.training.checkpoints import Arrays, Progress, assign, num_bytes, weights_path
from skincnn.write_errors import explain_write_errors

RESUME = "Existing checkpoints are intact: resume the run with --resume."
"""What to do after a file of a run could not be written."""

DIVERGED_LOSS = 30
"""Training has diverged if the mean loss of an epoch exceeds this multiple of
log(num_classes), the cross-entropy of uniform predictions."""
EPOCH_METRICS = ("log_loss", "balanced_accuracy", "macro_f1", "accuracy")
"""Names of metrics that are logged after each epoch, in addition to `train.monitor`."""
ADVICE = (
    "Lower --optimizer.learning-rate and --optimizer.head-learning-rate, or raise "
    "--optimizer.warmup-epochs, and start again with --overwrite."
)


@dataclass(eq=False, repr=False)
class Validation(keras.callbacks.Callback):
    """Validates the classifier after each epoch, and saves the best or the last weights.

    The metrics are added to the logs of the epoch as `val_<name>`, for the progress bar,
    TensorBoard and history.csv.

    Attributes:
        classifier: The classifier to train, without augmentation.
        batches: Inputs (images or features, with clinical metadata if the model uses them)
            of the validation split, in the order of `labels`.
        labels: True labels, [num_images].
        monitor: Name of the metric that selects the best epoch; see `find_metric`.
        workdir: The run directory.
        progress: The progress of the training run, which this callback updates.
        predictor: The model that takes `batches`; None to use `classifier`.
        keep_last: Whether to save the weights of each epoch, regardless of `monitor`.
        probabilities: Predictions after the latest epoch, [num_images, num_classes].

    Raises:
        ConfigError: See `find_metric`; or a custom metric fails or is not finite, or a file
            cannot be written.
        DivergedError: The loss is too large, or the loss, a weight or an output is not
            finite.
    """

    classifier: keras.Model
    batches: tf.data.Dataset
    labels: npt.NDArray[np.int64]
    monitor: str
    workdir: Path
    progress: Progress
    predictor: keras.Model | None = None
    keep_last: bool = False
    probabilities: npt.NDArray[np.float32] = field(init=False)
    _metrics: dict[str, Metric] = field(init=False)
    _started: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        super().__init__()
        names = dict.fromkeys((*EPOCH_METRICS, self.monitor))
        self._metrics = {name: find_metric(name) for name in names}

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the timer of the epoch, or resumes it in a resumed epoch."""
        self._started = time.perf_counter() - self.progress.seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Updates the timer, and raises a `DivergedError` if the loss is not finite."""
        self.progress.seconds = time.perf_counter() - self._started
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            raise DivergedError(
                f"The loss is {loss} in epoch {self.progress.epoch + 1}. Expected a finite "
                f"loss. {ADVICE}"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Computes metrics, saves the weights of a kept epoch, and writes history.csv.

        An epoch is kept if it is the best so far, or if `keep_last` is True.
        """
        logs = {} if logs is None else logs
        progress = self.progress
        seconds = progress.seconds
        self._check_loss(logs["loss"])
        with averaged_weights(self.model.optimizer):
            self._check_weights()
            self.probabilities = self._predict()
            sample = Sample(self.labels, self.probabilities)
            for name, metric in self._metrics.items():
                logs[f"val_{name}"] = self._check_metric(name, float(metric(sample)))
            column = f"val_{self.monitor}"
            if self.keep_last or all(
                self._metrics[self.monitor].is_better(logs[column], than=row[column])
                for row in progress.history
            ):
                self._save_weights(progress.epoch + 1)
        progress.history.append(
            {"epoch": progress.epoch + 1, "seconds": round(seconds, 2), **logs}
        )
        progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, 0.0
        path = self.workdir / "history.csv"
        with explain_write_errors(path, RESUME):
            write_text(path, pd.DataFrame(progress.history).to_csv(index=False))

    def _predict(self) -> npt.NDArray[np.float32]:
        predictor = self.predictor or self.classifier
        probabilities = predict_probabilities(predictor, self.batches)
        if not np.isfinite(probabilities).all():
            raise DivergedError(
                f"The model's outputs are not finite after epoch "
                f"{self.progress.epoch + 1}. {ADVICE}"
            )
        return probabilities

    def _save_weights(self, epoch: int) -> None:
        path = weights_path(self.workdir / "checkpoints", epoch)
        with explain_write_errors(path, RESUME), replacing(path) as temporary:
            require_space(temporary, num_bytes(self.classifier))
            self.classifier.save_weights(temporary)
        self.progress.best_epoch = epoch
        self.progress.best_sha256 = sha256(path)

    def _check_loss(self, loss: float) -> None:
        chance = math.log(self.classifier.output_shape[-1])
        if loss > DIVERGED_LOSS * chance:
            raise DivergedError(
                f"The mean loss of epoch {self.progress.epoch + 1} is {loss:.4g}. Expected "
                f"at most {DIVERGED_LOSS} times {chance:.3g}, the cross-entropy of "
                f"uniform predictions. {ADVICE}"
            )

    def _check_metric(self, name: str, value: float) -> float:
        """Returns `value`; raises a `ConfigError` if it is not finite."""
        if not math.isfinite(value):
            raise ConfigError(
                f"`train.monitor` {name} is {value} on validation after epoch "
                f"{self.progress.epoch + 1}. Expected a finite number. Correct the metric, "
                "or use another --train.monitor, and start again with --overwrite."
            )
        return value

    def _check_weights(self) -> None:
        """Raises a `DivergedError` if a weight is not finite."""
        for weight in self.classifier.weights:
            if not np.isfinite(np.asarray(weight)).all():
                raise DivergedError(
                    f"The weights {weight.path} are not finite after epoch "
                    f"{self.progress.epoch + 1}. {ADVICE}"
                )


@dataclass(eq=False, repr=False)
class SaveCheckpoint(keras.callbacks.Callback):
    """Saves a checkpoint after each epoch, and when the user stops training.

    This callback must run after `Validation`, which updates `progress`.

    Attributes:
        progress: The progress of the training run.
        save: Function that writes a checkpoint of `progress`.
        stop: The user's request to stop.
        first_step: Number of steps of the first epoch that are already completed.
        metrics: Arrays of the checkpoint from which an epoch is resumed, including the
            metric states; None if training starts at the beginning of an epoch.

    Raises:
        ConfigError: The checkpoint cannot be written.
        Terminated, KeyboardInterrupt: The user requested a stop.
    """

    progress: Progress
    save: Callable[[], None]
    stop: StopRequest
    first_step: int
    metrics: Arrays | None

    def __post_init__(self) -> None:
        super().__init__()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Restores the metric states at the start of a resumed epoch."""
        if self.metrics is not None:
            assign(metric_variables(self.model), self.metrics.get("metrics", []))
            self.metrics = None

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Saves a checkpoint and stops within an epoch if the user requested a stop."""
        if batch + 1 < self.params["steps"] and self.stop.requested:
            self.progress.step = self.first_step + batch + 1
            self._save()
            self.stop.exit()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves a checkpoint, and stops if the user requested a stop."""
        self.first_step = 0
        self._save()
        if self.stop.requested:
            self.stop.exit()

    def _save(self) -> None:
        if keras.backend.backend() == "jax":
            # Keras on JAX keeps the values outside the variables within an epoch.
            self.model.jax_state_sync()
        with explain_write_errors("The checkpoint", RESUME):
            self.save()


class TotalEpochs(keras.callbacks.Callback):
    """Sets the number of epochs that the progress display and later callbacks receive.

    Otherwise it would be that of the epochs up to the end of a segment.
    """

    def __init__(self, num_epochs: int):
        """Sets `num_epochs`, the number of epochs of all stages."""
        super().__init__()
        self.num_epochs = num_epochs

    def set_params(self, params: dict[str, object]) -> None:
        """Changes `params`, which all callbacks of `fit` share."""
        params["epochs"] = self.num_epochs
        super().set_params(params)


class UserCallbacks(keras.callbacks.Callback):
    """The user's callbacks, which see all epochs as one training run.

    Training calls `keras.Model.fit` once for each segment; see `skincnn.training.stages`.
    The user's `on_train_begin` is called only before the first segment, and `on_train_end`
    only by `finish`. If a callback sets `model.stop_training` within an epoch, the epoch
    ends after the current step, and training stops after this shorter epoch.

    An exception of a callback is raised as a `ConfigError` that names the callback.
    """

    def __init__(self, callbacks: Mapping[str, keras.callbacks.Callback]):
        """Wraps the callbacks, which are given by name and are called in this order."""
        super().__init__()
        self.callbacks = callbacks
        self._begun = False

    def set_model(self, model: keras.Model) -> None:
        """Sets the model that the next segment trains."""
        super().set_model(model)
        self._call("set_model", model)

    def set_params(self, params: dict[str, object]) -> None:
        """Sets the number of epochs of the run, and of steps of the next segment."""
        super().set_params(params)
        self._call("set_params", params)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Forwards the event at the start of the first segment."""
        if not self._begun:
            self._call("on_train_begin", logs)
        self._begun = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Forwards the start of an epoch, counted from 0 over the whole run."""
        self._call("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Forwards the end of an epoch, with the validation scores in `logs`."""
        self._call("on_epoch_end", epoch, logs)

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, float] | None = None
    ) -> None:
        """Forwards the start of `model.steps_per_execution` steps."""
        self._call("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Forwards the end of `model.steps_per_execution` steps."""
        self._call("on_train_batch_end", batch, logs)

    def finish(self) -> None:
        """Calls `on_train_end` of the callbacks, if training has begun."""
        if self._begun:
            self._call("on_train_end", None)

    def _call(self, method: str, *arguments: object) -> None:
        for name, callback in self.callbacks.items():
            try:
                getattr(callback, method)(*arguments)
            except Exception as error:
                place = locate(error, sys.modules.get(type(callback).__module__, ""))
                raise ConfigError(
                    f"The callback {name} failed in {method}{place}: {describe(error)}"
                ) from error


def make_callbacks(
    config: Config, workdir: Path, given: Sequence[keras.callbacks.Callback]
) -> dict[str, keras.callbacks.Callback]:
    """Returns the callbacks of `train.callbacks`, then the `given` ones, by name.

    The name of a given callback is that of its class. If several callbacks have the same
    name, a number follows it, except for the first.

    Raises:
        ConfigError: The function of a callback fails or does not return a callback; see
            also `find_callback`.
    """
    named = [
        (name, find_callback(name)(config=config, workdir=workdir))
        for name in config.train.callbacks
    ]
    named += [(type(callback).__name__, callback) for callback in given]
    callbacks: dict[str, keras.callbacks.Callback] = {}
    for index, (name, callback) in enumerate(named):
        number = sum(other == name for other, _ in named[:index])
        callbacks[f"{name} {number + 1}" if number else name] = callback
    return callbacks


def find_callback(name: str) -> CustomPart:
    """Returns a custom function that returns a Keras callback, or a callback class.

    The function or class may have the arguments `config` (the configuration) and `workdir`
    (the run directory).

    Raises:
        ConfigError: The name is not that of a custom part; see also
            `skincnn.parts.find_part`.
    """
    if not is_custom(name):
        raise ConfigError(
            "`train.callbacks` must be a function or class as module:function, such as "
            f"my_callbacks:tracker or keras.callbacks:TerminateOnNaN. Received: {name!r}."
        )
    return find_custom(name, "`train.callbacks`", returns=keras.callbacks.Callback)


def is_patience_over(progress: Progress, patience: int, first_epoch: int) -> bool:
    """Returns whether at least `patience` epochs have passed without an improvement.

    The first `first_epoch` epochs, which precede the last stage, do not count. `patience` 0
    disables early stopping.
    """
    since = max(progress.best_epoch, first_epoch)
    return patience > 0 and progress.epoch - since >= patience


@contextlib.contextmanager
def averaged_weights(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Replaces the trainable weights with their moving averages inside the block.

    The original weights are restored exactly, whereas `keras.callbacks.SwapEMAWeights`
    (with TensorFlow) swaps by addition and subtraction, with rounding errors. Without
    `use_ema`, the weights do not change.
    """
    # With mixed_float16, a LossScaleOptimizer wraps the optimizer.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
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
    """Returns the variables of a model's metrics, which accumulate over an epoch."""
    return [variable for metric in model.metrics for variable in metric.variables]
