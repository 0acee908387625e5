"""Seeds and determinism are set inside a block and restored after it."""

from __future__ import annotations

import random

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import config as framework_config

from skincnn.config import ModelConfig
from skincnn.model.classifier import build_classifier
from skincnn.model.reproducibility import deterministic_ops, seeded


def draw() -> list[float]:
    return [
        random.random(),
        float(np.random.random()),
        float(tf.random.uniform(())),
        float(keras.random.uniform(())),
    ]


def test_the_same_seed_draws_the_same_numbers() -> None:
    numbers = []
    for seed in (1, 1, 2):
        with seeded(seed):
            numbers.append(draw())
    assert numbers[0] == numbers[1]
    assert all(a != b for a, b in zip(numbers[0], numbers[2], strict=True))


def test_seeds_are_restored() -> None:
    with seeded(1):
        draw()
        expected = random.random(), np.random.random(), tf.random.uniform(()).shape
    with seeded(1):
        draw()
        with seeded(2):
            draw()
        build_classifier(ModelConfig(backbone="small_cnn", weights="none"), 7, seed=3)
        assert (random.random(), np.random.random()) == expected[:2]


def test_determinism_is_restored() -> None:
    enabled = framework_config.is_op_determinism_enabled
    assert not enabled()
    with deterministic_ops():
        assert enabled()
        with deterministic_ops(), deterministic_ops(False):
            assert enabled()
        assert enabled()
    assert not enabled()
    with deterministic_ops(False):
        assert not enabled()
