"""Validation after each epoch, the best epoch's weights, and the history."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from skincnn.errors import DivergedError
from skincnn.evaluation.metrics import METRICS
from skincnn.evaluation.predict import predict_probabilities
from skincnn.files import replacing, write_text


class Validation(keras.callbacks.Callback):
    """Predicts validation once an epoch, scores it, and keeps the best weights.

    All metrics go into the epoch's logs as `val_<name>`, so that the progress bar and
    TensorBoard show them, and into history.csv.

    Attributes:
        best_epoch: The epoch of the best weights, counted from 1; 0 before the first.
        best_value: Its value of the monitored metric.
    """

    def __init__(
        self,
        classifier: keras.Model,
        batches: tf.data.Dataset,
        labels: npt.NDArray[np.int64],
        monitor: str,
        workdir: Path,
    ):
        """Stores what to predict and where to write.

        Args:
            classifier: The model that is trained, without its augmentation.
            batches: The validation pictures, in the order of `labels`.
            labels: The true labels, [num_images].
            monitor: Name of `METRICS`; larger is better.
            workdir: The run's folder, for checkpoints/best.weights.h5 and history.csv.
        """
        super().__init__()
        self.classifier = classifier
        self.batches = batches
        self.labels = labels
        self.monitor = monitor
        self.checkpoint = workdir / "checkpoints" / "best.weights.h5"
        self.history_file = workdir / "history.csv"
        self.rows: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best_value = -np.inf
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stops a training whose loss is no longer finite."""
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            raise DivergedError(
                f"The loss became {loss} in epoch {len(self.rows) + 1}, step {batch + 1}. "
                "Expected a finite loss. Lower --optimizer.learning-rate, or raise "
                "--optimizer.warmup-epochs, and give --overwrite."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Scores validation, keeps the weights if they are the best, writes history."""
        logs = {} if logs is None else logs
        trained = time.perf_counter() - self._started
        probabilities = predict_probabilities(self.classifier, self.batches)
        if not np.isfinite(probabilities).all():
            raise DivergedError(
                f"The model's outputs are no longer finite after epoch "
                f"{len(self.rows) + 1}. Lower --optimizer.learning-rate, and "
                "give --overwrite."
            )
        for name, metric in METRICS.items():
            logs[f"val_{name}"] = float(metric(self.labels, probabilities))
        self.rows.append(
            {"epoch": len(self.rows) + 1, "seconds": round(trained, 2), **logs}
        )
        write_text(self.history_file, pd.DataFrame(self.rows).to_csv(index=False))
        if logs[f"val_{self.monitor}"] > self.best_value:
            self.best_value = logs[f"val_{self.monitor}"]
            self.best_epoch = len(self.rows)
            with replacing(self.checkpoint) as temporary:
                self.classifier.save_weights(temporary)


def epoch_callbacks(
    validation: Validation, optimizer: keras.optimizers.Optimizer, logs: Path
) -> list[Any]:
    """Returns the callbacks of one phase, in the order in which they must run."""
    callbacks: list[Any] = [
        validation,
        keras.callbacks.TensorBoard(logs, write_graph=False),
    ]
    if optimizer.use_ema:
        # Before the validation, so that the average is what is scored and kept.
        callbacks.insert(0, keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    return callbacks
