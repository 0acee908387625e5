from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from skincnn.metrics.operating_points import (
    OPERATING_POINTS,
    OperatingPoint,
    choose_threshold,
    decision_curve,
    find_targets,
    rates,
    score_operating_point,
)


def draw(seed: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.3
    return positive, np.round(np.clip(rng.normal(0.4 + 0.2 * positive, 0.2), 0, 1), 2)


@pytest.mark.parametrize("point", OPERATING_POINTS)
@pytest.mark.parametrize("seed", range(4))
def test_a_threshold_keeps_its_promise_at_the_least_cost(
    point: OperatingPoint, seed: int
) -> None:
    positive, score = draw(seed)
    threshold = choose_threshold(positive, score, point)
    assert threshold is not None

    def measure(limit: float) -> tuple[float, float]:
        called = score >= limit
        recall = reference.recall_score
        values = recall(positive, called), recall(~positive, ~called)
        return values if point.held == "sensitivity" else values[::-1]

    held, other = measure(threshold)
    assert held >= point.at_least
    # No other threshold does both.
    for limit in (*np.unique(score), 1.1):
        candidate = measure(limit)
        assert candidate[0] < point.at_least or candidate[1] <= other


def test_what_no_threshold_can_do_is_none() -> None:
    point = OperatingPoint("specificity", 0.9)
    assert choose_threshold(np.array([True, True]), np.array([0.1, 0.2]), point) is None
    assert choose_threshold(np.array([True, False]), np.array([0.5, 0.5]), point) is None


def test_rates_agree_with_scikit_learn_and_count_by_weight() -> None:
    positive, score = draw(0)
    weights = np.random.default_rng(0).integers(0, 3, (2, 200)).astype(float)
    values = rates(positive, score, 0.5, weights)
    called = score >= 0.5
    for row, weight in enumerate(weights):
        for name, truth, answer in (
            ("sensitivity", positive, called),
            ("specificity", ~positive, ~called),
        ):
            expected = reference.recall_score(truth, answer, sample_weight=weight)
            assert values[name][row] == pytest.approx(expected)
        for name, truth, answer in (("ppv", positive, called), ("npv", ~positive, ~called)):
            expected = reference.precision_score(truth, answer, sample_weight=weight)
            assert values[name][row] == pytest.approx(expected)


def test_a_rate_of_nothing_is_none() -> None:
    positive, score = np.zeros(5, bool), np.linspace(0, 0.4, 5)
    found = score_operating_point(positive, score, 0.5, np.ones((20, 5)))
    assert found["sensitivity"].value is None
    assert found["ppv"].value is None
    assert found["specificity"].value == found["npv"].value == 1


def test_targets_are_those_that_the_classes_have() -> None:
    ham = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    melanoma, malignant = find_targets(ham).values()
    assert (melanoma.name, melanoma.classes) == ("melanoma", (4,))
    assert (malignant.name, malignant.classes) == ("malignant", (0, 1, 4))
    y_prob = np.random.default_rng(0).dirichlet(np.ones(7), 5)
    np.testing.assert_allclose(
        malignant.score(y_prob), y_prob[:, 0] + y_prob[:, 1] + y_prob[:, 4]
    )
    assert list(find_targets(["benign", "malignant"])) == ["malignant"]
    assert find_targets(["cats", "dogs"]) == {}


def test_the_net_benefit_is_its_formula() -> None:
    positive, score = draw(3)
    curve = decision_curve(positive, score).set_index("threshold")
    for threshold in (0.05, 0.3, 0.5):
        called = score >= threshold
        odds = threshold / (1 - threshold)
        for name, acted in (("model", called), ("all", np.ones(200, bool))):
            gained = np.sum(acted & positive) / 200
            lost = np.sum(acted & ~positive) / 200
            assert curve.loc[threshold, name] == pytest.approx(gained - odds * lost)
    # A perfect model gains what there is to gain, at every threshold.
    perfect = decision_curve(positive, positive.astype(float))
    np.testing.assert_allclose(perfect["model"], positive.mean())
