"""A learning-rate range test: the loss while the rate grows from step to step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.config import Config
from skincnn.data.cache import Cache
from skincnn.errors import DivergedError
from skincnn.files import replacing, require_writable_folder, write_text
from skincnn.reporting.plots import plot_learning_rates, to_png
from skincnn.training.run import check, prepare
from skincnn.training.stages import Stage

STEPS = 100
LOWEST, HIGHEST = 1e-6, 10.0
"""The first and the last rate: 14 steps for a factor of ten."""
SMOOTHING = 0.9
"""The momentum of the average of the losses."""
DIVERGED = 4.0
"""The test ends once the smoothed loss is so many times its least."""


@dataclass(frozen=True)
class Suggestion:
    """What a range test found.

    Attributes:
        flag: The flag of `scripts/train.py` that is meant.
        value: Its value.
        plot: The figure; beside it lies a table of the same name.
    """

    flag: str
    value: float
    plot: Path


def lr_range_test(
    config: Config, workdir: Path, data_dir: Path | None = None, cache: Cache = "auto"
) -> Suggestion:
    """Tests rates on a run's own network, loss and pictures, and suggests one.

    The rate grows by the same factor in each of at most `STEPS` steps, until the loss
    diverges; see `suggest` for what is then suggested as the schedule's highest rate. Of
    several stages the one with the highest rate is tested that trains more than the head.
    It begins from the weights of the first, under a head that knows nothing.

    Writes learning_rate_test.png and .csv into `workdir`, and no weights.

    Args:
        config: The whole configuration; its rates and schedule have no effect.
        workdir: Where to write; a run that is there is left alone.
        data_dir: Where TFDS keeps built datasets.
        cache: Where decoded pictures are kept; see `cache.cached_images`.

    Raises:
        ConfigError: A name, a path or the weights cannot be used, or memory is full.
        DataError: The dataset is not built, or its splits leak or are too small.
        DivergedError: The loss fell at no rate.

    References:
        Smith, Cyclical Learning Rates for Training Neural Networks (2017),
        arXiv:1506.01186.
    """
    check(config)
    require_writable_folder(workdir, "--workdir")
    # The whole batch on one device: what comes of several is the same.
    train = dataclasses.replace(config.train, devices=1)
    config = dataclasses.replace(config, train=train)
    training, facts = prepare(config, workdir, data_dir, cache)
    number = choose_stage(training.stages)
    with training.devices.scope():
        losses = training.test_rates(number, growing_rates(), is_over)
    test = pd.DataFrame(
        {
            "learning_rate": growing_rates()[: len(losses)],
            "loss": losses,
            "smoothed_loss": smooth(losses),
        }
    )
    rate = suggest(test["learning_rate"].to_numpy(), losses)
    plot = workdir / "learning_rate_test.png"
    title = f"{config.model.backbone} on {facts['dataset']}, {config.optimizer.name}"
    with replacing(plot) as temporary:
        temporary.write_bytes(to_png(plot_learning_rates(test, rate, title)))
    write_text(plot.with_suffix(".csv"), test.to_csv(index=False))
    if rate is None:
        raise DivergedError(
            f"The loss fell at no learning rate from {LOWEST:g} on; see {plot}. Expected "
            "it to fall before it rises. Look at the pictures with --preview, and try "
            "another --optimizer.name or --model.backbone."
        )
    # A stage's rate may be a multiple of the one that the flag sets.
    name = "learning_rate"
    if config.train.scenario == "linear_probe":
        name = "head_learning_rate"
    factor = training.stages[number].learning_rate / getattr(config.optimizer, name)
    flag = f"--optimizer.{name.replace('_', '-')}"
    return Suggestion(flag, float(f"{rate / factor:.1e}"), plot)


def growing_rates() -> npt.NDArray[np.float64]:
    """Returns the rates of the steps, each the same multiple of the one before."""
    return np.geomspace(LOWEST, HIGHEST, STEPS)


def smooth(losses: Sequence[float]) -> npt.NDArray[np.float64]:
    """Returns the exponential moving average of the losses, without its bias.

    The average begins at 0 and is divided by the share of the losses in it, as in Adam: the
    first is the first loss, and that of equal losses is that loss.
    """
    average, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**step))
    return np.array(smoothed)


def is_over(losses: Sequence[float]) -> bool:
    """Returns whether the loss has diverged."""
    smoothed = smooth(losses)
    return not np.isfinite(losses[-1]) or bool(smoothed[-1] > DIVERGED * smoothed.min())


def suggest(rates: npt.NDArray[np.float64], losses: Sequence[float]) -> float | None:
    """Returns the rate at which half of the fall of the smoothed loss is done.

    About there it falls fastest. Where it is least would be too far: networks with
    BatchNorm stay at the bottom over several powers of ten, and leave it by chance.

    Args:
        rates: Rising, [num_steps].
        losses: The loss at each, of which the last may be no number.

    Returns:
        The rate; None where the loss never fell.
    """
    smoothed = smooth(losses)
    if not np.isfinite(smoothed[0]):
        return None
    least = int(np.nanargmin(smoothed))
    if least == 0:
        return None
    highest = int(np.argmax(smoothed[:least]))
    half = (smoothed[highest] + smoothed[least]) / 2
    return float(rates[highest + int(np.argmax(smoothed[highest:] <= half))])


def choose_stage(stages: Sequence[Stage]) -> int:
    """Returns the number of the fastest stage, of the head alone only where all are."""
    return max(
        range(len(stages)),
        key=lambda number: (
            stages[number].trainable_blocks != 0,
            stages[number].learning_rate,
        ),
    )
