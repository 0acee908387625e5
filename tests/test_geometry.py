from __future__ import annotations

import math

import numpy as np
import pytest
from draws import chosen
from scipy import ndimage

from skincnn.config import AugmentConfig
from skincnn.model.geometry import GEOMETRIC, shear, shift, transform

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)


def matrices(*rows: float) -> np.ndarray:
    """From the first two rows of a matrix: a, b, right, c, d, down."""
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
def test_any_map_agrees_with_scipy(rows: tuple[float, ...], width: int) -> None:
    images = IMAGES[:, :, :width]
    ours = np.asarray(transform(images, matrices(*rows)))
    # SciPy's first axis is y; shares of the longer side become pixels.
    a, b, right, c, d, down = rows
    matrix, moved = np.array([[d, c], [b, a]]), np.array([down, right]) * 20
    centre = np.array([9.5, (width - 1) / 2])
    for image, result in zip(images.astype(float), ours, strict=True):
        for channel in range(3):
            expected = ndimage.affine_transform(
                image[..., channel],
                matrix,
                offset=centre - matrix @ centre + moved,
                order=1,
                mode="reflect",
            )
            np.testing.assert_allclose(result[..., channel], expected, atol=0.05)


def test_pictures_need_not_be_square() -> None:
    images = IMAGES[:, :12]
    np.testing.assert_array_equal(
        transform(images, matrices(-1, 0, 0, 0, 1, 0)), images[:, :, ::-1]
    )


def test_a_product_of_matrices_applies_all_geometry_at_once() -> None:
    """Seen through A @ B, a picture is what A shows, seen through B."""
    turn = matrices(0, -1, 0, 1, 0, 0)
    move = matrices(1, 0, 0.2, 0, 1, -0.1)  # whole pixels
    at_once = np.asarray(transform(IMAGES, turn @ move))
    in_turn = np.asarray(transform(transform(IMAGES, turn), move))
    np.testing.assert_allclose(at_once, in_turn, atol=1e-2)


def test_a_shift_of_whole_pixels_moves_them() -> None:
    config = AugmentConfig(shift=0.1)  # 2 pixels
    moved = np.asarray(transform(IMAGES, shift(chosen(3, 1.0, 0.0), config)))
    np.testing.assert_allclose(moved[:, 2:, :-2], IMAGES[:, :-2, 2:], atol=1e-3)


def test_shear_slants_and_keeps_the_area() -> None:
    config = AugmentConfig(shear_degrees=45)
    matrix = np.asarray(shear(chosen(1, 1.0), config))[0]
    np.testing.assert_allclose(matrix, [[1, 1, 0], [0, 1, 0], [0, 0, 1]], atol=1e-6)
    # A row moves by its distance from the middle: half pixels at an even height.
    image = np.tile(np.arange(21.0)[None, None, :, None], (1, 21, 1, 3))
    slanted = np.asarray(transform(image, matrix[None]))
    np.testing.assert_allclose(slanted[0, 13, 5:15], image[0, 13, 8:18], atol=1e-3)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_linear_parts_keep_the_area_but_for_zoom(name: str) -> None:
    config = AugmentConfig()
    for place in (0.05, 0.3, 0.9):
        matrix = np.asarray(GEOMETRIC[name](chosen(1, place), config))[0]
        scale = math.exp(2 * config.zoom * (2 * place - 1)) if name == "zoom" else 1.0
        assert abs(np.linalg.det(matrix)) == pytest.approx(scale, abs=1e-5)
        np.testing.assert_array_equal(matrix[2], [0, 0, 1])
