from __future__ import annotations

import numpy as np
import pytest

from skincnn.evaluation.intervals import bootstrap_interval, lesion_weights
from skincnn.evaluation.metrics import accuracy, balanced_accuracy, recall_per_class


def test_a_resample_takes_whole_lesions_as_many_as_there_are() -> None:
    lesions = ["a", "b", "a", "c", "b", "a"]
    weights = lesion_weights(lesions, 500, seed=0)
    assert weights.shape == (500, 6)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 0], weights[:, 5])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)
    np.testing.assert_array_equal(weights, lesion_weights(lesions, 500, seed=0))


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    y_true = np.repeat([0, 1], [300, 100])
    y_prob = np.tile([1.0, 0.0], (400, 1))  # right in 300 of 400
    weights = lesion_weights([f"l{i}" for i in range(400)], 4000, seed=0)
    low, high = bootstrap_interval(accuracy, y_true, y_prob, weights)
    error = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert float(low) == pytest.approx(0.75 - error, abs=0.006)
    assert float(high) == pytest.approx(0.75 + error, abs=0.006)


def test_pictures_of_one_lesion_count_as_one_observation() -> None:
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(100) < 0.7, 4)  # four views of each lesion agree
    y_true = np.zeros(400, int)
    y_prob = np.stack([right, ~right], axis=1).astype(float)
    grouped = lesion_weights([f"l{i // 4}" for i in range(400)], 2000, seed=0)
    single = lesion_weights([f"l{i}" for i in range(400)], 2000, seed=0)
    widths = [
        np.diff(bootstrap_interval(accuracy, y_true, y_prob, weights))[0]
        for weights in (grouped, single)
    ]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)


def test_a_class_without_pictures_is_a_stated_gap() -> None:
    y_true, y_prob = np.array([0, 0, 1]), np.eye(3)[[0, 1, 1]]
    recalls = recall_per_class(y_true, y_prob)
    np.testing.assert_allclose(recalls, [0.5, 1.0, np.nan])
    assert float(balanced_accuracy(y_true, y_prob)) == pytest.approx(0.75)
