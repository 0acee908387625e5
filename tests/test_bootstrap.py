from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from skincnn.metrics import bootstrap as module
from skincnn.metrics.bootstrap import Weights, bootstrap, bootstrap_weights
from skincnn.metrics.classification import (
    METRICS,
    PER_CLASS_METRICS,
    accuracy,
    balanced_accuracy,
    recall_per_class,
)
from skincnn.metrics.intervals import (
    Support,
    estimate,
    estimate_difference,
    find_supports,
)
from skincnn.metrics.sample import Sample


def weights_of(
    lesion_ids: Sequence[str], num_resamples: int, seed: int = 0
) -> npt.NDArray[np.uint8]:
    """Returns bootstrap weights of images with ascending ids."""
    image_ids = [f"i{number:05d}" for number in range(len(lesion_ids))]
    return bootstrap_weights(image_ids, lesion_ids, num_resamples, seed)


def test_resamples_do_not_depend_on_the_order_of_the_images() -> None:
    """Reports keep the stored order of images; comparisons sort them."""
    images, lesions = np.array([*"dbac"]), np.array([*"yxxz"])
    weights = bootstrap_weights(images, lesions, 200)
    for order in ([3, 1, 0, 2], [2, 1, 3, 0]):
        reordered = bootstrap_weights(images[order], lesions[order], 200)
        np.testing.assert_array_equal(reordered, weights[:, order])


def test_a_resample_draws_whole_lesions_and_as_many_as_exist() -> None:
    lesions = ["a", "b", "a", "c", "b", "a"]
    weights = weights_of(lesions, 500)
    assert weights.shape == (500, 6)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 0], weights[:, 5])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)
    np.testing.assert_array_equal(weights, weights_of(lesions, 500))


def test_blocks_of_resamples_do_not_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lesions = [f"l{number // 2}" for number in range(40)]
    weights = weights_of(lesions, 30)
    draws = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), 30)
    np.testing.assert_array_equal(weights[:, ::2], draws)
    values = np.random.default_rng(1).random((40, 3))
    monkeypatch.setattr(module, "MIN_ROWS", 4)
    monkeypatch.setattr(module, "BLOCK_CELLS", 40)
    np.testing.assert_array_equal(weights_of(lesions, 30), weights)
    products = Weights(weights) @ values
    np.testing.assert_allclose(products, weights.astype(float) @ values)
    np.testing.assert_array_equal(Weights(weights).sum(axis=1), [40] * 30)
    assert weights.dtype == np.uint8  # 2,000 resamples of 400,000 images in 0.8 GB


def test_the_interval_of_a_rate_matches_the_binomial_interval() -> None:
    y_true = np.repeat([0, 1], [300, 100])
    y_prob = np.tile([1.0, 0.0], (400, 1))  # 300 of 400 are correct
    weights = weights_of([f"l{i}" for i in range(400)], 4000)
    values = bootstrap({"accuracy": accuracy}, y_true, y_prob, weights)["accuracy"]
    [result] = estimate(values)
    error = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert result.value == 0.75
    assert result.low == pytest.approx(0.75 - error, abs=0.006)
    assert result.high == pytest.approx(0.75 + error, abs=0.006)


def test_images_of_one_lesion_count_as_one_observation() -> None:
    rng = np.random.default_rng(0)
    correct = np.repeat(rng.random(100) < 0.7, 4)  # the same for 4 images of a lesion
    y_true = np.zeros(400, int)
    y_prob = np.stack([correct, ~correct], axis=1).astype(float)
    widths = []
    for num_images in (4, 1):
        weights = weights_of([f"l{i // num_images}" for i in range(400)], 2000)
        values = bootstrap({"accuracy": accuracy}, y_true, y_prob, weights)["accuracy"]
        [result] = estimate(values)
        assert result.high is not None
        assert result.low is not None
        widths.append(result.high - result.low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.15)


def test_the_result_does_not_depend_on_the_blocks() -> None:
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


def test_resamples_without_a_class_are_left_out() -> None:
    # Class 1 has one lesion, which a third of the resamples lack. The mean over the other
    # class alone, whose recall is 1, would raise the upper end to 1.
    y_true = np.array([0] * 20 + [1])
    y_prob = np.tile([1.0, 0.0], (21, 1))
    weights = weights_of([f"l{i}" for i in range(21)], 1000)
    functions = {"balanced": balanced_accuracy, "recall": recall_per_class}
    values = bootstrap(functions, y_true, y_prob, weights)
    lost = np.isnan(values["balanced"]).mean()
    assert lost == pytest.approx((1 - 1 / 21) ** 21, abs=0.05)
    [balanced] = estimate(values["balanced"])
    # All other resamples give the same value, from which no interval can be computed.
    assert (balanced.value, balanced.low, balanced.high) == (0.5, None, None)
    first, second = estimate(values["recall"])
    assert (first.value, second.value, second.high) == (1, 0, None)


