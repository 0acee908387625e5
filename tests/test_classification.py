"""Metrics, compared with scikit-learn, slow reference implementations and identities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn import metrics as reference

from skincnn.metrics.classification import (
    HIGH_SENSITIVITY,
    METRICS,
    PER_CLASS_METRICS,
    auc_above_80_sensitivity_per_class,
    isic_score,
)
from skincnn.metrics.sample import Sample, roc_points

SEEDS = range(4)
REFERENCES = {
    "balanced_accuracy": lambda y, p: reference.balanced_accuracy_score(y, p.argmax(1)),
    "accuracy": lambda y, p: reference.accuracy_score(y, p.argmax(1)),
    "macro_f1": lambda y, p: reference.f1_score(y, p.argmax(1), average="macro"),
    "weighted_f1": lambda y, p: reference.f1_score(y, p.argmax(1), average="weighted"),
    "macro_precision": lambda y, p: reference.precision_score(
        y, p.argmax(1), average="macro", zero_division=0
    ),
    "weighted_precision": lambda y, p: reference.precision_score(
        y, p.argmax(1), average="weighted", zero_division=0
    ),
    "macro_auc": lambda y, p: reference.roc_auc_score(y, p, multi_class="ovr"),
    "macro_average_precision": lambda y, p: reference.average_precision_score(y, p),
    "log_loss": reference.log_loss,
    "brier": lambda y, p: reference.brier_score_loss(y, p, scale_by_half=False),
}
PER_CLASS_REFERENCES = {
    "recall": lambda y, p, c: reference.recall_score(y == c, p.argmax(1) == c),
    "specificity": lambda y, p, c: reference.recall_score(y != c, p.argmax(1) != c),
    "precision": lambda y, p, c: reference.precision_score(
        y == c, p.argmax(1) == c, zero_division=0
    ),
    "f1": lambda y, p, c: reference.f1_score(y == c, p.argmax(1) == c),
    "auc": lambda y, p, c: reference.roc_auc_score(y == c, p[:, c]),
    "average_precision": lambda y, p, c: reference.average_precision_score(y == c, p[:, c]),
}


def draw(seed: int, num_images: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels of all classes and probabilities, some of which are equal."""
    rng = np.random.default_rng(seed)
    y_true = np.concatenate([np.arange(7), rng.integers(0, 7, num_images - 7)])
    y_prob = rng.dirichlet(np.ones(7) / 2, num_images) + 0.5 * np.eye(7)[y_true]
    y_prob = np.round(y_prob, 1) + 0.01
    return y_true, y_prob / y_prob.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("seed", SEEDS)
def test_metric_matches_scikit_learn(name: str, seed: int) -> None:
    y_true, y_prob = draw(seed)
    value = METRICS[name].function(Sample(y_true, y_prob))
    assert float(value) == pytest.approx(REFERENCES[name](y_true, y_prob), abs=1e-12)


@pytest.mark.parametrize("name", PER_CLASS_REFERENCES)
@pytest.mark.parametrize("seed", SEEDS)
def test_per_class_metric_matches_scikit_learn(name: str, seed: int) -> None:
    y_true, y_prob = draw(seed)
    values = PER_CLASS_METRICS[name](Sample(y_true, y_prob))
    expected = [PER_CLASS_REFERENCES[name](y_true, y_prob, c) for c in range(7)]
    np.testing.assert_allclose(values, expected, atol=1e-12)


def slow_area_above(positive: np.ndarray, score: np.ndarray) -> float:
    """Returns the area under the ROC curve where the sensitivity is at least 0.8."""
    false, true, _ = reference.roc_curve(positive, score, drop_intermediate=False)
    first = int(np.argmax(true >= HIGH_SENSITIVITY))
    fraction = (HIGH_SENSITIVITY - true[first - 1]) / (true[first] - true[first - 1])
    start = false[first - 1] + fraction * (false[first] - false[first - 1])
    area = reference.auc(np.append(start, false[first:]), np.append(0.8, true[first:]))
    return float(area)


@pytest.mark.parametrize("seed", SEEDS)
def test_area_above_80_sensitivity_matches_the_reference(seed: int) -> None:
    y_true, y_prob = draw(seed)
    values = auc_above_80_sensitivity_per_class(Sample(y_true, y_prob))
    expected = [slow_area_above(y_true == c, y_prob[:, c]) for c in range(7)]
    np.testing.assert_allclose(values, expected, atol=1e-12)


