"""Learning rates over the steps of a phase of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras
from keras import ops

from skincnn.config import OptimizerConfig

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule
FIRST_SHARE = 0.1
"""A warm-up begins at this share of the highest rate."""
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-5
"""Shares of the highest rate at which one cycle begins and ends, as fastai has them."""


def constant(
    config: OptimizerConfig, learning_rate: float, steps: int, warmup_steps: int
) -> Schedule:
    """A linear warm-up, and then the same rate."""
    return StepDecay(learning_rate, (), 1.0, warmup_steps)


def step(
    config: OptimizerConfig, learning_rate: float, steps: int, warmup_steps: int
) -> Schedule:
    """A linear warm-up, and then a constant rate that falls at some of the steps.

    The defaults, a tenth at half and another at three quarters, are those of He et al.,
    Deep Residual Learning for Image Recognition (2016), arXiv:1512.03385, on CIFAR-10.
    """
    boundaries = [round(share * steps) for share in config.milestones]
    return StepDecay(learning_rate, boundaries, config.milestone_factor, warmup_steps)


def cosine(
    config: OptimizerConfig, learning_rate: float, steps: int, warmup_steps: int
) -> Schedule:
    """A linear warm-up, and then half a cosine to a hundredth of the highest rate.

    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts (2017),
    arXiv:1608.03983, without the restarts.
    """
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=learning_rate * (FIRST_SHARE if warmup_steps else 1),
        decay_steps=max(1, steps - warmup_steps),
        alpha=0.01,
        warmup_target=learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def one_cycle(
    config: OptimizerConfig, learning_rate: float, steps: int, warmup_steps: int
) -> Schedule:
    """A rise from 1/25 of the highest rate, and a fall to 1/100,000: half a cosine each.

    The rise takes `rise` of the steps, whatever the warm-up. The momentum rests, which
    the original moves against the rate.

    Smith and Topin, Super-Convergence (2018), arXiv:1708.07120, in the form of Howard and
    Gugger, fastai (2020), arXiv:2002.04688.
    """
    return OneCycle(learning_rate, steps, round(config.warmup_fraction * steps))


SCHEDULES: dict[str, Callable[[OptimizerConfig, float, int, int], Schedule]] = {
    "constant": constant,
    "step": step,
    "cosine": cosine,
    "one_cycle": one_cycle,
}
"""Each takes the highest learning rate, the steps in all, at least 1, and those of these
in which the rate rises."""


@keras.saving.register_keras_serializable("skincnn")
class StepDecay(Schedule):
    """A linear warm-up from a tenth, and a rate that falls by a factor at boundaries."""

    def __init__(
        self,
        learning_rate: float,
        boundaries: Iterable[int],
        factor: float,
        warmup_steps: int = 0,
    ):
        """Stores the shape.

        Args:
            learning_rate: The highest rate.
            boundaries: Steps, counted from 0, at which the rate is multiplied.
            factor: What it is multiplied by.
            warmup_steps: The step at which the highest rate is reached.
        """
        self.learning_rate = learning_rate
        self.boundaries = list(boundaries)
        self.factor = factor
        self.warmup_steps = warmup_steps

    def __call__(self, step: Any) -> Any:
        """Returns the rate of a step, counted from 0."""
        step = ops.cast(step, "float32")
        warm = ops.ones_like(step)
        if self.warmup_steps > 0:
            warm = ops.minimum(step / self.warmup_steps, 1.0)
        rate = self.learning_rate * (FIRST_SHARE + (1 - FIRST_SHARE) * warm)
        for boundary in self.boundaries:
            rate = ops.where(step >= boundary, rate * self.factor, rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "learning_rate": self.learning_rate,
            "boundaries": self.boundaries,
            "factor": self.factor,
            "warmup_steps": self.warmup_steps,
        }


@keras.saving.register_keras_serializable("skincnn")
class OneCycle(Schedule):
    """A rate that rises and falls once, along half a cosine each."""

    def __init__(self, learning_rate: float, steps: int, rise_steps: int):
        """Stores the shape.

        Args:
            learning_rate: The highest rate.
            steps: The step from which on the rate rests at its end.
            rise_steps: The step of the highest rate, in 0..steps.
        """
        self.learning_rate = learning_rate
        self.steps = steps
        self.rise_steps = rise_steps

    def __call__(self, step: Any) -> Any:
        """Returns the rate of a step, counted from 0."""
        step = ops.minimum(ops.cast(step, "float32"), float(self.steps))
        warmup_fraction = step / max(1, self.rise_steps)
        fall = (step - self.rise_steps) / max(1, self.steps - self.rise_steps)
        share = ops.where(
            step < self.rise_steps,
            _between(ONE_CYCLE_START, 1.0, warmup_fraction),
            _between(1.0, ONE_CYCLE_END, fall),
        )
        return self.learning_rate * share

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "rise_steps": self.rise_steps,
        }


def _between(first: float, last: float, progress: Any) -> Any:
    """Returns the value at `progress` in 0..1 along half a cosine."""
    return last + (first - last) * (1 + ops.cos(math.pi * progress)) / 2
