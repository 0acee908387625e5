from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import pytest
from scipy import ndimage

from skincnn.config import AugmentConfig
from skincnn.errors import ConfigError
from skincnn.model.augment import Augmentation, transform

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)


def matrices(*rows: float) -> np.ndarray:
    return np.tile(np.reshape(np.float32(rows), (1, 2, 2)), (len(IMAGES), 1, 1))


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), IMAGES),
        ((-1, 0, 0, 1), IMAGES[:, :, ::-1]),
        ((0, -1, 1, 0), np.rot90(IMAGES, 1, (1, 2))),
        ((0, 1, -1, 0), np.rot90(IMAGES, -1, (1, 2))),
        ((-1, 0, 0, -1), np.rot90(IMAGES, 2, (1, 2))),
    ],
)
def test_the_eight_orientations_move_pixels_exactly(
    matrix: tuple[float, ...], expected: np.ndarray
) -> None:
    np.testing.assert_array_equal(transform(IMAGES, matrices(*matrix)), expected)


@pytest.mark.parametrize(("angle", "scale"), [(0.3, 1.0), (2.0, 0.8), (-1.1, 1.4)])
def test_any_map_agrees_with_scipy(angle: float, scale: float) -> None:
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    ours = np.asarray(transform(IMAGES, matrices(cos, -sin, sin, cos)))
    # SciPy's first axis is y.
    matrix = np.array([[cos, sin], [-sin, cos]])
    centre = np.array([9.5, 9.5])
    for image, result in zip(IMAGES.astype(float), ours, strict=True):
        for channel in range(3):
            expected = ndimage.affine_transform(
                image[..., channel],
                matrix,
                offset=centre - matrix @ centre,
                order=1,
                mode="reflect",
            )
            np.testing.assert_allclose(result[..., channel], expected, atol=0.05)


def test_pictures_need_not_be_square() -> None:
    images = IMAGES[:, :12]
    np.testing.assert_array_equal(
        transform(images, matrices(-1, 0, 0, 1)), images[:, :, ::-1]
    )


def test_the_layer_is_the_identity_outside_training() -> None:
    layer = Augmentation(AugmentConfig())
    np.testing.assert_array_equal(layer(IMAGES, training=False), IMAGES)
    np.testing.assert_array_equal(layer(IMAGES), IMAGES)
    np.testing.assert_array_equal(
        Augmentation(AugmentConfig(parts=()))(IMAGES, training=True), IMAGES
    )


def test_flips_and_quarter_turns_reach_all_eight_orientations() -> None:
    layer = Augmentation(AugmentConfig(parts=("flip", "quarter_turn")))
    images = np.repeat(IMAGES[:1], 400, axis=0)
    seen = np.asarray(layer(images, training=True))
    turned = [np.rot90(IMAGES[0], k) for k in range(4)]
    expected = np.stack(turned + [image[:, ::-1] for image in turned])
    matches = (seen[:, None] == expected[None]).all(axis=(2, 3, 4))
    assert matches.any(axis=1).all()
    # Binomial(400, 1/8): 50 with a standard deviation of 6.6.
    assert (matches.sum(axis=0) > 50 - 5 * 6.6).all()
    assert (matches.sum(axis=0) < 50 + 5 * 6.6).all()


def test_strength_zero_changes_nothing() -> None:
    config = AugmentConfig(
        parts=("rotate", "zoom", "light", "colour"),
        rotation_degrees=0.0,
        zoom=0.0,
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        colour_cast=0.0,
    )
    varied = Augmentation(config)(IMAGES, training=True)
    np.testing.assert_allclose(varied, IMAGES, atol=1e-3)


def test_every_constructor_argument_is_in_the_config() -> None:
    config = AugmentConfig(parts=("flip",), zoom=0.3)
    layer = Augmentation(config, seed=7)
    values = layer.get_config()
    assert values["seed"] == 7
    assert values["config"] == dataclasses.asdict(config)
    copy = Augmentation.from_config(values)
    assert (copy.config, copy.seed) == (config, 7)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'rotate'"):
        Augmentation(AugmentConfig(parts=("rotat",)))


def test_the_layer_does_not_turn_xla_off() -> None:
    """Keras's own affine layers do, for the whole model."""
    model = keras.Sequential([keras.Input((20, 20, 3)), Augmentation(AugmentConfig())])
    assert all(layer.supports_jit for layer in model._flatten_layers())
