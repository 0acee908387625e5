from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from skincnn.metrics.bootstrap import (
    bootstrap,
    estimate,
    lesion_weights,
    lesions_of_rates,
)
from skincnn.metrics.classification import (
    METRICS,
    PER_CLASS_METRICS,
    Sample,
    accuracy,
    balanced_accuracy,
    recall_per_class,
)


def weights_of(
    lesion_ids: Sequence[str], resamples: int, seed: int = 0
) -> npt.NDArray[np.float64]:
    """The weights of pictures in the order of their names."""
    images = [f"i{number:05d}" for number in range(len(lesion_ids))]
    table = pd.DataFrame({"image_id": images, "lesion_id": lesion_ids})
    return lesion_weights(table, resamples, seed)


def test_the_order_of_the_rows_changes_no_resample() -> None:
    """A report reads the pictures as they were stored, a comparison sorts them."""
    table = pd.DataFrame({"image_id": list("dbac"), "lesion_id": list("yxxz")})
    weights = lesion_weights(table, 200)
    for order in ([3, 1, 0, 2], [2, 1, 3, 0]):
        np.testing.assert_array_equal(
            lesion_weights(table.iloc[order], 200), weights[:, order]
        )


def test_a_resample_takes_whole_lesions_as_many_as_there_are() -> None:
    lesions = ["a", "b", "a", "c", "b", "a"]
    weights = weights_of(lesions, 500)
    assert weights.shape == (500, 6)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 0], weights[:, 5])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)
    np.testing.assert_array_equal(weights, weights_of(lesions, 500))


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    y_true = np.repeat([0, 1], [300, 100])
    y_prob = np.tile([1.0, 0.0], (400, 1))  # right in 300 of 400
    weights = weights_of([f"l{i}" for i in range(400)], 4000)
    values = bootstrap({"accuracy": accuracy}, y_true, y_prob, weights)["accuracy"]
    [found] = estimate(values)
    error = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert found.value == 0.75
    assert found.low == pytest.approx(0.75 - error, abs=0.006)
    assert found.high == pytest.approx(0.75 + error, abs=0.006)


def test_pictures_of_one_lesion_count_as_one_observation() -> None:
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(100) < 0.7, 4)  # four views of each lesion agree
    y_true = np.zeros(400, int)
    y_prob = np.stack([right, ~right], axis=1).astype(float)
    widths = []
    for views in (4, 1):
        weights = weights_of([f"l{i // views}" for i in range(400)], 2000)
        values = bootstrap({"accuracy": accuracy}, y_true, y_prob, weights)["accuracy"]
        [found] = estimate(values)
        assert found.high is not None
        assert found.low is not None
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)


def test_blocks_give_what_one_would() -> None:
    rng = np.random.default_rng(0)
    y_true, y_prob = np.arange(600) % 7, rng.dirichlet(np.ones(7), 600)
    weights = weights_of([f"l{i // 2}" for i in range(600)], 300)
    functions = {name: metric.function for name, metric in METRICS.items()}
    functions |= PER_CLASS_METRICS
    values = bootstrap(functions, y_true, y_prob, weights)
    for name, function in functions.items():
        np.testing.assert_allclose(values[name][0], function(Sample(y_true, y_prob)))
        whole = function(Sample(y_true, y_prob, weights))
        np.testing.assert_allclose(values[name][1:], whole, rtol=1e-12)


def test_a_resample_without_a_class_is_left_out() -> None:
    # Of class 1 there is one lesion, which a third of the resamples lack: the mean of the
    # other class alone, which is always found, would lift the upper end to 1.
    y_true = np.array([0] * 20 + [1])
    y_prob = np.tile([1.0, 0.0], (21, 1))
    weights = weights_of([f"l{i}" for i in range(21)], 1000)
    functions = {"balanced": balanced_accuracy, "recall": recall_per_class}
    values = bootstrap(functions, y_true, y_prob, weights)
    lost = np.isnan(values["balanced"]).mean()
    assert lost == pytest.approx((1 - 1 / 21) ** 21, abs=0.05)
    [balanced] = estimate(values["balanced"])
    assert (balanced.value, balanced.low, balanced.high) == (0.5, 0.5, 0.5)
    first, second = estimate(values["recall"])
    assert (first.value, second.value, second.high) == (1, 0, 0)


def test_what_cannot_be_known_is_none() -> None:
    y_true, y_prob = np.array([0, 0, 1]), np.eye(3)[[0, 1, 1]]
    weights = weights_of(["a", "b", "c"], 50)
    values = bootstrap({"recall": recall_per_class}, y_true, y_prob, weights)["recall"]
    gap = estimate(values)[2]
    assert (gap.value, gap.low, gap.high) == (None, None, None)


