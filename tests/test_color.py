from __future__ import annotations

import colorsys

import numpy as np
import pytest
from fixed_draws import fixed_uniform
from PIL import Image, ImageEnhance
from scipy import ndimage

from skincnn.config import AugmentConfig
from skincnn.model.color import blur, color, hue, jitter, light, sharpen

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


@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_jitter_of_one_strength_matches_pillow(field: str, fraction: float) -> None:
    """Pillow is also what `ColorJitter` of torchvision calls for these changes."""
    strengths = {"brightness": 0, "contrast": 0, "saturation": 0, "hue_degrees": 0}
    config = AugmentConfig(**{**strengths, field: 0.4})
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 20, 3), np.uint8)
    jittered = jitter(images.astype(np.float32), fixed_uniform(2, fraction), config)
    names = {"saturation": "Color"}
    enhance = getattr(ImageEnhance, names.get(field, field.title()))
    for image, actual in zip(images, np.asarray(jittered), strict=True):
        expected = enhance(Image.fromarray(image)).enhance(0.6 + 0.8 * fraction)
        # Pillow rounds the mean and the result.
        np.testing.assert_allclose(actual, np.asarray(expected, int), atol=1.6)


@pytest.mark.parametrize("degrees", [0.0, 36.0, 150.0])
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_jitter_rotates_the_hue_of_hsv(degrees: float, fraction: float) -> None:
    config = AugmentConfig(brightness=0, contrast=0, saturation=0, hue_degrees=degrees)
    images = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3)).astype(np.float32)
    images[0, 0, :3] = [[0, 0, 0], [255, 255, 255], [90, 90, 90]]
    jittered = np.asarray(jitter(images, fixed_uniform(1, fraction), config))
    turns = (2 * fraction - 1) * degrees / 360
    for pixel, actual in zip(images.reshape(-1, 3), jittered.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(pixel / 255).tolist())
        expected = np.array(colorsys.hsv_to_rgb((h + turns) % 1, s, v)) * 255
        np.testing.assert_allclose(actual, expected, atol=1e-2)


def test_a_kernel_truncates_the_blur() -> None:
    config = AugmentConfig(blur=5.0, blur_kernel=(9, 5))
    blurred = np.asarray(blur(IMAGES, fixed_uniform(2, 1.0), config))
    expected = ndimage.gaussian_filter(
        IMAGES, 5.0, mode="reflect", axes=(1, 2), radius=(4, 2)
    )
    np.testing.assert_allclose(blurred, expected, atol=1e-2)


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
