"""Optimizers and schedules: definitions, serialization, and combinations of parts."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np
import pytest

from skincnn.config import ImbalanceConfig, LossConfig, OptimizerConfig
from skincnn.errors import ConfigError
from skincnn.training.imbalance import STRATEGIES
from skincnn.training.losses import LOSSES, build_loss
from skincnn.training.optimizers import NO_WEIGHT_DECAY, OPTIMIZERS, build_optimizer
from skincnn.training.schedules import SCHEDULES

RATE = 1e-2
PLAIN = OptimizerConfig(schedule="constant", clip_norm=0.0, weight_decay=0.1)


def rates(name: str, steps: int, warmup_steps: int, **values: Any) -> np.ndarray:
    schedule = SCHEDULES[name](OptimizerConfig(**values), RATE, steps, warmup_steps)
    return np.array([float(schedule(step)) for step in range(steps + 5)])


def simple_rate(name: str, step: int, steps: int, warmup: int) -> float:
    """Returns the learning rate with default options, from the definitions."""
    if name == "one_cycle":
        top, step = round(0.25 * steps), min(step, steps)
        if step < top:
            return RATE / 25 + (RATE - RATE / 25) * (1 - math.cos(math.pi * step / top)) / 2
        angle = math.pi * (step - top) / (steps - top)
        return RATE * 1e-5 + (RATE - RATE * 1e-5) * (1 + math.cos(angle)) / 2
    if step < warmup:
        return RATE / 10 + (RATE - RATE / 10) * step / warmup
    if name == "cosine":
        angle = math.pi * min(1, (step - warmup) / (steps - warmup))
        return RATE / 100 + (RATE - RATE / 100) * (1 + math.cos(angle)) / 2
    if name == "step":
        return RATE * 0.1 ** ((step >= steps / 2) + (step >= steps * 3 / 4))
    return RATE


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 12])
def test_a_schedule_agrees_with_its_definition(name: str, warmup: int) -> None:
    expected = [simple_rate(name, step, 80, warmup) for step in range(85)]
    # The cosine of a float32 is accurate to about 1e-7 of the peak.
    np.testing.assert_allclose(rates(name, 80, warmup), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 2), (3, 0)])
def test_a_schedule_of_very_few_steps_is_finite(name: str, steps: int, warmup: int) -> None:
    curve = rates(name, steps, warmup)
    assert np.isfinite(curve).all()
    assert (curve > 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_restored_from_its_config(name: str) -> None:
    schedule = SCHEDULES[name](OptimizerConfig(), RATE, 50, 5)
    saved = keras.optimizers.schedules.serialize(schedule)
    copy = keras.optimizers.schedules.deserialize(saved)
    assert [float(copy(s)) for s in range(60)] == [float(schedule(s)) for s in range(60)]


def test_the_default_schedule_does_not_change() -> None:
    """The results in docs/results depend on it."""
    schedule = build_optimizer(OptimizerConfig(), 1e-3, 100, 20)._learning_rate
    assert isinstance(schedule, keras.optimizers.schedules.CosineDecay)
    assert [float(schedule(step)) for step in (0, 20, 60, 100)] == pytest.approx(
        [1e-4, 1e-3, (1e-3 + 1e-5) / 2, 1e-5], rel=1e-4
    )


def test_the_learning_rate_drops_at_the_milestones() -> None:
    curve = rates("step", 50, 0, milestones=(0.28, 0.56), milestone_factor=0.5)
    assert np.flatnonzero(np.diff(curve)).tolist() == [13, 27]
    assert curve[-1] == pytest.approx(RATE / 4)


def variables() -> list[keras.Variable]:
    """Returns the variables of a head and two blocks, the same in each call."""
    rng = np.random.default_rng(0)
    shapes = {
        "head/kernel": (3, 2),
        "b1/kernel": (4, 3),
        "b2/kernel": (2, 4),
        "b2/bias": (4,),
    }
    result = []
    for path, shape in shapes.items():
        scope, name = path.split("/")
        with keras.name_scope(scope):
            result.append(keras.Variable(rng.normal(size=shape), name=name))
    assert [v.path for v in result] == list(shapes)
    return result


BLOCKS = {"head/kernel": 0, "b1/kernel": 1, "b2/kernel": 2, "b2/bias": 2}


def train(optimizer: keras.optimizers.Optimizer, steps: int = 3) -> dict[str, np.ndarray]:
    """Returns the weights after steps of synthetic gradients, the same in each call."""
    weights, rng = variables(), np.random.default_rng(1)
    optimizer.build(weights)
    for _ in range(steps):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in weights]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients])
    return {v.path: np.array(v.value) for v in weights}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_optimizer_takes_steps_with_every_schedule(name: str, schedule: str) -> None:
    config = OptimizerConfig(name=name, schedule=schedule)
    before = {v.path: np.array(v.value) for v in variables()}
    for path, weights in train(build_optimizer(config, RATE, 8, 2)).items():
        assert np.isfinite(weights).all()
        assert (weights != before[path]).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_step_agrees_with_the_paper(name: str) -> None:
    """The first step of Adam and Lion is the sign of the gradient."""
    config = dataclasses.replace(PLAIN, name=name, momentum=0.9)
    before = {v.path: np.array(v.value) for v in variables()}
    after = train(build_optimizer(config, RATE, 9, 0), steps=1)
    rng = np.random.default_rng(1)
    for path, start in before.items():
        gradient = rng.normal(size=start.shape)
        step = gradient if name == "sgd" else np.sign(gradient)
        decay = 0.0 if "bias" in path else 0.1
        expected = start - RATE * decay * start - RATE * step
        np.testing.assert_allclose(after[path], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_uses_the_configured_momentum(nesterov: bool) -> None:
    config = dataclasses.replace(
        PLAIN, name="sgd", momentum=0.8, nesterov=nesterov, weight_decay=0.0
    )
    weights = np.array(variables()[0].value, np.float64)
    velocity, rng = 0.0, np.random.default_rng(1)
    for _ in range(3):
        gradients = [rng.normal(size=v.shape) for v in variables()]
        velocity = 0.8 * velocity - RATE * gradients[0]
        weights += 0.8 * velocity - RATE * gradients[0] if nesterov else velocity
    after = train(build_optimizer(config, RATE, 9, 0))
    np.testing.assert_allclose(after["head/kernel"], weights, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_biases_norms_and_layer_scales_have_no_weight_decay(
    name: str, layer_decay: float
) -> None:
    class Scale(keras.layers.Layer):
        def build(self, shape: tuple[int, ...]) -> None:
            # Without a name, like the LayerScale of ConvNeXt.
            self.gamma = self.add_weight(shape=shape[-1:], initializer="ones")

        def call(self, x: Any) -> Any:
            return x * self.gamma

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(2, 1, name="beta_gamma_bias"),
            keras.layers.BatchNormalization(),
            keras.layers.SeparableConv2D(4, 3),
            keras.layers.LayerNormalization(),
            keras.layers.DepthwiseConv2D(3),
            keras.layers.GroupNormalization(2),
            Scale(),
            Scale(),
        ]
    )
    config = dataclasses.replace(PLAIN, name=name, layer_decay=layer_decay)
    blocks = {v.path: 0 for v in model.trainable_variables}
    optimizer = build_optimizer(config, 1.0, 10, 0, blocks)
    for variable in model.trainable_variables:
        variable.assign(keras.ops.ones(variable.shape))
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables])
    kernels = 0
    for variable in model.trainable_variables:
        # Scales and offsets are vectors; kernels have more axes.
        excluded = len(variable.shape) == 1
        kernels += not excluded
        expected = 1.0 if excluded else 0.9
        np.testing.assert_allclose(np.array(variable.value), expected, rtol=1e-6)
    assert kernels == 4


def test_all_vectors_of_convnext_and_mobilenet_have_no_weight_decay() -> None:
    for build in (keras.applications.ConvNeXtTiny, keras.applications.MobileNetV2):
        network = build(weights=None, include_top=False, input_shape=(32, 32, 3))
        for variable in network.trainable_variables:
            for name in (variable.name, variable.path, f"{variable.path}:0"):
                assert bool(re.search(NO_WEIGHT_DECAY, name)) == (len(variable.shape) == 1)


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_an_l2_penalty_is_added_to_the_gradient(name: str, layer_decay: float) -> None:
    config = dataclasses.replace(PLAIN, name=name, layer_decay=layer_decay, decay_mode="l2")
    none = dataclasses.replace(config, weight_decay=0.0)
    for decay_all in (False, True):
        penalized = dataclasses.replace(config, decay_all=decay_all)
        actual = train(build_optimizer(penalized, RATE, 9, 0, BLOCKS))
        weights, rng = variables(), np.random.default_rng(1)
        optimizer = build_optimizer(none, RATE, 9, 0, BLOCKS)
        optimizer.build(weights)
        for _ in range(3):
            gradients = [rng.normal(size=v.shape).astype("float32") for v in weights]
            optimizer.apply(
                [
                    g + 0.1 * v * (decay_all or v.path != "b2/bias")
                    for g, v in zip(gradients, weights, strict=True)
                ]
            )
        for variable in weights:
            np.testing.assert_allclose(actual[variable.path], variable, rtol=1e-5)


def test_weight_decay_can_include_all_weights() -> None:
    for layer_decay in (1.0, 0.5):
        config = dataclasses.replace(PLAIN, name="sgd", layer_decay=layer_decay)
        bias = {
            decay_all: train(
                build_optimizer(
                    dataclasses.replace(config, decay_all=decay_all), RATE, 9, 0, BLOCKS
                ),
                steps=1,
            )["b2/bias"]
            for decay_all in (False, True)
        }
        rate = RATE * layer_decay ** BLOCKS["b2/bias"]
        change = bias[True] - bias[False]
        initial = np.array(variables()[3].value)
        np.testing.assert_allclose(change, -rate * 0.1 * initial, rtol=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layer_decay_equals_one_optimizer_per_block(name: str) -> None:
    config = dataclasses.replace(PLAIN, name=name, ema_momentum=0.7)
    decayed = dataclasses.replace(config, layer_decay=0.5)
    actual = train(build_optimizer(decayed, RATE, 9, 0, BLOCKS))
    for block in range(3):
        alone = train(build_optimizer(config, RATE * 0.5**block, 9, 0))
        for path, weights in alone.items():
            same = np.allclose(actual[path], weights, rtol=1e-6, atol=1e-8)
            assert same == (BLOCKS[path] == block)


def test_without_layer_decay_the_optimizer_is_a_keras_class() -> None:
    for name in OPTIMIZERS:
        config = OptimizerConfig(name=name)
        optimizer = build_optimizer(config, RATE, 9, 0, BLOCKS)
        assert type(optimizer).__module__.startswith("keras.")


def test_layer_decay_needs_the_block_of_every_variable() -> None:
    config = OptimizerConfig(layer_decay=0.5)
    with pytest.raises(ValueError, match="requires `blocks`"):
        build_optimizer(config, RATE, 9, 0)
    optimizer = build_optimizer(config, RATE, 9, 0, {"head/kernel": 0, "b2/bias": 2})
    with pytest.raises(ValueError, match="Missing: b1/kernel, b2/kernel"):
        optimizer.build(variables())


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_an_unknown_argument_of_an_optimizer_class_is_explained(layer_decay: float) -> None:
    name = "keras.optimizers:Nadam(beta_9=0.8)"
    config = OptimizerConfig(name=name, layer_decay=layer_decay)
    message = r"`optimizer.name` keras\.optimizers:Nadam\(beta_9=0\.8\) failed.*beta_9"
    with pytest.raises(ConfigError, match=message):
        build_optimizer(config, RATE, 9, 0, BLOCKS)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("decay_mode", ["decoupled", "l2"])
def test_an_optimizer_is_restored_from_its_config(
    name: str, layer_decay: float, decay_mode: Literal["decoupled", "l2"]
) -> None:
    config = OptimizerConfig(
        name=name,
        decay_mode=decay_mode,
        layer_decay=layer_decay,
        ema_momentum=0.9,
        clip_by="global",
        weight_decay=0.02,
    )
    optimizer = build_optimizer(config, RATE, 9, 2, BLOCKS)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is type(optimizer)
    assert copy.get_config() == optimizer.get_config()
    name_of_decay = {"decoupled": "weight_decay", "l2": "l2"}[decay_mode]
    assert copy.get_config()[name_of_decay] == 0.02
    # Keras does not serialize the exclusions from weight decay.
    copy.exclude_from_weight_decay(var_names=[NO_WEIGHT_DECAY])
    expected = train(optimizer)
    for path, weights in train(copy).items():
        np.testing.assert_array_equal(weights, expected[path])


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_clipping_limits_each_gradient_or_the_global_norm(layer_decay: float) -> None:
    """The steps of SGD are the clipped gradients."""
    norms = {}
    for by in ("variable", "global"):
        config = dataclasses.replace(
            PLAIN, name="sgd", momentum=0.0, weight_decay=0.0, clip_norm=0.1, clip_by=by
        )
        config = dataclasses.replace(config, layer_decay=layer_decay)
        before = {v.path: np.array(v.value) for v in variables()}
        after = train(build_optimizer(config, 1.0, 9, 0, BLOCKS), steps=1)
        norms[by] = {
            path: np.linalg.norm(after[path] - before[path]) / layer_decay ** BLOCKS[path]
            for path in before
        }
    for norm in norms["variable"].values():
        assert norm == pytest.approx(0.1, rel=1e-4)
    assert np.linalg.norm(list(norms["global"].values())) == pytest.approx(0.1, rel=1e-4)
    assert not build_optimizer(OptimizerConfig(clip_norm=0.0), 1.0, 9, 0).clipnorm


def test_averaged_weights_use_the_configured_momentum() -> None:
    assert not build_optimizer(OptimizerConfig(ema_momentum=0.0), 1.0, 10, 0).use_ema
    optimizer = build_optimizer(OptimizerConfig(ema_momentum=0.6), 1.0, 10, 0)
    weights = variables()
    optimizer.build(weights)
    average = None
    for _ in range(4):
        optimizer.apply([keras.ops.ones(v.shape) for v in weights])
        value = np.array(weights[0].value)
        average = value if average is None else 0.6 * average + 0.4 * value
    actual = np.array(optimizer._model_variables_moving_average[0].value)
    np.testing.assert_allclose(actual, average, rtol=1e-5)


POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    """The dtype policy of all layers of the test."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def tiny_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, dtype="float32", name="logits"),
        ]
    )