def test_a_rate_of_all_or_none_has_the_exact_interval_of_its_lesions() -> None:
    # 12 lesions of class 0, all found; 2 of class 1, none found, each of two pictures.
    y_true = np.array([0] * 24 + [1] * 4)
    y_prob = np.tile([0.9, 0.1], (28, 1))
    lesions = [f"l{i // 2}" for i in range(28)]
    weights = weights_of(lesions, 200)
    values = bootstrap({"recall": recall_per_class}, y_true, y_prob, weights)["recall"]
    counts = lesions_of_rates(lesions, y_true, y_prob)
    all_found, none_found = estimate(values, 0.95, counts["recall"])
    # Where all of n are found, P(n of n) = p^n: the lower end is where that is 2.5 %.
    assert (all_found.value, all_found.high) == (1, 1)
    assert all_found.low == pytest.approx(0.025 ** (1 / 12), abs=1e-6)
    assert (none_found.value, none_found.low) == (0, 0)
    assert none_found.high == pytest.approx(1 - 0.025 ** (1 / 2), abs=1e-6)
    # Nothing is called class 1, and the accuracy varies: the bootstrap knows of it.
    assert counts["precision"].tolist() == [14, 0]
    right = bootstrap({"accuracy": accuracy}, y_true, y_prob, weights)["accuracy"]
    assert estimate(right, 0.95, counts["accuracy"]) == estimate(right)
    # Of two right classes with two lesions or more the mean is as of four lesions.
    mean = bootstrap({"mean": balanced_accuracy}, y_true, np.eye(2)[y_true], weights)
    [found] = estimate(mean["mean"], 0.95, counts["balanced_accuracy"])
    assert found.low == pytest.approx(0.025 ** (1 / 4), abs=1e-6)


def test_a_resample_that_never_names_a_class_says_nothing_of_its_precision() -> None:
    # Class 1 is named for two of 40 lesions, both rightly, class 2 never.
    y_true = np.array([0] * 36 + [1] * 2 + [2] * 2)
    y_prob = np.eye(3)[[0] * 36 + [1] * 2 + [0] * 2]
    lesions = [f"l{i}" for i in range(40)]
    weights = weights_of(lesions, 1000)
    function = PER_CLASS_METRICS["precision"]
    values = bootstrap({"precision": function}, y_true, y_prob, weights)["precision"]
    lost = weights[:, 36:38].sum(axis=1) == 0
    np.testing.assert_array_equal(np.isnan(values[1:, 1]), lost)
    assert 0.05 < lost.mean() < 0.5
    counts = lesions_of_rates(lesions, y_true, y_prob)["precision"]
    assert counts.tolist() == [38, 2, 0]
    _, named, never = estimate(values, 0.95, counts)
    assert (named.value, named.high) == (1, 1)
    assert named.low == pytest.approx(0.025 ** (1 / 2), abs=1e-6)
    assert (never.value, never.low, never.high) == (0, None, None)
    # In a mean over classes it counts as 0, as in scikit-learn.
    macro = bootstrap({"m": METRICS["macro_precision"].function}, y_true, y_prob, weights)
    assert macro["m"][0] == pytest.approx((36 / 38 + 1 + 0) / 3)


def test_one_lesion_has_no_interval() -> None:
    y_true, y_prob = np.zeros(3, int), np.eye(2)[[0, 0, 1]]
    weights = weights_of(["a"] * 3, 100)
    values = bootstrap({"accuracy": accuracy}, y_true, y_prob, weights)["accuracy"]
    counts = lesions_of_rates(["a"] * 3, y_true, y_prob)
    [found] = estimate(values, 0.95, counts["accuracy"])
    assert (found.value, found.low, found.high) == (
        pytest.approx(2 / 3, abs=1e-6),
        None,
        None,
    )


@pytest.mark.parametrize(("known", "has_interval"), [(50, True), (49, False)])
def test_half_of_the_resamples_make_an_interval(known: int, has_interval: bool) -> None:
    values = np.array([0.5, *np.linspace(0, 1, known), *[np.nan] * (100 - known)])
    [found] = estimate(values)
    assert found.value == 0.5
    assert (found.low is not None) is (found.high is not None) is has_interval


def test_a_paired_difference_is_narrower_than_that_of_strangers() -> None:
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 2, 400)
    right = rng.random(400) < 0.8
    other = right ^ (rng.random(400) < 0.02)  # another model: nearly the same answers
    lesions = [f"l{i}" for i in range(400)]

    def values(found: np.ndarray, seed: int) -> np.ndarray:
        y_prob = np.eye(2)[np.where(found, y_true, 1 - y_true)]
        weights = weights_of(lesions, 2000, seed)
        return bootstrap({"accuracy": accuracy}, y_true, y_prob, weights)["accuracy"]

    [paired] = estimate(values(right, 0) - values(other, 0))
    [strangers] = estimate(values(right, 0) - values(other, 1))
    assert paired.value == strangers.value == pytest.approx(right.mean() - other.mean())
    width = np.subtract(paired.high, paired.low)
    assert width < 0.5 * np.subtract(strangers.high, strangers.low)
    # An independent reference: the standard error of the mean of the differences.
    differences = right.astype(float) - other
    assert width == pytest.approx(2 * 1.96 * differences.std() / 20, rel=0.1)
