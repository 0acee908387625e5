"""Ready configurations: name -> function that returns a `Config`."""

from __future__ import annotations

from collections.abc import Callable

from skincnn.config import (
    Config,
    DataConfig,
    ImbalanceConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)


def quickstart() -> Config:
    """A small network from scratch on the made-up demo pictures, in a few minutes.

    Needs no download. Its score says that the software works, and nothing about skin.

    Command: python scripts/train.py
    Cost: under three minutes on two cores, rendering included.
    Score: balanced accuracy .742 [.619, .870] on the made-up test fold.
    """
    return Config(
        data=DataConfig(dataset="demo", image_size=96),
        model=ModelConfig(
            backbone="mobilenet_v2",
            width=0.35,
            weights="none",
            batch_norm_momentum=0.95,
        ),
        imbalance=ImbalanceConfig(power=0.5),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_epochs=1),
        train=TrainConfig(scenario="from_scratch", epochs=12),
    )


def cpu() -> Config:
    """MobileNet 0.75 with ImageNet weights at 160 px: a baseline for two cores.

    The first epochs see smaller pictures, which saves a third of their time, and the
    weights that are evaluated are an average over the last few hundred steps.

    Its settings had the best macro F1 and accuracy of the first that were tried; a plain
    recipe turned out to be as good (README, CHANGELOG).

    Command: python scripts/train.py cpu
    Cost: 15 minutes on two cores, after scripts/prepare_data.py.
    Score on 200x150 copies, one seed: balanced accuracy .745 on fold 8, on which the epoch
    was chosen, and .637 [.548, .727] on fold 9.
    """
    return Config(
        data=DataConfig(dataset="isic2018", image_size=160),
        model=ModelConfig(backbone="mobilenet", width=0.75, weights="imagenet"),
        imbalance=ImbalanceConfig(power=0.7),
        optimizer=OptimizerConfig(learning_rate=4e-4, weight_decay=0.05, ema=0.995),
        train=TrainConfig(head_epochs=1, epochs=12, small_image_size=128, small_epochs=6),
    )


PRESETS: dict[str, Callable[[], Config]] = {"quickstart": quickstart, "cpu": cpu}
