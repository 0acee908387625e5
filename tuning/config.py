"""What a search is asked for, beside its space and its preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skincnn.errors import ConfigError

DEFAULT_TRIALS = 30


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a space is searched, for what, and for how long."""

    tuner: Literal["random", "bayesian", "hyperband", "grid"] = "bayesian"
    """random: independent draws. bayesian: draws first, then where a Gaussian process
    expects most. hyperband: many short trainings, of which the best third is trained again
    for three times as long, from the start and with a whole schedule. grid: everything, ten
    values of each range."""
    objective: str = ""
    """Name of a metric on validation, by which each trial's epoch is chosen as well;
    `train.monitor` by default."""
    max_trials: int = 0
    """No more trials than these; 0: 30, hyperband one pass, grid everything, or what
    --max-minutes allows."""
    max_minutes: float = 0.0
    """No trial begins once those before have taken so long together; 0 for no limit."""
    executions: int = 1
    """Trainings of each trial, with a seed each, whose mean score counts."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        if self.max_trials < 0 or self.max_minutes < 0 or self.executions < 1:
            raise ConfigError(
                "--max-trials and --max-minutes must be 0 or more, --executions 1 or more. "
                f"Received: {self.max_trials}, {self.max_minutes}, {self.executions}."
            )
