from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as reference

from skincnn.inference.logit_adjustment import STRENGTHS, adjust, choose_strength

RNG = np.random.default_rng(0)
PRIORS = np.array([0.7, 0.2, 0.1])


def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels drawn with `PRIORS`, and their posterior given noisy observations."""
    labels = RNG.choice(3, count, p=PRIORS)
    observed = RNG.normal(np.eye(3)[labels], 1.0)
    likelihood = np.exp(-0.5 * ((observed[:, None] - np.eye(3)) ** 2).sum(axis=2))
    posterior = likelihood * PRIORS
    return labels, posterior / posterior.sum(axis=1, keepdims=True)


def test_adjusting_divides_by_powers_of_the_priors() -> None:
    _, y_prob = draw(50)
    for strength in (-0.5, 0.3, 1.0):
        expected = y_prob / PRIORS**strength
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(adjust(y_prob, PRIORS, strength), expected, atol=1e-9)
    np.testing.assert_allclose(adjust(y_prob, PRIORS, 0), y_prob, atol=1e-12)
    # Equal priors change nothing.
    np.testing.assert_allclose(adjust(y_prob, np.full(3, 1 / 3), 1), y_prob, atol=1e-12)


def test_calibrated_probabilities_need_strength_1() -> None:
    labels, y_prob = draw(40_000)
    assert choose_strength(labels, y_prob, PRIORS) == pytest.approx(1, abs=0.25)
    # A model that was trained with class balancing needs no adjustment.
    balanced = adjust(y_prob, PRIORS, 1)
    assert choose_strength(labels, balanced, PRIORS) == pytest.approx(0, abs=0.25)


def test_the_chosen_strength_is_the_best_and_on_ties_the_closest_to_0() -> None:
    labels, y_prob = draw(300)
    chosen = choose_strength(labels, y_prob, PRIORS)
    scores = {
        strength: reference.balanced_accuracy_score(
            labels, adjust(y_prob, PRIORS, strength).argmax(axis=1)
        )
        for strength in STRENGTHS
    }
    best = max(scores.values())
    assert scores[chosen] == pytest.approx(best)
    assert abs(chosen) == min(abs(s) for s, score in scores.items() if best - score < 1e-12)
    confident = softmax(20 * np.eye(3)[labels], axis=1)
    assert choose_strength(labels, confident, PRIORS) == pytest.approx(0, abs=1e-9)
