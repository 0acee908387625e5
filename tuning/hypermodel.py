"""The model of a search: from hyperparameters to a training, and from that to a score."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_tuner as kt
import numpy as np
import tensorflow as tf
from filelock import FileLock, Timeout
from keras_tuner.engine.hyperparameters import Float, Int
from tensorboard.plugins.hparams import api as hparams
from tensorflow.python.framework import ops
from tqdm import tqdm

from skincnn.config import Config
from skincnn.errors import ConfigError, DataError, DivergedError, MemoryFullError
from skincnn.files import write_json
from skincnn.training.fitting import Training
from skincnn.training.run import build, check, require_a_batch
from skincnn.training.stages import make_stages
from tuning.data import SearchData
from tuning.spaces import Space, rounded, value_at

EPOCHS = "tuner/epochs"
"""The name by which Hyperband says how long a trial trains."""
TUNERS_OWN = "tuner/"
"""How KerasTuner's notes to itself among the hyperparameters begin."""
NUM_DRAWS = 50
"""Random configurations of a space that are checked before the first trial."""
RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one training.

    Attributes:
        score: The objective on validation, of the epoch that was best.
        best_epoch: That epoch, counted from 1.
        epochs: Epochs that were trained.
        seconds: How long it took, with everything.
        error: Why it has no score, if it failed.
        again: Whether it may fare better when the search is run again.
    """

    score: float = 0.0
    best_epoch: int = 0
    epochs: int = 0
    seconds: float = 0.0
    error: str = ""
    again: bool = False


class TrainingModel(kt.HyperModel):
    """Trains what hyperparameters say, exactly as `scripts/train.py` would.

    Every configuration has a folder of its own, named by its hash. What came of it is
    written there, and a configuration that has been trained is not trained again; one that
    was being trained when the search was stopped goes on. KerasTuner's own files are not
    needed for that: asked again with the same seed and told the same scores, its oracles
    ask for the same trials.
    """

    def __init__(self, space: Space, config: Config, data: SearchData, folder: Path):
        """Stores what to train.

        Args:
            space: From hyperparameters and `config` to a trial's configuration.
            config: The preset, whose `train.monitor` is the objective.
            data: The pictures.
            folder: Where the folders of the configurations lie.
        """
        super().__init__()
        self.space = space
        self.base = config
        self.data = data
        self.folder = folder

    def config(self, hp: kt.HyperParameters, execution: int = 0) -> Config:
        """Returns the configuration of a trial's first, second ... execution.

        Raises:
            ConfigError: The space fails.
        """
        config = self.space(hp, self.base)
        if EPOCHS in hp.values:
            config = with_epochs(config, hp.values[EPOCHS])
        return dataclasses.replace(config, seed=config.seed + execution)

    def require(self, config: Config) -> None:
        """Checks that a configuration can be trained, and compared with the others.

        Raises:
            ConfigError: A name is unknown, or it is about another score or seed, or about
                other pictures.
            DataError: There are too few pictures for a batch.
        """
        check(config)
        if config.train.monitor != self.base.train.monitor:
            raise ConfigError(
                "A space must leave train.monitor as it is: the objective chooses each "
                f"trial's epoch. Expected {self.base.train.monitor}. Received: "
                f"{config.train.monitor}. Give --objective instead."
            )
        if config.seed != self.base.seed:
            raise ConfigError(
                "A space must leave seed as the preset has it: the luckiest is no better "
                f"configuration. Expected {self.base.seed}. Received: {config.seed}. Give "
                "--executions to train each configuration with several seeds."
            )
        self.data.check(config)
        require_a_batch(self.data.tables["train"], config.data)

    def build(self, hp: kt.HyperParameters, execution: int = 0) -> Training:
        """Returns a training that may begin.

        Raises:
            ConfigError: The space or the weights cannot be used.
            DataError: There are too few pictures.
        """
        self.require(self.config(hp))
        config = self.config(hp, execution)
        names = self.data.class_names
        classifier, devices = build(config, len(names))
        training = Training(
            config,
            classifier,
            self.data.tables,
            self.data.load,
            self.path(config),
            names,
            devices,
            self.data.compute,
        )
        training.quiet = True
        return training

    def fit(self, hp: kt.HyperParameters, training: Training) -> float:
        """Trains, writes down what came of it, and returns the best epoch's score.

        Raises:
            ConfigError, DataError: Something is wrong with more than this trial.
            Exception: Whatever ended the training; it is written down.
        """
        folder, objective = training.workdir, self.base.train.monitor
        write_json(folder / "config.json", training.config.to_dict())
        started = time.perf_counter()
        try:
            with _epochs_shown(training):
                training.fit()
        except Exception as error:
            if isinstance(error, ConfigError | DataError) and not isinstance(
                error, MemoryFullError
            ):
                raise
            text = f"{type(error).__name__}: {error}"
            again = not isinstance(error, DivergedError)
            seconds = _seconds(training, started)
            _write(folder, Result(error=text, again=again, seconds=seconds))
            raise
        progress = training.progress
        best = progress.history[progress.best_epoch - 1]
        result = Result(
            score=best[f"val_{objective}"],
            best_epoch=progress.best_epoch,
            epochs=progress.epoch,
            seconds=_seconds(training, started),
        )
        _write_hparams(folder, hp, objective, result)
        _write(folder, result)
        return result.score

    def result(self, hp: kt.HyperParameters, execution: int = 0) -> Result:
        """Returns what came of a trial's execution; trains it where it has to.

        Raises:
            ConfigError, DataError: See `build`.
            DivergedError: See `fit`; also where that was so before.
        """
        folder = self.path(self.config(hp, execution))
        with _alone_in(folder):
            found = read_result(folder)
            if found is None or found.again:
                # KerasTuner's own tuners do it before each trial: graphs are global in
                # Keras.
                keras.utils.clear_session()
                gc.collect()
                with _graphs_forgotten():
                    self.fit(hp, self.build(hp, execution))
                found = read_result(folder)
        if found is None:
            raise OSError(f"{folder / RESULT} was written and cannot be read.")
        if found.error:
            raise DivergedError(found.error)
        return found

    def refusal(self, hp: kt.HyperParameters) -> str:
        """Returns why a trial cannot be trained, which is its own fault; "" if it can."""
        try:
            self.require(self.config(hp))
        except (ConfigError, DataError) as error:
            return str(error)
        return ""

    def path(self, config: Config) -> Path:
        """Returns the folder of a configuration."""
        content = json.dumps(config.to_dict(), sort_keys=True)
        return self.folder / hashlib.sha256(content.encode()).hexdigest()[:12]


def explore(
    space: Space, config: Config, require: Callable[[Config], None] = check
) -> kt.HyperParameters:
    """Returns all hyperparameters of a space, once it is certain that it works.

    It is applied to each value of each choice, so that what stands behind a condition is
    found, to both bounds of each range, which the Gaussian process likes to try, and then
    to some random draws. Nothing is trained for it.

    Args:
        space: The space.
        config: The preset.
        require: Raises an error for a configuration that cannot be trained.

    Raises:
        ConfigError: The space fails, names a hyperparameter by no path of `Config`, does
            not set what it asks for, or makes a configuration that cannot be trained.
    """
    found = kt.HyperParameters()
    seen = 0

    def attempt(values: dict[str, Any]) -> None:
        require(_apply(space, config, found, values))

    attempt({})
    while seen < len(found.space):
        parameter = found.space[seen]
        seen += 1
        # Its first value is what stands behind a condition.
        active = {condition.name: condition.values[0] for condition in parameter.conditions}
        for value in _candidates(parameter):
            attempt({**active, parameter.name: value})
    rng = np.random.default_rng(0)
    for _ in range(NUM_DRAWS):
        seeds = rng.integers(2**31, size=len(found.space))
        draws = {
            parameter.name: parameter.random_sample(int(seed))
            for parameter, seed in zip(found.space, seeds, strict=True)
        }
        attempt(draws)
    return found


def shown_values(hp: kt.HyperParameters) -> dict[str, Any]:
    """Returns the values of hyperparameters, without KerasTuner's own notes."""
    return {
        name: rounded(value)
        for name, value in hp.values.items()
        if not name.startswith(TUNERS_OWN)
    }


