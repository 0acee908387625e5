"""Every preset trains for a step; test_contracts.py checks that it is valid."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from setups import make_setup

from skincnn.cli.train import parse
from skincnn.config import Config
from skincnn.lookup import describe_functions
from skincnn.model.backbones import build_backbone, find_backbone
from skincnn.presets import PRESETS, to_command
from skincnn.training.fitting import fit
from tuning.spaces import SPACES

BACKBONES = {preset().model.backbone: name for name, preset in PRESETS.items()}
"""Each backbone, with one preset that uses it."""


def one_layer() -> keras.Model:
    """Returns a minimal backbone: one convolution with BatchNorm."""
    inputs = keras.Input((None, None, 3))
    features = keras.layers.Rescaling(1 / 255)(inputs)
    features = keras.layers.Conv2D(4, 3, strides=2, use_bias=False)(features)
    return keras.Model(inputs, keras.layers.BatchNormalization()(features))


def shorten(config: Config, backbone: str, width: float, folder: Path) -> Config:
    """Returns the recipe with small images and one epoch of one step in each stage.

    The backbone loads its weights from a file instead of those of ImageNet. Classes are
    replicated at most twice.
    """
    weights = config.model.weights
    if weights == "imagenet":
        path = folder / f"{backbone.replace(':', '.')}.weights.h5"
        if not path.exists():
            build_backbone(backbone, width, "none").save_weights(path)
        weights = str(path)
    stages = tuple(dataclasses.replace(x, epochs=1) for x in config.train.stages)
    progressive = {"progressive_epochs": 0, "progressive_image_size": 0}
    train = dataclasses.replace(config.train, epochs=1, stages=stages, **progressive)
    size = max(32, find_backbone(backbone).min_size)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=size, batch_size=14),
        model=dataclasses.replace(
            config.model, backbone=backbone, width_multiplier=width, weights=weights
        ),
        imbalance=dataclasses.replace(
            config.imbalance, factors=tuple(min(x, 2) for x in config.imbalance.factors)
        ),
        train=train,
    )


def train_a_step(config: Config, workdir: Path) -> pd.DataFrame:
    """Trains one step per stage on two images per class and returns the history."""
    setup = make_setup(config, num_classes=7, num_train=14, num_val=14)
    assert setup.steps_per_epoch == 1
    fit(setup, workdir)
    return pd.read_csv(workdir / "history.csv")


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", PRESETS)
def test_preset_trains_a_step_with_a_small_network(
    name: str, weights_folder: Path, tmp_path: Path
) -> None:
    """Uses a minimal backbone; the slow test below uses the backbone of the preset."""
    config = shorten(PRESETS[name](), "test_presets:one_layer", 1.0, weights_folder)
    history = train_a_step(config, tmp_path)
    stages = len(config.train.stages) or 1 + (config.train.scenario == "fine_tune")
    stages -= config.train.scenario == "fine_tune" and config.train.head_epochs == 0
    assert len(history) == stages
    assert np.isfinite(history["loss"]).all()


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", sorted(BACKBONES.values()))
def test_preset_trains_a_step_with_its_network(
    name: str, weights_folder: Path, tmp_path: Path
) -> None:
    model = PRESETS[name]().model
    config = shorten(
        PRESETS[name](), model.backbone, model.width_multiplier, weights_folder
    )
    assert np.isfinite(train_a_step(config, tmp_path)["loss"]).all()


@pytest.mark.parametrize("table", [PRESETS, SPACES], ids=["presets", "spaces"])
def test_help_lists_each_preset_and_space_on_one_line(table: dict[str, Any]) -> None:
    lines = describe_functions(table).splitlines()
    assert [line.split()[0] for line in lines] == list(table)
    for line in lines:
        assert line.endswith(".")
        assert len(line) <= 100


@pytest.mark.parametrize("name", PRESETS)
def test_command_reproduces_its_configuration(name: str) -> None:
    base = PRESETS[name]()
    changed = dataclasses.replace(
        base,
        seed=7,
        data=dataclasses.replace(
            base.data,
            train_folds=(0, 1),
            validation_folds=(2,),
            test_folds=(3, 4),
            crop_border=True,
        ),
        augment=dataclasses.replace(base.augment, parts=(), blur_kernel=(7, 3)),
        imbalance=dataclasses.replace(base.imbalance, factors=(2, 3)),
        model=dataclasses.replace(
            base.model, dropout=0.125, channel_mean=(0.25, 0.5, 0.75)
        ),
        train=dataclasses.replace(
            base.train,
            stages=tuple(
                dataclasses.replace(stage, trainable_blocks=2, epochs=3, rate=0.5)
                for stage in base.train.stages
            ),
        ),
    )
    for config, start in ((base, f"skincnn train {name}"), (changed, "skincnn train")):
        command = to_command(config)
        assert command is not None
        assert command.startswith(start)
        assert parse(shlex.split(command)[2:])[1].config == config
    assert to_command(base) == f"skincnn train {name}"


def test_no_command_for_another_number_of_stages() -> None:
    base = PRESETS["vgg19_stages"]()
    train = dataclasses.replace(base.train, stages=base.train.stages[:2])
    assert to_command(dataclasses.replace(base, train=train)) is None
