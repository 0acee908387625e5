from __future__ import annotations

import numpy as np
import pytest
from draws import chosen
from scipy import ndimage

from skincnn.config import AugmentConfig
from skincnn.model.color import blur, color, hue, light, sharpen

RNG = np.random.default_rng(0)
# Far enough from 0 and 255 that nothing is clipped.
IMAGES = RNG.uniform(90, 160, (2, 16, 20, 3)).astype(np.float32)
GRAY = np.repeat(IMAGES[..., :1], 3, axis=-1)


@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_grey_stays_grey_when_saturation_or_hue_changes(place: float) -> None:
    config = AugmentConfig(color_cast=0, saturation=1, hue_degrees=180)
    for part in (color, hue):
        varied = np.asarray(part(GRAY, chosen(2, place), config))
        np.testing.assert_allclose(varied, GRAY, atol=1e-3)


def test_without_saturation_a_picture_is_grey() -> None:
    config = AugmentConfig(color_cast=0, saturation=1)
    grey = np.asarray(color(IMAGES, chosen(2, 0.0, 0.5), config))
    expected = np.repeat(IMAGES.mean(axis=-1, keepdims=True), 3, axis=-1)
    np.testing.assert_allclose(grey, expected, atol=1e-3)


def test_a_third_of_the_circle_of_hues_swaps_the_channels() -> None:
    config = AugmentConfig(hue_degrees=120)
    turned = np.asarray(hue(IMAGES, chosen(2, 1.0), config))
    # Red becomes green, green blue, blue red.
    np.testing.assert_allclose(turned, np.roll(IMAGES, 1, axis=-1), atol=1e-3)


@pytest.mark.parametrize("place", [0.1, 0.7])
def test_hue_keeps_the_mean_of_the_channels_and_the_distance_to_grey(place: float) -> None:
    turned = np.asarray(hue(IMAGES, chosen(2, place), AugmentConfig(hue_degrees=40)))
    for image in (turned - IMAGES, np.square(turned) - np.square(IMAGES)):
        np.testing.assert_allclose(image.mean(axis=-1), 0, atol=1e-2)
    assert np.abs(turned - IMAGES).max() > 1


def test_contrast_keeps_the_mean_and_brightness_moves_it() -> None:
    config = AugmentConfig(contrast=0.3, brightness=0.1)
    varied = np.asarray(light(IMAGES, chosen(2, 1.0, 0.5), config))
    np.testing.assert_allclose(varied.mean((1, 2)), IMAGES.mean((1, 2)), atol=1e-3)
    np.testing.assert_allclose(varied.std((1, 2)), 1.3 * IMAGES.std((1, 2)), rtol=1e-4)
    brighter = np.asarray(light(IMAGES, chosen(2, 0.5, 1.0), config))
    np.testing.assert_allclose(brighter, IMAGES + 25.5, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.0])
def test_blur_is_scipys_gaussian_and_keeps_the_mean(sigma: float) -> None:
    config = AugmentConfig(blur=sigma)
    blurred = np.asarray(blur(IMAGES, chosen(2, 1.0), config))
    radius = int(np.ceil(3 * sigma))
    expected = ndimage.gaussian_filter(
        IMAGES, sigma, mode="reflect", axes=(1, 2), radius=radius
    )
    np.testing.assert_allclose(blurred, expected, atol=1e-2)
    np.testing.assert_allclose(blurred.mean((1, 2)), IMAGES.mean((1, 2)), rtol=1e-5)


def test_sharpening_adds_what_a_slight_blur_takes_away() -> None:
    config = AugmentConfig(sharpness=1.5)
    sharp = np.asarray(sharpen(IMAGES, chosen(2, 1.0), config))
    kernel = np.outer([1, 2, 1], [1, 2, 1])[None, :, :, None] / 16
    blurred = ndimage.convolve(IMAGES, kernel, mode="reflect")
    expected = np.clip(IMAGES + 1.5 * (IMAGES - blurred), 0, 255)
    np.testing.assert_allclose(sharp, expected, atol=1e-2)
    flat = np.full_like(IMAGES, 100)
    np.testing.assert_allclose(sharpen(flat, chosen(2, 1.0), config), flat, atol=1e-3)
