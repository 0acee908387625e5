"""Losses compared with those of Keras, simple implementations and identities."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from skincnn.config import ImbalanceConfig, LossConfig
from skincnn.training.imbalance import STRATEGIES, Plan
from skincnn.training.losses import (
    LOSSES,
    WeightedFocal,
    WeightedMargin,
    build_loss,
)

RNG = np.random.default_rng(0)
LABELS = np.array([0, 1, 2, 2, 1])
LOGITS = RNG.normal(0, 3, (5, 3)).astype("float32")
SOFT = RNG.dirichlet(np.ones(3), 5).astype("float32")
WEIGHTS = [0.5, 2.0, 7.0]
SHIFT = [0.0, -1.0, 3.0]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "focal": {"gamma": 1.7},
    "ldam": {"margins": [0.5, 1.0, 2.5]},
}
"""Specific arguments of each loss that change its value."""
NEUTRAL: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "focal": {"gamma": 0.0},
    "ldam": {"margins": [0.0, 0.0, 0.0]},
}


def full(name: str, smoothing: float = 0.2) -> keras.losses.Loss:
    return LOSSES[name](
        class_weights=WEIGHTS,
        logit_shift=SHIFT,
        label_smoothing=smoothing,
        **ARGUMENTS[name],
    )


def simple(name: str, labels: np.ndarray, logits: np.ndarray) -> float:
    """Returns the loss of `full`, computed from the definitions one number at a time."""
    total = 0.0
    for y, z in zip(labels.astype(float), logits.astype(float), strict=True):
        z = z + SHIFT
        weight = sum(y[c] * WEIGHTS[c] for c in range(3))
        for c in range(3):
            share = 0.8 * y[c] * WEIGHTS[c] + 0.2 / 3 * weight
            own = z[c] - (ARGUMENTS["ldam"]["margins"][c] if name == "ldam" else 0)
            others = sum(np.exp(z[j]) for j in range(3) if j != c)
            p = np.exp(own) / (np.exp(own) + others)
            focus = (1 - p) ** ARGUMENTS["focal"]["gamma"] if name == "focal" else 1
            total -= share * focus * np.log(p)
    return total / len(labels)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_with_neutral_arguments_is_cross_entropy(name: str) -> None:
    loss = LOSSES[name](class_weights=[1, 1, 1], **NEUTRAL[name])
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(loss(LABELS, LOGITS)) == pytest.approx(
        float(sparse(LABELS, LOGITS)), rel=1e-6
    )
    dense = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3)
    smooth = LOSSES[name](class_weights=[1, 1, 1], label_smoothing=0.3, **NEUTRAL[name])
    assert float(smooth(SOFT, LOGITS)) == pytest.approx(
        float(dense(SOFT, LOGITS)), rel=1e-6
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_agrees_with_its_definition(name: str) -> None:
    assert float(full(name)(SOFT, LOGITS)) == pytest.approx(
        simple(name, SOFT, LOGITS), rel=1e-5
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_integer_labels_equal_one_hot_labels(name: str, smoothing: float) -> None:
    loss = full(name, smoothing)
    expected = float(loss(np.eye(3)[LABELS], LOGITS))
    for labels in (LABELS, LABELS[:, None], LABELS.astype("int32"), LABELS.astype("uint8")):
        assert float(loss(labels, LOGITS)) == expected


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_mixed_label_is_the_mixture_of_the_losses(name: str) -> None:
    """As for the labels of MixUp and CutMix, with smoothing."""
    loss = full(name)
    other = np.roll(LABELS, 1)
    mixed = 0.3 * np.eye(3)[LABELS] + 0.7 * np.eye(3)[other]
    expected = 0.3 * loss(LABELS, LOGITS) + 0.7 * loss(other, LOGITS)
    assert float(loss(mixed, LOGITS)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_weighted_mean_does_not_depend_on_the_scale(name: str, scale: float) -> None:
    """As in PyTorch, the sum of weight * loss is divided by the sum of the weights."""
    weights = [scale * weight for weight in WEIGHTS]
    mean = LOSSES[name](class_weights=weights, weighted_mean=True, **ARGUMENTS[name])
    plain = LOSSES[name](class_weights=[1, 1, 1], reduction="none", **ARGUMENTS[name])
    expected = np.average(plain(LABELS, LOGITS), weights=np.take(WEIGHTS, LABELS))
    assert float(mean(LABELS, LOGITS)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_equal_sample_weights(name: str, smoothing: float) -> None:
    """Also with smoothing: an image has the weight of its own class."""
    arguments = {**ARGUMENTS[name], "label_smoothing": smoothing}
    ours = LOSSES[name](class_weights=WEIGHTS, **arguments)
    plain = LOSSES[name](class_weights=[1, 1, 1], **arguments)
    sample_weight = np.array(WEIGHTS, np.float32)[LABELS]
    expected = float(plain(LABELS, LOGITS, sample_weight=sample_weight))
    assert float(ours(LABELS, LOGITS)) == pytest.approx(expected, rel=1e-6)
    each = LOSSES[name](class_weights=WEIGHTS, reduction="none", **arguments)
    assert float(np.mean(each(LABELS, LOGITS))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_loss_of_half_precision_logits_is_computed_in_float32(
    name: str, dtype: str
) -> None:
    logits = keras.ops.cast(LOGITS, dtype)
    for loss in (full(name)(LABELS, logits), full(name).call(LABELS, logits)):
        assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    exact = float(full(name)(LABELS, keras.ops.cast(logits, "float32")))
    assert float(full(name)(LABELS, logits)) == exact


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_finite_for_confident_predictions(name: str, gamma: float) -> None:
    if name == "focal":
        loss = WeightedFocal([1, 1, 1], gamma=gamma, label_smoothing=0.1)
    else:
        loss = full(name)
    confident = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 0]]
    for scale in (0.0, 20.0, 200.0, 1e4):
        logits = tf.Variable(scale * (2 * confident - 1))
        with tf.GradientTape() as tape:
            value = loss(LABELS, logits)
        assert np.isfinite(float(value))
        assert np.isfinite(np.asarray(tape.gradient(value, logits))).all()


def test_the_focal_loss_equals_that_of_keras() -> None:
    expected = keras.losses.CategoricalFocalCrossentropy(
        alpha=WEIGHTS, gamma=1.7, from_logits=True
    )(np.eye(3)[LABELS], LOGITS)
    ours = WeightedFocal(WEIGHTS, gamma=1.7)(LABELS, LOGITS)
    # Keras clips probabilities at 1e-7.
    assert float(ours) == pytest.approx(float(expected), rel=1e-4)


def test_margins_of_cosine_logits_are_scaled_with_them() -> None:
    """The loss of Cao et al. as published, softmax(s * (cosine - margin))."""
    scale, margins = 30, np.array([0.5, 0.3, 0.1])
    cosines = RNG.uniform(-1, 1, (5, 3)).astype("float32")
    published = scale * (cosines - margins * np.eye(3)[LABELS])
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(
        LABELS, published
    )
    ours = WeightedMargin([1, 1, 1], margins=scale * margins)(LABELS, scale * cosines)
    assert float(ours) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_restored_from_its_config(name: str) -> None:
    loss = full(name)
    saved = keras.saving.serialize_keras_object(loss)
    copy = keras.saving.deserialize_keras_object(saved)
    assert type(copy) is type(loss)
    assert float(copy(LABELS, LOGITS)) == float(loss(LABELS, LOGITS))
    own = {
        parameter
        for cls in type(loss).__mro__[:2]
        for parameter in inspect.signature(cls).parameters
    }
    assert own - {"kwargs"} == set(loss.get_config())


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], SOFT], ids=["i", "i1", "soft"])
def test_keras_passes_labels_unchanged(labels: np.ndarray) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Activation("linear")])
    model.compile(loss=full("focal"), run_eagerly=False)
    value = model.evaluate(LOGITS, labels, verbose=0)
    assert value == pytest.approx(float(full("focal")(labels, LOGITS)), rel=1e-6)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_plan_has_all_arguments_of_its_loss(name: str) -> None:
    plan = STRATEGIES[name](np.array([10, 40, 950]), ImbalanceConfig())
    loss = build_loss(plan, LossConfig(label_smoothing=0.1), reweighted=True)
    np.testing.assert_array_equal(loss.class_weights, plan.class_weights)
    assert loss.label_smoothing == 0.1
    assert np.isfinite(float(loss(SOFT, LOGITS)))
    unweighted = build_loss(plan, LossConfig(), reweighted=False)
    assert unweighted.class_weights == [1, 1, 1]
    assert unweighted.get_config().keys() == loss.get_config().keys()


def require_stationary(
    loss: keras.losses.Loss, counts: np.ndarray, logits: np.ndarray
) -> None:
    """Checks that the gradient with respect to logits shared by all images is zero."""
    labels = np.repeat(np.arange(len(counts)), counts)
    variable = tf.Variable(np.tile(logits, (len(labels), 1)).astype("float32"))
    with tf.GradientTape() as tape:
        value = loss(labels, variable)
    total = np.asarray(tape.gradient(value, variable)).sum(axis=0)
    np.testing.assert_allclose(total, 0, atol=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_logit_adjustment_balances_uninformative_images(power: float) -> None:
    """The best probabilities are proportional to frequency ** (1 - power)."""
    counts = np.array([10, 40, 950])
    plan = STRATEGIES["logit_adjusted"](counts, ImbalanceConfig(power=power))
    loss = build_loss(plan, LossConfig(), reweighted=True)
    require_stationary(loss, counts, (1 - power) * np.log(counts / counts.sum()))


@pytest.mark.parametrize("name", ["class_weights", "effective_number_weights"])
def test_class_weights_set_the_probabilities_of_uninformative_images(name: str) -> None:
    counts = np.array([10, 40, 950])
    plan: Plan = STRATEGIES[name](counts, ImbalanceConfig())
    loss = build_loss(plan, LossConfig(), reweighted=True)
    require_stationary(loss, counts, np.log(plan.class_weights * counts))