def test_a_class_without_images_has_no_estimate() -> None:
    y_true, y_prob = np.array([0, 0, 1]), np.eye(3)[[0, 1, 1]]
    weights = weights_of(["a", "b", "c"], 50)
    values = bootstrap({"recall": recall_per_class}, y_true, y_prob, weights)["recall"]
    gap = estimate(values)[2]
    assert (gap.value, gap.low, gap.high) == (None, None, None)


def test_resamples_without_predictions_of_a_class_are_left_out_of_its_precision() -> None:
    # Class 1 is predicted for two of 40 lesions, both correctly, and class 2 for none.
    y_true = np.array([0] * 36 + [1] * 2 + [2] * 2)
    y_prob = np.eye(3)[[0] * 36 + [1] * 2 + [0] * 2]
    lesions = [f"l{i}" for i in range(40)]
    weights = weights_of(lesions, 1000)
    function = PER_CLASS_METRICS["precision"]
    values = bootstrap({"precision": function}, y_true, y_prob, weights)["precision"]
    lost = weights[:, 36:38].sum(axis=1) == 0
    np.testing.assert_array_equal(np.isnan(values[1:, 1]), lost)
    assert 0.05 < lost.mean() < 0.5
    supports = find_supports(lesions, y_true, y_prob)["precision"]
    assert [support.sizes for support in supports] == [(38,), (2,), (0,)]
    _, rare, never = estimate(values, 0.95, supports)
    assert (rare.value, rare.high) == (1, 1)
    assert rare.low is not None
    assert rare.low < 0.1
    assert (never.value, never.low, never.high) == (0, None, None)
    # Its precision counts as 0 in a mean over classes, as in scikit-learn.
    macro = bootstrap({"m": METRICS["macro_precision"].function}, y_true, y_prob, weights)
    assert macro["m"][0] == pytest.approx((36 / 38 + 1 + 0) / 3)


def test_a_single_lesion_has_no_interval() -> None:
    y_true, y_prob = np.zeros(3, int), np.eye(2)[[0, 0, 1]]
    weights = weights_of(["a"] * 3, 100)
    values = bootstrap({"accuracy": accuracy}, y_true, y_prob, weights)["accuracy"]
    supports = find_supports(["a"] * 3, y_true, y_prob)["accuracy"]
    [result] = estimate(values, 0.95, supports)
    assert (result.value, result.low, result.high) == (
        pytest.approx(2 / 3, abs=1e-6),
        None,
        None,
    )


@pytest.mark.parametrize(("num_defined", "has_interval"), [(50, True), (49, False)])
def test_an_interval_needs_half_of_the_resamples(
    num_defined: int, has_interval: bool
) -> None:
    values = np.array(
        [0.5, *np.linspace(0, 1, num_defined), *[np.nan] * (100 - num_defined)]
    )
    [result] = estimate(values)
    assert result.value == 0.5
    assert (result.low is not None) is (result.high is not None) is has_interval


def test_a_paired_difference_has_a_narrower_interval() -> None:
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 2, 400)
    correct = rng.random(400) < 0.8
    other = correct ^ (rng.random(400) < 0.02)  # a model with similar predictions
    lesions = [f"l{i}" for i in range(400)]

    def values(correct: np.ndarray, seed: int) -> np.ndarray:
        y_prob = np.eye(2)[np.where(correct, y_true, 1 - y_true)]
        weights = weights_of(lesions, 2000, seed)
        return bootstrap({"accuracy": accuracy}, y_true, y_prob, weights)["accuracy"]

    support = Support("rate", (400,))
    changes = [values(correct, 0) - values(other, seed) for seed in (0, 1)]
    paired, unpaired = (
        estimate_difference(change, support=support).estimate for change in changes
    )
    assert paired.value == unpaired.value == pytest.approx(correct.mean() - other.mean())
    width = np.subtract(paired.high, paired.low)
    assert width < 0.5 * np.subtract(unpaired.high, unpaired.low)
    # Independent reference: the standard error of the mean difference.
    differences = correct.astype(float) - other
    assert width == pytest.approx(2 * 1.96 * differences.std() / 20, rel=0.1)
