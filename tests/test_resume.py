"""An interrupted and resumed run gives the same results as an uninterrupted run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import ROOT, Script, read_timeless, run_here, run_script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from skincnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from skincnn.errors import ConfigError, DataError, DivergedError
from skincnn.files import locked
from skincnn.interruption import StopRequest
from skincnn.metrics.classification import METRICS, Metric
from skincnn.training import fitting, run
from skincnn.training.callbacks import Validation, is_patience_over
from skincnn.training.checkpoints import Checkpoints, Progress
from skincnn.training.run import check_workdir

CONFIG = Config(
    data=DataConfig(
        datasets=("demo_tiny",), image_size=48, batch_size=16, train_folds=(0, 1)
    ),
    augment=AugmentConfig(parts=("flip", "light")),
    model=ModelConfig(backbone="small_cnn", width_multiplier=0.25, weights="none"),
    optimizer=OptimizerConfig(learning_rate=1e-3, ema_momentum=0.5),
    train=TrainConfig(
        scenario="from_scratch", epochs=3, progressive_epochs=1, progressive_image_size=32
    ),
)
"""Three epochs of four steps, with averaged weights and two image sizes."""
Arrays = dict[str, list[Any]]


class StopAfter(StopRequest):
    """Requests a stop when `requested` is read for the n-th time, after a step or epoch."""

    left = -1

    @property
    def requested(self) -> bool:
        StopAfter.left -= 1
        return StopAfter.left == 0

    def exit(self) -> None:
        raise KeyboardInterrupt


def train_with_interruptions(
    config: Config, workdir: Path, data_dir: Path, stops: list[int]
) -> tuple[Progress, Arrays]:
    """Trains with interruptions after some steps; returns the last checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "stop_request", StopAfter)
        patch.setattr(Checkpoints, "remove", lambda *arguments, **_: None)
        for left in [*stops, 0]:
            StopAfter.left = left
            interrupted = pytest.raises(KeyboardInterrupt)
            with interrupted if left else contextlib.nullcontext():
                run.train(config, workdir, data_dir, resume=True, cache="memory")
    path = max((workdir / "checkpoints").glob("checkpoint-*.json"))
    fingerprint = json.loads(path.read_text())["fingerprint"]
    checkpoint = Checkpoints(path.parent, fingerprint).load()
    assert checkpoint is not None
    return checkpoint


def assert_same(first: tuple[Progress, Arrays], second: tuple[Progress, Arrays]) -> None:
    def without_time(progress: Progress) -> list[dict[str, float]]:
        return [{**row, "seconds": 0} for row in progress.history]

    assert without_time(first[0]) == without_time(second[0])
    assert first[0].best_epoch == second[0].best_epoch
    assert first[1].keys() == second[1].keys() == {"model", "optimizer", "metrics"}
    for group, values in first[1].items():
        for one, other in zip(values, second[1][group], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=group)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, data_dir: Path
) -> tuple[Progress, Arrays]:
    """The last checkpoint of a training run without interruption."""
    return train_with_interruptions(
        CONFIG, tmp_path_factory.mktemp("uninterrupted"), data_dir, []
    )


