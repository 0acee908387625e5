"""Training with half precision, XLA, several devices and several processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from setups import draw_images, make_rows, make_setup

from skincnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    ImbalanceConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from skincnn.data import pipeline
from skincnn.data.combined import open_datasets
from skincnn.errors import ConfigError
from skincnn.evaluation.evaluate import evaluate, write_evaluation
from skincnn.files import locked
from skincnn.inference.predict import predict_probabilities
from skincnn.inference.run_dir import DeviceInfo, read_run_info
from skincnn.training import devices
from skincnn.training.devices import choose_precision, dtype_policy, make_devices
from skincnn.training.fitting import fit
from skincnn.training.run import save_model, train

CONFIG = Config(
    data=DataConfig(datasets=("demo_tiny",), image_size=32, batch_size=16),
    augment=AugmentConfig(parts=("flip", "light"), mix_alpha=1.0),
    model=ModelConfig(backbone="small_cnn", width_multiplier=0.25, weights="none"),
    train=TrainConfig(scenario="from_scratch", epochs=1),
    evaluate=EvaluateConfig(num_bootstrap=100),
)
SIZES = {"num_classes": 4, "num_train": 32, "num_val": 8}
AVERAGE = OptimizerConfig(ema_momentum=0.5, clip_by="global", clip_norm=0.5)
BLOCKS = OptimizerConfig(ema_momentum=0.5, layer_decay=0.9)


@pytest.mark.parametrize(
    ("precision", "optimizer", "strategy", "mix"),
    [
        ("mixed_float16", AVERAGE, "ldam", "mixup"),
        pytest.param("mixed_bfloat16", BLOCKS, "focal", "none", marks=pytest.mark.slow),
        pytest.param("mixed_bfloat16", AVERAGE, "ldam", "mixup", marks=pytest.mark.slow),
        pytest.param("mixed_float16", BLOCKS, "focal", "none", marks=pytest.mark.slow),
    ],
)
def test_half_precision_trains_with_all_parts(
    precision: devices.Precision,
    optimizer: OptimizerConfig,
    strategy: str,
    mix: str,
    tmp_path: Path,
) -> None:
    config = dataclasses.replace(
        CONFIG,
        augment=dataclasses.replace(CONFIG.augment, mix=mix),
        imbalance=ImbalanceConfig(strategy=strategy),
        optimizer=optimizer,
        train=dataclasses.replace(CONFIG.train, precision=precision),
    )
    setup = make_setup(config, **SIZES)
    classifier = setup.classifier
    first = classifier.get_weights()
    optimizers = []
    callback = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: optimizers.append(callback.model.optimizer)
    )
    fit(setup, tmp_path, callbacks=[callback])
    assert keras.config.dtype_policy().name == "float32"
    scaled = isinstance(optimizers[0], keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "mixed_float16")
    convolution = classifier.get_layer("backbone").get_layer("stage1a_conv")
    assert convolution.compute_dtype == precision.removeprefix("mixed_")
    assert classifier.get_layer("logits").compute_dtype == "float32"
    assert {weight.dtype for weight in classifier.weights} == {"float32"}
    for before, after in zip(first, classifier.get_weights(), strict=True):
        assert np.isfinite(after).all()
        assert not np.array_equal(before, after)

    # The model is saved in float32, whatever the current policy.
    with dtype_policy("mixed_bfloat16"):
        save_model(config, classifier, tmp_path / "model.keras")
    saved = keras.saving.load_model(tmp_path / "model.keras")
    assert {layer.compute_dtype for layer in saved._flatten_layers()} == {"float32"}
    for weight, other in zip(saved.get_weights(), classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    batches = pipeline.evaluation_batches(draw_images(make_rows(8, 4), config.data))
    np.testing.assert_allclose(
        predict_probabilities(saved, batches),
        predict_probabilities(classifier, batches),
        atol=0.02,
    )


@pytest.mark.slow
def test_a_run_in_half_precision_is_evaluated_in_float32(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = TrainConfig(scenario="from_scratch", epochs=1, precision="mixed_bfloat16")
    config = dataclasses.replace(CONFIG, train=half)
    train(config, tmp_path, data_dir, cache="memory")
    assert "Training on cpu:0 in mixed_bfloat16: tensorflow, XLA off" in (
        capsys.readouterr().out
    )
    write_evaluation(tmp_path, evaluate(tmp_path, data_dir, "memory"))
    assert read_run_info(tmp_path).device == DeviceInfo(
        devices=("cpu:0",), precision="mixed_bfloat16", backend="tensorflow", jit=False
    )
    dataset = open_datasets(["demo_tiny"], data_dir)
    table = dataset.read_table(config.data.test_folds)
    model = keras.saving.load_model(tmp_path / "model.keras")
    logits = model(pipeline.load_images(dataset, table, config.data), training=False)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    written = pd.read_csv(tmp_path / "predictions" / "test.csv")
    probabilities = written.filter(like="probability_").to_numpy()
    np.testing.assert_allclose(keras.ops.softmax(logits), probabilities, atol=1e-5)


@pytest.mark.slow
def test_xla_computes_the_same_loss(tmp_path: Path) -> None:
    losses = []
    for jit in ("off", "on"):
        config = dataclasses.replace(
            CONFIG,
            # XLA draws other random numbers.
            model=dataclasses.replace(CONFIG.model, dropout=0.0),
            train=dataclasses.replace(CONFIG.train, jit=jit),
        )
        result = fit(make_setup(config, **SIZES), tmp_path / jit)
        assert result.device.jit == (jit == "on")
        losses.append(result.history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "capability", "several", "expected"),
    [
        ("cpu", 0.0, False, "float32"),
        ("gpu", 7.5, False, "mixed_float16"),
        ("gpu", 7.5, True, "float32"),
        ("gpu", 8.0, False, "mixed_bfloat16"),
        ("gpu", 9.0, True, "mixed_bfloat16"),
        ("tpu", 0.0, False, "mixed_bfloat16"),
    ],
)
def test_auto_selects_the_fastest_precision_of_the_device(
    kind: str, capability: float, several: bool, expected: str
) -> None:
    assert choose_precision(kind, capability, several=several) == expected


def test_unsupported_devices_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"at most 1, because this .* has cpu:0. Received: 2"
    ):
        make_devices(TrainConfig(devices=2), 32)
    assert make_devices(TrainConfig(), 32).names == ("cpu:0",)
    with pytest.raises(ConfigError, match=r"auto or off.* with `train.deterministic`"):
        make_devices(TrainConfig(jit="on", deterministic=True), 32)
    gpus = ["gpu:0", "gpu:1", "gpu:2"]
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: gpus)
    monkeypatch.setattr(devices, "_capability", lambda kind: 9.0)
    assert make_devices(TrainConfig(), 48).names == tuple(gpus)
    assert make_devices(TrainConfig(devices=1), 32).names == ("gpu:0",)
    for wrong, batch_size, message in (
        (TrainConfig(), 32, "multiple of 3, the number of devices"),
        (
            TrainConfig(devices=2, precision="mixed_float16"),
            32,
            "only one device, .* Received: 2",
        ),
        (TrainConfig(devices=2, jit="on"), 32, "XLA on 2 devices"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_devices(wrong, batch_size)


@pytest.mark.slow
def test_two_devices_train_and_resume_like_one(data_dir: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_devices.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, data_dir],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "Training on cpu:0, cpu:1 in float32" in done.stdout


def test_incomplete_settings_of_several_machines_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    join = devices.join_processes
    assert join() == 0
    monkeypatch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "1")
    with pytest.raises(ConfigError, match=r"requires all of .*NUM_PROCESSES"):
        join()
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "127.0.0.1:1")
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ConfigError, match="KERAS_BACKEND=jax"):
        join()


def test_a_signal_during_the_exchange_of_signals_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = devices.CommonStopRequest()
    arriving = [signal.SIGTERM, None]

    def process_allgather(signals: np.ndarray) -> np.ndarray:
        stop.signal = arriving.pop(0) or stop.signal
        return np.stack([signals, np.zeros_like(signals)])

    utils = SimpleNamespace(process_allgather=process_allgather)
    jax = SimpleNamespace(multihost_utils=utils)
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(experimental=jax))
    monkeypatch.setitem(sys.modules, "jax.experimental", jax)
    assert not stop.requested  # the other process does not know of the signal yet
    assert stop.requested
    assert stop.signal == signal.SIGTERM


def test_processes_after_the_first_work_in_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get the files for resuming. All processes reject a directory in use."""
    sent: list[Any] = []

    def broadcast(value: Any) -> Any:
        if devices.join_processes() == 0:
            sent.append(value)
        return sent[-1]

    monkeypatch.setattr(devices, "broadcast", broadcast)
    workdir = tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    (workdir / "checkpoints" / "c.npz").write_bytes(b"content")
    (workdir / "config.json").write_text("{}")
    (workdir / "report.html").touch()
    for number in (0, 1):
        monkeypatch.setattr(devices, "join_processes", lambda number=number: number)
        with devices.run_folder(workdir) as folder:
            assert (folder == workdir) == (number == 0)
            assert (folder / "checkpoints" / "c.npz").read_bytes() == b"content"
            assert (folder / "config.json").read_text() == "{}"
            assert (folder / "report.html").exists() == (number == 0)
    assert not folder.exists()
    with locked(workdir):
        for number in (0, 1):
            monkeypatch.setattr(devices, "join_processes", lambda number=number: number)
            with (
                pytest.raises(ConfigError, match="in use by another"),
                devices.run_folder(workdir),
            ):
                pass
