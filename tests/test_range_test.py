"""The learning-rate range test: its rates, its suggestion, and the command."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skincnn.cli import common, train
from skincnn.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
)
from skincnn.presets import PRESETS
from skincnn.training import range_test
from skincnn.training.fitting import Training
from skincnn.training.range_test import (
    choose_stage,
    growing_rates,
    is_over,
    smooth,
    suggest,
)
from skincnn.training.run import prepare
from skincnn.training.stages import make_stages


def losses_of_a_parabola(curvature: float) -> list[float]:
    """Returns curvature * w ** 2 / 2 before each step of gradient descent from 1."""
    weight, losses = 1.0, []
    for rate in growing_rates():
        losses.append(curvature * weight**2 / 2)
        weight -= rate * curvature * weight
        if is_over(losses):
            break
    return losses


@pytest.mark.parametrize("curvature", [0.3, 10.0, 3000.0])
def test_the_suggestion_is_safe_and_not_timid_on_a_parabola(curvature: float) -> None:
    """Gradient descent falls below the rate 2 / curvature, fastest at 1 / curvature."""
    losses = losses_of_a_parabola(curvature)
    rate = suggest(growing_rates()[: len(losses)], losses)
    assert rate is not None
    assert 0.1 / curvature < rate < 2 / curvature


def test_rates_grow_by_one_factor_over_seven_powers_of_ten() -> None:
    rates = growing_rates()
    np.testing.assert_allclose(rates[1:] / rates[:-1], rates[1] / rates[0])
    assert (rates[0], rates[-1], len(rates)) == pytest.approx((1e-6, 10, 100))


def test_smoothing_has_no_bias() -> None:
    np.testing.assert_allclose(smooth([3.0] * 20), 3)
    values = np.random.default_rng(0).uniform(0, 9, 20)
    weights = 0.9 ** np.arange(20)[::-1]
    mean = (weights * values).sum() / weights.sum()
    assert smooth(list(values))[-1] == pytest.approx(mean)


def test_a_test_ends_when_the_loss_diverges() -> None:
    assert not is_over([2.0, 1.5, 3.0])
    assert is_over([2.0, 1.0, 30.0])
    assert is_over([2.0, float("nan")])
    assert is_over([float("inf")])


def test_the_suggestion_is_half_way_down_and_not_where_the_bottom_ends() -> None:
    rates = growing_rates()
    levels = np.concatenate([np.full(40, 3.0), np.full(40, 1.0), [0.99, 90.0]])
    losses = [float(level) for level in levels]
    # After the fall the average is 1 + 2 * 0.9 ** n, and 2 or less from n = 7 on.
    assert suggest(rates[:82], losses) == rates[46]


def test_nothing_is_suggested_where_the_loss_never_fell() -> None:
    assert suggest(growing_rates()[:3], [1.0, 2.0, 40.0]) is None
    assert suggest(growing_rates()[:1], [float("nan")]) is None


def test_the_stage_is_the_fastest_that_trains_more_than_the_head() -> None:
    tuned = Config(train=TrainConfig(head_epochs=1))
    assert choose_stage(make_stages(tuned)) == 1
    head = Config(train=TrainConfig(scenario="linear_probe"))
    assert choose_stage(make_stages(head)) == 0
    stages = tuple(
        StageConfig(trainable_blocks=blocks, epochs=1, rate=rate)
        for blocks, rate in ((0, 10), (1, 0.1), (-1, 1), (-1, 0.01))
    )
    staged = Config(train=TrainConfig(scenario="staged", stages=stages))
    assert choose_stage(make_stages(staged)) == 2


def find(
    workdir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, *flags: str
) -> None:
    """Runs the command in this process."""
    command = (
        "train.py cnn --lr-range-test --data.dataset demo_tiny --data.image-size 32 "
        "--data.batch-size 16 --model.width-multiplier 0.25"
    ).split()
    command += [*flags, "--workdir", str(workdir), "--data-dir", str(data_dir)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    common.main(train.command)


def test_the_command_draws_writes_and_suggests_and_keeps_no_training(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(range_test, "STEPS", 30)
    find(tmp_path / "run", data_dir, monkeypatch, "--optimizer.name", "sgd")
    output = capsys.readouterr().out
    path = tmp_path / "run" / "learning_rate_test.png"
    assert sorted(path.parent.iterdir()) == [path.with_suffix(".csv"), path]
    with Image.open(path) as page:
        assert page.width > 700
    test = pd.read_csv(path.with_suffix(".csv"))
    np.testing.assert_allclose(test["learning_rate"], growing_rates()[: len(test)])
    np.testing.assert_allclose(test["smoothed_loss"], smooth(list(test["loss"])))
    rate = suggest(test["learning_rate"].to_numpy(), list(test["loss"]))
    assert rate is not None
    assert f"suggested  --optimizer.learning-rate {float(f'{rate:.1e}'):g}\n" in output


def test_each_step_uses_its_rate(data_dir: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        PRESETS["cnn"](),
        data=DataConfig(dataset="demo_tiny", image_size=32, batch_size=16),
        model=ModelConfig(backbone="small_cnn", width_multiplier=0.25, weights="none"),
        optimizer=OptimizerConfig(name="sgd", layer_decay=0.5, ema_momentum=0.9),
    )
    training, _ = prepare(config, tmp_path, data_dir)
    rates = growing_rates()
    steps = training.steps + 2  # of more than one epoch
    next_rates = []

    def note(losses: Sequence[float]) -> bool:
        next_rates.append(float(training.model.optimizer.learning_rate))
        return len(losses) == steps

    losses = training.test_rates(0, rates, note)
    np.testing.assert_allclose(next_rates, rates[1 : steps + 1], rtol=1e-5)
    assert np.isfinite(losses).all()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--optimizer.name", "sdg"], 2),
        (["--data.dataset", "isic2018"], 3),
        ([], 4),
    ],
)
def test_what_cannot_be_tested_ends_with_its_code(
    flags: list[str],
    code: int,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last is a loss that fell nowhere."""
    monkeypatch.setattr(Training, "test_rates", lambda *_: [1.0, 2.0, float("nan")])
    with pytest.raises(SystemExit) as ended:
        find(tmp_path / "run", data_dir, monkeypatch, *flags)
    assert ended.value.code == code
    # A test that failed shows how.
    assert (tmp_path / "run" / "learning_rate_test.png").exists() == (code == 4)
