"""Training stages, which determine the trainable layers of each epoch.

A scenario returns the stages of a configuration. Each stage is split into segments, one for
each call to `keras.Model.fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skincnn.config import Config


@dataclass(frozen=True)
class Stage:
    """Consecutive epochs with the same trainable layers and the same optimizer.

    Attributes:
        trainable_blocks: Number of last blocks of the backbone that are trainable in
            addition to the head; None for all blocks.
        learning_rate: Peak learning rate.
        warmup_epochs, ema_momentum: See `skincnn.config.OptimizerConfig`.
    """

    trainable_blocks: int | None
    epochs: int
    learning_rate: float
    warmup_epochs: float = 0.0
    ema_momentum: float = 0.0


def linear_probe(config: Config) -> tuple[Stage, ...]:
    """One stage, which trains only the head; the backbone is frozen."""
    return (_head(config, config.train.epochs),)


def fine_tune(config: Config) -> tuple[Stage, ...]:
    """Two stages: only the head for `head_epochs`, then also the backbone for `epochs`.

    In the second stage, the head and the last `trainable_blocks` blocks of the backbone are
    trainable, or all layers if `trainable_blocks` is -1.
    """
    return (_head(config, config.train.head_epochs), _last(config))


def from_scratch(config: Config) -> tuple[Stage, ...]:
    """One stage, which trains all layers."""
    return (_last(config),)


def staged(config: Config) -> tuple[Stage, ...]:
    """The stages of `train.stages`, in order."""
    return tuple(
        _stage(config, stage.trainable_blocks, stage.epochs, stage.rate)
        for stage in config.train.stages
    )


SCENARIOS: dict[str, Callable[[Config], tuple[Stage, ...]]] = {
    "fine_tune": fine_tune,
    "linear_probe": linear_probe,
    "from_scratch": from_scratch,
    "staged": staged,
}


def make_stages(config: Config) -> tuple[Stage, ...]:
    """Returns the stages of `train.scenario` in order, without stages of 0 epochs."""
    stages = SCENARIOS[config.train.scenario](config)
    return tuple(stage for stage in stages if stage.epochs > 0)


def image_size(config: Config, epoch: int) -> int:
    """Returns the image size in pixels of an epoch, counted from 0 over all stages.

    If `progressive_epochs` is positive, `progressive_image_size` applies to all stages
    before the last, and to the first `progressive_epochs` epochs of the last stage.
    """
    progressive = config.train.progressive_epochs
    if progressive > 0 and epoch < start_of_last(make_stages(config)) + progressive:
        return config.train.progressive_image_size
    return config.data.image_size


def start_of_last(stages: tuple[Stage, ...]) -> int:
    """Returns the number of epochs before the last stage."""
    return sum(stage.epochs for stage in stages[:-1])


@dataclass(frozen=True)
class Segment:
    """The epochs of one call to `keras.Model.fit`.

    Attributes:
        stage: Index of the stage.
        epochs: Epochs, counted from 0 over all stages.
        first_step: Number of steps of the first epoch that are already completed.
        image_size: Height and width of the images in pixels.
        reweighted: Whether class weights apply; see `skincnn.training.imbalance.Plan`.
    """

    stage: int
    epochs: range
    first_step: int
    image_size: int
    reweighted: bool


def segments(
    config: Config, *, epoch: int = 0, step: int = 0, reweighting: int = 0
) -> Iterator[Segment]:
    """Yields the remaining segments of a training run.

    Args:
        config: The configuration of the run.
        epoch: Number of completed epochs.
        step: Number of completed steps of the next epoch. The remaining steps of this epoch
            form a segment, because all epochs of a call to `fit` have the same number of
            steps.
        reweighting: Number of epochs of the last stage before class weights apply; 0 to
            apply class weights in all epochs of all stages.
    """
    stages = make_stages(config)
    if reweighting:
        reweighting += start_of_last(stages)
    stage_of = [index for index, stage in enumerate(stages) for _ in range(stage.epochs)]
    settings = [
        (index, image_size(config, number), number >= reweighting)
        for number, index in enumerate(stage_of)
    ]
    while epoch < len(settings):
        end = epoch + 1
        while not step and end < len(settings) and settings[end] == settings[epoch]:
            end += 1
        index, size, reweighted = settings[epoch]
        yield Segment(index, range(epoch, end), step, size, reweighted)
        epoch, step = end, 0


def _head(config: Config, epochs: int) -> Stage:
    return Stage(0, epochs, config.optimizer.head_learning_rate)


def _last(config: Config) -> Stage:
    return _stage(config, config.train.trainable_blocks, config.train.epochs)


def _stage(config: Config, blocks: int, epochs: int, rate: float = 1.0) -> Stage:
    """Returns a stage, without warm-up or weight averaging if it trains only the head."""
    optimizer = config.optimizer
    learning_rate = rate * optimizer.learning_rate
    if blocks == 0:
        return Stage(0, epochs, learning_rate)
    return Stage(
        None if blocks == -1 else blocks,
        epochs,
        learning_rate,
        min(optimizer.warmup_epochs, epochs),
        optimizer.ema_momentum,
    )
