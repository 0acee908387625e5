from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from skincnn.inference.logit_adjustment import STRENGTHS, adjust, choose_strength
from skincnn.metrics.calibration import apply_temperature

RNG = np.random.default_rng(0)
SHARES = np.array([0.7, 0.2, 0.1])


def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels by `SHARES`, and the true probabilities of each given what is seen."""
    labels = RNG.choice(3, count, p=SHARES)
    seen = RNG.normal(np.eye(3)[labels], 1.0)
    likelihood = np.exp(-0.5 * ((seen[:, None] - np.eye(3)) ** 2).sum(axis=2))
    posterior = likelihood * SHARES
    return labels, posterior / posterior.sum(axis=1, keepdims=True)


def test_it_divides_by_powers_of_the_shares() -> None:
    _, y_prob = draw(50)
    for strength in (-0.5, 0.3, 1.0):
        expected = y_prob / SHARES**strength
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(adjust(y_prob, SHARES, strength), expected, atol=1e-9)
    np.testing.assert_allclose(adjust(y_prob, SHARES, 0), y_prob, atol=1e-12)
    # Classes of equal shares stay as they are.
    np.testing.assert_allclose(adjust(y_prob, np.full(3, 1 / 3), 1), y_prob, atol=1e-12)


def test_right_probabilities_need_the_full_strength() -> None:
    labels, y_prob = draw(40_000)
    assert choose_strength(labels, y_prob, SHARES) == pytest.approx(1, abs=0.25)
    # Of a training that has already balanced the classes, none is needed.
    balanced = adjust(y_prob, SHARES, 1)
    assert choose_strength(labels, balanced, SHARES) == pytest.approx(0, abs=0.25)


def test_the_best_of_validation_is_chosen_and_the_mildest_of_several() -> None:
    labels, y_prob = draw(300)
    found = choose_strength(labels, y_prob, SHARES)
    scores = {
        strength: reference.balanced_accuracy_score(
            labels, adjust(y_prob, SHARES, strength).argmax(axis=1)
        )
        for strength in STRENGTHS
    }
    best = max(scores.values())
    assert scores[found] == pytest.approx(best)
    assert abs(found) == min(abs(s) for s, score in scores.items() if best - score < 1e-12)
    sure = apply_temperature(np.eye(3)[labels], 0.05)
    assert choose_strength(labels, sure, SHARES) == pytest.approx(0, abs=1e-9)
