from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from skincnn.config import AugmentConfig
from skincnn.model.augment import Augmentation
from skincnn.model.mixing import MIXES, Mixing, larger_share
from skincnn.model.random_ops import uniform_of

NAMES = [name for name in MIXES if name != "none"]
RNG = np.random.default_rng(0)


def mix(images: np.ndarray, name: str, alpha: float = 1.0) -> tuple[np.ndarray, ...]:
    layer = Mixing(AugmentConfig(mix=name, mix_alpha=alpha))
    return tuple(np.asarray(value) for value in layer(images, training=True))


def test_mixup_is_the_weighted_mean_of_two_images() -> None:
    images = RNG.integers(0, 256, (16, 12, 10, 3), dtype=np.uint8)
    mixed, partner, share = mix(images, "mixup")
    weight = share[:, None, None, None]
    expected = weight * images + (1 - weight) * images[partner]
    np.testing.assert_allclose(mixed, expected, atol=1e-3)


def test_the_share_of_cutmix_is_exactly_the_visible_area() -> None:
    images = np.broadcast_to(np.arange(32.0)[:, None, None, None], (32, 21, 17, 3))
    mixed, partner, share = mix(images, "cutmix")
    visible = (mixed == images).all(axis=-1)
    cut = (mixed == images[partner]).all(axis=-1)
    assert (visible | cut).all()
    mixed_pairs = partner != np.arange(32)
    np.testing.assert_allclose(
        visible.mean((1, 2))[mixed_pairs], share[mixed_pairs], atol=1e-6
    )
    for mask in cut[mixed_pairs]:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        assert mask.sum() == rows.sum() * columns.sum()
    assert len(np.unique(share)) > 5


@pytest.mark.parametrize("name", NAMES)
def test_every_image_is_a_partner_once_and_dominates_its_mix(name: str) -> None:
    images = RNG.uniform(0, 255, (24, 16, 16, 3)).astype(np.float32)
    mixed, partner, share = mix(images, name)
    assert sorted(partner) == list(range(24))
    assert (partner.dtype, share.dtype, mixed.dtype) == (np.int32, np.float32, np.float32)
    assert share.min() >= 0.5 - 0.05  # CutMix rounds to whole pixels
    assert share.max() <= 1
    assert len(np.unique(share)) > 5  # a different share for each image
    assert mixed.min() >= 0
    assert mixed.max() <= 255


@pytest.mark.parametrize("name", MIXES)
def test_mixing_is_the_identity_outside_training_and_at_magnitude_0(name: str) -> None:
    images = RNG.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    plain = Mixing(AugmentConfig(mix=name))
    zero = Mixing(AugmentConfig(mix=name, magnitude=0.0))
    none = Mixing(AugmentConfig(mix="none"))
    for results in (
        plain(images),
        zero(images, training=True),
        none(images, training=True),
    ):
        mixed, partner, share = map(np.asarray, results)
        np.testing.assert_array_equal(mixed, images)
        np.testing.assert_array_equal(partner, np.arange(5))
        np.testing.assert_array_equal(share, np.ones(5))


@pytest.mark.parametrize("name", NAMES)
def test_each_step_draws_a_new_mix_and_a_seed_reproduces_it(name: str) -> None:
    images = RNG.uniform(0, 255, (8, 16, 16, 3)).astype(np.float32)
    layer, copy = (Mixing(AugmentConfig(mix=name, mix_alpha=1), 3) for _ in range(2))
    first, second = (layer(images, training=True) for _ in range(2))
    assert not np.array_equal(first[1], second[1])
    assert not np.array_equal(first[2], second[2])
    for value, repeated in zip(first, copy(images, training=True), strict=True):
        np.testing.assert_array_equal(value, repeated)


def test_mixing_and_augmentation_draw_different_numbers_from_one_seed() -> None:
    images, config = np.zeros((8, 4, 4, 3), np.float32), AugmentConfig(mix="mixup")
    first, second = (
        np.asarray(uniform_of(images, layer(config, 5).seed_generator)(0.0, 1.0))
        for layer in (Mixing, Augmentation)
    )
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    rng = np.random.default_rng(0)

    def uniform(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, 20_000)

    shares = np.asarray(larger_share(uniform, alpha))
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(shares, lambda x: 2 * beta.cdf(x) - 1).pvalue > 0.01


def test_a_small_alpha_hardly_mixes_and_stays_finite() -> None:
    images = RNG.uniform(0, 255, (64, 4, 4, 3)).astype(np.float32)
    mixed, _, share = mix(images, "mixup", alpha=1e-3)
    assert np.isfinite(mixed).all()
    assert (share > 0.99).mean() > 0.9
