"""Options of a search other than its spaces and its preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skincnn.errors import ConfigError

DEFAULT_TRIALS = 30


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The search algorithm, its objective and its limits."""

    tuner: Literal["random", "bayesian", "hyperband", "grid"] = "bayesian"
    """random: independent samples. bayesian: random samples first, then Bayesian
    optimization with a Gaussian process. hyperband: many short runs, the best third of
    which is trained again from scratch for three times as long, with a full schedule.
    grid: all combinations, with ten values per range."""
    objective: str = ""
    """Validation metric to optimize, which also selects the epoch of each trial;
    `train.monitor` by default."""
    max_trials: int = 0
    """Maximum number of trials. 0: as many as --max-minutes allows, or without that limit
    30 trials (hyperband: one pass; grid: all combinations)."""
    max_minutes: float = 0.0
    """No trial starts after the previous ones have taken this long in total; 0 for no
    limit."""
    executions: int = 1
    """Training runs per trial, with different seeds. Their mean score is optimized."""

    def __post_init__(self) -> None:
        if self.max_trials < 0 or self.max_minutes < 0 or self.executions < 1:
            raise ConfigError(
                "--max-trials and --max-minutes must be 0 or more, --executions 1 or more. "
                f"Received: {self.max_trials}, {self.max_minutes}, {self.executions}."
            )
