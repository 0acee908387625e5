from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from skincnn.config import ImbalanceConfig
from skincnn.training.imbalance import STRATEGIES
from skincnn.training.losses import WeightedCrossEntropy

LABELS = np.array([0, 1, 2, 2])
LOGITS = np.random.default_rng(0).normal(0, 3, (4, 3)).astype("float32")


def test_weights_of_one_are_cross_entropy() -> None:
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(LABELS, LOGITS)
    assert float(WeightedCrossEntropy([1, 1, 1])(LABELS, LOGITS)) == pytest.approx(
        float(expected), rel=1e-6
    )


def test_class_weights_are_sample_weights_of_the_class() -> None:
    weights = np.array([0.5, 2.0, 7.0], np.float32)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = plain(LABELS, LOGITS, sample_weight=weights[LABELS])
    ours = WeightedCrossEntropy(weights)(LABELS[:, None], LOGITS)
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)


def test_the_loss_survives_serialisation() -> None:
    loss = WeightedCrossEntropy([0.5, 2.0, 7.0], [0.0, -1.0, 3.0])
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert float(copy(LABELS, LOGITS)) == float(loss(LABELS, LOGITS))
    assert loss.get_config()["class_weights"] == [0.5, 2.0, 7.0]
    assert loss.get_config()["logit_shift"] == [0.0, -1.0, 3.0]


def test_power_runs_from_no_weights_to_equal_classes() -> None:
    counts = np.array([10, 40, 950])
    plan = STRATEGIES["class_weights"]
    np.testing.assert_allclose(plan(counts, ImbalanceConfig(power=0.0)).class_weights, 1)
    full = plan(counts, ImbalanceConfig(power=1.0)).class_weights * counts
    np.testing.assert_allclose(full, full[0], rtol=1e-6)
    root = plan(counts, ImbalanceConfig(power=0.5)).class_weights
    assert root[0] / root[1] == pytest.approx(2, rel=1e-6)


def test_logit_adjustment_of_equal_classes_changes_nothing() -> None:
    plan = STRATEGIES["logit_adjusted"](np.array([50, 50, 50]), ImbalanceConfig(power=1.0))
    adjusted = WeightedCrossEntropy(plan.class_weights, plan.logit_shift)(LABELS, LOGITS)
    plain = WeightedCrossEntropy([1, 1, 1])(LABELS, LOGITS)
    assert float(adjusted) == pytest.approx(float(plain), rel=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_what_cannot_be_told_apart_is_balanced_by_logit_adjustment(power: float) -> None:
    """Where pictures tell nothing, the best probabilities are share ** (1 - power)."""
    counts = np.array([10, 40, 950])
    plan = STRATEGIES["logit_adjusted"](counts, ImbalanceConfig(power=power))
    labels = np.repeat(np.arange(3), counts)
    loss = WeightedCrossEntropy(plan.class_weights, plan.logit_shift)
    best = (1 - power) * np.log(counts / counts.sum())
    logits = tf.Variable(np.tile(best, (len(labels), 1)).astype("float32"))
    with tf.GradientTape() as tape:
        value = loss(labels, logits)
    # All pictures share their logits, so their gradients add up.
    total = np.asarray(tape.gradient(value, logits)).sum(axis=0)
    np.testing.assert_allclose(total, 0, atol=1e-6)