@pytest.mark.parametrize("stops", [pytest.param([4], marks=pytest.mark.slow), [1, 3, 2]])
def test_an_interrupted_run_ends_with_the_same_weights(
    stops: list[int],
    uninterrupted: tuple[Progress, Arrays],
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupted within an epoch, between two epochs, and several times."""
    capsys.readouterr()
    assert_same(train_with_interruptions(CONFIG, tmp_path, data_dir, stops), uninterrupted)
    epochs = re.findall("Epoch .*", capsys.readouterr().out)
    assert list(dict.fromkeys(epochs)) == ["Epoch 1/3", "Epoch 2/3", "Epoch 3/3"]
    logs = EventAccumulator(str(tmp_path / "logs" / "images")).Reload()
    steps = [event.step for event in logs.Images("training_images")]
    assert steps == [0]
    steps = [event.step for event in logs.Images("confusion_matrix")]
    assert steps == sorted(set(steps))
    assert steps[-1] + 1 == uninterrupted[0].best_epoch


@pytest.mark.slow
def test_half_precision_resumes_with_the_same_weights(
    data_dir: Path, tmp_path: Path
) -> None:
    """The loss scale is part of the checkpoint."""
    config = dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, image_size=32),
        train=TrainConfig(scenario="from_scratch", epochs=1, precision="mixed_float16"),
    )
    one, other = (
        train_with_interruptions(config, tmp_path / name, data_dir, stops)
        for name, stops in (("uninterrupted", []), ("resumed", [3]))
    )
    assert_same(one, other)
    # Steps since the last change of the loss scale, and the scale: Keras starts at 2**15.
    steps, scale = one[1]["optimizer"][2:4]
    assert (int(steps), float(scale)) == (4, 2.0**15)


FLAGS = (
    "--data.datasets demo_tiny --data.image-size 32 --model.backbone small_cnn "
    "--model.width-multiplier 0.25 --train.epochs 6 --evaluate.num-bootstrap 100 "
    "--optimizer.ema-momentum 0.9"
).split()


def start(workdir: Path, data_dir: Path, *flags: str) -> subprocess.Popen[str]:
    script = [sys.executable, str(ROOT / "scripts" / "train.py")]
    where = ["--workdir", str(workdir), "--data-dir", str(data_dir)]
    return subprocess.Popen(
        [*script, *where, *FLAGS, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def wait_for_epoch(epoch: int, workdir: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not list((workdir / "checkpoints").glob(f"checkpoint-{epoch:05d}-*.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("run_to_the_end", "flags"),
    [(run_here, []), (run_script, ["--train.deterministic", "True"])],
)
@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_a_killed_and_terminated_run_equals_an_uninterrupted_one(
    run_to_the_end: Script, flags: list[str], data_dir: Path, tmp_path: Path
) -> None:
    """SIGKILL, SIGTERM, then --resume. The uninterrupted run caches its images on disk."""
    resumed, uninterrupted = tmp_path / "resumed", tmp_path / "uninterrupted"
    process = start(resumed, data_dir, *flags)
    wait_for_epoch(1, resumed, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    process = start(resumed, data_dir, *flags, "--resume")
    wait_for_epoch(2, resumed, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 143, output
    assert "finishing the step" in output

    for workdir, more in ((resumed, ["--resume"]), (uninterrupted, ["--cache", "disk"])):
        where = ("--workdir", workdir, "--data-dir", data_dir)
        done = run_to_the_end("train.py", *where, *FLAGS, *flags, *more)
        assert done.returncode == 0, done.stderr
        assert ("Resuming" in done.stdout) == (workdir == resumed)
        assert "report  " in done.stdout
    for name in ("predictions/val.csv", "predictions/test.csv"):
        assert (resumed / name).read_text() == (uninterrupted / name).read_text()
    assert read_timeless(resumed) == read_timeless(uninterrupted)
    histories = [
        pd.read_csv(workdir / "history.csv").drop(columns="seconds")
        for workdir in (resumed, uninterrupted)
    ]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    assert not list(resumed.rglob(".tmp*"))
    assert not (resumed / ".lock").exists()

    # A finished run is not trained and not exported again.
    where = ("--workdir", resumed, "--data-dir", data_dir)
    again = run_to_the_end("train.py", *where, *FLAGS, *flags, "--resume")
    assert "Epoch" not in again.stdout
    assert "Resuming" not in again.stdout
    assert [path.name for path in (resumed / "export/skincnn").iterdir()] == ["1"]


def test_a_run_in_use_is_locked(tmp_path: Path) -> None:
    with locked(tmp_path):
        for script in (["evaluate.py", tmp_path], ["train.py", "--workdir", tmp_path]):
            done = run_here(*script)
            assert done.returncode == 2, done.stderr
            assert "in use by another process" in done.stderr


def test_resuming_with_another_configuration_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    other = Config.from_dict({**CONFIG.to_dict(), "seed": 5})
    with pytest.raises(ConfigError, match=r"seed 0 \(now 5\)"):
        check_workdir(tmp_path, other, resume=True)
    check_workdir(tmp_path, CONFIG, resume=True)
    with pytest.raises(ConfigError, match="--overwrite or --resume"):
        check_workdir(tmp_path, CONFIG, resume=True, overwrite=True)


def test_a_lock_is_released_and_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    with locked(folder), pytest.raises(ConfigError, match="in use"), locked(folder):
        pass
    assert not folder.exists()
    with locked(folder):
        (folder / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.fixture
def validation(tmp_path: Path) -> Validation:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    batches = tf.data.Dataset.from_tensors(np.eye(2, dtype="float32"))
    callback = Validation(model, batches, np.arange(2), "accuracy", tmp_path, Progress())
    callback.set_model(model)
    return callback


def test_a_full_disk_is_named_before_weights_are_written(
    validation: Validation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 would crash."""
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match=r"weights\.h5 could not be.*The disk is full.*"):
        validation._save_weights(1)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_nan_loss_stops_training(validation: Validation) -> None:
    validation.on_train_batch_end(0, {"loss": 1.5})
    with pytest.raises(DivergedError, match=r"is nan in epoch 1\.") as caught:
        validation.on_train_batch_end(3, {"loss": float("nan")})
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("fault", ["weights", "loss", "outputs"])
def test_diverged_weights_are_never_saved_as_the_best(
    fault: str, validation: Validation, tmp_path: Path
) -> None:
    weights = validation.model.get_weights()
    if fault != "loss":
        # NaN weights under a finite loss, and weights whose product overflows.
        value = np.nan if fault == "weights" else 3e38
        validation.model.set_weights([np.full_like(w, value) for w in weights])
    with pytest.raises(DivergedError, match=fault):
        validation.on_epoch_end(0, {"loss": 1e9 if fault == "loss" else 1.0})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_previous_best_weights(
    validation: Validation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation.on_epoch_end(0, {"loss": 1.0})
    (weights,) = (tmp_path / "checkpoints").iterdir()
    content = weights.read_bytes()

    def full(path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(validation.classifier, "save_weights", full)
    validation.progress.history[0]["val_accuracy"] = -1.0
    with pytest.raises(ConfigError, match="No space left"):
        validation.on_epoch_end(1, {"loss": 1.0})
    assert [path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()] == [content]


@pytest.mark.parametrize("full", ["config.json", "model.keras", "run.json"])
def test_a_full_disk_is_reported_for_every_file(
    full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path) -> None:
        if path.name == full:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_json", lambda path, _: write(path))
    monkeypatch.setattr(run, "write_record", lambda path, _: write(path))
    monkeypatch.setattr(run, "save_model", lambda config, model, path: write(path))
    monkeypatch.setattr(run, "_describe", lambda *_: None)
    monkeypatch.setattr(run, "fit", lambda *_, **__: None)
    setup = SimpleNamespace(classifier=None)
    monkeypatch.setattr(run, "prepare", lambda *_: (setup, None, None))
    with pytest.raises(ConfigError, match=r"No space left on device.*Free disk space"):
        run.train(CONFIG, tmp_path)


def test_patience_counts_epochs_of_the_last_stage() -> None:
    assert not is_patience_over(Progress(epoch=9, best_epoch=1), 0, 0)
    assert not is_patience_over(Progress(epoch=5, best_epoch=1), 3, 3)
    assert is_patience_over(Progress(epoch=6, best_epoch=1), 3, 3)
    assert not is_patience_over(Progress(epoch=6, best_epoch=4), 3, 3)
    assert is_patience_over(Progress(epoch=7, best_epoch=4), 3, 3)


@pytest.mark.slow
def test_early_stopping_also_applies_after_resuming(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "accuracy", Metric(lambda sample: 0.5))
    train = TrainConfig(scenario="from_scratch", epochs=9, patience=2, monitor="accuracy")
    config = dataclasses.replace(CONFIG, train=train)
    progress, _ = train_with_interruptions(config, tmp_path, data_dir, [2])
    assert progress.epoch == 3
    assert progress.best_epoch == 1


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "OOM"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ],
    ids=["tensorflow", "jax"],
)
def test_a_full_memory_error_mentions_the_batch_size(error: Exception) -> None:
    message = "batches of 64 images of 300x300 pixels"
    with pytest.raises(ConfigError, match=message), fitting.explain_full_memory(64, 300):
        raise error
    with pytest.raises(RuntimeError, match="else"), fitting.explain_full_memory(64, 300):
        raise RuntimeError("something else")


def test_damaged_best_weights_are_rejected(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_best: Callable[..., None] = fitting._load_best

    def damage(classifier: keras.Model, checkpoints: Checkpoints, *rest: object) -> None:
        path = next(checkpoints.folder.glob("best-*"))
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)
        load_best(classifier, checkpoints, *rest)

    monkeypatch.setattr(fitting, "_load_best", damage)
    with pytest.raises(DataError, match="missing or damaged"):
        run.train(CONFIG, tmp_path, data_dir, cache="memory")
    assert not (tmp_path / "model.keras").exists()
