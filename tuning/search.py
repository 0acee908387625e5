"""A search: KerasTuner asks for trials, trainings answer with their scores."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
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
from skincnn.files import locked, require_writable_folder
from skincnn.lookup import look_up
from skincnn.metrics.classification import METRICS
from skincnn.training.run import check
from skincnn.training.stages import make_stages
from tuning.config import DEFAULT_TRIALS, SearchConfig
from tuning.data import SearchData
from tuning.hypermodel import TrainingModel, explore, read_result, shown_values
from tuning.leaderboard import make_board, write_board
from tuning.machines import (
    DIGEST,
    ID,
    Role,
    Watch,
    chief_needed,
    find_role,
    put_aside_if_damaged,
    require_free_port,
    require_same_search,
    serve,
)
from tuning.spaces import find_space
from tuning.workdir import digest, fingerprint, open_workdir

REDUCTION = 3
"""Hyperband trains the best third of a round again, for three times as long."""
MOST_DRAWS = 10
"""Trials that the Bayesian tuner draws, at most, before it begins to expect anything."""
HOPELESS = 20
"""After so many trials that failed one after the other no other is begun."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a search.

    Attributes:
        objective: What was searched for.
        board: A row for each completed trial, the best first; see `make_board`.
        failures: Why the others failed, by their ids, the first first.
    """

    objective: str
    board: pd.DataFrame
    failures: dict[str, str]


def random(search: SearchConfig, epochs: int, **common: Any) -> kt.Oracle:
    """Independent draws from the whole space."""
    return kt.oracles.RandomSearchOracle(max_trials=_most(search), **common)


def bayesian(search: SearchConfig, epochs: int, **common: Any) -> kt.Oracle:
    """Draws first, then where a Gaussian process expects most.

    References:
        Snoek et al., Practical Bayesian Optimization of Machine Learning Algorithms (2012),
        arXiv:1206.2944.
    """
    # KerasTuner would draw three times as many as there are hyperparameters, mostly more
    # than there are trials. Not a share of --max-trials: a longer search begins alike.
    first = min(MOST_DRAWS, 3 * len(common["hyperparameters"].space))
    return kt.oracles.BayesianOptimizationOracle(
        max_trials=_most(search), num_initial_points=first, **common
    )


def hyperband(search: SearchConfig, epochs: int, **common: Any) -> kt.Oracle:
    """Many short trainings, the best of which are done again for longer.

    Without a limit it ends after one pass. A longer limit, or a later one, goes on with the
    same trials in the same order, pass after pass.

    References:
        Li et al., Hyperband (2018), Journal of Machine Learning Research 18.
    """
    limited = search.max_trials > 0 or search.max_minutes > 0
    oracle = kt.oracles.HyperbandOracle(
        max_epochs=epochs,
        factor=REDUCTION,
        hyperband_iterations=None if limited else 1,
        **common,
    )
    oracle.max_trials = search.max_trials or None
    return oracle


def grid(search: SearchConfig, epochs: int, **common: Any) -> kt.Oracle:
    """Every combination, with ten values of each range, from the preset on."""
    return kt.oracles.GridSearchOracle(max_trials=search.max_trials or None, **common)


TUNERS: dict[str, Callable[..., kt.Oracle]] = {
    "random": random,
    "bayesian": bayesian,
    "hyperband": hyperband,
    "grid": grid,
}


def run_search(
    config: Config,
    names: Sequence[str],
    search: SearchConfig,
    workdir: Path,
    data_dir: Path | None = None,
    *,
    overwrite: bool = False,
    cache: Cache = "auto",
) -> Outcome | None:
    """Searches, and leaves leaderboard.csv, best.json and search.png in `workdir`.

    The same call goes on with a search that was stopped, however that happened: trials that
    are done are not trained again, and the one that was running goes on from its last
    epoch. Test folds are not read.

    Args:
        config: The preset.
        names: Its spaces; see `find_space`.
        search: How to search.
        workdir: The search's folder.
        data_dir: Where TFDS keeps built datasets.
        overwrite: Whether to replace a search that is in `workdir`.
        cache: Where decoded pictures are kept; see `cache.cached_images`.

    Returns:
        What was found; None for a worker, whose chief has it.

    Raises:
        ConfigError: A name, a path or the space cannot be used, another search is in
            `workdir`, another process is at it, or the chief serves another search or is
            gone.
        DataError: The dataset is not built, or its splits leak or are too small.
        DivergedError: No trial was completed.
        Terminated, KeyboardInterrupt: The user stopped the search.
    """
    objective = search.objective or config.train.monitor
    search = dataclasses.replace(search, objective=objective)
    look_up(METRICS, objective, "--objective")
    train = dataclasses.replace(config.train, monitor=objective)
    config = dataclasses.replace(config, train=train)
    check(config)
    space = find_space(names)
    # Mistakes are said before any data is read.
    explore(
        space, config, functools.partial(_check, search, make_stages(config)[-1].epochs)
    )
    role = find_role()
    if role == "chief":
        require_free_port()
    require_writable_folder(workdir, "--workdir")
    # Workers write into folders of their own trials, in the folder that the chief has.
    with contextlib.nullcontext() if role == "worker" else locked(workdir):
        data = SearchData(config.data, data_dir, cache)
        model = TrainingModel(space, config, data, workdir / "trials")
        hyperparameters = explore(space, config, model.require)
        made_by = fingerprint(config, names, hyperparameters, search, data)
        if role != "worker":
            open_workdir(workdir, made_by, overwrite=overwrite)
        if role != "alone":
            hyperparameters.Fixed(DIGEST, digest(made_by))
        oracle = look_up(TUNERS, search.tuner, "--tuner")(
            search,
            make_stages(config)[-1].epochs,
            objective=_objective(search),
            hyperparameters=hyperparameters,
            seed=config.seed + 1,  # KerasTuner takes 0 for none
            max_consecutive_failed_trials=sys.maxsize,
        )
        with chief_needed() if role == "worker" else contextlib.nullcontext():
            _ask(oracle, model, search, workdir, role, digest(made_by))
        if role == "worker":
            return None
        return _finish(oracle, model, search, workdir, " x ".join(names))


def _check(search: SearchConfig, epochs: int, made: Config) -> None:
    """Checks what a space made, as far as that needs no data."""
    check(made)
    received = make_stages(made)[-1].epochs
    if search.tuner == "hyperband" and received != epochs:
        raise ConfigError(
            "Under --tuner hyperband, which says how long each trial trains, a space "
            f"must leave the epochs of the last stage as they are. Expected {epochs}. "
            f"Received: {received}. Give another --tuner, or take them out of the space."
        )


def _ask(
    oracle: kt.Oracle,
    model: TrainingModel,
    search: SearchConfig,
    workdir: Path,
    role: Role,
    search_digest: str,
) -> None:
    """Does what the role of this process is, until the search is over."""
    if role == "worker":
        # Before it writes anything: the folder is the chief's to begin.
        require_same_search(oracle, search_digest)
    tuner = Tuner(oracle, model, search, workdir, role)
    try:
        with warnings.catch_warnings():
            # Of a Gaussian process on few trials, which asks nothing of the user.
            warnings.simplefilter("ignore", ConvergenceWarning)
            if role == "chief":
                serve(tuner, Watch(oracle, tuner.is_spent))
                return
            tuner.search()
    except kt.errors.FatalError as error:
        raise error.__cause__ or error from None


class Tuner(BaseTuner):
    """KerasTuner's loop over trials, whose trainings are `TrainingModel`'s.

    It writes its own files into keras_tuner/. Alone it begins anew each time; a chief goes
    on from them, because its workers may be in the middle of a trial.
    """

    def __init__(
        self,
        oracle: kt.Oracle,
        model: TrainingModel,
        search: SearchConfig,
        workdir: Path,
        role: Role = "alone",
    ):
        """Stores what to ask, and what answers."""
        oracle.verbose = 0
        folder = workdir / "keras_tuner"
        if role == "chief":
            put_aside_if_damaged(folder)
        elif role == "worker":
            (folder / f"{os.environ[ID]}.json").unlink(missing_ok=True)
        super().__init__(
            oracle,
            directory=str(workdir),
            project_name=folder.name,
            overwrite=role == "alone",
        )
        if role == "chief":
            # Killed between the two files that KerasTuner writes of a trial's beginning.
            for name in set(oracle.trials) - set(oracle.start_order):
                del oracle.trials[name]
        self.model = model
        self.settings = search
        self.role = role
        self.best: tuple[float, str] | None = None
        self._asked = 0.0

    def is_spent(self) -> bool:
        """Returns whether no other trial may begin: for time, or because all fail."""
        ended = [self.oracle.trials[name] for name in self.oracle.end_order]
        last = ended[-HOPELESS:]
        if len(last) == HOPELESS and all(t.status == TrialStatus.FAILED for t in last):
            return True
        limit = 60 * self.settings.max_minutes
        if not limit:
            return False
        results = (_results(trial, self.model, self.settings) for trial in ended)
        return limit <= sum(result.seconds for found in results for result in found)

    def pre_create_trial(self) -> None:
        """Asks for no trial once the search is spent, and a worker not without pause."""
        if self.role == "worker":
            time.sleep(max(0.0, self._asked + 1 - time.monotonic()))
            self._asked = time.monotonic()
        elif self.is_spent():
            self.oracle.max_trials = len(self.oracle.trials)

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Returns the mean score of a trial's executions.

        Raises:
            FatalError: Something is wrong with more than this trial, as a full disk is: of
                all errors KerasTuner lets this one alone through.
            FailedTrialError: A rare draw of the space makes no configuration that can be
                trained.
            Exception: This training failed.
        """
        hp = trial.hyperparameters
        values = ", ".join(f"{n} {_text(v)}" for n, v in shown_values(hp).items())
        print(f"trial {trial.trial_id}  {values}", flush=True)
        if refusal := self.model.refusal(hp):
            raise kt.errors.FailedTrialError(refusal)
        results = []
        for execution in range(self.settings.executions):
            try:
                results.append(self.model.result(hp, execution))
            except MemoryFullError:
                raise
            except (ConfigError, DataError) as error:
                raise kt.errors.FatalError(str(error)) from error
        score = sum(result.score for result in results) / len(results)
        return {self.settings.objective: score}

    def on_trial_end(self, trial: Trial) -> None:
        """Says what came of a trial."""
        super().on_trial_end(trial)
        if trial.status != TrialStatus.COMPLETED:
            print(f"    failed: {_cause(trial, self.model, self.settings)}", flush=True)
            return
        results = _results(trial, self.model, self.settings)
        score = sum(result.score for result in results) / len(results)
        metric = METRICS[self.settings.objective]
        if self.best is None or metric.is_better(score, than=self.best[0]):
            self.best = score, trial.trial_id
        print(
            f"    {self.settings.objective} {score:.4f}, "
            f"{sum(result.seconds for result in results):.0f} s; the best is "
            f"{self.best[0]:.4f} of trial {self.best[1]}",
            flush=True,
        )


