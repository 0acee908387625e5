"""Conformal prediction sets: their coverage, and classes with few images."""

from __future__ import annotations

import numpy as np
import pytest
from report_runs import sentences
from run_dirs import make_tables, score_test

from skincnn.inference.predictions import arrays
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.conformal import choose_set_thresholds
from skincnn.reporting.text.decision_text import always_included, below_coverage


def draw(
    rng: np.random.Generator, per_class: int, per_group: int = 1
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns labels, probabilities and groups.

    Every second group has `per_group` images with the same probabilities, the others one.
    """
    y_true = np.repeat([0, 1, 2], per_class)
    logits = rng.normal(0, 1, (len(y_true), 3)) + np.eye(3)[y_true]
    exp = np.exp(logits)
    y_prob = exp / exp.sum(axis=1, keepdims=True)
    groups = [f"{number}" for number in range(len(y_true))]
    copies = [per_group if number % 2 else 1 for number in range(len(y_true))]
    parts = (np.repeat(part, copies, axis=0) for part in (y_true, y_prob, groups))
    y_true, y_prob, names = parts
    return y_true, y_prob, names.tolist()


@pytest.mark.parametrize(("count", "per_group"), [(9, 1), (19, 1), (25, 1), (19, 5)])
def test_the_mean_coverage_is_that_of_the_theory(count: int, per_group: int) -> None:
    """Over draws of n validation groups, it is 1 - floor((n + 1) error) / (n + 1)."""
    rng = np.random.default_rng(0)
    shares = []
    y_true, y_prob, _ = draw(rng, 2000)
    for _ in range(300):
        in_set = y_prob >= choose_set_thresholds(*draw(rng, count, per_group))
        shares.append(in_set[np.arange(len(y_true)), y_true].mean())
    expected = 1 - np.floor((count + 1) / 10) / (count + 1)
    assert np.mean(shares) == pytest.approx(expected, abs=0.01)


def test_a_threshold_is_between_two_probabilities() -> None:
    own = np.linspace(0.05, 0.95, 19)
    y_true, groups = np.zeros(19, int), list(map(str, range(19)))
    y_prob = np.stack([own, 1 - own], axis=1)
    thresholds = choose_set_thresholds(y_true, y_prob, groups, error=0.1)
    # 2 of 20: the second lowest probability is in the set, the lowest is not.
    assert thresholds == pytest.approx((0.999 * own[1], 0.0))
    own[0] = 0.9995 * own[1]
    y_prob = np.stack([own, 1 - own], axis=1)
    thresholds = choose_set_thresholds(y_true, y_prob, groups)
    assert own[0] < thresholds[0] < own[1]


def test_a_group_counts_once() -> None:
    """Of 19 groups, one may be below the threshold, however many images it has."""
    own = np.linspace(0.05, 0.95, 24)
    groups = [*"aaaaaa", *map(str, range(18))]  # "a" has the lowest probabilities
    y_prob = np.stack([own, 1 - own], axis=1)
    thresholds = choose_set_thresholds(np.zeros(24, int), y_prob, groups)
    assert thresholds[0] == pytest.approx(0.999 * own[6])
    apart = list(map(str, range(24)))
    thresholds = choose_set_thresholds(np.zeros(24, int), y_prob, apart)
    assert thresholds[0] == pytest.approx(0.999 * own[1])


def test_a_class_with_few_groups_is_in_every_set() -> None:
    y_true, y_prob, groups = draw(np.random.default_rng(0), 9)
    assert all(choose_set_thresholds(y_true, y_prob, groups))
    assert choose_set_thresholds(y_true[1:], y_prob[1:], groups[1:])[0] == 0
    assert choose_set_thresholds(y_true[9:], y_prob[9:], groups[9:])[0] == 0
    groups[0] = groups[1]
    assert choose_set_thresholds(y_true, y_prob, groups)[0] == 0


def test_results_contain_the_coverage_of_each_class() -> None:
    tables = make_tables(0.6)
    validation = tables["val"]
    few = validation[validation["label"] == "mel"].index[8:]
    result = score_test({**tables, "val": validation.drop(index=few)})
    sets = result.prediction_sets
    assert always_included(result) == ["mel"]
    y_true, y_prob = arrays(tables["test"], result.class_names)
    in_set = result.calibration_map.apply(y_prob) >= np.array(sets.thresholds)
    for index, name in enumerate(result.class_names):
        covered = sets.covered[name]
        assert covered.value == pytest.approx(
            in_set[y_true == index, index].mean(), abs=1e-6
        )
        assert covered.low < covered.high
    assert sets.covered["mel"].value == 1
    assert sets.mean_size.value == pytest.approx(in_set.sum(axis=1).mean(), abs=1e-6)
    assert sets.empty.value == (~in_set.any(axis=1)).mean()


def test_a_missed_coverage_and_classes_without_a_threshold_are_described() -> None:
    result = score_test(make_tables(0.6))
    covered = dict(
        zip(
            result.class_names,
            (
                Estimate(0.8, 0.7, 0.89),
                Estimate(0.85, 0.7, 0.95),
                Estimate(1.0, None, None),
            ),
            strict=True,
        )
    )
    changes = {"covered": covered, "thresholds": (0.1, 0.2, 0.0)}
    sets = result.prediction_sets.model_copy(update=changes)
    result = result.model_copy(update={"prediction_sets": sets})
    assert below_coverage(result) == ["bkl"]
    text = sentences("prediction_sets", result)
    assert "contains the diagnosis of at least 90 of 100 images of each class" in text
    assert "melanocytic naevus (nv), so this class is in every set." in text
    assert "The goal is missed for benign keratosis" in text
