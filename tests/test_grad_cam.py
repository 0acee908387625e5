from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from test_backbones import SMALLEST, randomize

from skincnn.clinical_metadata import CLINICAL_FEATURES
from skincnn.config import ModelConfig
from skincnn.errors import ConfigError
from skincnn.inference.grad_cam import GradCam, overlay
from skincnn.model.backbones import BACKBONES
from skincnn.model.classifier import BACKBONE_LAYER, build_classifier

FAST = ("mobilenet", "small_cnn")
SIZE = 128
"""Pixels. At 96 the maps of the Inception networks have a single cell."""
CLASSES = np.arange(7)
"""The class to explain for each image."""
TABLE = [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in BACKBONES
]


def build(name: str, metadata: bool = False, fused: bool = False) -> keras.Model:
    """Returns a classifier whose features vary over the image, as after training."""
    width = 0.25 if name in FAST else SMALLEST.get(name, (1.0,))[0]
    config = ModelConfig(
        backbone=name, width_multiplier=width, weights="none", clinical_metadata=metadata
    )
    classifier = build_classifier(config, 7, fused=fused)
    randomize(classifier.get_layer(BACKBONE_LAYER), draw() / 127.5 - 1)
    return classifier


def draw(metadata: bool = False) -> dict[str, np.ndarray] | np.ndarray:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (7, SIZE, SIZE, 3)).astype(np.float32)
    clinical = rng.uniform(0, 1, (7, len(CLINICAL_FEATURES))).astype(np.float32)
    return {"images": images, "metadata": clinical} if metadata else images


def by_gradients(
    classifier: keras.Model, inputs: dict[str, np.ndarray] | np.ndarray
) -> np.ndarray:
    """Returns the Grad-CAM maps of `CLASSES`, computed with gradients."""
    import tensorflow as tf

    features = classifier.get_layer("pooling").input
    model = keras.Model(classifier.input, [features, classifier.output])
    with tf.GradientTape() as tape:
        features, logits = model(inputs, training=False)
        chosen = tf.reduce_sum(tf.gather(logits, CLASSES, batch_dims=1))
    weights = np.asarray(tape.gradient(chosen, features)).mean(axis=(1, 2), keepdims=True)
    values = np.asarray(features)
    if values.shape[1:3] != (1, 1):  # pooling over a map of 2x2 pixels has equal outputs
        values = values * (np.ptp(values, axis=(1, 2), keepdims=True) > 0)
    maps = np.maximum((weights * values).sum(axis=-1), 0)
    highest = maps.max(axis=(1, 2), keepdims=True)
    assert (highest > maps).any()
    return maps / np.where(highest > 0, highest, 1)


@pytest.mark.parametrize("name", TABLE)
def test_maps_of_every_backbone_match_gradients(name: str, uncompiled: None) -> None:
    classifier = build(name)
    images = draw()
    maps = GradCam(classifier)(images, CLASSES)
    backbone = classifier.get_layer(BACKBONE_LAYER)
    assert maps.shape == backbone.compute_output_shape(images.shape)[:3]
    assert maps.dtype == np.float32
    expected = by_gradients(classifier, images)
    np.testing.assert_allclose(maps, expected, atol=1e-4)


@pytest.mark.parametrize("name", FAST)
def test_maps_of_fused_and_loaded_models_with_metadata_match_gradients(
    name: str, tmp_path: Path, uncompiled: None
) -> None:
    fused = build(name, metadata=True, fused=True)
    inputs = draw(metadata=True)
    expected = by_gradients(fused, inputs)
    np.testing.assert_allclose(GradCam(fused)(inputs, CLASSES), expected, atol=1e-4)
    plain = build(name, metadata=True)
    plain.set_weights(fused.get_weights())
    plain.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(GradCam(loaded)(inputs, CLASSES), expected, atol=1e-4)


def find_squares() -> keras.Model:
    """Returns a linear network: class 0 is red, class 1 is blue, and class 2 is neither."""
    images = keras.Input((None, None, 3))
    features = keras.layers.AveragePooling2D(4)(images[..., ::2])
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(images, keras.layers.Dense(3)(keras.layers.Dropout(0.5)(pooled)))
    model.layers[-1].set_weights(
        [np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]), np.array([0.0, 0.0, 5.0])]
    )
    return model


def test_a_map_highlights_its_class_and_is_0_without_relevant_regions() -> None:
    image = np.zeros((32, 40, 3), np.uint8)
    image[8:16, 4:8, 0] = 200
    image[20:24, 28:32, 2] = 100
    maps = GradCam(find_squares())(np.stack([image] * 3), np.array([0, 1, 2]))
    expected = np.zeros((3, 8, 10))
    expected[0, 2:4, 1] = 1
    expected[1, 5, 7] = 1
    np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_maps_use_the_current_weights() -> None:
    model = find_squares()
    grad_cam = GradCam(model)
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[:, :4, :4, 0] = 255
    assert grad_cam(image, np.array([2])).max() == 0
    model.layers[-1].set_weights([np.ones((2, 3)), np.zeros(3)])
    assert grad_cam(image, np.array([2]))[0, 0, 0] == 1


def test_repeated_calls_reuse_the_compiled_function() -> None:
    grad_cam = GradCam(find_squares())
    functions = []
    for _ in range(2):
        grad_cam(np.zeros((1, 8, 8, 3), np.uint8), np.array([0]))
        functions.append(grad_cam._features.predict_function)
    assert functions[0] is not None
    assert functions[0] is functions[1]


def with_hidden_layer() -> keras.Model:
    images = keras.Input((None, None, 3))
    hidden = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(images))
    return keras.Model(images, keras.layers.Dense(2)(hidden))


def with_metadata_first() -> keras.Model:
    images, metadata = keras.Input((None, None, 3)), keras.Input((5,))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    both = keras.layers.Concatenate()([metadata, pooled])
    return keras.Model([images, metadata], keras.layers.Dense(2)(both))


def without_dense_layer() -> keras.Model:
    images = keras.Input((None, None, 3))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))


class Subclassed(keras.Model):
    def call(self, images: object) -> object:
        return images


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (with_hidden_layer, "Dense <- Dense"),
        (with_metadata_first, "Dense <- Concatenate <- InputLayer"),
        (without_dense_layer, "layers GlobalAveragePooling2D"),
        (Subclassed, "layers unknown"),
    ],
)
def test_an_unsupported_classifier_is_an_error(make: type, received: str) -> None:
    with pytest.raises(ConfigError, match=rf"GlobalAveragePooling2D and Dense.*{received}"):
        GradCam(make())


def test_an_overlay_is_transparent_where_the_map_is_0() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    np.testing.assert_array_equal(overlay(image, np.zeros((2, 3), np.float32)), image)
    heat = np.zeros((2, 3), np.float32)
    heat[1, 2] = 1
    drawn = overlay(image, heat)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    enlarged = Image.fromarray(heat).resize((36, 24), Image.Resampling.BILINEAR)
    changed = (drawn != image).any(axis=-1)
    assert not changed[np.asarray(enlarged) == 0].any()
    assert changed[np.asarray(enlarged) > 0.2].all()
    # At the maximum it is yellow, and the image remains visible.
    shown, behind = (x[-6:, -6:].reshape(-1, 3).astype(float) for x in (drawn, image))
    assert (shown[:, :2] > shown[:, 2:]).all()
    for channel in range(3):
        assert np.corrcoef(shown[:, channel], behind[:, channel])[0, 1] > 0.99
