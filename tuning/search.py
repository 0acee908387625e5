"""The search loop: KerasTuner proposes trials, which `TrainingModel` trains and scores."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_tuner as kt
import pandas as pd
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial, TrialStatus
from sklearn.exceptions import ConvergenceWarning

from skincnn.config import Config
from skincnn.data.cache import Cache
from skincnn.errors import ConfigError, DataError, DivergedError, MemoryFullError
from skincnn.files import json_sha256, locked, require_writable_folder
from skincnn.metrics.classification import find_metric
from skincnn.parts import PartError
from skincnn.training.setup import check
from skincnn.training.stages import make_stages
from tuning.config import SearchConfig
from tuning.data import SearchData
from tuning.explore import active_values, explore
from tuning.hypermodel import TrainingModel, TrialResult
from tuning.leaderboard import make_leaderboard, write_leaderboard
from tuning.machines import (
    DIGEST,
    ID,
    Role,
    Watch,
    bypass_proxy,
    explain_lost_chief,
    find_role,
    quiet_conditions,
    rename_if_damaged,
    require_free_port,
    require_same_search,
    serve,
)
from tuning.oracles import make_oracle
from tuning.spaces import find_space
from tuning.workdir import make_fingerprint, open_workdir

MAX_FAILURES = 20
"""The search ends after this many failed trials in a row."""


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The leaderboard of an objective, and the cause of each failure by trial ID."""

    objective: str
    leaderboard: pd.DataFrame
    failures: dict[str, str]


def run_search(
    config: Config,
    names: Sequence[str],
    search: SearchConfig,
    workdir: Path,
    data_dir: Path | None = None,
    *,
    overwrite: bool = False,
    cache: Cache = "auto",
) -> SearchResult | None:
    """Searches for hyperparameters; writes leaderboard.csv, best.json and search.png.

    The same call resumes an interrupted search: completed trials are not trained again, and
    an interrupted trial continues from the last checkpoint. Test images are never used.

    Args:
        config: The preset.
        names: Names of spaces; see `tuning.spaces.find_space`.
        search: Options of the search.
        workdir: The directory of the search.
        data_dir: The root directory of built datasets; None for the default of TFDS.
        overwrite: Whether to replace an existing search in `workdir`.
        cache: Where to keep decoded images; see `skincnn.data.cache.cached_images`.

    Returns:
        The result; None in a worker, because the chief returns the result.

    Raises:
        ConfigError: The objective, the preset, a space or an environment variable is
            invalid, a dataset does not exist, `workdir` is not writable, contains another
            search or is in use, a custom part fails, a training run or the image cache
            cannot write a file, or the chief does not respond, serves another search or
            cannot listen at its address.
        DataError: A dataset has not been built or is damaged, the splits do not pass the
            leakage audit or are too small, or lesions or clinical metadata that the
            configuration requires are not known.
        OSError: A file of the search other than those of the training runs, or a temporary
            file, cannot be read or written.
        DivergedError: No trial was completed.
        Terminated, KeyboardInterrupt: A signal or Ctrl-C stopped the search; the same call
            resumes the search.
    """
    objective = search.objective or config.train.monitor
    find_metric(objective, "--objective")
    search = dataclasses.replace(search, objective=objective)
    train = dataclasses.replace(config.train, monitor=objective)
    config = dataclasses.replace(config, train=train)
    check(config)
    # Report errors in the space before reading any data.
    space = find_space(names)
    explore(space, config, functools.partial(_check, search, _last_epochs(config)))
    role = find_role()
    if role != "alone":
        bypass_proxy()
    if role == "chief":
        require_free_port()
    require_writable_folder(workdir, "--workdir")
    # The chief holds the lock; workers write only to the directories of their trials, and
    # each to its own file in keras_tuner/.
    with contextlib.nullcontext() if role == "worker" else locked(workdir):
        data = SearchData(config.data, data_dir, cache)
        folder = workdir / "trials"
        model = TrainingModel(space, config, data, folder, search.executions)
        return _search(model, names, search, workdir, role, overwrite=overwrite)


def _search(
    model: TrainingModel,
    names: Sequence[str],
    search: SearchConfig,
    workdir: Path,
    role: Role,
    *,
    overwrite: bool,
) -> SearchResult | None:
    config = model.base
    hyperparameters = explore(model.space, config, model.check)
    fingerprint = make_fingerprint(config, names, hyperparameters, search, model.data)
    if role != "worker":
        open_workdir(workdir, fingerprint, overwrite=overwrite)
    digest = json_sha256(fingerprint)
    if role != "alone":
        hyperparameters.Fixed(DIGEST, digest)
    oracle = make_oracle(search, hyperparameters, _last_epochs(config), config.seed)
    with quiet_conditions(), explain_lost_chief():
        if role == "worker":
            # Must precede the first write, because the chief creates the directory.
            require_same_search(oracle, digest)
        _run(Tuner(oracle, model, search, workdir, role))
    if role == "worker":
        return None
    return _finish(oracle, model, workdir, " x ".join(names))


def _last_epochs(config: Config) -> int:
    return make_stages(config)[-1].epochs


def _check(search: SearchConfig, epochs: int, config: Config) -> None:
    """Checks a configuration of a space without reading data."""
    check(config)
    received = _last_epochs(config)
    if search.tuner == "hyperband" and received != epochs:
        raise ConfigError(
            "With --tuner hyperband, which sets the epochs of each trial, a space must not "
            f"change the number of epochs of the last stage. Expected {epochs} epochs. "
            f"Received: {received}. Use another --tuner, or remove epochs from the space."
        )


