"""The learning-rate range test: training steps with increasing learning rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.training.fitting import Inputs, TrainableModel, explain_full_memory
from skincnn.training.setup import TrainingSetup
from skincnn.training.stages import Stage

NUM_STEPS = 100
LOWEST, HIGHEST = 1e-6, 10.0
"""The range of the learning rate, which grows tenfold in about 14 steps."""
SMOOTHING = 0.9
"""Momentum of the moving average of the losses."""
DIVERGED = 4.0
"""The test ends when the smoothed loss exceeds this multiple of its minimum."""


@dataclass(frozen=True)
class RangeTest:
    """The result of a learning-rate range test.

    Attributes:
        table: One row per step, with the columns `learning_rate`, `loss` and
            `smoothed_loss`.
        learning_rate: Suggested peak learning rate; None if `suggest` returns None.
        flag: The flag of `skincnn train` that sets the learning rate.
        value: Suggested value of the flag; None if `suggest` returns None.
    """

    table: pd.DataFrame
    learning_rate: float | None
    flag: str
    value: float | None


def lr_range_test(setup: TrainingSetup) -> RangeTest:
    """Trains with increasing learning rates, and suggests a peak learning rate.

    The learning rate grows by a constant factor per step, for `NUM_STEPS` steps or until
    the loss diverges. The stage that `choose_stage` selects is trained from the initial
    weights. The setup must use one device. The weights of the classifier change.

    Raises:
        ConfigError: A custom part fails; see also `TrainableModel.compile` and
            `skincnn.data.pipeline.load_images`.
        DataError: See `skincnn.data.pipeline.load_images`.
        MemoryFullError: The device memory is full.

    References:
        Smith, Cyclical Learning Rates for Training Neural Networks (2017),
        arXiv:1506.01186.
    """
    index = choose_stage(setup.stages)
    with setup.scope():
        losses = train_at_rates(setup, index)
    rates = growing_rates()[: len(losses)]
    rate = suggest(rates, losses)
    name = "learning_rate"
    if setup.config.train.scenario == "linear_probe":
        name = "head_learning_rate"
    # The learning rate of a stage can be a multiple of the value of the flag.
    factor = setup.stages[index].learning_rate / getattr(setup.config.optimizer, name)
    return RangeTest(
        pd.DataFrame(
            {"learning_rate": rates, "loss": losses, "smoothed_loss": smooth(losses)}
        ),
        rate,
        f"--optimizer.{name.replace('_', '-')}",
        None if rate is None else float(f"{rate / factor:.1e}"),
    )


def train_at_rates(setup: TrainingSetup, stage: int) -> list[float]:
    """Returns the loss of one training step at each learning rate, until the loss diverges.

    The trainable layers, the loss and the image size are those at the start of the stage
    with the index `stage`. The weights of the classifier change.

    Raises:
        ConfigError, DataError, MemoryFullError: See `lr_range_test`.
    """
    segment = next(part for part in setup.segments() if part.stage == stage)
    start, rates = segment.epochs.start, growing_rates()
    num_epochs = -(-len(rates) // setup.steps_per_epoch)
    segment = dataclasses.replace(segment, epochs=range(start, start + num_epochs))
    inputs, trainable = Inputs(setup), TrainableModel(setup)
    inputs.train_images(segment)
    trainable.compile(segment)
    model = trainable.model
    model.steps_per_execution = 1  # train_on_batch() does not support more
    optimizer: Any = model.optimizer
    # With mixed_float16, a LossScaleOptimizer wraps the optimizer.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(
        float(rates[0]), 1, float(rates[1] / rates[0])
    )
    losses: list[float] = []
    batches = setup.batches(inputs.train(segment), segment).take(len(rates))
    with explain_full_memory(setup.config.data.batch_size, segment.image_size):
        for images, labels in batches.as_numpy_iterator():
            logs = model.train_on_batch(images, labels, return_dict=True)
            losses.append(float(logs["loss"]))
            if is_diverged(losses):
                break
    return losses


def growing_rates() -> npt.NDArray[np.float64]:
    """Returns the learning rates of all steps, [NUM_STEPS], in geometric progression."""
    return np.geomspace(LOWEST, HIGHEST, NUM_STEPS)


def smooth(losses: Sequence[float]) -> npt.NDArray[np.float64]:
    """Returns the bias-corrected exponential moving average of the losses, [num_steps].

    The average starts at 0. Dividing by the sum of the weights corrects the bias, as in
    Adam.
    """
    average, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**step))
    return np.array(smoothed)


def is_diverged(losses: Sequence[float]) -> bool:
    """Returns whether the last loss is not finite, or the smoothed loss is too high.

    The smoothed loss is too high if it exceeds `DIVERGED` times its minimum.
    """
    smoothed = smooth(losses)
    return not np.isfinite(losses[-1]) or bool(smoothed[-1] > DIVERGED * smoothed.min())


def suggest(rates: npt.NDArray[np.float64], losses: Sequence[float]) -> float | None:
    """Returns the learning rate halfway through the decrease of the smoothed loss.

    At this learning rate, the smoothed loss reaches the mean of its minimum and the maximum
    before this minimum. The learning rate at the minimum would be too high: with BatchNorm,
    the loss can stay near the minimum over several powers of ten. Returns None if the first
    loss is not finite, or if the smoothed loss is never below the first loss.

    Args:
        rates: Increasing learning rates, [num_steps].
        losses: The loss at each learning rate; the last loss may be NaN or infinite.
    """
    smoothed = smooth(losses)
    if not np.isfinite(smoothed[0]):
        return None
    lowest = int(np.nanargmin(smoothed))
    if lowest == 0:
        return None
    highest = int(np.argmax(smoothed[:lowest]))
    half = (smoothed[highest] + smoothed[lowest]) / 2
    return float(rates[highest + int(np.argmax(smoothed[highest:] <= half))])


def choose_stage(stages: Sequence[Stage]) -> int:
    """Returns the index of the stage with the highest learning rate.

    A stage that trains only the head is chosen only if all stages train only the head.
    """
    return max(
        range(len(stages)),
        key=lambda i: (stages[i].trainable_blocks != 0, stages[i].learning_rate),
    )
