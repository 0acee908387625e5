"""Learning-rate schedules over the steps of a stage."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
from keras import ops

from skincnn.config import OptimizerConfig
from skincnn.parts import find_part

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule
WARMUP_START = 0.1
"""The learning rate at the start of a linear warm-up, as a fraction of the peak."""
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1e-5
"""First and last learning rate of `one_cycle` as fractions of the peak, as in fastai."""


def constant(
    config: OptimizerConfig, learning_rate: float, steps: int, warmup_steps: int
) -> Schedule:
    """A linear warm-up, then a constant learning rate."""
    return StepDecay(learning_rate, [], 1.0, warmup_steps)


def step(
    config: OptimizerConfig, learning_rate: float, steps: int, warmup_steps: int
) -> Schedule:
    """A linear warm-up, then a learning rate that drops at milestones.

    By default, the learning rate is multiplied by 0.1 after 1/2 and 3/4 of the steps, as
    for CIFAR-10 in the paper.

    References:
        He et al., Deep Residual Learning for Image Recognition (2016), arXiv:1512.03385.
    """
    boundaries = [round(share * steps) for share in config.milestones]
    return StepDecay(learning_rate, boundaries, config.milestone_factor, warmup_steps)


def cosine(
    config: OptimizerConfig, learning_rate: float, steps: int, warmup_steps: int
) -> Schedule:
    """A linear warm-up, then a cosine decay to 1 % of the peak, without restarts.

    References:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts (2017),
        arXiv:1608.03983.
    """
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=learning_rate * (WARMUP_START if warmup_steps else 1),
        decay_steps=max(1, steps - warmup_steps),
        alpha=0.01,
        warmup_target=learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def one_cycle(
    config: OptimizerConfig, learning_rate: float, steps: int, warmup_steps: int
) -> Schedule:
    """A cosine warm-up from 1/25 of the peak, then a cosine decay to 1/100,000 of the peak.

    The warm-up takes the fraction `warmup_fraction` of the steps; `warmup_epochs` is
    ignored. Unlike in the paper, the momentum is constant.

    References:
        Smith and Topin, Super-Convergence (2018), arXiv:1708.07120, as implemented by
        Howard and Gugger, fastai (2020), arXiv:2002.04688.
    """
    return OneCycle(learning_rate, steps, round(config.warmup_fraction * steps))


SCHEDULES: dict[str, Callable[[OptimizerConfig, float, int, int], Schedule]] = {
    "constant": constant,
    "step": step,
    "cosine": cosine,
    "one_cycle": one_cycle,
}
"""Each schedule takes the options, the peak learning rate, the number of steps (at least
1), and the number of warm-up steps."""


def find_schedule(name: str) -> Callable[[OptimizerConfig, float, int, int], Schedule]:
    """Returns the schedule with this name in `SCHEDULES`, or a custom schedule.

    Raises:
        ConfigError: See `skincnn.parts.find_part`.
    """
    arguments = ("config", "learning_rate", "steps", "warmup_steps")
    return find_part(SCHEDULES, name, "`optimizer.schedule`", arguments, Schedule)


@keras.saving.register_keras_serializable("skincnn")
@dataclass(frozen=True, eq=False)
class StepDecay(Schedule):
    """A linear warm-up, then a learning rate that is multiplied by a factor at boundaries.

    Attributes:
        learning_rate: Peak learning rate.
        boundaries: Steps (from 0) at which the learning rate is multiplied by `factor`.
        warmup_steps: Number of steps of the warm-up.
    """

    learning_rate: float
    boundaries: Sequence[int]
    factor: float
    warmup_steps: int

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, counted from 0."""
        step = ops.cast(step, "float32")
        progress = ops.ones_like(step)
        if self.warmup_steps > 0:
            progress = ops.minimum(step / self.warmup_steps, 1.0)
        rate = self.learning_rate * (WARMUP_START + (1 - WARMUP_START) * progress)
        for boundary in self.boundaries:
            rate = ops.where(step >= boundary, rate * self.factor, rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return dataclasses.asdict(self)


@keras.saving.register_keras_serializable("skincnn")
@dataclass(frozen=True, eq=False)
class OneCycle(Schedule):
    """A learning rate that rises and falls once, each along half a cosine.

    Attributes:
        learning_rate: Peak learning rate.
        steps: Number of steps; the learning rate of later steps is constant.
        warmup_steps: Number of steps before the peak, in 0..steps.
    """

    learning_rate: float
    steps: int
    warmup_steps: int

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, counted from 0."""
        step = ops.minimum(ops.cast(step, "float32"), float(self.steps))
        rise = step / max(1, self.warmup_steps)
        fall = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        share = ops.where(
            step < self.warmup_steps,
            _between(ONE_CYCLE_START, 1.0, rise),
            _between(1.0, ONE_CYCLE_END, fall),
        )
        return self.learning_rate * share

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return dataclasses.asdict(self)


def _between(first: float, last: float, progress: Any) -> Any:
    """Returns the value at `progress` in 0..1 on half a cosine from `first` to `last`."""
    return last + (first - last) * (1 + ops.cos(math.pi * progress)) / 2
