from __future__ import annotations

import numpy as np
import pytest
from fixed_draws import fixed_uniform
from scipy import ndimage

from skincnn.config import AugmentConfig
from skincnn.model.augment import Augmentation
from skincnn.model.hair_and_ruler import erase

SKIN = np.float32([200, 160, 140])


def augment(part: str, num_images: int = 64, size: int = 64, **fields: float) -> np.ndarray:
    """Returns augmented copies of a uniform image: [num_images, size, size, 3]."""
    images = np.broadcast_to(SKIN, (num_images, size, size, 3))
    config = AugmentConfig(parts=(part,), **fields)
    return np.asarray(Augmentation(config).augment(images))


def darkened(images: np.ndarray, by: float = 8) -> np.ndarray:
    """Returns which pixels became darker, bool [num_images, height, width]."""
    return (SKIN - images).max(axis=-1) > by


def test_erase_fills_a_rectangle_of_random_area_with_the_mean_color() -> None:
    images = np.zeros((64, 40, 50, 3), np.float32)
    images[:, 0, 0] = 255  # The mean, which fills the erased rectangle, is 0.1275.
    config = AugmentConfig(parts=("erase",), erase=0.3)
    erased = np.asarray(Augmentation(config).augment(images))
    inside = (erased > 0) & (erased < 255)
    fractions = inside.mean(axis=(1, 2, 3))
    assert fractions.max() < 0.3 + 0.02  # The sides are rounded.
    # Uniform in [0, 0.3]: a mean of 0.15 with a standard deviation of 0.011.
    assert fractions.mean() == pytest.approx(0.15, abs=0.05)
    for mask in inside[..., 0]:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        assert mask.sum() == rows.sum() * columns.sum()
    np.testing.assert_allclose(erased[inside], 0.1275, rtol=1e-4)


def test_the_erased_rectangle_has_the_drawn_area_and_position() -> None:
    images = np.random.default_rng(0).uniform(0, 255, (1, 100, 200, 3)).astype(np.float32)
    config = AugmentConfig(erase=0.25)
    for position in (0.0, 0.5, 1.0):
        erased = np.asarray(erase(images, fixed_uniform(1, 1.0, 0.5, position), config))
        differs = (erased != images).all(axis=-1)[0]
        assert differs.mean() == 0.25
        rows, columns = np.nonzero(differs)
        first = (rows.min(), columns.min())
        assert first == (round(position * 50), round(position * 100))


def test_hairs_are_thin_and_dark_and_their_number_varies() -> None:
    without = augment("hair", hairs=0)
    np.testing.assert_array_equal(without, np.broadcast_to(SKIN, without.shape))
    augmented = augment("hair", hairs=8)
    assert (augmented <= SKIN + 1e-3).all()
    mask = darkened(augmented)
    fractions = mask.mean(axis=(1, 2))
    assert 0.02 < fractions.max() < 0.15
    assert (fractions == 0).any()
    # Except at crossings, hairs are a few pixels wide: two erosions remove them.
    eroded = ndimage.binary_erosion(mask, np.ones((1, 3, 3)), iterations=2)
    assert eroded.mean() < 1e-3


def test_hairs_and_ruler_cover_the_same_fraction_at_every_size() -> None:
    for part, fields in (("hair", {"hairs": 8}), ("ruler", {"ruler_share": 1.0})):
        small, large = (
            (SKIN - augment(part, 32, size, **fields)).mean() for size in (48, 144)
        )
        assert small == pytest.approx(large, rel=0.1)
        assert large > 0.1


def test_a_ruler_is_near_the_border_of_some_images() -> None:
    mask = darkened(augment("ruler", 200, ruler_share=0.3))
    shown = mask.any(axis=(1, 2))
    # Binomial(200, 0.3): 60 with a standard deviation of 6.5.
    assert abs(shown.sum() - 60) < 4 * 6.5
    assert not mask[:, 20:44, 20:44].any()
    assert mask.mean(axis=(1, 2)).max() < 0.05
    # Rulers occur on every side.
    for border in (mask[:, :16], mask[:, -16:], mask[:, :, :16], mask[:, :, -16:]):
        assert border.any()
