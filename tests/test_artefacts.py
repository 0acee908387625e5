from __future__ import annotations

import numpy as np
import pytest
from draws import chosen
from scipy import ndimage

from skincnn.config import AugmentConfig
from skincnn.model.augment import Augmentation
from skincnn.model.hair_and_ruler import erase

SKIN = np.float32([200, 160, 140])


def vary(part: str, num_images: int = 64, size: int = 64, **fields: float) -> np.ndarray:
    """Returns even skin with a part alone: [num_images, size, size, 3]."""
    images = np.broadcast_to(SKIN, (num_images, size, size, 3))
    config = AugmentConfig(parts=(part,), **fields)
    return np.asarray(Augmentation(config).vary(images))


def changed(varied: np.ndarray, by: float = 8) -> np.ndarray:
    """Returns where gray levels fell, bool [num_images, height, width]."""
    return (SKIN - varied).max(axis=-1) > by


def test_a_part_of_the_area_is_erased() -> None:
    images = np.zeros((64, 40, 50, 3), np.float32)
    images[:, 0, 0] = 255  # the mean is 0.1275: erased pixels are those that are not 0
    config = AugmentConfig(parts=("erase",), erase=0.3)
    erased = np.asarray(Augmentation(config).vary(images))
    inside = (erased > 0) & (erased < 255)
    shares = inside.mean(axis=(1, 2, 3))
    assert shares.max() < 0.3 + 0.02  # and the rounding of the sides
    # Uniform in [0, 0.3]: a mean of 0.15, with a standard deviation of 0.011.
    assert shares.mean() == pytest.approx(0.15, abs=0.05)
    for mask in inside[..., 0]:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        assert mask.sum() == rows.sum() * columns.sum()
    np.testing.assert_allclose(erased[inside], 0.1275, rtol=1e-4)


def test_the_erased_area_is_as_drawn() -> None:
    images = np.random.default_rng(0).uniform(0, 255, (1, 100, 200, 3)).astype(np.float32)
    config = AugmentConfig(erase=0.25)
    for place in (0.0, 0.5, 1.0):
        erased = np.asarray(erase(images, chosen(1, 1.0, 0.5, place), config))
        differs = (erased != images).all(axis=-1)[0]
        assert differs.mean() == 0.25
        rows, columns = np.nonzero(differs)
        first = (rows.min(), columns.min())
        assert first == (round(place * 50), round(place * 100))


def test_hairs_are_thin_and_dark_and_of_different_numbers() -> None:
    bald = vary("hair", hairs=0)
    np.testing.assert_array_equal(bald, np.broadcast_to(SKIN, bald.shape))
    varied = vary("hair", hairs=8)
    assert (varied <= SKIN + 1e-3).all()
    mask = changed(varied)
    shares = mask.mean(axis=(1, 2))
    assert shares.max() < 0.15
    assert shares.max() > 0.02
    assert (shares == 0).any()
    # Nowhere broader than a few pixels: crossings aside, two rounds of erosion empty it.
    eroded = ndimage.binary_erosion(mask, np.ones((1, 3, 3)), iterations=2)
    assert eroded.mean() < 1e-3


def test_artefacts_cover_the_same_share_at_every_size() -> None:
    for part, fields in (("hair", {"hairs": 8}), ("ruler", {"ruler_share": 1.0})):
        small, large = (
            (SKIN - vary(part, 32, size, **fields)).mean() for size in (48, 144)
        )
        assert small == pytest.approx(large, rel=0.1)
        assert large > 0.1


def test_a_ruler_is_near_the_border_of_some_pictures() -> None:
    mask = changed(vary("ruler", 200, ruler_share=0.3))
    shown = mask.any(axis=(1, 2))
    # Binomial(200, 0.3): 60 with a standard deviation of 6.5.
    assert abs(shown.sum() - 60) < 4 * 6.5
    assert not mask[:, 20:44, 20:44].any()
    assert mask.mean(axis=(1, 2)).max() < 0.05
    # On every side.
    for border in (mask[:, :16], mask[:, -16:], mask[:, :, :16], mask[:, :, -16:]):
        assert border.any()
