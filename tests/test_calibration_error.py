"""The root mean square calibration error and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from skincnn.metrics.bootstrap import Estimate, bootstrap, bootstrap_weights
from skincnn.metrics.calibration_error import calibration_gaps, rms_calibration_error
from skincnn.metrics.sample import Sample


def draw(seed: int, count: int, excess: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and probabilities; the confidence is too high by `excess`."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.6, 0.9, count)
    y_true = (rng.random(count) >= confidence - excess).astype(int)
    return y_true, np.stack([confidence, 1 - confidence], axis=1)


def error_of(y_true: np.ndarray, y_prob: np.ndarray, num_resamples: int = 300) -> Estimate:
    """Returns the error of images that are all of different lesions."""
    names = [f"{number:06d}" for number in range(len(y_true))]
    weights = bootstrap_weights(names, names, num_resamples)
    values = bootstrap({"": calibration_gaps}, y_true, y_prob, weights)[""]
    return rms_calibration_error(values, len(y_true))


def test_the_gaps_are_those_of_bins_of_equal_size() -> None:
    y_true, y_prob = draw(0, 300, 0.1)
    gaps = calibration_gaps(Sample(y_true, y_prob))
    order = np.argsort(y_prob[:, 0])
    expected = [
        (y_prob[rows, 0].mean() - (y_true[rows] == 0).mean()) / np.sqrt(15)
        for rows in np.split(order, 15)
    ]
    np.testing.assert_allclose(gaps, expected)


def test_the_bias_is_that_of_the_formula_for_independent_images() -> None:
    """Kumar, Liang and Ma (2019): subtract the variance of the mean of each bin."""
    y_true, y_prob = draw(1, 600, 0.15)
    differences = y_prob[:, 0] - (y_true == 0)
    square = np.mean(
        [
            differences[rows].mean() ** 2 - differences[rows].var(ddof=1) / len(rows)
            for rows in np.split(np.argsort(y_prob[:, 0]), 15)
        ]
    )
    value = error_of(y_true, y_prob, 3000).value
    assert value == pytest.approx(np.sqrt(square), rel=0.02)


@pytest.mark.parametrize("excess", [0.0, 0.03, 0.15])
def test_the_interval_contains_the_true_error(excess: float) -> None:
    """Percentile intervals of the uncorrected error never contain an error of 0."""
    errors = [error_of(*draw(seed, 300, excess)) for seed in range(60)]
    covered = [error.low <= excess <= error.high for error in errors]
    assert np.mean(covered) >= 0.87  # three standard errors below .95
    if excess:
        assert np.mean([error.value for error in errors]) == pytest.approx(excess, abs=0.02)
        assert np.mean([error.high < excess + 0.1 for error in errors]) > 0.5
    assert all(error.high > 0 for error in errors)


def test_few_groups_have_no_error() -> None:
    values = np.zeros((101, 15))
    assert rms_calibration_error(values, 59) == Estimate(None, None, None)
    assert rms_calibration_error(values, 60) == Estimate(0.0, 0.0, 0.0)
