from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit, logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as reference_log_loss

from skincnn.metrics.bootstrap import bootstrap
from skincnn.metrics.calibration import (
    BANDS,
    CALIBRATION_SCORES,
    CalibrationMap,
    find_bands,
    fit_calibration,
    reliability,
    reliability_curve,
)
from skincnn.metrics.classification import ece, log_loss
from skincnn.metrics.sample import Sample

BIAS = (0.5, -1.0, 0.0, 1.5, -1.0)


def draw(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels, and probabilities that a map with `BIAS` calibrates."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 5))
    probabilities = softmax(logits, axis=1)
    y_true = (probabilities.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return y_true, softmax((logits - np.array(BIAS)) * temperature, axis=1)


def make_target(seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Returns whether each image is positive, and miscalibrated probabilities."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-2, 2, count)
    return rng.random(count) < expit(0.6 * log_odds - 0.5), expit(log_odds)


def score_target(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    sample = Sample(positive.astype(int), np.stack([1 - score, score], axis=1), weights)
    return {name: function(sample) for name, function in CALIBRATION_SCORES.items()}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_fit_recovers_the_map(temperature: float) -> None:
    y_true, y_prob = draw(temperature)
    fitted = fit_calibration(y_true, y_prob)
    assert fitted.temperature == pytest.approx(temperature, rel=0.03)
    np.testing.assert_allclose(fitted.bias, BIAS, atol=0.05)
    calibrated = fitted.apply(y_prob)
    assert ece(Sample(y_true, calibrated)) < 0.02
    assert log_loss(Sample(y_true, calibrated)) < log_loss(Sample(y_true, y_prob))
    np.testing.assert_allclose(fitted.undo(calibrated), y_prob, atol=1e-9)


def test_no_other_map_has_a_smaller_loss() -> None:
    y_true, y_prob = draw(2.0, 60)

    def loss(parameters: np.ndarray) -> float:
        logits = np.log(y_prob) * np.exp(parameters[0]) + parameters[1:]
        value = 60 * reference_log_loss(y_true, softmax(logits, axis=1), labels=range(5))
        return float(value + (parameters**2).sum() / 2)

    best = scipy.optimize.minimize(loss, np.zeros(6), options={"gtol": 1e-6})
    fitted = fit_calibration(y_true, y_prob)
    assert -np.log(fitted.temperature) == pytest.approx(best.x[0], abs=1e-4)
    np.testing.assert_allclose(fitted.bias, best.x[1:], atol=1e-4)


@pytest.mark.parametrize("count", [1, 5, 100, 5000])
def test_calibrated_counts_are_the_observed_counts_up_to_the_penalty(count: int) -> None:
    """Classes 3 and 4 have no images."""
    y_true, y_prob = draw(2.0, 3 * count)
    y_true = y_true % 3
    fitted = fit_calibration(y_true, y_prob)
    expected = np.bincount(y_true, minlength=5) - np.array(fitted.bias)
    np.testing.assert_allclose(
        fitted.apply(y_prob).sum(axis=0), expected, atol=1e-3 + 1e-6 * count
    )
    assert np.isfinite([fitted.temperature, *fitted.bias]).all()
    assert max(fitted.bias[3:]) < 0


def test_without_information_the_probabilities_are_kept() -> None:
    identity = CalibrationMap(temperature=1.0, bias=(0.0,) * 3)
    certain = np.eye(3)[[0, 1, 2, 2]]
    assert fit_calibration(np.array([], int), np.ones((0, 3))) == identity
    for y_true in ([0, 1, 2, 2], [2, 2, 1, 0]):
        fitted = fit_calibration(np.array(y_true), certain)
        assert np.isfinite(fitted.apply(certain)).all()
    y_prob = draw(1.0, 50)[1][:, :3]
    y_prob /= y_prob.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(identity.apply(y_prob), y_prob, rtol=1e-9)
    flat = CalibrationMap(temperature=1e9, bias=(0.0,) * 3)
    np.testing.assert_allclose(flat.apply(y_prob), 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_slope_and_intercept_are_those_of_logistic_regressions(seed: int) -> None:
    positive, score = make_target(seed)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(400, np.full(400, 1 / 400), size=4).astype(float)
    values = score_target(positive, score, weights)
    log_odds = logit(score)
    for index, weight in enumerate(weights):
        model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
        model.fit(log_odds[:, None], positive, sample_weight=weight)
        assert values["slope"][index] == pytest.approx(model.coef_[0, 0], abs=1e-4)

        def excess(
            intercept: float, weight: np.ndarray = weight, positive: np.ndarray = positive
        ) -> float:
            return float(weight @ (expit(log_odds + intercept) - positive))

        intercept = scipy.optimize.brentq(excess, -10, 10)
        assert values["intercept"][index] == pytest.approx(intercept, abs=1e-6)
        ratio = weight[positive].sum() / (weight * score).sum()
        assert values["observed_expected"][index] == pytest.approx(ratio)


def test_a_target_is_calibrated_by_its_own_slope_and_intercept() -> None:
    positive, score = make_target(0)
    before = score_target(positive, score)
    assert before["slope"] < 0.8
    assert before["intercept"] < 0
    log_odds = logit(score)
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    model.fit(log_odds[:, None], positive)
    after = score_target(positive, model.predict_proba(log_odds[:, None])[:, 1])
    assert after["slope"] == pytest.approx(1, abs=1e-4)
    assert after["intercept"] == pytest.approx(0, abs=1e-4)
    assert after["observed_expected"] == pytest.approx(1, abs=1e-4)


def test_scores_without_a_solution_are_undefined() -> None:
    score = np.array([0.1, 0.2, 0.7, 0.9])
    for positive in (np.zeros(4, bool), np.ones(4, bool)):
        values = score_target(positive, score)
        assert np.isnan([values["slope"], values["intercept"]]).all()
    assert np.isnan(score_target(np.zeros(4, bool), score)["observed_expected"])
    separated = score_target(np.array([False, False, True, True]), score)
    assert np.isnan(separated["slope"])
    assert np.isfinite(separated["intercept"])
    constant = score_target(np.array([True, False, True, False]), np.full(4, 0.3))
    assert np.isnan(constant["slope"])
    assert constant["intercept"] == pytest.approx(-logit(0.3))


def test_the_reliability_curve_matches_a_loop() -> None:
    positive, score = make_target(1)
    score[:3] = 0.02, 0.8, 1.0
    weights = np.random.default_rng(1).integers(0, 3, (5, 400)).astype(float)
    two_classes = np.stack([1 - score, score], axis=1)
    functions = {"curve": reliability_curve}
    curves = bootstrap(functions, positive.astype(int), two_classes, weights)["curve"]
    for row, weight in zip(curves, [np.ones(400), *weights], strict=True):
        for band, share in enumerate(row):
            low, high = BANDS[band : band + 2]
            inside = [low <= p < high or p == high == 1 for p in score]
            assert (find_bands(score) == band).tolist() == inside
            expected = np.average(positive[inside], weights=weight[inside])
            assert share == pytest.approx(expected)
    empty = Sample(np.array([1]), np.array([[0.5, 0.5]]))
    assert np.isnan(reliability_curve(empty)).sum() == len(BANDS) - 2


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
