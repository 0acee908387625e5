"""Trains and scores the configurations that a search proposes."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_tuner as kt
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams
from tensorflow.python.framework import ops

from skincnn.config import Config
from skincnn.errors import ConfigError, DataError, DivergedError, MemoryFullError
from skincnn.files import json_sha256, locked, write_json
from skincnn.records import Record, read_record, write_record
from skincnn.training.fitting import fit
from skincnn.training.setup import TrainingSetup, build, check, require_full_batch
from skincnn.training.stages import make_stages
from skincnn.write_errors import explain_write_errors
from tfds_ham10000.progress import TerminalBar
from tuning.data import SearchData
from tuning.explore import INTERNAL, active_values
from tuning.spaces import Space

EPOCHS = f"{INTERNAL}epochs"
"""The hyperparameter in which Hyperband stores the number of epochs of a trial."""
RESULT_FILE = "result.json"


class TrialResult(Record):
    """The result of one training run; after an error, the first three fields are 0.

    Attributes:
        score: Value of the objective on validation in the selected epoch.
        best_epoch: The selected epoch, counted from 1.
        epochs: Number of completed epochs.
        seconds: Total duration in seconds.
        error: The error that ended the run; "" if the run succeeded.
        retry: Whether to repeat the failed run when its result is requested again.
    """

    score: float = 0.0
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    error: str = ""
    retry: bool = False


@dataclass(frozen=True)
class TrainingModel:
    """Trains configurations of a space exactly as `skincnn train` does.

    The result of a configuration is stored in a directory whose name is a hash of the
    configuration. A configuration with a result is not trained again, except for a retry,
    and an interrupted run is resumed. The files of KerasTuner are not required for this:
    with the same seed and the same scores, an oracle proposes the same trials.

    Attributes:
        space: Function from hyperparameters and `base` to the configuration of a trial.
        base: The preset, whose `train.monitor` is the objective.
        data: The images of all trials.
        folder: The parent directory of the results.
        executions: Number of training runs per trial, with different seeds.
    """

    space: Space
    base: Config
    data: SearchData
    folder: Path
    executions: int = 1

    def config(self, hp: kt.HyperParameters, execution: int = 0) -> Config:
        """Returns the configuration of a trial for an execution, counted from 0.

        Raises:
            ConfigError: The space fails, or sets an invalid value.
        """
        config = self.space(hp, self.base)
        if EPOCHS in hp.values:
            config = with_epochs(config, hp.values[EPOCHS])
        return dataclasses.replace(config, seed=config.seed + execution)

    def check(self, config: Config) -> None:
        """Checks that a configuration can be trained and compared with other trials.

        Raises:
            ConfigError: The space changes the objective, the seed or the images of the
                preset, or the configuration has a teacher; see also
                `skincnn.training.setup.check`.
            DataError: The training images do not fill a batch.
        """
        check(config)
        if config.distillation.teacher:
            raise ConfigError(
                "A search does not support distillation. Expected an empty "
                f"`distillation.teacher`. Received: {config.distillation.teacher}."
            )
        if config.train.monitor != self.base.train.monitor:
            raise ConfigError(
                "A space must not change train.monitor, which selects the best epoch of "
                f"each trial. Expected {self.base.train.monitor}. Received: "
                f"{config.train.monitor}. Use --objective instead."
            )
        if config.seed != self.base.seed:
            raise ConfigError(
                "A space must not change `seed`, because a higher score with one seed does "
                f"not show a better configuration. Expected {self.base.seed}. Received: "
                f"{config.seed}. Use --executions to train each configuration with "
                "several seeds."
            )
        self.data.check(config)
        require_full_batch(self.data.tables["train"], config.data)

    def find_error(self, hp: kt.HyperParameters) -> str:
        """Returns the error in the configuration of a trial; "" if there is no error."""
        try:
            self.check(self.config(hp))
        except (ConfigError, DataError) as error:
            return str(error)
        return ""

    def path(self, config: Config) -> Path:
        """Returns the directory for the result of a configuration."""
        return self.folder / json_sha256(config.to_dict())[:12]

    def build(self, hp: kt.HyperParameters, execution: int = 0) -> TrainingSetup:
        """Returns the training setup of a trial for an execution, counted from 0.

        Raises:
            ConfigError: The backbone has fewer blocks than configured; see also `check` and
                `skincnn.training.setup.build`.
            DataError: The model requires clinical metadata, but no training image has any;
                see also `check`.
        """
        self.check(self.config(hp))
        config = self.config(hp, execution)
        classifier, devices = build(config, len(self.data.class_names))
        return TrainingSetup(
            config,
            classifier,
            self.data.tables,
            self.data.load_images,
            self.data.class_names,
            devices,
            self.data.compute_features,
        )

    def fit(self, hp: kt.HyperParameters, setup: TrainingSetup) -> TrialResult:
        """Trains `setup`, one execution of a trial, and writes and returns the result.

        Raises:
            ConfigError, DataError: An error that probably affects all trials, such as a
                full disk or a custom part that fails. No result is written.
            Exception: Any other error of training, such as `MemoryFullError`, which the
                result records.
        """
        folder, objective = self.path(setup.config), self.base.train.monitor
        with explain_write_errors(folder / "config.json"):
            write_json(folder / "config.json", setup.config.to_dict())
        started = time.perf_counter()
        try:
            with _epoch_bar(setup) as callback:
                fitted = fit(setup, folder, callbacks=[callback], verbose=0)
        except Exception as error:
            if isinstance(error, ConfigError | DataError) and not isinstance(
                error, MemoryFullError
            ):
                raise
            checkpoint = setup.checkpoints(folder).load()
            result = TrialResult(
                error=f"{type(error).__name__}: {error}",
                retry=not isinstance(error, DivergedError),
                seconds=_seconds(started, checkpoint[0].history if checkpoint else ()),
            )
            _write_result(folder, result)
            raise
        result = TrialResult(
            score=fitted.history[fitted.best_epoch - 1][f"val_{objective}"],
            best_epoch=fitted.best_epoch,
            epochs=len(fitted.history),
            seconds=_seconds(started, fitted.history),
        )
        _write_hparams(folder, hp, objective, result)
        _write_result(folder, result)
        return result

    def _train(self, hp: kt.HyperParameters, execution: int) -> TrialResult:
        """Returns the result of `build` and `fit`; see `result`."""
        try:
            setup = self.build(hp, execution)
        except (ConfigError, DataError) as error:
            self.build(kt.HyperParameters())  # fails if the error affects all trials
            result = TrialResult(error=str(error), retry=True)
            _write_result(self.path(self.config(hp, execution)), result)
            return result
        return self.fit(hp, setup)

    def results(self, hp: kt.HyperParameters) -> list[TrialResult]:
        """Returns the stored results of the executions of a trial, also of failed ones.

        There are none if the configuration is invalid.

        Raises:
            OSError: See `read_result`.
        """
        if self.find_error(hp):
            return []
        configs = [self.config(hp, number) for number in range(self.executions)]
        results = [read_result(self.path(config)) for config in configs]
        return [result for result in results if result is not None]

    def result(self, hp: kt.HyperParameters, execution: int = 0) -> TrialResult:
        """Returns the result of an execution of a trial, after training if necessary.

        Raises:
            DivergedError: Training diverged, in this call or in an earlier call, or `build`
                fails for this trial, but not for the defaults of the space.
            ConfigError: The directory of the result cannot be locked.
            OSError: See `read_result`.
            Exception: See `build`, for the defaults of the space, and `fit`.
        """
        folder = self.path(self.config(hp, execution))
        # Two workers can run the same trial if the chief considered the first worker lost,
        # or if both workers have the same name.
        with locked(folder, wait=True):
            result = read_result(folder)
            if result is None or result.retry:
                # Keras keeps graphs in global state. KerasTuner's tuners clear it as well.
                keras.utils.clear_session()
                gc.collect()
                with _release_graphs():
                    result = self._train(hp, execution)
        if result.error:
            raise DivergedError(result.error)
        return result


def with_epochs(config: Config, epochs: int) -> Config:
    """Returns the configuration with `epochs` epochs in the last stage.

    The warm-up changes in proportion, and so do the progressive epochs, which are rounded
    down. Other stages keep their epochs.
    """
    stages, train = make_stages(config), config.train
    share = epochs / stages[-1].epochs
    progressive = int(train.progressive_epochs * share)
    fields: dict[str, Any] = {
        "epochs": epochs,
        "progressive_epochs": progressive,
        "progressive_image_size": train.progressive_image_size if progressive else 0,
    }
    if train.stages:
        last = dataclasses.replace(train.stages[-1], epochs=epochs)
        fields |= {"stages": (*train.stages[:-1], last), "epochs": train.epochs}
    warmup = config.optimizer.warmup_epochs * share
    return dataclasses.replace(
        config,
        train=dataclasses.replace(train, **fields),
        optimizer=dataclasses.replace(config.optimizer, warmup_epochs=warmup),
    )


def read_result(folder: Path) -> TrialResult | None:
    """Returns the result in a directory; None if the result is missing or damaged.

    A damaged file is renamed with a warning.

    Raises:
        OSError: The damaged file cannot be renamed.
    """
    path = folder / RESULT_FILE
    if not path.exists():
        return None
    try:
        return read_record(path, TrialResult, "The configuration is trained again.")
    except ConfigError as error:
        damaged = path.replace(path.with_name(f"{RESULT_FILE}.damaged"))
        print(f"warning: {error} The file was renamed to {damaged.name}.", file=sys.stderr)
        return None


def _write_result(folder: Path, result: TrialResult) -> None:
    """Writes the result, and removes the checkpoints, which are no longer required."""
    with explain_write_errors(folder / RESULT_FILE):
        write_record(folder / RESULT_FILE, result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _seconds(started: float, history: Sequence[Mapping[str, float]]) -> float:
    """Returns the seconds since `started` or, if more, those of the steps of all epochs.

    The latter include the epochs before an interruption.
    """
    epochs = sum(row["seconds"] for row in history)
    return round(max(time.perf_counter() - started, epochs), 2)


@contextlib.contextmanager
def _release_graphs() -> Iterator[None]:
    """Releases the TensorFlow graphs that the block creates, which take 40 MB or more.

    Otherwise, the registry of the custom gradients of Keras optimizers keeps the graphs.
    """
    registry = ops.gradient_registry._registry
    before = set(registry)
    try:
        yield
    finally:
        for name in set(registry) - before:
            if name.startswith("CustomGradient"):
                del registry[name]


@contextlib.contextmanager
def _epoch_bar(setup: TrainingSetup) -> Iterator[keras.callbacks.Callback]:
    """Yields a callback that shows a progress bar of the epochs on a terminal."""
    column = f"val_{setup.config.train.monitor}"
    total = sum(stage.epochs for stage in setup.stages)
    with TerminalBar(total=total, unit="epoch", leave=False) as bar:

        def show(epoch: int, logs: dict[str, float] | None = None) -> None:
            bar.update(epoch + 1 - bar.n)
            bar.set_postfix_str(f"{column} {(logs or {}).get(column, 0):.3f}")

        yield keras.callbacks.LambdaCallback(on_epoch_end=show)


def _write_hparams(
    folder: Path, hp: kt.HyperParameters, objective: str, result: TrialResult
) -> None:
    """Writes the hyperparameters and the score for the HParams dashboard of TensorBoard."""
    with tf.summary.create_file_writer(str(folder / "logs" / "hparams")).as_default():
        hparams.hparams(active_values(hp), trial_id=folder.name)
        tf.summary.scalar(objective, result.score, step=result.best_epoch)
