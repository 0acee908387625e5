"""The stages of each scenario, and the segments for calls of `fit`."""

from __future__ import annotations

import dataclasses

import pytest

from skincnn.config import Config, ModelConfig, OptimizerConfig, StageConfig, TrainConfig
from skincnn.errors import ConfigError
from skincnn.training.stages import (
    SCENARIOS,
    Stage,
    image_size,
    make_stages,
    segments,
    start_of_last,
)

STAGED = TrainConfig(
    scenario="staged",
    stages=(
        StageConfig(trainable_blocks=0, epochs=2, rate=2.0),
        StageConfig(trainable_blocks=3, epochs=1),
        StageConfig(trainable_blocks=-1, epochs=6, rate=0.5),
    ),
    progressive_epochs=2,
    progressive_image_size=32,
)
CONFIG = Config(
    optimizer=OptimizerConfig(learning_rate=1e-2, ema_momentum=0.9), train=STAGED
)
WEIGHTS = {"from_scratch": "none"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_trains_its_epochs(scenario: str) -> None:
    model = ModelConfig(weights=WEIGHTS.get(scenario, "imagenet"))
    train = STAGED if scenario == "staged" else TrainConfig(scenario=scenario, epochs=5)
    config = Config(model=model, train=train, optimizer=CONFIG.optimizer)
    stages = make_stages(config)
    last = 6 if scenario == "staged" else 5
    assert stages[-1].epochs == last
    assert stages[-1].trainable_blocks == (0 if scenario == "linear_probe" else None)
    assert all(stage.ema_momentum == 0 for stage in stages if stage.trainable_blocks == 0)
    trained = [epoch for segment in segments(config) for epoch in segment.epochs]
    assert trained == list(range(start_of_last(stages) + last))


def test_staged_uses_the_stages_of_the_configuration() -> None:
    assert make_stages(CONFIG) == (
        Stage(0, 2, 2e-2),
        Stage(3, 1, 1e-2, warmup_epochs=0.5, ema_momentum=0.9),
        Stage(None, 6, 5e-3, warmup_epochs=0.5, ema_momentum=0.9),
    )


def test_fine_tune_can_freeze_the_first_blocks() -> None:
    config = Config(train=TrainConfig(trainable_blocks=3))
    assert [stage.trainable_blocks for stage in make_stages(config)] == [0, 3]
    for wrong in (
        {"trainable_blocks": 0},
        {"trainable_blocks": -2},
        {"trainable_blocks": 3, "scenario": "from_scratch"},
    ):
        with pytest.raises(ConfigError, match=r"train\.trainable_blocks"):
            TrainConfig(**wrong)


def test_stages_without_epochs_are_omitted() -> None:
    config = Config(train=TrainConfig(head_epochs=0, epochs=2))
    assert [stage.trainable_blocks for stage in make_stages(config)] == [None]


def test_the_progressive_image_size_applies_first_over_all_stages() -> None:
    assert [image_size(CONFIG, epoch) for epoch in range(9)] == [32] * 5 + [96] * 4
    assert image_size(Config(), 0) == Config().data.image_size


def plan(epoch: int = 0, step: int = 0) -> list[tuple[int, range, int]]:
    return [
        (segment.stage, segment.epochs, segment.first_step)
        for segment in segments(CONFIG, epoch=epoch, step=step)
    ]


def test_a_segment_has_one_stage_and_one_image_size() -> None:
    first = [(0, range(2), 0), (1, range(2, 3), 0), (2, range(3, 5), 0)]
    assert plan() == [*first, (2, range(5, 9), 0)]
    assert [segment.image_size for segment in segments(CONFIG)] == [32, 32, 32, 96]


def test_segments_resume_at_any_step() -> None:
    assert plan(epoch=2) == plan()[1:]
    assert plan(epoch=6) == [(2, range(6, 9), 0)]
    assert plan(epoch=6, step=3) == [(2, range(6, 7), 3), (2, range(7, 9), 0)]
    assert plan(epoch=8, step=3) == [(2, range(8, 9), 3)]
    assert plan(epoch=9) == []


def test_reweighting_starts_within_the_last_stage() -> None:
    reweighted = [
        part.epochs for part in segments(CONFIG, reweighting=3) if part.reweighted
    ]
    assert reweighted == [range(6, 9)]
    assert all(segment.reweighted for segment in segments(CONFIG))


def test_stages_are_restored_from_json_and_validated() -> None:
    assert Config.from_dict(CONFIG.to_dict()) == CONFIG
    for wrong in ({"scenario": "fine_tune"}, {"stages": ()}, {"progressive_epochs": 6}):
        with pytest.raises(ConfigError):
            dataclasses.replace(STAGED, **wrong)
