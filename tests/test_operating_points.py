from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from skincnn.classes import LesionClass
from skincnn.errors import ConfigError
from skincnn.metrics.operating_points import (
    OPERATING_POINTS,
    OperatingPoint,
    choose_threshold,
    choose_thresholds,
    decision_curve,
    find_targets,
    parse_operating_point,
    rates,
)


def draw(seed: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.3
    return positive, np.round(np.clip(rng.normal(0.4 + 0.2 * positive, 0.2), 0, 1), 2)


@pytest.mark.parametrize("point", OPERATING_POINTS)
@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_reaches_the_minimum_and_maximizes_the_other_metric(
    point: OperatingPoint, seed: int
) -> None:
    positive, score = draw(seed)
    threshold = choose_threshold(positive, score, point)
    assert threshold is not None

    def measure(limit: float) -> tuple[float, float]:
        predicted = score >= limit
        recall = reference.recall_score
        values = recall(positive, predicted), recall(~positive, ~predicted)
        return values if point.metric == "sensitivity" else values[::-1]

    constrained, other = measure(threshold)
    assert constrained >= point.minimum
    # No other threshold is better.
    for limit in (*np.unique(score), 1.1):
        candidate = measure(limit)
        assert candidate[0] < point.minimum or candidate[1] <= other


def test_operating_points_are_parsed_from_their_keys() -> None:
    for point in OPERATING_POINTS:
        assert parse_operating_point(point.key) == point
    point = parse_operating_point("sensitivity=0.90")
    assert (point.key, point.text) == ("sensitivity=0.90", "90 % sensitivity")
    message = r"one of: specificity=0\.90, .*Received: 'sensitivity=0\.5'"
    with pytest.raises(ConfigError, match=message):
        parse_operating_point("sensitivity=0.5")


def test_an_unreachable_operating_point_has_no_threshold() -> None:
    point = OperatingPoint("specificity", 0.9)
    assert choose_threshold(np.array([True, True]), np.array([0.1, 0.2]), point) is None
    assert choose_threshold(np.array([True, False]), np.array([0.5, 0.5]), point) is None


def test_weighted_rates_match_scikit_learn() -> None:
    positive, score = draw(0)
    weights = np.random.default_rng(0).integers(0, 3, (2, 200)).astype(float)
    values = rates(positive, score, 0.5, weights)
    predicted = score >= 0.5
    for row, weight in enumerate(weights):
        for name, function, label in (
            ("sensitivity", reference.recall_score, True),
            ("specificity", reference.recall_score, False),
            ("ppv", reference.precision_score, True),
            ("npv", reference.precision_score, False),
        ):
            expected = function(positive, predicted, pos_label=label, sample_weight=weight)
            assert values[name][row] == pytest.approx(expected)


def test_a_rate_with_denominator_0_is_nan() -> None:
    values = rates(np.zeros(5, bool), np.linspace(0, 0.4, 5), 0.5, np.ones((1, 5)))
    assert {name: value for name, [value] in values.items()} == pytest.approx(
        {"sensitivity": np.nan, "specificity": 1, "ppv": np.nan, "npv": 1}, nan_ok=True
    )


def test_targets_depend_on_the_classes() -> None:
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
    # The malignancy of every class must be known, and one class must be benign.
    assert list(find_targets(["mel", "wart"])) == ["melanoma"]
    assert list(find_targets(["mel", "bcc"])) == ["melanoma"]
    declared = {"wart": LesionClass("wart", "viral wart", False)}
    assert list(find_targets(["mel", "wart"], declared)) == ["melanoma", "malignant"]


def test_net_benefit_matches_its_formula() -> None:
    positive, score = draw(3)
    curve = decision_curve(positive, score)
    for index in (4, 29, 49):
        threshold = curve["threshold"][index]
        predicted = score >= threshold
        odds = threshold / (1 - threshold)
        for name, treated in (("model", predicted), ("all", np.ones(200, bool))):
            benefit = np.sum(treated & positive) / 200
            harm = np.sum(treated & ~positive) / 200
            assert curve[name][index] == pytest.approx(benefit - odds * harm)
    # At every threshold, the net benefit of a perfect model is the prevalence.
    perfect = decision_curve(positive, positive.astype(float))
    np.testing.assert_allclose(perfect["model"], positive.mean())


@pytest.mark.parametrize("point", OPERATING_POINTS)
def test_thresholds_of_resamples_are_those_of_repeated_images(
    point: OperatingPoint,
) -> None:
    positive, score = draw(0)
    weights = np.random.default_rng(1).multinomial(200, np.full(200, 1 / 200), size=20)
    thresholds = choose_thresholds(positive, score, point, weights.astype(float))
    table = rates(positive, score, thresholds, weights.astype(float))
    for row, counts in enumerate(weights):
        repeated = np.repeat(positive, counts), np.repeat(score, counts)
        threshold = choose_threshold(*repeated, point)
        assert threshold is not None
        one = np.ones((1, 200))
        expected = rates(*repeated, threshold, one)
        for name, values in table.items():
            assert values[row] == pytest.approx(expected[name][0]), name


def test_rates_without_a_threshold_are_undefined() -> None:
    positive, score = draw(0)
    values = rates(positive, score, np.array([np.nan, 0.5]), np.ones((2, 200)))
    for name, pair in values.items():
        assert np.isnan(pair[0]), name
        assert not np.isnan(pair[1]), name
