from __future__ import annotations

import numpy as np
import pytest
from fixed_draws import fixed_uniform
from scipy import ndimage

from skincnn.config import AugmentConfig
from skincnn.model.color import blur, color, hue, light, sharpen

RNG = np.random.default_rng(0)
# Far enough from 0 and 255 to avoid clipping.
IMAGES = RNG.uniform(90, 160, (2, 16, 20, 3)).astype(np.float32)
GRAY = np.repeat(IMAGES[..., :1], 3, axis=-1)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_saturation_and_hue_preserve_gray(fraction: float) -> None:
    config = AugmentConfig(color_cast=0, saturation=1, hue_degrees=180)
    for part in (color, hue):
        augmented = np.asarray(part(GRAY, fixed_uniform(2, fraction), config))
        np.testing.assert_allclose(augmented, GRAY, atol=1e-3)


def test_saturation_0_gives_gray() -> None:
    config = AugmentConfig(color_cast=0, saturation=1)
    gray = np.asarray(color(IMAGES, fixed_uniform(2, 0.0, 0.5), config))
    expected = np.repeat(IMAGES.mean(axis=-1, keepdims=True), 3, axis=-1)
    np.testing.assert_allclose(gray, expected, atol=1e-3)


def test_a_hue_rotation_by_120_degrees_permutes_the_channels() -> None:
    config = AugmentConfig(hue_degrees=120)
    rotated = np.asarray(hue(IMAGES, fixed_uniform(2, 1.0), config))
    # Red becomes green, green blue, blue red.
    np.testing.assert_allclose(rotated, np.roll(IMAGES, 1, axis=-1), atol=1e-3)


@pytest.mark.parametrize("fraction", [0.1, 0.7])
def test_hue_preserves_the_channel_mean_and_the_distance_to_gray(fraction: float) -> None:
    rotated = np.asarray(
        hue(IMAGES, fixed_uniform(2, fraction), AugmentConfig(hue_degrees=40))
    )
    for change in (rotated - IMAGES, np.square(rotated) - np.square(IMAGES)):
        np.testing.assert_allclose(change.mean(axis=-1), 0, atol=1e-2)
    assert np.abs(rotated - IMAGES).max() > 1


def test_contrast_preserves_the_mean_and_brightness_shifts_it() -> None:
    config = AugmentConfig(contrast=0.3, brightness=0.1)
    augmented = np.asarray(light(IMAGES, fixed_uniform(2, 1.0, 0.5), config))
    np.testing.assert_allclose(augmented.mean((1, 2)), IMAGES.mean((1, 2)), atol=1e-3)
    np.testing.assert_allclose(augmented.std((1, 2)), 1.3 * IMAGES.std((1, 2)), rtol=1e-4)
    brighter = np.asarray(light(IMAGES, fixed_uniform(2, 0.5, 1.0), config))
    np.testing.assert_allclose(brighter, IMAGES + 25.5, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.0])
def test_blur_matches_scipy_and_preserves_the_mean(sigma: float) -> None:
    config = AugmentConfig(blur=sigma)
    blurred = np.asarray(blur(IMAGES, fixed_uniform(2, 1.0), config))
    radius = int(np.ceil(3 * sigma))
    expected = ndimage.gaussian_filter(
        IMAGES, sigma, mode="reflect", axes=(1, 2), radius=radius
    )
    np.testing.assert_allclose(blurred, expected, atol=1e-2)
    np.testing.assert_allclose(blurred.mean((1, 2)), IMAGES.mean((1, 2)), rtol=1e-5)


def test_sharpen_is_unsharp_masking() -> None:
    config = AugmentConfig(sharpness=1.5)
    sharp = np.asarray(sharpen(IMAGES, fixed_uniform(2, 1.0), config))
    kernel = np.outer([1, 2, 1], [1, 2, 1])[None, :, :, None] / 16
    blurred = ndimage.convolve(IMAGES, kernel, mode="reflect")
    expected = np.clip(IMAGES + 1.5 * (IMAGES - blurred), 0, 255)
    np.testing.assert_allclose(sharp, expected, atol=1e-2)
    flat = np.full_like(IMAGES, 100)
    np.testing.assert_allclose(
        sharpen(flat, fixed_uniform(2, 1.0), config), flat, atol=1e-3
    )
