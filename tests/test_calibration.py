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
from skincnn.metrics.classification import ece, log_loss
from skincnn.metrics.sample import Sample


def draw(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels drawn from the softmax of logits, and the softmax of logits * T."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 5))
    probabilities = softmax(logits, axis=1)
    y_true = (probabilities.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return y_true, softmax(logits * temperature, axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fit_recovers_the_temperature(temperature: float) -> None:
    y_true, y_prob = draw(temperature)
    fitted = fit_temperature(y_true, y_prob)
    assert fitted == pytest.approx(temperature, rel=0.03)
    calibrated = apply_temperature(y_prob, fitted)
    np.testing.assert_array_equal(calibrated.argmax(axis=1), y_prob.argmax(axis=1))
    assert ece(Sample(y_true, calibrated)) < 0.02
    assert log_loss(Sample(y_true, calibrated)) <= log_loss(Sample(y_true, y_prob))


def test_temperature_1_is_the_identity_and_large_ones_give_uniform_probabilities() -> None:
    _, y_prob = draw(1.0, 50)
    np.testing.assert_allclose(apply_temperature(y_prob, 1.0), y_prob, rtol=1e-9)
    np.testing.assert_allclose(apply_temperature(y_prob, 1e9), 0.2, rtol=1e-6)
    one_hot = np.array([[1.0, 0.0, 0.0]], np.float32)
    assert np.isfinite(apply_temperature(one_hot, 2.0)).all()


def test_reliability_matches_scikit_learn() -> None:
    y_true, y_prob = draw(2.0, 2000)
    diagram = reliability(y_true, y_prob)
    assert diagram["num_images"].sum() == 2000
    correct, confidence = y_prob.argmax(axis=1) == y_true, y_prob.max(axis=1)
    expected = calibration_curve(correct, confidence, n_bins=15)
    not_empty = diagram["num_images"] > 0
    np.testing.assert_allclose(diagram["accuracy"][not_empty], expected[0])
    np.testing.assert_allclose(diagram["confidence"][not_empty], expected[1])
    gaps = np.abs(diagram["accuracy"] - diagram["confidence"]) * diagram["num_images"]
    assert np.nansum(gaps) / 2000 == pytest.approx(float(ece(Sample(y_true, y_prob))))
