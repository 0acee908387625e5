from __future__ import annotations

import keras
import numpy as np
import pytest

from skincnn.config import OptimizerConfig
from skincnn.training.optimizers import build_optimizer


def test_the_rate_rises_then_falls_to_a_hundredth() -> None:
    optimizer = build_optimizer(OptimizerConfig(), 1e-3, steps=100, warmup_steps=20)
    schedule = optimizer._learning_rate
    rates = np.array([float(schedule(step)) for step in range(101)])
    assert rates[0] == pytest.approx(1e-4)
    assert rates[20] == pytest.approx(1e-3)
    assert rates.argmax() == 20
    assert rates[100] == pytest.approx(1e-5)
    # Half way between, a cosine stands at the mean of both ends.
    assert rates[60] == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-3)


def test_without_warm_up_the_rate_starts_at_the_top() -> None:
    optimizer = build_optimizer(OptimizerConfig(), 1e-3, steps=10, warmup_steps=0)
    assert float(optimizer._learning_rate(0)) == pytest.approx(1e-3)


def test_biases_and_norms_are_spared_from_weight_decay() -> None:
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0.1), 1.0, 10, 0)
    optimizer.build(model.trainable_variables)
    before = {v.path: np.asarray(v.value) for v in model.trainable_variables}
    optimizer.apply([np.zeros(v.shape, "float32") for v in model.trainable_variables])
    for variable in model.trainable_variables:
        factor = 0.9 if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(
            np.asarray(variable.value), factor * before[variable.path], rtol=1e-5
        )


def test_the_average_of_the_weights_is_asked_for_by_its_momentum() -> None:
    assert not build_optimizer(OptimizerConfig(ema=0.0), 1.0, 10, 0).use_ema
    assert build_optimizer(OptimizerConfig(ema=0.9), 1.0, 10, 0).ema_momentum == 0.9
