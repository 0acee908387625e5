from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from skincnn.clinical_metadata import CLINICAL_FEATURES
from skincnn.config import ModelConfig
from skincnn.errors import ConfigError
from skincnn.model.backbones import build_backbone
from skincnn.model.classifier import (
    block_of_variables,
    build_classifier,
    num_blocks,
    set_trainable,
)
from skincnn.model.layers import FreezableDropout, FusedBatchNormalization

SMALL = ModelConfig(backbone="mobilenet", width_multiplier=0.25, weights="none")
TINY = ModelConfig(backbone="small_cnn", width_multiplier=0.25, weights="none")


def train_step(layer: keras.layers.Layer, x: np.ndarray) -> tuple[list[np.ndarray], ...]:
    """Returns outputs and gradients of a training step, and the moving statistics."""
    with tf.GradientTape() as tape:
        inputs = tf.Variable(x)
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(outputs**3)
    gradients = tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])
    return (
        [np.asarray(outputs), *map(np.asarray, gradients)],
        [np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)],
    )


def test_fused_batch_norm_equals_that_of_keras() -> None:
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 6, 7)).astype("float32")
    results = []
    for layer_type in (FusedBatchNormalization, keras.layers.BatchNormalization):
        layer = layer_type(momentum=0.6)
        layer.build(x.shape)
        layer.gamma.assign(np.linspace(0.5, 2, 7))
        layer.beta.assign(np.linspace(-1, 1, 7))
        step = train_step(layer, x)
        results.append((*step, [np.asarray(layer(x, training=False))]))
        layer.trainable = False
        np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    for fused, reference in zip(*results, strict=True):
        for a, b in zip(fused, reference, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_frozen_dropout_is_inactive() -> None:
    layer = FreezableDropout(0.5, noise_shape=(None, 1), seed=3)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    ones = np.ones((400, 3), np.float32)
    outputs = np.asarray(layer(ones, training=True))
    np.testing.assert_array_equal(copy(ones, training=True), outputs)
    assert set(np.unique(outputs)) == {0.0, 2.0}
    assert 150 < (outputs == 0).all(axis=1).sum() < 250
    np.testing.assert_array_equal(layer(ones, training=False), ones)
    layer.trainable = False
    np.testing.assert_array_equal(layer(ones, training=True), ones)


def test_fused_and_default_models_share_weights_and_outputs() -> None:
    fused = build_classifier(SMALL, 7, fused=True)
    default = build_classifier(SMALL, 7)
    default.set_weights(fused.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(
        fused(images, training=False), default(images, training=False), atol=1e-5
    )
    modules = {type(layer).__module__ for layer in default._flatten_layers()}
    assert all(module.startswith("keras") for module in modules)


def fit_once(model: keras.Model) -> dict[str, bool]:
    """Trains for one step, and maps the path of each variable to whether it changed."""
    # The features of a random frozen network are tiny, and so are the gradients.
    optimizer = keras.optimizers.Adam(1e-2, epsilon=1e-30)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = {v.path: np.array(v) for v in model.weights}
    images = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3))
    model.fit(images, np.arange(4), verbose=0)
    return {v.path: not np.array_equal(v, before[v.path]) for v in model.weights}


def test_the_last_blocks_train_and_the_others_are_frozen() -> None:
    model = build_classifier(TINY, 7, fused=True)
    block_of = block_of_variables(model)
    assert num_blocks(model) == 4
    assert set(block_of.values()) == {0, 1, 2, 3, 4}
    head = {"logits/kernel", "logits/bias"}
    assert {path for path, block in block_of.items() if block == 0} == head
    for blocks in (0, 2, 4):
        set_trainable(model, blocks)
        assert fit_once(model) == {p: block <= blocks for p, block in block_of.items()}


@pytest.mark.parametrize("blocks", [-1, 5])
def test_an_invalid_number_of_blocks_is_an_error(blocks: int) -> None:
    with pytest.raises(ConfigError, match=rf"must be in 0\.\.4.*Received: {blocks}"):
        set_trainable(build_classifier(TINY, 7, fused=True), blocks)


