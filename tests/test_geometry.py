from __future__ import annotations

import math

import numpy as np
import pytest
from fixed_draws import fixed_uniform
from scipy import ndimage

from skincnn.config import AugmentConfig
from skincnn.model.geometry import (
    GEOMETRIC,
    crop,
    flip,
    flip_vertical,
    shear,
    shift,
    transform,
    transpose,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)


def matrices(*rows: float) -> np.ndarray:
    """Returns a matrix with these first two rows for each image."""
    matrix = np.reshape(np.float32([*rows, 0, 0, 1]), (1, 3, 3))
    return np.tile(matrix, (len(IMAGES), 1, 1))


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), IMAGES),
        ((-1, 0, 0, 1), IMAGES[:, :, ::-1]),
        ((0, -1, 1, 0), np.rot90(IMAGES, 1, (1, 2))),
        ((0, 1, -1, 0), np.rot90(IMAGES, -1, (1, 2))),
        ((-1, 0, 0, -1), np.rot90(IMAGES, 2, (1, 2))),
        ((1, 0, 0, -1), IMAGES[:, ::-1]),
        ((0, 1, 1, 0), IMAGES.transpose(0, 2, 1, 3)),
        ((0, -1, -1, 0), np.rot90(IMAGES, 2, (1, 2)).transpose(0, 2, 1, 3)),
    ],
)
def test_the_eight_orientations_move_pixels_exactly(
    matrix: tuple[float, ...], expected: np.ndarray
) -> None:
    a, b, c, d = matrix
    np.testing.assert_array_equal(transform(IMAGES, matrices(a, b, 0, c, d, 0)), expected)


@pytest.mark.parametrize("width", [20, 13])
@pytest.mark.parametrize(
    "rows",
    [
        (0.955, -0.296, 0.0, 0.296, 0.955, 0.0),
        (-0.33, -0.73, 0.1, 0.73, -0.33, -0.2),
        (0.63, 1.25, -0.35, -1.25, 0.63, 0.02),
        (1.0, 0.4, 0.05, 0.0, 1.0, 0.0),
    ],
)
def test_affine_maps_match_scipy(rows: tuple[float, ...], width: int) -> None:
    images = IMAGES[:, :, :width]
    ours = np.asarray(transform(images, matrices(*rows)))
    # The first axis of SciPy is y; translations are in pixels.
    a, b, right, c, d, down = rows
    matrix, translation = np.array([[d, c], [b, a]]), np.array([down, right]) * 20
    center = np.array([9.5, (width - 1) / 2])
    for image, result in zip(images.astype(float), ours, strict=True):
        for channel in range(3):
            expected = ndimage.affine_transform(
                image[..., channel],
                matrix,
                offset=center - matrix @ center + translation,
                order=1,
                mode="reflect",
            )
            np.testing.assert_allclose(result[..., channel], expected, atol=0.05)


def test_a_product_of_matrices_equals_successive_transforms() -> None:
    """`A @ B` first applies A to the image, then B."""
    turn = matrices(0, -1, 0, 1, 0, 0)
    move = matrices(1, 0, 0.2, 0, 1, -0.1)  # whole pixels
    combined = np.asarray(transform(IMAGES, turn @ move))
    successive = np.asarray(transform(transform(IMAGES, turn), move))
    np.testing.assert_allclose(combined, successive, atol=1e-2)


def test_a_shift_by_whole_pixels_is_exact() -> None:
    config = AugmentConfig(shift=0.1)  # 2 pixels
    shifted = np.asarray(transform(IMAGES, shift(fixed_uniform(3, 1.0, 0.0), config)))
    np.testing.assert_allclose(shifted[:, 2:, :-2], IMAGES[:, :-2, 2:], atol=1e-3)


