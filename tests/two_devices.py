"""Trains on two logical CPUs, which must be configured before TensorFlow starts.

`test_devices.py` runs it in a separate process; it exits with 0 if the results are equal.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import numpy as np  # noqa: E402
from test_resume import CONFIG, train_with_interruptions  # noqa: E402

from skincnn.config import AugmentConfig, Config, OptimizerConfig, TrainConfig  # noqa: E402

PLAIN = dataclasses.replace(
    CONFIG,
    augment=AugmentConfig(parts=()),
    # Dropout and batch statistics differ between two halves of a batch.
    model=dataclasses.replace(
        CONFIG.model, dropout=0.0, batch_norm="frozen_statistics", batch_norm_momentum=0.9
    ),
    optimizer=OptimizerConfig(
        name="sgd", ema_momentum=0.5, clip_norm=0.05, layer_decay=0.9
    ),
)


def on_devices(config: Config, devices: int) -> Config:
    train = TrainConfig(scenario="from_scratch", epochs=2, devices=devices)
    return dataclasses.replace(config, train=train)


def main(workdir: Path, data_dir: Path) -> None:
    one, two = (
        train_with_interruptions(
            on_devices(PLAIN, devices), workdir / f"{devices}", data_dir, []
        )
        for devices in (1, 2)
    )
    for row, other in zip(one[0].history, two[0].history, strict=True):
        np.testing.assert_allclose(row["loss"], other["loss"], rtol=1e-5)
    for group in ("model", "optimizer"):
        for value, other in zip(one[1][group], two[1][group], strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-3, atol=1e-5, err_msg=group)

    whole, pieces = (
        train_with_interruptions(on_devices(CONFIG, 2), workdir / name, data_dir, stops)
        for name, stops in (("whole", []), ("pieces", [3]))
    )
    for value, other in zip(whole[1]["optimizer"], pieces[1]["optimizer"], strict=True):
        np.testing.assert_array_equal(value, other)
    # A checkpoint holds the mean of the BatchNorm statistics of the devices.
    for value, other in zip(whole[1]["model"], pieces[1]["model"], strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