def _run(tuner: Tuner) -> None:
    try:
        with warnings.catch_warnings():
            # The Gaussian process warns if there are few trials; no action is needed.
            warnings.simplefilter("ignore", ConvergenceWarning)
            if tuner.role == "chief":
                serve(tuner, Watch(tuner.oracle, tuner.is_exhausted))
            else:
                tuner.search()
    except kt.errors.FatalError as error:
        raise error.__cause__ or error from None


class Tuner(BaseTuner):
    """KerasTuner's loop over trials, which a `TrainingModel` trains.

    KerasTuner writes files to keras_tuner/. When a search on one machine is resumed, these
    files are replaced. A restarted chief reads the files, because a worker may be running a
    trial.
    """

    def __init__(
        self,
        oracle: kt.Oracle,
        model: TrainingModel,
        search: SearchConfig,
        workdir: Path,
        role: Role = "alone",
    ):
        oracle.verbose = 0
        folder = workdir / "keras_tuner"
        if role == "chief":
            rename_if_damaged(folder)
        elif role == "worker":
            (folder / f"{os.environ[ID]}.json").unlink(missing_ok=True)
        super().__init__(
            oracle,
            directory=str(workdir),
            project_name=folder.name,
            overwrite=role == "alone",
        )
        if role == "chief":
            # An interruption can leave a trial in only one of KerasTuner's two files.
            for name in set(oracle.trials) - set(oracle.start_order):
                del oracle.trials[name]
        self.model = model
        self.settings = search
        self.role = role
        self.best: tuple[float, str] | None = None
        self._last_request = 0.0

    def is_exhausted(self) -> bool:
        """Returns whether `MAX_FAILURES` or --max-minutes has been reached."""
        ended = [self.oracle.trials[name] for name in self.oracle.end_order]
        last = ended[-MAX_FAILURES:]
        if len(last) == MAX_FAILURES and all(t.status == TrialStatus.FAILED for t in last):
            return True
        limit = 60 * self.settings.max_minutes
        if not limit:
            return False
        seconds = (
            result.seconds
            for trial in ended
            for result in self.model.results(trial.hyperparameters)
        )
        return limit <= sum(seconds)

    def pre_create_trial(self) -> None:
        """Ends an exhausted search, and limits a worker to one request per second."""
        if self.role == "worker":
            time.sleep(max(0.0, self._last_request + 1 - time.monotonic()))
            self._last_request = time.monotonic()
        elif self.is_exhausted():
            self.oracle.max_trials = len(self.oracle.trials)

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trains the executions of a trial, and returns {objective: mean score}.

        Raises:
            FatalError: An error affects all trials, such as a full disk. KerasTuner catches
                every other error.
            FailedTrialError: The configuration of the trial is invalid.
            Exception: A training run failed, or a custom part failed although an earlier
                trial was completed.
        """
        hp = trial.hyperparameters
        values = ", ".join(f"{n} {_format(v)}" for n, v in active_values(hp).items())
        print(f"trial {trial.trial_id}  {values}", flush=True)
        if cause := self.model.find_error(hp):
            raise kt.errors.FailedTrialError(cause)
        results = []
        for execution in range(self.model.executions):
            try:
                results.append(self.model.result(hp, execution))
            except MemoryFullError:
                raise
            except (ConfigError, DataError) as error:
                if isinstance(error, PartError) and self.best:
                    raise
                raise kt.errors.FatalError(str(error)) from error
        return {self.settings.objective: _mean_score(results)}

    def on_trial_end(self, trial: Trial) -> None:
        """Prints the result of a trial."""
        super().on_trial_end(trial)
        if trial.status != TrialStatus.COMPLETED:
            print(f"    failed: {_cause(trial, self.model)}", flush=True)
            return
        results = self.model.results(trial.hyperparameters)
        score = _mean_score(results)
        metric = find_metric(self.settings.objective)
        if self.best is None or metric.is_better(score, than=self.best[0]):
            self.best = score, trial.trial_id
        print(
            f"    {self.settings.objective} {score:.4f}, "
            f"{sum(result.seconds for result in results):.0f} s; best so far: "
            f"{self.best[0]:.4f}, trial {self.best[1]}",
            flush=True,
        )


def _finish(
    oracle: kt.Oracle, model: TrainingModel, workdir: Path, title: str
) -> SearchResult:
    """Writes and returns the results; raises a `DivergedError` if no trial completed."""
    trials = dict(oracle.trials)
    failures = {
        name: _cause(trial, model)
        for name, trial in trials.items()
        if trial.status == TrialStatus.FAILED
    }
    leaderboard = make_leaderboard(trials.values(), model)
    if leaderboard.empty:
        causes = [f"Trial {name} failed: {cause}" for name, cause in failures.items()]
        first = next(iter(causes), "No trial failed.")
        raise DivergedError(f"None of {len(trials)} trials was completed. {first}")
    best = trials[leaderboard["trial"].iloc[0]]
    write_leaderboard(leaderboard, best, model, workdir, title)
    return SearchResult(model.base.train.monitor, leaderboard, failures)


def _mean_score(results: Sequence[TrialResult]) -> float:
    return sum(result.score for result in results) / len(results)


def _cause(trial: Trial, model: TrainingModel) -> str:
    if cause := model.find_error(trial.hyperparameters):
        return cause
    message = (trial.message or "see the output of the worker").strip().splitlines()[-1]
    errors = [result.error for result in model.results(trial.hyperparameters)]
    return next((error for error in errors if error), message)


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
