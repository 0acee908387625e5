"""Search spaces: the values that they set, and errors in invalid spaces."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras_tuner as kt
import pytest

from skincnn.config import Config, ModelConfig, StageConfig, TrainConfig
from skincnn.errors import ConfigError
from skincnn.presets import PRESETS
from skincnn.training.stages import make_stages
from tuning.explore import explore
from tuning.hypermodel import with_epochs
from tuning.spaces import STRATEGIES, find_space, value_at, with_values

BASE = PRESETS["mobilenet_160"]().replace(
    **{
        "train.epochs": 12,
        "train.progressive_epochs": 6,
        "train.progressive_image_size": 128,
    }
)


def fixed(**values: object) -> kt.HyperParameters:
    hp = kt.HyperParameters()
    hp.values = {name.replace("__", "."): value for name, value in values.items()}
    return hp


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_the_strength_of_the_selected_strategy_is_searched(strategy: str) -> None:
    hp = explore(find_space(["imbalance"]), BASE)
    hp.values = {"imbalance.strategy": strategy}
    hp.ensure_active_values()
    expected = {
        "class_weights": {"power"},
        "logit_adjusted": {"power"},
        "effective_number_weights": {"beta"},
        "effective_number_sampling": {"beta"},
        "class_balanced_focal": {"beta", "gamma"},
        "focal": {"gamma"},
        "ldam": {"beta", "margin"},
    }.get(strategy, set())
    names = {f"imbalance.{name}" for name in expected | {"strategy"}}
    assert set(hp.values) == names
    config = find_space(["imbalance"])(hp, BASE)
    for name in {"power", "beta", "gamma", "margin"} - expected:
        path = f"imbalance.{name}"
        assert value_at(config, path) == value_at(BASE, path)


def test_a_product_has_the_hyperparameters_of_both_spaces() -> None:
    names = [
        {parameter.name for parameter in explore(find_space(spaces), BASE).space}
        for spaces in (["learning"], ["imbalance"], ["learning", "imbalance"])
    ]
    assert names[0] | names[1] == names[2]
    assert not names[0] & names[1]


def test_each_augmentation_part_is_searched_separately() -> None:
    space = find_space(["augmentation"])
    hp = fixed(augment__parts__hair=True, augment__parts__zoom=False)
    config = space(hp, BASE)
    expected = ("flip", "quarter_turn", "rotate", "hair", "light", "color")
    assert config.augment.parts == expected
    assert value_at(config, "augment.parts.hair")
    assert not value_at(config, "augment.parts.zoom")


def test_trainable_blocks_use_the_stages_of_fine_tuning() -> None:
    space = find_space(["backbone"])
    assert make_stages(space(fixed(), BASE))[0] == make_stages(BASE)[0]
    last = make_stages(space(fixed(), BASE))[-1]
    assert last == make_stages(BASE)[-1]
    last = make_stages(space(fixed(train__stages__trainable_blocks=2), BASE))[-1]
    assert last == dataclasses.replace(make_stages(BASE)[-1], trainable_blocks=2)
    train = dataclasses.replace(BASE.train, trainable_blocks=2)
    two_blocks = dataclasses.replace(BASE, train=train)
    assert make_stages(space(fixed(), two_blocks)) == make_stages(two_blocks)


def test_the_progressive_image_size_is_scaled_with_the_image_size() -> None:
    config = find_space(["backbone"])(fixed(data__image_size=224), BASE)
    # 128 of 160 pixels, in steps of 32.
    assert (config.data.image_size, config.train.progressive_image_size) == (224, 192)


def test_a_linear_probe_searches_the_head_learning_rate_without_warm_up() -> None:
    config = Config(
        model=ModelConfig(weights="imagenet"),
        train=TrainConfig(scenario="linear_probe", cached_views=4),
    )
    names = {
        parameter.name for parameter in explore(find_space(["learning"]), config).space
    }
    assert "optimizer.head_learning_rate" in names
    assert not names & {"optimizer.learning_rate", "optimizer.warmup_epochs"}
    with pytest.raises(ConfigError, match=r"augmentation.*applies no augmentation"):
        explore(find_space(["augmentation"]), config)


def test_a_weights_file_fixes_the_backbone() -> None:
    config = dataclasses.replace(BASE, model=ModelConfig(weights="mine.weights.h5"))
    parameters = explore(find_space(["backbone"]), config).space
    backbones = next(p for p in parameters if p.name == "model.backbone")
    assert list(backbones.values) == [config.model.backbone]
    assert "model.width_multiplier" not in {p.name for p in parameters}


def test_fewer_epochs_have_a_full_schedule() -> None:
    short = with_epochs(BASE, 4)
    assert short.train.epochs == 4
    assert short.train.progressive_epochs == 2
    assert short.train.head_epochs == BASE.train.head_epochs
    assert short.optimizer.warmup_epochs == pytest.approx(BASE.optimizer.warmup_epochs / 3)
    assert with_epochs(BASE, 1).train.progressive_image_size == 0
    assert with_epochs(BASE, BASE.train.epochs) == BASE
    stages = (
        StageConfig(trainable_blocks=0, epochs=2),
        StageConfig(trainable_blocks=-1, epochs=6),
    )
    train = TrainConfig(scenario="staged", stages=stages)
    staged = with_epochs(dataclasses.replace(BASE, train=train), 3)
    assert [stage.epochs for stage in make_stages(staged)] == [2, 3]


def test_inactive_hyperparameters_change_nothing() -> None:
    assert with_values(BASE, {"imbalance.power": None}) == BASE
    assert with_values(BASE, {"model.dropout": 0.12345678}).model.dropout == 0.123457


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return config.nothing", "AttributeError: .*nothing"),
        ("return None", "must return a Config.*Received: None"),
        ("hp.Float('optimizer.rate', 0, 1); return config", "`rate` of `optimizer.rate`"),
        ("hp.Float('optimizer.name.x', 0, 1); return config", "'x' does not exist"),
        (
            "return replace(config, seed=hp.Int('seed', -3, 3, default=1))",
            r"failed \(.*, line 3\): `seed` must be >= 0",
        ),
        (
            "s = hp.Choice('imbalance.strategy', ['none', 'foca'])\n"
            "    return replace(config, imbalance=replace(config.imbalance, strategy=s))",
            "Did you mean 'focal'",
        ),
        (
            "hp.Float('model.dropout', 0, 0.5, default=0.2); return config",
            r"does not set the field `model.dropout` .*Expected 0\.0\. Received: 0\.2",
        ),
        (
            "s = hp.Choice('imbalance.strategy', ['none', 'focal'])\n"
            "    with hp.conditional_scope('imbalance.strategy', ['focal']):\n"
            "        hp.Float('imbalance.gamma', 0.5, 3, default=2)\n"
            "    imbalance = replace(config.imbalance, strategy=s)\n"
            "    return replace(config, imbalance=imbalance)",
            "does not set the field `imbalance.gamma`",
        ),
        (
            "d = hp.Float('model.dropout', 0, 1)\n"
            "    return replace(config, model=replace(config.model, dropout=d))",
            r"failed .*: `model.dropout` must be .*Received: 1\.0",
        ),
        (
            "s = hp.Choice('imbalance.strategy', ['none', 'ldam'])\n"
            "    with hp.conditional_scope('imbalance.strategy', ['ldam']):\n"
            "        m = hp.Float('imbalance.margin', -1, 1, default=0.5) or 0.5\n"
            "    imbalance = replace(config.imbalance, strategy=s, margin=m)\n"
            "    return replace(config, imbalance=imbalance)",
            r"failed .*: `imbalance.margin`.*Received: -1\.0",
        ),
        (
            "if hp.Boolean('model.clinical_metadata'):\n        hp.Float('nothing', 0, 1)\n"
            "    return config",
            "`nothing` of `nothing`",
        ),
    ],
)
def test_errors_in_a_space_are_found_before_training(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"space_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(
        f"from dataclasses import replace\ndef space(hp, config):\n    {code}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        explore(find_space([f"{name}:space"]), BASE)


def test_a_space_can_use_hyperparameters_without_a_condition() -> None:
    def space(hp: kt.HyperParameters, config: Config) -> Config:
        strategy = hp.Choice("imbalance.strategy", ["none", "focal"])
        values = {"imbalance.strategy": strategy}
        if strategy == "focal":
            values["imbalance.gamma"] = hp.Float("imbalance.gamma", 0.5, 3.0, default=1.7)
        return with_values(config, values)

    assert len(explore(space, BASE).space) == 2


def test_own_augmentations_of_a_preset_do_not_change() -> None:
    own = "keras.layers:RandomZoom(0.2)"
    augment = dataclasses.replace(BASE.augment, parts=("flip", own, "light"))
    config = dataclasses.replace(BASE, augment=augment)
    varied = find_space(["augmentation"])(kt.HyperParameters(), config)
    assert varied.augment.parts == ("flip", "light", own)


def test_an_unknown_space_lists_the_valid_names() -> None:
    with pytest.raises(ConfigError, match=r"SPACE must be one of: learning.*Did you mean"):
        find_space(["learnin"])
    with pytest.raises(ConfigError, match=r"SPACE os.path:nothing: .* has no function"):
        find_space(["os.path:nothing"])
    with pytest.raises(ConfigError, match="At least one SPACE is required"):
        find_space([])