@pytest.mark.parametrize(
    ("batch_norm", "frozen"),
    [
        ("train", ()),
        ("frozen", ("gamma", "beta", "moving_mean", "moving_variance")),
        ("frozen_statistics", ("moving_mean", "moving_variance")),
    ],
)
def test_the_batch_norm_mode_selects_the_variables_that_change(
    batch_norm: str, frozen: tuple[str, ...]
) -> None:
    model = build_classifier(TINY, 7, fused=True)
    # Previous calls have no effect.
    set_trainable(model, None, "frozen_statistics")
    set_trainable(model, None, "frozen")
    set_trainable(model, None, batch_norm)
    changed = fit_once(model)
    assert changed == {path: path.split("/")[-1] not in frozen for path in changed}


def test_frozen_statistics_normalize_as_in_inference() -> None:
    model = build_classifier(replace(SMALL, dropout=0.0), 7, fused=True)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    expected = np.asarray(model(images, training=False))
    set_trainable(model, None, "frozen_statistics")
    np.testing.assert_array_equal(model(images, training=True), expected)
    set_trainable(model, None, "train")
    assert np.abs(model(images, training=True) - expected).max() > 1e-3


def test_frozen_statistics_require_a_fused_model() -> None:
    with pytest.raises(ValueError, match="fused=True"):
        set_trainable(build_classifier(SMALL, 7), None, "frozen_statistics")


def test_a_model_with_metadata_loads_with_keras_alone_and_equals_the_fused_one(
    tmp_path: Path,
) -> None:
    config = replace(SMALL, clinical_metadata=True)
    fused = build_classifier(config, 7, fused=True)
    default = build_classifier(config, 7, seed=1)
    default.set_weights(fused.get_weights())
    default.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert b"skincnn" not in archive.read("config.json")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    inputs = {
        "images": rng.uniform(0, 255, (3, 32, 32, 3)),
        "metadata": rng.uniform(0, 1, (3, len(CLINICAL_FEATURES))),
    }
    expected = fused.predict(inputs, verbose=0)
    np.testing.assert_allclose(loaded.predict(inputs, verbose=0), expected, atol=1e-5)


def test_metadata_affects_the_logits_and_is_dropped_for_half_of_the_images() -> None:
    config = replace(SMALL, dropout=0.0, clinical_metadata=True)
    model = build_classifier(config, 7, fused=True)
    set_trainable(model, 0)
    assert [tensor.name for tensor in model.inputs] == ["images", "metadata"]
    images = np.full((200, 32, 32, 3), 100, np.float32)
    metadata = np.zeros((200, len(CLINICAL_FEATURES)), np.float32)
    without = model.predict({"images": images[:1], "metadata": metadata[:1]})
    metadata[:, CLINICAL_FEATURES.index("sex_female")] = 1
    metadata[:, 0] = 0.5
    inputs = {"images": images, "metadata": metadata}
    assert np.abs(model.predict(inputs, verbose=0)[0] - without).max() > 1e-3
    logits = np.asarray(model(inputs, training=True))
    dropped = np.isclose(logits, without, atol=1e-5).all(axis=1)
    assert 60 < dropped.sum() < 140
    others = logits[~dropped]
    np.testing.assert_allclose(others, np.broadcast_to(others[0], others.shape), atol=1e-5)


def test_a_mismatched_weights_file_is_an_error(tmp_path: Path) -> None:
    for other, width in (("mobilenet_v2", 0.35), ("mobilenet", 0.5)):
        path = tmp_path / f"{other}.weights.h5"
        build_backbone(other, width, "none").save_weights(path)
        with pytest.raises(ConfigError, match="do not match mobilenet"):
            build_backbone("mobilenet", 0.25, str(path))
    path = tmp_path / "text.weights.h5"
    path.write_bytes(b"not a weights file")
    with pytest.raises(ConfigError, match="do not match"):
        build_backbone("mobilenet", 0.25, str(path))
