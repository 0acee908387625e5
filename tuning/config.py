"""Options of a search, besides its spaces and its preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skincnn.errors import ConfigError

DEFAULT_TRIALS = 30


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The search algorithm, its objective and its limits."""

    tuner: Literal["random", "bayesian", "hyperband", "grid"] = "bayesian"
    """random: independent samples. bayesian: random samples first, then the maxima of the
    acquisition function of a Gaussian process. hyperband: many short runs; the best
    third is trained again from the start for three times as long, with a full schedule.
    grid: all combinations, with ten values of each range."""
    objective: str = ""
    """Validation metric to optimize, which also selects the epoch of each trial;
    `train.monitor` by default."""
    max_trials: int = 0
    """Maximum number of trials. 0: 30; hyperband one pass; grid all; or as many as
    --max-minutes allows."""
    max_minutes: float = 0.0
    """No trial starts after the previous ones have taken this long in total; 0: no
    limit."""
    executions: int = 1
    """Trainings per trial, with different seeds, whose mean score counts."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.max_trials < 0 or self.max_minutes < 0 or self.executions < 1:
            raise ConfigError(
                "--max-trials and --max-minutes must be 0 or more, --executions 1 or more. "
                f"Received: {self.max_trials}, {self.max_minutes}, {self.executions}."
            )
