from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from skincnn.metrics.calibration import (
    apply_temperature,
    fit_temperature,
    reliability,
)
from skincnn.metrics.classification import Sample, ece, log_loss


def draw(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Labels that follow the softmax of some logits, and that of the logits times T."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 5))
    chances = softmax(logits, axis=1)
    y_true = (chances.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return y_true, softmax(logits * temperature, axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    y_true, y_prob = draw(temperature)
    found = fit_temperature(y_true, y_prob)
    assert found == pytest.approx(temperature, rel=0.03)
    calibrated = apply_temperature(y_prob, found)
    np.testing.assert_array_equal(calibrated.argmax(axis=1), y_prob.argmax(axis=1))
    assert ece(Sample(y_true, calibrated)) < 0.02
    assert log_loss(Sample(y_true, calibrated)) <= log_loss(Sample(y_true, y_prob))


def test_temperature_one_changes_nothing_and_large_ones_level() -> None:
    _, y_prob = draw(1.0, 50)
    np.testing.assert_allclose(apply_temperature(y_prob, 1.0), y_prob, rtol=1e-9)
    np.testing.assert_allclose(apply_temperature(y_prob, 1e9), 0.2, rtol=1e-6)
    certain = np.array([[1.0, 0.0, 0.0]], np.float32)
    assert np.isfinite(apply_temperature(certain, 2.0)).all()


def test_reliability_agrees_with_scikit_learn() -> None:
    y_true, y_prob = draw(2.0, 2000)
    rows = reliability(y_true, y_prob)
    assert rows["num_images"].sum() == 2000
    right, confidence = y_prob.argmax(axis=1) == y_true, y_prob.max(axis=1)
    expected = calibration_curve(right, confidence, n_bins=15)
    filled = rows[rows["num_images"] > 0]
    np.testing.assert_allclose(filled["accuracy"], expected[0])
    np.testing.assert_allclose(filled["confidence"], expected[1])
    gaps = (filled["accuracy"] - filled["confidence"]).abs() * filled["num_images"]
    assert gaps.sum() / 2000 == pytest.approx(float(ece(Sample(y_true, y_prob))))
