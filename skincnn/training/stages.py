"""Which layers train when: a scenario returns stages, and a stage is cut into segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skincnn.config import Config


@dataclass(frozen=True)
class Stage:
    """Epochs with the same layers training, under one optimizer.

    Attributes:
        trainable_blocks: How many of the backbone's last blocks train beside the head; None for all.
        epochs: How long.
        learning_rate: The highest rate of its schedule.
        warmup_epochs: See `OptimizerConfig`.
        ema_momentum: See `OptimizerConfig`.
    """

    trainable_blocks: int | None
    epochs: int
    learning_rate: float
    warmup_epochs: float = 0.0
    ema_momentum: float = 0.0


def linear_probe(config: Config) -> tuple[Stage, ...]:
    """The head alone: the backbone keeps its ImageNet weights."""
    return (_head(config, config.train.epochs),)


def fine_tune(config: Config) -> tuple[Stage, ...]:
    """The head alone for `head_epochs`, then the last `blocks` or all for `epochs`."""
    return (_head(config, config.train.head_epochs), _last(config))


def from_scratch(config: Config) -> tuple[Stage, ...]:
    """All layers at once."""
    return (_last(config),)


def staged(config: Config) -> tuple[Stage, ...]:
    """The stages of `train.stages`, one after the other."""
    return tuple(
        Stage(
            _trained(stage.trainable_blocks),
            stage.epochs,
            stage.rate * config.optimizer.learning_rate,
            min(config.optimizer.warmup_epochs, stage.epochs)
            if stage.trainable_blocks
            else 0.0,
            config.optimizer.ema_momentum if stage.trainable_blocks else 0.0,
        )
        for stage in config.train.stages
    )


SCENARIOS: dict[str, Callable[[Config], tuple[Stage, ...]]] = {
    "fine_tune": fine_tune,
    "linear_probe": linear_probe,
    "from_scratch": from_scratch,
    "staged": staged,
}


def make_stages(config: Config) -> tuple[Stage, ...]:
    """Returns the stages of `train.scenario` that have epochs, in their order."""
    stages = SCENARIOS[config.train.scenario](config)
    return tuple(stage for stage in stages if stage.epochs > 0)


def image_size(config: Config, epoch: int) -> int:
    """Returns the size of the pictures of an epoch, counted from 0 over all stages.

    The small pictures last until `progressive_epochs` of the last stage are over.
    """
    small = config.train.progressive_epochs
    if small > 0 and epoch < first_epoch_of_last(make_stages(config)) + small:
        return config.train.progressive_image_size
    return config.data.image_size


def first_epoch_of_last(stages: tuple[Stage, ...]) -> int:
    """Returns the number of epochs before the last stage."""
    return sum(stage.epochs for stage in stages[:-1])


@dataclass(frozen=True)
class Segment:
    """Epochs that one call of fit() trains: all alike.

    Attributes:
        stage: The number of its stage, counted from 0.
        epochs: Their numbers, counted from 0 over all stages.
        first_step: Steps of the first epoch that are done already.
        image_size: Height and width of the pictures.
        reweighted: Whether a deferred re-weighting has begun.
    """

    stage: int
    epochs: range
    first_step: int
    image_size: int
    reweighted: bool


def segments(
    config: Config, *, epoch: int = 0, step: int = 0, reweighting: int = 0
) -> Iterator[Segment]:
    """Cuts what is left of a training into segments.

    Args:
        config: The configuration of the whole training.
        epoch: Epochs that are done.
        step: Steps that are done of the next one, which then has a segment of its own:
            fit() gives all its epochs the same number of steps.
        reweighting: Epochs of the last stage before class weights begin to apply; 0 where
            they apply from the start, in all stages.
    """
    stages = make_stages(config)
    if reweighting:
        reweighting += first_epoch_of_last(stages)
    kinds = [
        (number, image_size(config, done), done >= reweighting)
        for done, number in enumerate(
            number for number, stage in enumerate(stages) for _ in range(stage.epochs)
        )
    ]
    while epoch < len(kinds):
        end = epoch + 1
        while not step and end < len(kinds) and kinds[end] == kinds[epoch]:
            end += 1
        stage, size, reweighted = kinds[epoch]
        yield Segment(stage, range(epoch, end), step, size, reweighted)
        epoch, step = end, 0


def _head(config: Config, epochs: int) -> Stage:
    return Stage(0, epochs, config.optimizer.head_learning_rate)


def _last(config: Config) -> Stage:
    return Stage(
        _trained(config.train.trainable_blocks),
        config.train.epochs,
        config.optimizer.learning_rate,
        config.optimizer.warmup_epochs,
        config.optimizer.ema_momentum,
    )


def _trained(blocks: int) -> int | None:
    """Returns `Stage.trainable_blocks` of what a configuration says."""
    return None if blocks == -1 else blocks