def with_epochs(config: Config, epochs: int) -> Config:
    """Returns a training whose last stage has so many epochs, and a schedule for them.

    Warm-up and the epochs with small pictures shrink in proportion; the head's epochs stay.
    """
    stages, train = make_stages(config), config.train
    share = epochs / stages[-1].epochs
    small = int(train.progressive_epochs * share)
    fields: dict[str, Any] = {
        "epochs": epochs,
        "progressive_epochs": small,
        "progressive_image_size": train.progressive_image_size if small else 0,
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


def read_result(folder: Path) -> Result | None:
    """Returns what came of the training in a folder; None where it did not end.

    A damaged file is put aside, and that is said.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        damaged = path.replace(path.with_name(f"{RESULT}.damaged"))
        print(
            f"warning: {path} is damaged ({error}); it is now {damaged.name}, and its "
            "training is done again.",
            file=sys.stderr,
        )
        return None


def _candidates(parameter: Any) -> list[Any]:
    """Returns all values of a choice, and the bounds of a range."""
    if not isinstance(parameter, Float | Int):
        return list(parameter.values)
    if parameter.step is None:
        return [parameter.min_value, parameter.max_value]
    return [parameter.prob_to_value(0.0), parameter.prob_to_value(1.0)]


def _apply(
    space: Space, config: Config, found: kt.HyperParameters, values: dict[str, Any]
) -> Config:
    """Returns what a space makes of some values, and defaults; adds what it asks for."""
    hp = kt.HyperParameters()
    for parameter in found.space:
        hp.merge([parameter])
        if hp.is_active(parameter) and parameter.name in values:
            hp.values[parameter.name] = values[parameter.name]
    asked = kt.HyperParameters()
    asked.values = dict(hp.values)
    made = space(asked, config)
    _require_set(made, asked)
    found.merge(asked, overwrite=False)
    return made


def _require_set(config: Config, asked: kt.HyperParameters) -> None:
    """Checks that what a space asked for is in the configuration that it made."""
    have = {parameter.name: value_at(config, parameter.name) for parameter in asked.space}
    for name in (parameter.name for parameter in asked.space if asked.is_active(parameter)):
        value = asked.values[name]
        if rounded(have[name]) != rounded(value):
            raise ConfigError(
                f"The space asks for `{name}` and does not set it: it was given {value!r}, "
                f"and its configuration has {have[name]!r}. Set it to that very value, "
                "which is what the leader board shows."
            )


def _seconds(training: Training, started: float) -> float:
    """Returns how long a training took; of one that went on, at least all its epochs."""
    epochs = sum(row["seconds"] for row in training.progress.history)
    return round(max(time.perf_counter() - started, epochs), 2)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits for a worker that trains in this folder, and keeps others out of it.

    Two may be given one trial: where the first was so slow that the chief took it for lost,
    or where they have one name. The lock is the kernel's and dies with its process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"    waits for another process that trains in {folder}", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _graphs_forgotten() -> Iterator[None]:
    """Lets the graphs of a training go, which TensorFlow would keep: 40 MB for a small one.

    Keras's optimizers sum gradients over replicas by a function with a gradient of its own.
    TensorFlow registers that for each graph anew, for ever, and with it the graph.
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
def _epochs_shown(training: Training) -> Iterator[None]:
    """Shows how far a training is, where somebody looks."""
    column = f"val_{training.config.train.monitor}"
    total = sum(stage.epochs for stage in training.stages)
    with tqdm(total=total, unit="epoch", leave=False, disable=None) as bar:

        def show(epoch: int, logs: dict[str, float] | None = None) -> None:
            bar.update(training.progress.epoch - bar.n)
            bar.set_postfix_str(f"{column} {(logs or {}).get(column, 0):.3f}")

        training.callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=show))
        yield


def _write_hparams(
    folder: Path, hp: kt.HyperParameters, objective: str, result: Result
) -> None:
    """Writes what TensorBoard's HParams shows: values, and the score they had."""
    with tf.summary.create_file_writer(str(folder / "logs" / "hparams")).as_default():
        hparams.hparams(shown_values(hp), trial_id=folder.name)
        tf.summary.scalar(objective, result.score, step=result.best_epoch)


def _write(folder: Path, result: Result) -> None:
    """Writes the result, after which nothing goes on from the states."""
    write_json(folder / RESULT, dataclasses.asdict(result))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
