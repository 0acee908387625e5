"""Search algorithms: each function returns a KerasTuner oracle, which proposes trials."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import keras_tuner as kt

from skincnn.lookup import look_up
from skincnn.metrics.classification import find_metric
from tuning.config import DEFAULT_TRIALS, SearchConfig

REDUCTION = 3
"""Hyperband trains the best third of each round again, three times as long."""
MAX_INITIAL_POINTS = 10
"""Maximum number of completed random trials before the Bayesian optimization starts."""


def random(search: SearchConfig, epochs: int, **common: Any) -> kt.Oracle:
    """Independent samples of the whole space."""
    return kt.oracles.RandomSearchOracle(max_trials=_max_trials(search), **common)


def bayesian(search: SearchConfig, epochs: int, **common: Any) -> kt.Oracle:
    """Random samples first, then Bayesian optimization with a Gaussian process.

    References:
        Snoek et al., Practical Bayesian Optimization of Machine Learning Algorithms (2012),
        arXiv:1206.2944.
    """
    # The default of KerasTuner, three times the number of hyperparameters, often exceeds
    # the number of trials. The limit does not depend on --max-trials, so that a longer
    # search starts with the same trials.
    initial = min(MAX_INITIAL_POINTS, 3 * len(common["hyperparameters"].space))
    return kt.oracles.BayesianOptimizationOracle(
        max_trials=_max_trials(search), num_initial_points=initial, **common
    )


def hyperband(search: SearchConfig, epochs: int, **common: Any) -> kt.Oracle:
    """Many short training runs; the best are trained again for more epochs.

    Without --max-trials and --max-minutes, the search ends after one pass. With either
    limit, passes are repeated until the limit is reached. A search with a higher limit
    starts with the same trials in the same order.

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
    """The preset, then all combinations, with about ten values per range of floats."""
    return kt.oracles.GridSearchOracle(max_trials=search.max_trials or None, **common)


TUNERS: dict[str, Callable[..., kt.Oracle]] = {
    "random": random,
    "bayesian": bayesian,
    "hyperband": hyperband,
    "grid": grid,
}


def make_oracle(
    search: SearchConfig, hyperparameters: kt.HyperParameters, epochs: int, seed: int
) -> kt.Oracle:
    """Returns the oracle of a search.

    Args:
        search: The options of the search, whose `objective` must not be "".
        hyperparameters: All hyperparameters of the space; see `tuning.explore.explore`.
        epochs: Number of epochs of the last stage.
        seed: The seed of the preset, >= 0.

    Raises:
        ConfigError: The tuner or the objective is unknown.
    """
    higher_is_better = find_metric(search.objective).higher_is_better
    return look_up(TUNERS, search.tuner, "--tuner")(
        search,
        epochs,
        objective=kt.Objective(search.objective, "max" if higher_is_better else "min"),
        hyperparameters=hyperparameters,
        seed=seed + 1,  # KerasTuner treats 0 as no seed
        max_consecutive_failed_trials=sys.maxsize,
    )


def _max_trials(search: SearchConfig) -> int | None:
    """Returns the maximum number of random or Bayesian trials; None for no maximum."""
    if search.max_trials == 0 and search.max_minutes == 0:
        return DEFAULT_TRIALS
    return search.max_trials or None
