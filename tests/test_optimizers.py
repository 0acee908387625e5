"""Optimizers against plain ones, schedules against slow versions, and all together."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

from skincnn.config import ImbalanceConfig, LossConfig, OptimizerConfig
from skincnn.errors import ConfigError
from skincnn.training.imbalance import STRATEGIES
from skincnn.training.losses import LOSSES, build_loss
from skincnn.training.optimizers import OPTIMIZERS, SPARED, build_optimizer
from skincnn.training.schedules import SCHEDULES

RATE = 1e-2
PLAIN = OptimizerConfig(schedule="constant", clip_norm=0.0, weight_decay=0.1)


def rates(name: str, steps: int, warmup_steps: int, **values: Any) -> np.ndarray:
    schedule = SCHEDULES[name](OptimizerConfig(**values), RATE, steps, warmup_steps)
    return np.array([float(schedule(step)) for step in range(steps + 5)])


def slow_rate(name: str, step: int, steps: int, warmup: int) -> float:
    """Returns the rate with the default configuration, from the definitions."""
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
def test_schedule_agrees_with_the_definition(name: str, warmup: int) -> None:
    expected = [slow_rate(name, step, 80, warmup) for step in range(85)]
    # The cosine of a float32 is known to about 1e-7 of the highest rate.
    np.testing.assert_allclose(rates(name, 80, warmup), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_has_its_peak_where_its_rise_ends(name: str) -> None:
    found = rates(name, 100, 20)
    top = 25 if name == "one_cycle" else 20
    assert found[top] == pytest.approx(RATE, rel=1e-6)
    assert found.max() == pytest.approx(RATE, rel=1e-6)
    assert (np.diff(found[: top + 1]) > 0).all()
    assert (np.diff(found[top:]) <= 0).all()
    # It rests where it ended, and but for the steps of `step` it never jumps.
    np.testing.assert_allclose(found[101:], found[100])
    if name != "step":
        assert np.abs(np.diff(found)).max() < RATE / 10


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 2), (3, 0)])
def test_schedule_of_very_few_steps_is_finite(name: str, steps: int, warmup: int) -> None:
    found = rates(name, steps, warmup)
    assert np.isfinite(found).all()
    assert (found > 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_survives_serialisation(name: str) -> None:
    schedule = SCHEDULES[name](OptimizerConfig(), RATE, 50, 5)
    saved = keras.optimizers.schedules.serialize(schedule)
    copy = keras.optimizers.schedules.deserialize(saved)
    assert [float(copy(s)) for s in range(60)] == [float(schedule(s)) for s in range(60)]


def test_the_rate_of_the_presets_is_as_it_was() -> None:
    """A tenth to the top and a cosine to a hundredth, of which results are published."""
    schedule = build_optimizer(OptimizerConfig(), 1e-3, 100, 20)._learning_rate
    assert isinstance(schedule, keras.optimizers.schedules.CosineDecay)
    assert [float(schedule(step)) for step in (0, 20, 60, 100)] == pytest.approx(
        [1e-4, 1e-3, (1e-3 + 1e-5) / 2, 1e-5], rel=1e-4
    )


def test_steps_fall_where_they_are_asked_to() -> None:
    found = rates("step", 50, 0, milestones=(0.28, 0.56), milestone_factor=0.5)
    assert np.flatnonzero(np.diff(found)).tolist() == [13, 27]
    assert found[-1] == pytest.approx(RATE / 4)


def variables() -> list[keras.Variable]:
    """Returns the weights of a head and of two blocks, the same in each call."""
    rng = np.random.default_rng(0)
    shapes = {
        "head/kernel": (3, 2),
        "b1/kernel": (4, 3),
        "b2/kernel": (2, 4),
        "b2/bias": (4,),
    }
    found = []
    for path, shape in shapes.items():
        folder, name = path.split("/")
        with keras.name_scope(folder):
            found.append(keras.Variable(rng.normal(size=shape), name=name))
    assert [v.path for v in found] == list(shapes)
    return found


BLOCKS = {"head/kernel": 0, "b1/kernel": 1, "b2/kernel": 2, "b2/bias": 2}


def train(optimizer: keras.optimizers.Optimizer, steps: int = 3) -> dict[str, np.ndarray]:
    """Returns the weights after some steps of synthetic gradients, the same in each call."""
    weights, rng = variables(), np.random.default_rng(1)
    optimizer.build(weights)
    for _ in range(steps):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in weights]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients])
    return {v.path: np.array(v.value) for v in weights}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_optimizer_takes_steps_with_every_schedule(name: str, schedule: str) -> None:
    config = OptimizerConfig(name=name, schedule=schedule)
    before = {v.path: np.array(v.value) for v in variables()}
    for path, weights in train(build_optimizer(config, RATE, 8, 2)).items():
        assert np.isfinite(weights).all()
        assert (weights != before[path]).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_step_is_that_of_the_paper(name: str) -> None:
    """Without momentum's history Adam and Lion take the gradient's sign."""
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
def test_sgd_has_the_momentum_it_is_asked_for(nesterov: bool) -> None:
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
def test_biases_norms_and_layer_scales_are_spared_from_weight_decay(
    name: str, layer_decay: float
) -> None:
    class Scale(keras.layers.Layer):
        def build(self, shape: tuple[int, ...]) -> None:
            # As ConvNeXt's LayerScale has it: without a name.
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
        # What is a vector scales or shifts; what mixes channels has more axes.
        spared = len(variable.shape) == 1
        kernels += not spared
        expected = 1.0 if spared else 0.9
        np.testing.assert_allclose(np.array(variable.value), expected, rtol=1e-6)
    assert kernels == 4


def test_the_vectors_of_convnext_and_mobilenet_are_spared() -> None:
    for build in (keras.applications.ConvNeXtTiny, keras.applications.MobileNetV2):
        network = build(weights=None, include_top=False, input_shape=(32, 32, 3))
        for variable in network.trainable_variables:
            for name in (variable.name, variable.path, f"{variable.path}:0"):
                assert bool(re.search(SPARED, name)) == (len(variable.shape) == 1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_block_trains_as_if_it_had_an_optimizer_of_its_own(name: str) -> None:
    config = dataclasses.replace(PLAIN, name=name, ema_momentum=0.7)
    decayed = dataclasses.replace(config, layer_decay=0.5)
    found = train(build_optimizer(decayed, RATE, 9, 0, BLOCKS))
    for block in range(3):
        alone = train(build_optimizer(config, RATE * 0.5**block, 9, 0))
        for path, weights in alone.items():
            same = np.allclose(found[path], weights, rtol=1e-6, atol=1e-8)
            assert same == (BLOCKS[path] == block)


def test_layer_decay_scales_the_step_of_sgd_by_its_power() -> None:
    config = dataclasses.replace(PLAIN, name="sgd", momentum=0.0)
    before = {v.path: np.array(v.value) for v in variables()}
    plain = train(build_optimizer(config, RATE, 9, 0), steps=1)
    decayed = dataclasses.replace(config, layer_decay=0.25)
    found = train(build_optimizer(decayed, RATE, 9, 0, BLOCKS), steps=1)
    for path, start in before.items():
        factor = 0.25 ** BLOCKS[path]
        np.testing.assert_allclose(
            found[path] - start, factor * (plain[path] - start), rtol=1e-4, atol=3e-7
        )


def test_layer_decay_of_one_is_keras_alone() -> None:
    for name in OPTIMIZERS:
        config = OptimizerConfig(name=name)
        optimizer = build_optimizer(config, RATE, 9, 0, BLOCKS)
        assert type(optimizer).__module__.startswith("keras.")


def test_layer_decay_wants_every_variable_in_a_block() -> None:
    config = OptimizerConfig(layer_decay=0.5)
    with pytest.raises(ValueError, match="needs `blocks`"):
        build_optimizer(config, RATE, 9, 0)
    optimizer = build_optimizer(config, RATE, 9, 0, {"head/kernel": 0, "b2/bias": 2})
    with pytest.raises(ValueError, match="Missing: b1/kernel, b2/kernel"):
        optimizer.build(variables())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_optimizer_survives_serialisation(name: str, layer_decay: float) -> None:
    config = OptimizerConfig(
        name=name,
        layer_decay=layer_decay,
        ema_momentum=0.9,
        clip_by="global",
        weight_decay=0.02,
    )
    optimizer = build_optimizer(config, RATE, 9, 2, BLOCKS)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is type(optimizer)
    assert copy.get_config() == optimizer.get_config()
    assert copy.get_config()["weight_decay"] == 0.02
    # What is spared is no part of the configuration of Keras.
    copy.exclude_from_weight_decay(var_names=[SPARED])
    expected = train(optimizer)
    for path, weights in train(copy).items():
        np.testing.assert_array_equal(weights, expected[path])


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_clipping_bounds_each_gradient_or_all_together(layer_decay: float) -> None:
    """With SGD the steps are the gradients, so their norms are what was bounded."""
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


def test_the_average_of_the_weights_is_asked_for_by_its_momentum() -> None:
    assert not build_optimizer(OptimizerConfig(ema_momentum=0.0), 1.0, 10, 0).use_ema
    optimizer = build_optimizer(OptimizerConfig(ema_momentum=0.6), 1.0, 10, 0)
    weights = variables()
    optimizer.build(weights)
    average = None
    for _ in range(4):
        optimizer.apply([keras.ops.ones(v.shape) for v in weights])
        now = np.array(weights[0].value)
        average = now if average is None else 0.6 * average + 0.4 * now
    found = np.array(optimizer._model_variables_moving_average[0].value)
    np.testing.assert_allclose(found, average, rtol=1e-5)


@pytest.mark.parametrize("field", ["name", "schedule"])
def test_an_unknown_name_is_refused(field: str) -> None:
    config = OptimizerConfig(**{field: "cosin"})
    with pytest.raises(ConfigError, match=rf"`optimizer\.{field}` must be one of"):
        build_optimizer(config, 1.0, 9, 0)


@pytest.fixture(params=["float32", "mixed_bfloat16", "mixed_float16"])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    """The dtype policy of all layers that are made in the test."""
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


@pytest.mark.parametrize("options", EXTRAS)
@pytest.mark.parametrize("name", LOSSES)
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
