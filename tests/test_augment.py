from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from skincnn.config import AUGMENT_BOUNDS, AugmentConfig
from skincnn.errors import ConfigError
from skincnn.model.augment import (
    AUGMENTATIONS,
    GEOMETRIC,
    Augmentation,
    compile_augmentation,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)


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
    rotated = [np.rot90(IMAGES[0], k) for k in range(4)]
    expected = np.stack(rotated + [image[:, ::-1] for image in rotated])
    matches = (seen[:, None] == expected[None]).all(axis=(2, 3, 4))
    assert matches.any(axis=1).all()
    # Binomial(400, 1/8): 50 with a standard deviation of 6.6.
    assert (matches.sum(axis=0) > 50 - 5 * 6.6).all()
    assert (matches.sum(axis=0) < 50 + 5 * 6.6).all()


def test_orientation_share_is_the_fraction_of_oriented_images() -> None:
    layer = Augmentation(
        AugmentConfig(parts=("flip", "quarter_turn"), orientation_share=0.4)
    )
    seen = np.asarray(layer(np.repeat(IMAGES[:1], 400, axis=0), training=True))
    upright = (seen == IMAGES[0]).all(axis=(1, 2, 3)).mean()
    # (1 - 0.4 / 2) (1 - 0.4 * 3 / 4) = 0.56, with a standard deviation of 0.025.
    assert upright == pytest.approx(0.56, abs=0.1)


def test_one_of_the_parts_is_applied_to_each_image() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    images = np.repeat(image[None], 400, axis=0)
    config = AugmentConfig(parts=("flip", "jitter", "flip_vertical"), choose="one")
    augmented = np.asarray(Augmentation(config).augment(images))
    upright, flipped, reversed_rows = (
        np.isclose(augmented, expected, atol=1e-3).all((1, 2, 3))
        for expected in (image, image[:, ::-1], image[::-1])
    )
    jittered = ~(upright | flipped | reversed_rows)
    # Each flip is drawn for a third of the images, and then applied to half of them. The
    # standard deviations are at most 0.024.
    for images_of_part, share in (
        (flipped, 1 / 6),
        (reversed_rows, 1 / 6),
        (jittered, 1 / 3),
    ):
        assert images_of_part.mean() == pytest.approx(share, abs=0.1)
    # No image is both flipped and jittered: jitter keeps the order of the values.
    ranks = augmented[jittered].mean(-1).reshape(-1, 64)
    for row in ranks:
        assert np.corrcoef(row, image.mean(-1).ravel())[0, 1] > 0.7


def test_strength_0_is_the_identity() -> None:
    zero = dict.fromkeys(AUGMENT_BOUNDS, 0)
    config = AugmentConfig(parts=tuple(AUGMENTATIONS), **zero)
    augmented = Augmentation(config).augment(IMAGES)
    np.testing.assert_allclose(augmented, IMAGES, atol=1e-3)


@pytest.mark.parametrize("name", AUGMENT_BOUNDS)
def test_magnitude_scales_each_strength_up_to_its_bound(name: str) -> None:
    bound = AUGMENT_BOUNDS[name]
    value = type(getattr(AugmentConfig(), name))(bound * 2 / 3)
    strengths = [
        AugmentConfig(magnitude=m, **{name: value}).strength(name)
        for m in (0, 0.25, 0.5, 1)
    ]
    assert strengths == [0, value / 2, value, bound]


def test_every_strength_has_a_bound_and_equals_its_field_at_magnitude_0_5() -> None:
    config = AugmentConfig()
    numbers = {
        field.name
        for field in dataclasses.fields(config)
        if isinstance(getattr(config, field.name), int | float)
    }
    assert numbers == {*AUGMENT_BOUNDS, "magnitude"}
    for name in AUGMENT_BOUNDS:
        assert config.strength(name) == getattr(config, name)


def test_every_constructor_argument_is_in_the_config() -> None:
    config = AugmentConfig(parts=("flip",), zoom=0.3)
    layer = Augmentation(config, seed=7)
    values = layer.get_config()
    assert values["seed"] == 7
    assert values["config"] == dataclasses.asdict(config)
    copy = Augmentation.from_config(values)
    assert (copy.config, copy.seed) == (config, 7)


def test_an_unknown_augmentation_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'rotate'"):
        Augmentation(AugmentConfig(parts=("rotat",)))


def test_layers_with_equal_configurations_share_one_compiled_function() -> None:
    """TensorFlow never frees a compiled function: 20 MB per trial of a search."""
    config = AugmentConfig(rotation_degrees=33.0)
    function: Any = compile_augmentation(config)
    first, second = (Augmentation(config, seed) for seed in (1, 2))
    augmented = [
        np.asarray(layer(IMAGES, training=True)) for layer in (first, first, second)
    ]
    assert function is None or function.experimental_get_tracing_count() == 1
    for one, other in itertools.combinations(augmented, 2):
        assert np.abs(one - other).max() > 1
    again = Augmentation(config, 1)
    for expected in augmented[:2]:
        np.testing.assert_array_equal(again(IMAGES, training=True), expected)


def test_all_geometric_augmentations_share_one_gather() -> None:
    """Each additional gather would interpolate, and thus blur, the image again."""
    layer = Augmentation(AugmentConfig(parts=tuple(GEOMETRIC)))
    import tensorflow as tf

    graph = tf.function(layer.augment).get_concrete_function(
        tf.TensorSpec((None, None, None, 3), tf.uint8)
    )
    gathers = [op for op in graph.graph.get_operations() if op.type.startswith("Gather")]
    assert len(gathers) == 1
