"""The metric that selects the epoch and stops training early."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import run_here

from skincnn.api.run import Run
from skincnn.cli import common
from skincnn.errors import ConfigError
from skincnn.files import sha256
from skincnn.inference.run_dir import read_run_info
from skincnn.metrics.classification import METRICS, Metric
from skincnn.metrics.sample import Sample
from skincnn.training import callbacks
from skincnn.training.callbacks import Validation, is_patience_over
from skincnn.training.checkpoints import Progress, weights_path


@pytest.mark.parametrize("monitor", METRICS)
def test_the_monitored_metric_selects_the_best_epoch(
    monitor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.array([0] * 6 + [1] * 2 + [2])
    rng = np.random.default_rng(0)
    epochs = list(rng.dirichlet([1, 1, 1], (8, len(labels))).astype(np.float32))
    metric = METRICS[monitor]
    scores = [float(metric.function(Sample(labels, y_prob))) for y_prob in epochs]
    find_best = np.argmax if metric.higher_is_better else np.argmin
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    predictions = iter(epochs)
    monkeypatch.setattr(callbacks, "predict_probabilities", lambda *_: next(predictions))
    batches = tf.data.Dataset.from_tensors(np.eye(2, dtype="float32"))
    progress = Progress()
    validation = Validation(model, batches, labels, monitor, tmp_path, progress)
    validation.set_model(model)
    for epoch in range(len(epochs)):
        validation.on_epoch_end(epoch, {"loss": 1.0})
        assert progress.best_epoch == int(find_best(scores[: epoch + 1])) + 1
        waited = epoch + 1 - progress.best_epoch
        assert is_patience_over(progress, 3, 0) == (waited >= 3)


def test_the_last_epoch_is_kept_whatever_its_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = np.eye(3, dtype=np.float32)
    epochs = iter([right, right[::-1], right])
    monkeypatch.setattr(callbacks, "predict_probabilities", lambda *_: next(epochs))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    batches = tf.data.Dataset.from_tensors(np.eye(2, dtype="float32"))
    progress = Progress()
    validation = Validation(
        *(model, batches, np.arange(3), "accuracy", tmp_path, progress), keep_last=True
    )
    validation.set_model(model)
    for epoch in range(3):
        model.set_weights([np.full(w.shape, epoch) for w in model.get_weights()])
        validation.on_epoch_end(epoch, {"loss": 1.0})
        assert progress.best_epoch == epoch + 1
        path = weights_path(tmp_path / "checkpoints", epoch + 1)
        assert sha256(path) == progress.best_sha256
        model.load_weights(path)
        assert (model.get_weights()[0] == epoch).all()


def test_a_monitored_metric_must_be_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "macro_f1", Metric(lambda _: np.array(np.nan)))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    batches = tf.data.Dataset.from_tensors(np.eye(2, dtype="float32"))
    validation = Validation(
        *(model, batches, np.arange(2), "macro_f1", tmp_path, Progress())
    )
    validation.set_model(model)
    with pytest.raises(ConfigError, match=r"macro_f1 is nan on validation after epoch 1\."):
        validation.on_epoch_end(0, {"loss": 1.0})


@pytest.mark.usefixtures("uncompiled")
def test_the_command_stops_early_and_keeps_the_best_epoch_of_the_metric(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.6, 0.5, 0.3, 0.9])
    monkeypatch.setitem(METRICS, "macro_f1", Metric(lambda _: next(scores)))
    monkeypatch.setattr(Run, "evaluate", lambda *_: None)
    monkeypatch.setattr(
        "skincnn.serving.export_spec.find_current_export", lambda _: "model"
    )
    monkeypatch.setattr(common, "show_report", lambda *_: None)
    flags = (
        "cnn --data.datasets demo_tiny --data.image-size 32 --data.batch-size 16 "
        "--data.train-folds 0 --model.width-multiplier 0.25 --train.monitor macro_f1 "
        "--train.patience 2 --train.epochs 9"
    ).split()
    done = run_here("train.py", *flags, "--workdir", tmp_path, "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["val_macro_f1"].tolist() == [0.2, 0.6, 0.5, 0.3]
    assert read_run_info(tmp_path).best_epoch == 2
    files = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert files == ["best-00002.weights.h5"]
