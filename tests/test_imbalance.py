"""Plans against the formulas of their papers."""

from __future__ import annotations

import numpy as np
import pytest

from skincnn.config import ImbalanceConfig
from skincnn.training.imbalance import STRATEGIES, Plan

COUNTS = np.array([327, 514, 1099, 115, 1113, 6705, 142])
ONES = np.ones(7, np.float32)


def plan(name: str, **values: float) -> Plan:
    return STRATEGIES[name](COUNTS, ImbalanceConfig(**values))  # type: ignore[arg-type]


def test_power_runs_from_no_weights_to_equal_classes() -> None:
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
    # E = 1 + beta + beta ** 2 + ... + beta ** (n - 1), summed up as it stands.
    effective = np.array([sum(beta**i for i in range(n)) for n in COUNTS])
    even = plan(name, beta=beta).class_weights * effective
    np.testing.assert_allclose(even, even[0], rtol=1e-5)


def test_focal_strategies_hand_gamma_over() -> None:
    for name in ("focal", "class_balanced_focal"):
        assert plan(name, gamma=0.5).loss_arguments == {"gamma": 0.5}
    assert (plan("focal").class_weights == 1).all()


def test_margins_fall_with_the_fourth_root_and_weights_come_late() -> None:
    ldam = plan("ldam", margin=0.7, drw_start=0.8)
    margins = np.array(ldam.loss_arguments["margins"])
    assert margins.max() == pytest.approx(0.7)
    assert margins.argmax() == COUNTS.argmin()
    np.testing.assert_allclose(margins**4 * COUNTS, 0.7**4 * 115)
    # Cao et al. begin with epoch 160 of 200.
    assert ldam.reweighting_epoch(200) == 160
    assert plan("class_weights").reweighting_epoch(200) == 0


@pytest.mark.parametrize("ratio", [0.01, 0.3, 1.0])
def test_oversampling_lifts_small_classes_to_the_ratio(ratio: float) -> None:
    wanted = plan("oversampling", ratio=ratio).epoch_counts
    assert wanted is not None
    for n, many in zip(COUNTS, wanted, strict=True):
        assert many >= n
        assert many >= ratio * 6705
        assert many == n or many < ratio * 6705 + 1


def test_balancing_twice_is_refused_unless_it_is_meant() -> None:
    weights = np.array([2, 1, 1, 1, 1, 1, 1], np.float32)
    for sampling in (
        {"sampling_weights": np.ones(7)},
        {"epoch_counts": COUNTS},
    ):
        with pytest.raises(ValueError, match=r"by the loss .* or by sampling.*both"):
            Plan(weights, **sampling)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="both"):
            Plan(ONES, logit_shift=weights, **sampling)  # type: ignore[arg-type]
        Plan(ONES, **sampling)  # type: ignore[arg-type]
        Plan(weights, doubled=True, **sampling)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`sampling_weights` or `epoch_counts`"):
        Plan(ONES, sampling_weights=np.ones(7), epoch_counts=COUNTS)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_that_balances_twice_has_a_name_that_says_so(name: str) -> None:
    assert plan(name).doubled == (name == "weights_and_sampling")


def test_weights_and_sampling_turn_the_imbalance_around() -> None:
    doubled = plan("weights_and_sampling", power=1.0)
    assert doubled.sampling_weights is not None
    mass = doubled.class_weights * doubled.sampling_weights * COUNTS
    np.testing.assert_allclose(mass * COUNTS, mass[0] * COUNTS[0], rtol=1e-6)
