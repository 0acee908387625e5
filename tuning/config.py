"""Options of a hyperparameter search other than the spaces and the preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skincnn.errors import ConfigError

DEFAULT_TRIALS = 30


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The algorithm, the objective and the limits of a hyperparameter search.

    Raises:
        ConfigError: A limit is negative, or `executions` is less than 1.
    """

    tuner: Literal["random", "bayesian", "hyperband", "grid"] = "bayesian"
    """random: independent samples. bayesian: random samples first, then Bayesian
    optimization with a Gaussian process. hyperband: many short training runs; the best
    third is trained again from scratch, three times as long, with a full learning-rate
    schedule. grid: all combinations, with about ten values per range of floats."""
    objective: str = ""
    """Validation metric to optimize; `train.monitor` by default. It also selects the best
    epoch of each trial, unless `train.keep_epoch` is last."""
    max_trials: int = 0
    """Maximum number of trials. 0: as many as --max-minutes allows; if --max-minutes is 0
    as well, 30 trials (hyperband: one pass; grid: all combinations)."""
    max_minutes: float = 0.0
    """No trial starts after the previous trials have taken this many minutes in total; 0
    for no limit."""
    executions: int = 1
    """Number of training runs per trial, with different seeds. The mean score is
    optimized."""

    def __post_init__(self) -> None:
        if self.max_trials < 0 or self.max_minutes < 0 or self.executions < 1:
            raise ConfigError(
                "--max-trials and --max-minutes must be at least 0, and --executions at "
                f"least 1. Received: --max-trials {self.max_trials}, --max-minutes "
                f"{self.max_minutes} and --executions {self.executions}."
            )