def slow_calibration_error(y_true: np.ndarray, y_prob: np.ndarray, bins: list) -> float:
    confidence, correct = y_prob.max(axis=1), y_prob.argmax(axis=1) == y_true
    gaps = [
        len(rows) * abs(confidence[rows].mean() - correct[rows].mean())
        for rows in bins
        if len(rows)
    ]
    return sum(gaps) / len(y_true)


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_errors_are_the_mean_gap_over_the_bins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y_true, y_prob = rng.integers(0, 7, 150), rng.dirichlet(np.ones(7) / 3, 150)
    confidence = y_prob.max(axis=1)
    edges = np.linspace(0, 1, 16)
    wide = [
        np.flatnonzero((confidence >= a) & (confidence < b))
        for a, b in itertools.pairwise(edges)
    ]
    value = METRICS["ece"].function(Sample(y_true, y_prob))
    assert float(value) == pytest.approx(slow_calibration_error(y_true, y_prob, wide))


def test_the_isic_score_counts_ties_as_errors() -> None:
    y_true = np.array([0, 0, 1, 1])
    y_prob = np.array([[0.5, 0.5], [0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    assert float(isic_score(Sample(y_true, y_prob))) == 0.5
    assert float(METRICS["balanced_accuracy"].function(Sample(y_true, y_prob))) == 0.75
    y_true, y_prob = np.arange(50) % 5, np.random.default_rng(0).dirichlet(np.ones(5), 50)
    sample = Sample(y_true, y_prob)
    assert isic_score(sample) == METRICS["balanced_accuracy"].function(sample)


@pytest.mark.parametrize("name", [*METRICS, *PER_CLASS_METRICS])
def test_weights_are_equivalent_to_repeated_images(name: str) -> None:
    functions = {n: metric.function for n, metric in METRICS.items()} | PER_CLASS_METRICS
    y_true, y_prob = draw(1)
    rng = np.random.default_rng(1)
    weights = rng.integers(1, 4, (3, 80)).astype(float)
    weights[:, 30:50] *= rng.integers(0, 2, (3, 20))
    values = functions[name](Sample(y_true, y_prob, weights))
    assert values.shape[0] == 3
    for row, value in zip(weights.astype(int), values, strict=True):
        repeated = Sample(np.repeat(y_true, row), np.repeat(y_prob, row, axis=0))
        np.testing.assert_allclose(value, functions[name](repeated))
    np.testing.assert_allclose(
        functions[name](Sample(y_true, y_prob, np.full((2, 80), 3.0))),
        np.stack([functions[name](Sample(y_true, y_prob))] * 2),
    )


@pytest.mark.parametrize("name", METRICS)
def test_perfect_predictions_have_the_best_value(name: str) -> None:
    y_true = np.arange(21) % 7
    metric = METRICS[name]
    best = float(metric.function(Sample(y_true, np.eye(7)[y_true])))
    assert best == pytest.approx(1 if metric.higher_is_better else 0, abs=1e-12)
    worse = float(metric.function(Sample(y_true, np.eye(7)[(y_true + 1) % 7])))
    assert metric.is_better(best, worse)
    assert not metric.is_better(best, best)
    assert metric.is_better(worse, math.nan)
    assert not metric.is_better(math.nan, worse)
    assert not metric.is_better(math.nan, math.nan)


def test_a_class_without_images_is_nan_and_left_out_of_means() -> None:
    y_true = np.array([0, 0, 1, 1])
    y_prob = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1]])
    sample = Sample(y_true, y_prob)
    for function in PER_CLASS_METRICS.values():
        np.testing.assert_array_equal(np.isnan(function(sample)), [False, False, True])
    assert float(METRICS["balanced_accuracy"].function(sample)) == 0.75
    # The value is that of scikit-learn for the classes that have images.
    expected = reference.f1_score(y_true, y_prob.argmax(1), labels=[0, 1], average="macro")
    assert float(METRICS["macro_f1"].function(sample)) == pytest.approx(expected)


def test_a_class_that_is_never_predicted_has_precision_0() -> None:
    sample = Sample(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    np.testing.assert_array_equal(PER_CLASS_METRICS["precision"](sample), [0.5, 0])


@pytest.mark.parametrize("seed", SEEDS)
def test_roc_points_match_scikit_learn(seed: int) -> None:
    y_true, y_prob = draw(seed)
    positive, score = y_true == 4, y_prob[:, 4]
    thresholds, true, false = roc_points(positive, score, np.ones(80))
    expected = reference.roc_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(false / false[-1], expected[0])
    np.testing.assert_allclose(true / true[-1], expected[1])
    np.testing.assert_allclose(thresholds, expected[2])
