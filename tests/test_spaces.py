"""Search spaces: what they set, when, and what is said of those that cannot be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras_tuner as kt
import pytest

from skincnn.config import Config, ModelConfig, StageConfig, TrainConfig
from skincnn.errors import ConfigError
from skincnn.presets import PRESETS
from skincnn.training.stages import make_stages
from tuning.hypermodel import explore, with_epochs
from tuning.spaces import STRATEGIES, find_space, value_at, with_values

CPU = PRESETS["mobilenet_160"]()


def fixed(**values: object) -> kt.HyperParameters:
    hp = kt.HyperParameters()
    hp.values = {name.replace("__", "."): value for name, value in values.items()}
    return hp


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_the_strength_of_the_chosen_strategy_is_searched(strategy: str) -> None:
    found = explore(find_space(["imbalance"]), CPU)
    found.values = {"imbalance.strategy": strategy}
    found.ensure_active_values()
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
    assert set(found.values) == names
    made = find_space(["imbalance"])(found, CPU)
    for name in {"power", "beta", "gamma", "margin"} - expected:
        assert value_at(made, f"imbalance.{name}") == value_at(CPU, f"imbalance.{name}")


def test_a_product_holds_the_hyperparameters_of_both() -> None:
    names = [
        {parameter.name for parameter in explore(find_space(spaces), CPU).space}
        for spaces in (["learning"], ["imbalance"], ["learning", "imbalance"])
    ]
    assert names[0] | names[1] == names[2]
    assert not names[0] & names[1]


def test_parts_of_the_augmentation_are_switched_one_by_one() -> None:
    space = find_space(["augmentation"])
    hp = fixed(augment__parts__hair=True, augment__parts__zoom=False)
    made = space(hp, CPU)
    assert made.augment.parts == (
        "flip",
        "quarter_turn",
        "rotate",
        "hair",
        "light",
        "color",
    )
    assert value_at(made, "augment.parts.hair")
    assert not value_at(made, "augment.parts.zoom")


def test_blocks_that_train_are_stages_like_those_of_fine_tuning() -> None:
    space = find_space(["backbone"])
    assert make_stages(space(fixed(), CPU))[0] == make_stages(CPU)[0]
    last = make_stages(space(fixed(), CPU))[-1]
    assert last == make_stages(CPU)[-1]
    last = make_stages(space(fixed(train__stages__trainable_blocks=2), CPU))[-1]
    assert last == dataclasses.replace(make_stages(CPU)[-1], trainable_blocks=2)


def test_small_pictures_stay_as_small_beside_larger_ones() -> None:
    made = find_space(["backbone"])(fixed(data__image_size=224), CPU)
    # 128 of 160 pixels, in steps of 32.
    assert (made.data.image_size, made.train.progressive_image_size) == (224, 192)


def test_the_head_alone_has_a_rate_of_its_own_and_no_warm_up() -> None:
    config = Config(
        model=ModelConfig(weights="imagenet"),
        train=TrainConfig(scenario="linear_probe", cached_views=4),
    )
    names = {
        parameter.name for parameter in explore(find_space(["learning"]), config).space
    }
    assert "optimizer.head_learning_rate" in names
    assert not names & {"optimizer.learning_rate", "optimizer.warmup_epochs"}
    with pytest.raises(ConfigError, match=r"augmentation.*varies nothing"):
        explore(find_space(["augmentation"]), config)


def test_weights_of_one_network_keep_it() -> None:
    config = dataclasses.replace(CPU, model=ModelConfig(weights="mine.weights.h5"))
    found = explore(find_space(["backbone"]), config)
    families = next(p for p in found.space if p.name == "model.backbone")
    assert list(families.values) == [config.model.backbone]
    assert "model.width_multiplier" not in {parameter.name for parameter in found.space}


def test_fewer_epochs_are_a_whole_schedule_of_their_own() -> None:
    short = with_epochs(CPU, 4)
    assert short.train.epochs == 4
    assert short.train.progressive_epochs == 2
    assert short.train.head_epochs == CPU.train.head_epochs
    assert short.optimizer.warmup_epochs == pytest.approx(CPU.optimizer.warmup_epochs / 3)
    assert with_epochs(CPU, 1).train.progressive_image_size == 0
    assert with_epochs(CPU, CPU.train.epochs) == CPU
    stages = (
        StageConfig(trainable_blocks=0, epochs=2),
        StageConfig(trainable_blocks=-1, epochs=6),
    )
    train = TrainConfig(scenario="staged", stages=stages)
    staged = with_epochs(dataclasses.replace(CPU, train=train), 3)
    assert [stage.epochs for stage in make_stages(staged)] == [2, 3]


def test_what_is_not_active_changes_nothing() -> None:
    assert with_values(CPU, {"imbalance.power": None}) == CPU
    assert with_values(CPU, {"model.dropout": 0.12345678}).model.dropout == 0.123457


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return config.nothing", "AttributeError: .*nothing"),
        ("return None", "must return a Config.*Received: None"),
        ("hp.Float('optimizer.rate', 0, 1); return config", "`rate` of `optimizer.rate`"),
        ("hp.Float('optimizer.name.x', 0, 1); return config", "'x' is too much"),
        (
            "return replace(config, seed=hp.Int('seed', -3, 3, default=1))",
            "refused: `seed` must be >= 0",
        ),
        (
            "s = hp.Choice('imbalance.strategy', ['none', 'foca'])\n"
            "    return replace(config, imbalance=replace(config.imbalance, strategy=s))",
            "Did you mean 'focal'",
        ),
        (
            "hp.Float('model.dropout', 0, 0.5, default=0.2); return config",
            r"asks for `model.dropout` and does not set it: it was given 0\.0,.* has 0\.2",
        ),
        (
            "s = hp.Choice('imbalance.strategy', ['none', 'focal'])\n"
            "    with hp.conditional_scope('imbalance.strategy', ['focal']):\n"
            "        hp.Float('imbalance.gamma', 0.5, 3, default=2)\n"
            "    imbalance = replace(config.imbalance, strategy=s)\n"
            "    return replace(config, imbalance=imbalance)",
            "asks for `imbalance.gamma` and does not set it",
        ),
        (
            "d = hp.Float('model.dropout', 0, 1)\n"
            "    return replace(config, model=replace(config.model, dropout=d))",
            r"refused: `model.dropout` must be .*Received: 1\.0",
        ),
        (
            "s = hp.Choice('imbalance.strategy', ['none', 'ldam'])\n"
            "    with hp.conditional_scope('imbalance.strategy', ['ldam']):\n"
            "        m = hp.Float('imbalance.margin', -1, 1, default=0.5) or 0.5\n"
            "    imbalance = replace(config.imbalance, strategy=s, margin=m)\n"
            "    return replace(config, imbalance=imbalance)",
            r"refused: `imbalance.margin`.*Received: -1\.0",
        ),
        (
            "if hp.Boolean('model.clinical_metadata'):\n        hp.Float('nothing', 0, 1)\n"
            "    return config",
            "`nothing` of `nothing`",
        ),
    ],
)
def test_a_mistake_in_a_space_is_found_before_anything_is_trained(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(
        f"from dataclasses import replace\ndef space(hp, config):\n    {code}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        explore(find_space([f"{name}:space"]), CPU)


def test_what_a_space_does_not_ask_for_every_time_needs_no_condition() -> None:
    def space(hp: kt.HyperParameters, config: Config) -> Config:
        strategy = hp.Choice("imbalance.strategy", ["none", "focal"])
        values = {"imbalance.strategy": strategy}
        if strategy == "focal":
            values["imbalance.gamma"] = hp.Float("imbalance.gamma", 0.5, 3.0, default=1.7)
        return with_values(config, values)

    assert len(explore(space, CPU).space) == 2


def test_a_wrong_name_lists_the_spaces() -> None:
    with pytest.raises(ConfigError, match=r"SPACE must be one of: learning.*Did you mean"):
        find_space(["learnin"])
    with pytest.raises(ConfigError, match=r"SPACE os.path:nothing: .* has no function"):
        find_space(["os.path:nothing"])
    with pytest.raises(ConfigError, match="Name a SPACE"):
        find_space([])