def _finish(
    oracle: kt.Oracle,
    model: TrainingModel,
    search: SearchConfig,
    workdir: Path,
    title: str,
) -> Outcome:
    """Writes what was found, of completed trials alone."""
    trials = dict(oracle.trials)
    failures = {
        name: _cause(trial, model, search)
        for name, trial in trials.items()
        if trial.status == TrialStatus.FAILED
    }
    board = make_board(trials.values(), model, search.executions)
    if board.empty:
        first = next(iter(failures.items()), ("-", "no trial was begun"))
        raise DivergedError(
            f"None of {len(trials)} trials was completed. The first, trial {first[0]}, "
            f"failed: {first[1]}"
        )
    write_board(board, trials[board["trial"].iloc[0]], model, workdir, title)
    return Outcome(search.objective, board, failures)


def _results(trial: Trial, model: TrainingModel, search: SearchConfig) -> list[Any]:
    """Returns what came of a trial's executions, as far as they were done."""
    if model.refusal(trial.hyperparameters):
        return []
    configs = [model.config(trial.hyperparameters, n) for n in range(search.executions)]
    found = [read_result(model.path(config)) for config in configs]
    return [result for result in found if result is not None]


def _cause(trial: Trial, model: TrainingModel, search: SearchConfig) -> str:
    """Returns why a trial failed, in its own words."""
    if refusal := model.refusal(trial.hyperparameters):
        return refusal
    errors = [result.error for result in _results(trial, model, search)]
    said = (trial.message or "see the output of its worker").strip().splitlines()[-1]
    return next((error for error in errors if error), said)


def _objective(search: SearchConfig) -> kt.Objective:
    higher = METRICS[search.objective].higher_is_better
    return kt.Objective(search.objective, "max" if higher else "min")


def _most(search: SearchConfig) -> int | None:
    """Returns the limit of tuners that would go on for ever."""
    if search.max_trials == 0 and search.max_minutes == 0:
        return DEFAULT_TRIALS
    return search.max_trials or None


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