def test_shear_matches_its_angle() -> None:
    config = AugmentConfig(shear_degrees=45)
    matrix = np.asarray(shear(fixed_uniform(1, 1.0), config))[0]
    np.testing.assert_allclose(matrix, [[1, 1, 0], [0, 1, 0], [0, 0, 1]], atol=1e-6)
    # A row shifts by its distance from the center, in half pixels for an even height.
    image = np.tile(np.arange(21.0)[None, None, :, None], (1, 21, 1, 3))
    sheared = np.asarray(transform(image, matrix[None]))
    np.testing.assert_allclose(sheared[0, 13, 5:15], image[0, 13, 8:18], atol=1e-3)


@pytest.mark.parametrize("fraction", [0.0, 0.4, 0.6])
def test_a_reflection_is_drawn_for_half_of_the_images(fraction: float) -> None:
    reflections = {
        flip: IMAGES[:, :, ::-1],
        flip_vertical: IMAGES[:, ::-1],
        transpose: IMAGES.transpose(0, 2, 1, 3),
    }
    for part, reflected in reflections.items():
        matrix = part(fixed_uniform(3, fraction), AugmentConfig())
        expected = reflected if fraction < 0.5 else IMAGES
        np.testing.assert_array_equal(transform(IMAGES, matrix), expected)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)])
def test_a_crop_enlarges_a_part_of_the_image(x: float, y: float) -> None:
    config = AugmentConfig(crop=0.5)  # 10 of 20 pixels
    cropped = np.asarray(transform(IMAGES, crop(fixed_uniform(3, 1.0, x, y), config)))
    left, top = round(10 * x), round(10 * y)
    part = IMAGES[:, top : top + 10, left : left + 10].astype(float)
    # Two output pixels per input pixel: their mean is .75 of it and .25 of its neighbors.
    means = cropped.reshape(3, 10, 2, 10, 2, 3).mean((2, 4))
    inner = ndimage.correlate1d(
        ndimage.correlate1d(part, [0.125, 0.75, 0.125], axis=1),
        [0.125, 0.75, 0.125],
        axis=2,
    )
    np.testing.assert_allclose(means[:, 1:-1, 1:-1], inner[:, 1:-1, 1:-1], atol=1e-2)


def test_beyond_the_border_the_image_is_reflected_or_black() -> None:
    matrix = matrices(1, 0, 0.25, 0, 1, 0)  # 5 of 20 pixels
    for reflect, beyond in ((True, IMAGES[:, :, :-6:-1]), (False, 0)):
        moved = np.asarray(transform(IMAGES, matrix, reflect=reflect))
        np.testing.assert_allclose(moved[:, :, :15], IMAGES[:, :, 5:], atol=1e-3)
        np.testing.assert_allclose(moved[:, :, 15:] - beyond, 0, atol=1e-3)
    white = np.full((3, 100, 100, 1), 255.0)
    half = math.sqrt(0.5)
    turned = np.asarray(transform(white, matrices(half, -half, 0, half, half, 0)))
    black = np.asarray(
        transform(white, matrices(half, -half, 0, half, half, 0), reflect=False)
    )
    assert (turned == 255).all()
    # A square and the same square, turned by 45 degrees, share a regular octagon.
    assert black.mean() / 255 == pytest.approx(2 * math.sqrt(2) - 2, abs=0.01)
    assert set(np.unique(black)) == {0, 255}


@pytest.mark.parametrize("name", sorted({*GEOMETRIC} - {"crop"}))
def test_all_but_zoom_and_crop_preserve_the_area(name: str) -> None:
    config = AugmentConfig()
    for fraction in (0.05, 0.3, 0.9):
        matrix = np.asarray(GEOMETRIC[name](fixed_uniform(1, fraction), config))[0]
        scale = math.exp(2 * config.zoom * (2 * fraction - 1)) if name == "zoom" else 1.0
        assert abs(np.linalg.det(matrix)) == pytest.approx(scale, abs=1e-5)
        np.testing.assert_array_equal(matrix[2], [0, 0, 1])
