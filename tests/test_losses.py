from __future__ import annotations

import keras
import numpy as np
import pytest

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
    loss = WeightedCrossEntropy([0.5, 2.0, 7.0])
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert float(copy(LABELS, LOGITS)) == float(loss(LABELS, LOGITS))
    assert loss.get_config()["class_weights"] == [0.5, 2.0, 7.0]


def test_power_runs_from_no_weights_to_equal_classes() -> None:
    counts = np.array([10, 40, 950])
    plan = STRATEGIES["class_weights"]
    np.testing.assert_allclose(plan(counts, ImbalanceConfig(power=0.0)).class_weights, 1)
    full = plan(counts, ImbalanceConfig(power=1.0)).class_weights * counts
    np.testing.assert_allclose(full, full[0], rtol=1e-6)
    root = plan(counts, ImbalanceConfig(power=0.5)).class_weights
    assert root[0] / root[1] == pytest.approx(2, rel=1e-6)
