from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_script

from skincnn.config import ModelConfig
from skincnn.errors import ConfigError
from skincnn.model.backbones import BACKBONES, build_backbone
from skincnn.model.classifier import (
    FusedBatchNormalization,
    build_classifier,
    set_trainable,
)

OFFLINE = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
SMALL = ModelConfig(backbone="mobilenet", width=0.25, weights="none")


def normalise(layer: keras.layers.Layer, x: np.ndarray) -> tuple[list[np.ndarray], ...]:
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


def test_fused_batch_norm_equals_keras_s() -> None:
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 6, 7)).astype("float32")
    results = []
    for kind in (FusedBatchNormalization, keras.layers.BatchNormalization):
        layer = kind(momentum=0.6)
        layer.build(x.shape)
        layer.gamma.assign(np.linspace(0.5, 2, 7))
        layer.beta.assign(np.linspace(-1, 1, 7))
        step = normalise(layer, x)
        results.append((*step, [np.asarray(layer(x, training=False))]))
        layer.trainable = False
        np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    for ours, theirs in zip(*results, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_fused_and_plain_models_share_weights_and_outputs() -> None:
    fused = build_classifier(SMALL, 7, fused=True)
    plain = build_classifier(SMALL, 7)
    plain.set_weights(fused.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(
        fused(images, training=False), plain(images, training=False), atol=1e-5
    )
    kinds = {type(layer).__module__ for layer in plain._flatten_layers()}
    assert all(kind.startswith("keras") for kind in kinds)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_classifier_s_backbone_is_keras_applications_own(
    name: str, tmp_path: Path
) -> None:
    width = BACKBONES[name].widths[0]
    source = build_backbone(name, width, "none")
    path = tmp_path / "source.weights.h5"
    rng = np.random.default_rng(0)
    # Statistics other than 0 and 1, or BatchNorm's weights could be mixed up unseen.
    source.set_weights([w + rng.uniform(0.01, 0.1, w.shape) for w in source.get_weights()])
    source.save_weights(path)
    config = ModelConfig(backbone=name, width=width, weights=str(path))
    ours = build_classifier(config, 7, fused=True).get_layer("backbone")
    images = rng.uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    expected = np.asarray(source(images, training=False))
    np.testing.assert_allclose(
        ours(images, training=False),
        expected,
        rtol=1e-4,
        atol=1e-4 * np.abs(expected).max(),
    )


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    model = build_classifier(SMALL, 7)
    set_trainable(model, backbone=True, batch_norm="frozen")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    norms = [
        layer
        for layer in model.get_layer("backbone").layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [layer.get_weights() for layer in norms]
    images = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3))
    model.fit(images, np.arange(4), verbose=0)
    for layer, weights in zip(norms, before, strict=True):
        for new, old in zip(layer.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(new, old)


def test_a_weights_file_is_loaded(tmp_path: Path) -> None:
    source = build_backbone("mobilenet", 0.25, "none")
    path = tmp_path / "backbone.weights.h5"
    source.save_weights(path)
    loaded = build_backbone("mobilenet", 0.25, str(path))
    for a, b in zip(source.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_weights_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.weights.h5"
    build_backbone("mobilenet_v2", 0.35, "none").save_weights(path)
    with pytest.raises(ConfigError, match="does not hold the weights of mobilenet"):
        build_backbone("mobilenet", 0.25, str(path))
    path.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="does not hold the weights"):
        build_backbone("mobilenet", 0.25, str(path))


def test_a_missing_weights_file_and_width_are_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.h5, which is no file"):
        build_backbone("mobilenet", 0.25, "nowhere.h5")
    with pytest.raises(ConfigError, match=r"`model\.width` of mobilenet_v2 must be one of"):
        build_backbone("mobilenet_v2", 0.4, "imagenet")


def test_weights_that_cannot_be_downloaded_end_in_one_line(tmp_path: Path) -> None:
    done = run_script(
        "train.py",
        *("--data.dataset", "demo_tiny", "--model.weights", "imagenet"),
        *("--workdir", tmp_path / "run", "--data-dir", tmp_path / "data"),
        KERAS_HOME=str(tmp_path / "keras"),
        **OFFLINE,
    )
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "--model.weights none|PATH" in errors[0]
    assert "Traceback" not in done.stderr
    # Before any long work: no data was built and no run was begun.
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "data").exists()
