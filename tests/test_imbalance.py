"""Plans of the imbalance strategies compared with the formulas of their papers."""

from __future__ import annotations

import numpy as np
import pytest

from skincnn.config import ImbalanceConfig
from skincnn.data.sampling import epoch_batches
from skincnn.errors import ConfigError
from skincnn.training.imbalance import STRATEGIES, Plan

COUNTS = np.array([327, 514, 1099, 115, 1113, 6705, 142])
ONES = np.ones(7, np.float32)


def plan(name: str, **values: float) -> Plan:
    return STRATEGIES[name](COUNTS, ImbalanceConfig(**values))  # type: ignore[arg-type]


def test_power_ranges_from_no_weights_to_equal_classes() -> None:
    np.testing.assert_allclose(plan("class_weights", power=0.0).class_weights, 1, rtol=1e-6)
    full = plan("class_weights", power=1.0).class_weights * COUNTS
    np.testing.assert_allclose(full, full[0], rtol=1e-6)
    root = plan("class_weights", power=0.5).class_weights
    assert root[0] / root[1] == pytest.approx((514 / 327) ** 0.5, rel=1e-6)


@pytest.mark.parametrize(
    "name", ["effective_number_weights", "class_balanced_focal", "ldam"]
)
@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_weights_are_inverse_to_the_effective_number(name: str, beta: float) -> None:
    # E = 1 + beta + beta ** 2 + ... + beta ** (n - 1), summed directly.
    effective = np.array([sum(beta**i for i in range(n)) for n in COUNTS])
    products = plan(name, beta=beta).class_weights * effective
    np.testing.assert_allclose(products, products[0], rtol=1e-5)


def test_focal_strategies_pass_gamma_to_the_loss() -> None:
    for name in ("focal", "class_balanced_focal"):
        assert plan(name, gamma=0.5).loss_arguments == {"gamma": 0.5}
    assert (plan("focal").class_weights == 1).all()


def test_ldam_margins_follow_the_fourth_root_and_weights_are_deferred() -> None:
    ldam = plan("ldam", margin=0.7, drw_start=0.8)
    margins = np.array(ldam.loss_arguments["margins"])
    assert margins.max() == pytest.approx(0.7)
    assert margins.argmax() == COUNTS.argmin()
    np.testing.assert_allclose(margins**4 * COUNTS, 0.7**4 * 115)
    assert ldam.drw_start == 0.8
    assert plan("class_weights").drw_start == 0


@pytest.mark.parametrize("ratio", [0.01, 0.3, 1.0])
def test_oversampling_raises_small_classes_to_the_ratio(ratio: float) -> None:
    epoch_counts = plan("oversampling", ratio=ratio).epoch_counts
    assert epoch_counts is not None
    for n, count in zip(COUNTS, epoch_counts, strict=True):
        assert count >= n
        assert count >= ratio * 6705
        assert count == n or count < ratio * 6705 + 1


def test_factors_replicate_each_image_of_a_class() -> None:
    factors = (4, 1, 1, 16, 1, 1, 16)
    config = ImbalanceConfig(strategy="oversampling", factors=factors)
    labels = np.repeat(np.arange(7), [3, 2, 5, 2, 4, 9, 1])
    counts = STRATEGIES["oversampling"](np.bincount(labels), config).epoch_counts
    assert counts is not None
    drawn = epoch_batches(labels, 1, seed=0, epoch=0, epoch_counts=counts)
    occurrences = np.bincount(drawn.ravel(), minlength=len(labels))
    np.testing.assert_array_equal(occurrences, np.take(factors, labels))


def test_each_class_needs_a_factor() -> None:
    config = ImbalanceConfig(strategy="oversampling", factors=(2, 3))
    with pytest.raises(
        ConfigError, match=r"one factor for each of the 7 classes.*\(2, 3\)"
    ):
        STRATEGIES["oversampling"](COUNTS, config)


def test_balancing_twice_is_rejected_unless_allowed() -> None:
    weights = np.array([2, 1, 1, 1, 1, 1, 1], np.float32)
    for sampling in ({"sampling_weights": np.ones(7)}, {"epoch_counts": COUNTS}):
        with pytest.raises(ValueError, match=r"by the loss .* or by sampling.*both"):
            Plan(weights, **sampling)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="both"):
            Plan(ONES, logit_shift=weights, **sampling)  # type: ignore[arg-type]
        Plan(ONES, **sampling)  # type: ignore[arg-type]
        Plan(weights, allow_double=True, **sampling)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`sampling_weights` or `epoch_counts`"):
        Plan(ONES, sampling_weights=np.ones(7), epoch_counts=COUNTS)


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_weights_and_sampling_balances_twice(name: str) -> None:
    assert plan(name).allow_double == (name == "weights_and_sampling")


def test_weights_and_sampling_inverts_the_imbalance() -> None:
    doubled = plan("weights_and_sampling", power=1.0)
    assert doubled.sampling_weights is not None
    mass = doubled.class_weights * doubled.sampling_weights * COUNTS
    np.testing.assert_allclose(mass * COUNTS, mass[0] * COUNTS[0], rtol=1e-6)