LOSS_OF = {
    "cross_entropy": "class_weights",
    "focal": "class_balanced_focal",
    "ldam": "ldam",
}
EXTRAS = {
    "plain": {"clip_norm": 0.0},
    "ema_and_clipping": {"ema_momentum": 0.9, "name": "sgd"},
    "all": {"ema_momentum": 0.9, "clip_by": "global", "layer_decay": 0.5, "name": "lion"},
}


# A third of the combinations contains every pair of two of the three parameters.
COMBINATIONS = [
    pytest.param(
        *(policy, name, options), marks=() if (i + j + k) % 3 == 0 else pytest.mark.slow
    )
    for i, policy in enumerate(POLICIES)
    for j, name in enumerate(LOSSES)
    for k, options in enumerate(EXTRAS)
]


@pytest.mark.parametrize(("policy", "name", "options"), COMBINATIONS, indirect=["policy"])
def test_every_precision_trains_with_all_parts(
    policy: str, name: str, options: str
) -> None:
    model = tiny_model()
    assert model.get_layer("conv").compute_dtype == policy.removeprefix("mixed_")
    plan = STRATEGIES[LOSS_OF[name]](np.array([5, 2, 1]), ImbalanceConfig())
    assert plan.loss == name
    loss = build_loss(plan, LossConfig(label_smoothing=0.1), reweighted=True)
    blocks = {v.path: 0 if "logits" in v.path else 1 for v in model.trainable_variables}
    optimizer = build_optimizer(OptimizerConfig(**EXTRAS[options]), RATE, 4, 1, blocks)
    model.compile(optimizer, loss, run_eagerly=False)
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("float32")
    before = [np.array(v.value) for v in model.trainable_variables]
    model.fit(images, np.array([0, 0, 0, 1, 1, 2]), batch_size=6, epochs=2, verbose=0)
    assert int(optimizer.iterations) == 2
    for start, variable in zip(before, model.trainable_variables, strict=True):
        weights = np.array(variable.value)
        assert weights.dtype == np.float32
        assert np.isfinite(weights).all()
        assert variable.name == "bias" or (weights != start).any()
    logits = model(images[:2])
    value = loss(np.array([0, 2]), logits)
    assert {keras.backend.standardize_dtype(x.dtype) for x in (logits, value)} == {
        "float32"
    }
