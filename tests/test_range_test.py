"""The learning-rate range test: learning rates, suggestion and command."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_here
from PIL import Image

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
from skincnn.training.fitting import TrainableModel
from skincnn.training.range_test import (
    choose_stage,
    growing_rates,
    is_diverged,
    smooth,
    suggest,
    train_at_rates,
)
from skincnn.training.setup import prepare
from skincnn.training.stages import make_stages


def losses_of_a_parabola(curvature: float) -> list[float]:
    """Returns curvature * w ** 2 / 2 before each step of gradient descent from 1."""
    weight, losses = 1.0, []
    for rate in growing_rates():
        losses.append(curvature * weight**2 / 2)
        weight -= rate * curvature * weight
        if is_diverged(losses):
            break
    return losses


@pytest.mark.parametrize("curvature", [0.3, 10.0, 3000.0])
def test_the_suggestion_suits_a_parabola(
    curvature: float,
) -> None:
    """Gradient descent converges below the rate 2 / curvature, fastest at 1 / curvature."""
    losses = losses_of_a_parabola(curvature)
    rate = suggest(growing_rates()[: len(losses)], losses)
    assert rate is not None
    assert 0.1 / curvature < rate < 2 / curvature


def test_learning_rates_are_a_geometric_progression() -> None:
    rates = growing_rates()
    np.testing.assert_allclose(rates[1:] / rates[:-1], rates[1] / rates[0])
    assert (rates[0], rates[-1], len(rates)) == pytest.approx((1e-6, 10, 100))


def test_smoothing_is_unbiased() -> None:
    np.testing.assert_allclose(smooth([3.0] * 20), 3)
    values = np.random.default_rng(0).uniform(0, 9, 20)
    weights = 0.9 ** np.arange(20)[::-1]
    mean = (weights * values).sum() / weights.sum()
    assert smooth(list(values))[-1] == pytest.approx(mean)


def test_the_range_test_ends_when_the_loss_diverges() -> None:
    assert not is_diverged([2.0, 1.5, 3.0])
    assert is_diverged([2.0, 1.0, 30.0])
    assert is_diverged([2.0, float("nan")])
    assert is_diverged([float("inf")])


def test_the_suggestion_is_at_half_of_the_decrease() -> None:
    rates = growing_rates()
    levels = np.concatenate([np.full(40, 3.0), np.full(40, 1.0), [0.99, 90.0]])
    losses = [float(level) for level in levels]
    # n steps after the drop the average is 1 + 2 * 0.9 ** n, which is below 2 from n = 7.
    assert suggest(rates[:82], losses) == rates[46]


def test_there_is_no_suggestion_if_the_loss_never_falls() -> None:
    assert suggest(growing_rates()[:3], [1.0, 2.0, 40.0]) is None
    assert suggest(growing_rates()[:1], [float("nan")]) is None


def test_the_stage_with_the_highest_learning_rate_is_tested() -> None:
    fine_tuned = Config(train=TrainConfig(head_epochs=1))
    assert choose_stage(make_stages(fine_tuned)) == 1
    head = Config(train=TrainConfig(scenario="linear_probe"))
    assert choose_stage(make_stages(head)) == 0
    stages = tuple(
        StageConfig(trainable_blocks=blocks, epochs=1, rate=rate)
        for blocks, rate in ((0, 10), (1, 0.1), (-1, 1), (-1, 0.01))
    )
    staged = Config(train=TrainConfig(scenario="staged", stages=stages))
    assert choose_stage(make_stages(staged)) == 2


def run_command(
    workdir: Path, data_dir: Path, *flags: str
) -> subprocess.CompletedProcess[str]:
    tiny = (
        "cnn --lr-range-test --data.datasets demo_tiny --data.image-size 32 "
        "--data.batch-size 16 --model.width-multiplier 0.25"
    ).split()
    where = ("--workdir", workdir, "--data-dir", data_dir)
    return run_here("train.py", *tiny, *flags, *where)


def test_the_command_writes_table_and_plot_only_and_prints_the_suggestion(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_test, "NUM_STEPS", 30)
    output = run_command(tmp_path / "run", data_dir, "--optimizer.name", "sgd").stdout
    path = tmp_path / "run" / "lr_range_test.png"
    assert sorted(path.parent.iterdir()) == [path.with_suffix(".csv"), path]
    with Image.open(path) as figure:
        assert figure.width > 700
    test = pd.read_csv(path.with_suffix(".csv"))
    np.testing.assert_allclose(test["learning_rate"], growing_rates()[: len(test)])
    np.testing.assert_allclose(test["smoothed_loss"], smooth(list(test["loss"])))
    rate = suggest(test["learning_rate"].to_numpy(), list(test["loss"]))
    assert rate is not None
    assert f"suggested  --optimizer.learning-rate {float(f'{rate:.1e}'):g}\n" in output


def test_each_step_uses_its_learning_rate(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(
        PRESETS["cnn"](),
        data=DataConfig(datasets=("demo_tiny",), image_size=32, batch_size=16),
        model=ModelConfig(backbone="small_cnn", width_multiplier=0.25, weights="none"),
        optimizer=OptimizerConfig(name="sgd", layer_decay=0.5, ema_momentum=0.9),
    )
    setup, _, _ = prepare(config, data_dir)
    trainable = TrainableModel(setup)
    monkeypatch.setattr(range_test, "TrainableModel", lambda setup: trainable)
    steps = setup.steps_per_epoch + 2  # more than one epoch
    next_rates = []

    def is_over(losses: Sequence[float]) -> bool:
        next_rates.append(float(trainable.model.optimizer.learning_rate))
        return len(losses) == steps

    monkeypatch.setattr(range_test, "is_diverged", is_over)
    losses = train_at_rates(setup, 0)
    np.testing.assert_allclose(next_rates, growing_rates()[1 : steps + 1], rtol=1e-5)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--optimizer.name", "sdg"], 2), (["--data.datasets", "isic2018"], 3), ([], 4)],
)
def test_exit_codes_of_the_command(
    flags: list[str],
    code: int,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the last case the loss never falls."""
    losses = [1.0, 2.0, float("nan")]
    monkeypatch.setattr(range_test, "train_at_rates", lambda *_: losses)
    assert run_command(tmp_path / "run", data_dir, *flags).returncode == code
    # The plot shows why there is no suggestion.
    assert (tmp_path / "run" / "lr_range_test.png").exists() == (code == 4)
