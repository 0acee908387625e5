"""Every entry of every table of parts, so that a new one is tested at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest

from skincnn import classes
from skincnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ImbalanceConfig,
    ModelConfig,
)
from skincnn.errors import ConfigError
from skincnn.inference.corruptions import CORRUPTIONS, STRENGTHS
from skincnn.lookup import look_up
from skincnn.model.augment import AUGMENTATIONS, Augmentation
from skincnn.model.backbones import BACKBONES
from skincnn.model.classifier import build_classifier, set_trainable
from skincnn.model.mixing import MIXES, Mixing
from skincnn.presets import PRESETS
from skincnn.training.imbalance import STRATEGIES
from skincnn.training.run import check
from tfds_ham10000 import Builder, demo, demo_renderer, records
from tuning.hypermodel import explore
from tuning.spaces import SPACES, find_space, value_at


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_valid_and_says_its_command_cost_and_score(name: str) -> None:
    config = PRESETS[name]()
    check(config)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for line in ("Command: python scripts/train.py", "Cost: ", "Score"):
        assert line in (PRESETS[name].__doc__ or "")


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_keeps_the_mean_weights_at_one(name: str) -> None:
    counts = np.array([327, 514, 1099, 115, 1113, 6705, 142])
    plan = STRATEGIES[name](counts, ImbalanceConfig())
    drawn = counts if plan.epoch_counts is None else plan.epoch_counts
    if plan.sampling_weights is not None:
        assert plan.sampling_weights @ counts / counts.sum() == pytest.approx(1)
        assert (plan.sampling_weights > 0).all()
        drawn = counts * plan.sampling_weights
    assert plan.class_weights @ drawn / drawn.sum() == pytest.approx(1, rel=1e-5)
    assert (plan.class_weights > 0).all()
    assert plan.class_weights.dtype == np.float32


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_varies_each_picture_by_its_seed(name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 24, 24, 3), dtype=np.uint8)
    images[1:] = images[0]
    first, again, other = (
        np.asarray(Augmentation(AugmentConfig(parts=(name,)), seed).vary(images))
        for seed in (1, 1, 2)
    )
    assert first.dtype == np.float32
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 255
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1
    assert len(np.unique(first.reshape(16, -1), axis=0)) > 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_grows_with_its_magnitude(name: str) -> None:
    rows, columns = np.mgrid[:48, :48] / 48
    lesion = np.hypot(rows - 0.4, columns - 0.6) < 0.3
    image = (
        np.where(lesion[..., None], [90.0, 60, 40], [200.0, 160, 140])
        + 20 * rows[..., None]
    )
    images = np.repeat(image[None].astype(np.float32), 64, axis=0)
    changes = []
    for magnitude in (0.0, 0.25, 0.5, 1.0):
        config = AugmentConfig(parts=(name,), magnitude=magnitude)
        # The function behind the shortcut for 0.
        varied = np.asarray(Augmentation(config).vary(images))
        assert varied.min() >= 0
        assert varied.max() <= 255
        changes.append(np.abs(varied - images).mean())
    assert changes[0] == pytest.approx(0, abs=1e-4)
    # The orientations are all equally likely at the middle already.
    assert 0 < changes[1] < changes[2] <= changes[3]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_draws_anew_inside_a_graph(name: str) -> None:
    """Parameters that are drawn once, when a graph is built, are a known fault."""
    layer = Augmentation(AugmentConfig(parts=(name,)))
    model = keras.Sequential([keras.Input((24, 24, 3)), layer])
    model.compile(run_eagerly=False)
    images = np.random.default_rng(0).uniform(0, 255, (16, 24, 24, 3)).astype("float32")
    import tensorflow as tf

    step = tf.function(lambda: model(images, training=True))
    assert np.abs(np.asarray(step()) - np.asarray(step())).max() > 1


@pytest.mark.parametrize("name", MIXES)
def test_mix_returns_pictures_partners_and_shares(name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    layer = Mixing(AugmentConfig(mix=name, mix_alpha=1))  # type: ignore[arg-type]
    mixed, partner, share = (np.asarray(x) for x in layer(images, training=True))
    assert (mixed.shape, mixed.dtype) == (images.shape, np.float32)
    assert (partner.shape, partner.dtype) == ((8,), np.int32)
    assert (share.shape, share.dtype) == ((8,), np.float32)
    assert ((partner >= 0) & (partner < 8)).all()
    assert ((share >= 0) & (share <= 1)).all()
    assert (mixed == images).all() == (share == 1).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_spoils_a_copy_by_its_generator(name: str) -> None:
    image = demo_renderer.render("mel", 1, 0)
    before = image.copy()
    for severity in range(1, len(STRENGTHS[name]) + 1):
        first, again = (
            CORRUPTIONS[name](image, severity, np.random.default_rng(7)) for _ in range(2)
        )
        assert (first.shape, first.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(first, again)
        assert 0.5 < np.abs(first.astype(float) - image).mean() < 128
    np.testing.assert_array_equal(image, before)
    assert "training" in (CORRUPTIONS[name].__doc__ or "").lower()


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_states_its_scaling_sizes_and_widths(name: str) -> None:
    """What it computes is tested for the smallest of each family, in test_backbones."""
    entry = BACKBONES[name]
    for values in (entry.scaling.scale, entry.scaling.offset):
        assert np.broadcast_to(values, 3).dtype == np.float64
    assert entry.native_size == 0 or entry.min_size <= entry.native_size <= 600
    assert entry.min_size >= 32
    assert entry.min_size % entry.step == 0
    assert entry.widths is not None
    assert 1.0 in entry.widths or entry.native_size == 0
    assert entry.has_width or entry.widths == (1.0,)
    check(Config(model=ModelConfig(backbone=name), data=DataConfig(image_size=224)))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("name", "width"), [("small_cnn", 0.1), ("mobilenet", 0.25), ("mobilenet_v2", 0.35)]
)
def test_backbone_trains_saves_and_freezes(name: str, width: float, tmp_path: Path) -> None:
    config = ModelConfig(backbone=name, width_multiplier=width, weights="none")
    model = build_classifier(config, 7, fused=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 48, 40, 3), dtype=np.uint8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for blocks in (0, None):
        set_trainable(model, blocks)
        # Weights and moving statistics alike must rest while the backbone is frozen.
        before = [np.array(w) for w in model.get_layer("backbone").get_weights()]
        model.compile("adam", loss)
        model.fit(images, np.arange(4), verbose=0)
        after = model.get_layer("backbone").get_weights()
        moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
        assert all(moved) if blocks is None else not any(moved)

    logits = model.predict(images, verbose=0)
    assert logits.shape == (4, 7)
    assert logits.dtype == np.float32
    path = tmp_path / f"{name}.weights.h5"
    model.save_weights(path)
    copy = build_classifier(config, 7, seed=1, fused=True)
    assert np.abs(copy.predict(images, verbose=0) - logits).max() > 1e-3
    copy.load_weights(path)
    np.testing.assert_allclose(
        copy.predict(images, verbose=0), logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("config", Builder.BUILDER_CONFIGS, ids=lambda config: config.name)
def test_dataset_config_says_when_it_is_made_up(config: object) -> None:
    assert ("SYNTHETIC" in config.description) == config.synthetic  # type: ignore[attr-defined]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", SPACES)
def test_space_names_what_it_sets_and_begins_at_the_preset(name: str, preset: str) -> None:
    config = PRESETS[preset]()
    if name == "augmentation" and config.train.cached_views:
        pytest.skip("features are not augmented")
    space = find_space([name])
    found = explore(space, config)  # defaults, all choices and random draws are valid
    assert found.space
    rng = np.random.default_rng(1)
    for draw in range(20):
        hp = keras_tuner.HyperParameters()
        for parameter in found.space:
            hp.merge([parameter])
            if draw and hp.is_active(parameter):
                seed = int(rng.integers(2**31))
                hp.values[parameter.name] = parameter.random_sample(seed)
        made = space(hp, config)
        assert Config.from_dict(json.loads(json.dumps(made.to_dict()))) == made
        for path, value in hp.values.items():
            value = pytest.approx(value, rel=1e-5) if type(value) is float else value
            assert value_at(made, path) == value
        if not draw and name != "backbone":  # which writes the stages out
            assert set(made.augment.parts) == set(config.augment.parts)
            parts = dataclasses.replace(made.augment, parts=config.augment.parts)
            made = dataclasses.replace(made, augment=parts)
            decay = dataclasses.replace(
                made.optimizer, weight_decay=config.optimizer.weight_decay
            )
            assert dataclasses.replace(made, optimizer=decay) == config


def test_one_order_of_classes_everywhere() -> None:
    names = tuple(lesion.name for lesion in classes.HAM10000)
    assert names == records.CLASS_NAMES == tuple(sorted(names))
    assert set(names) == set(demo_renderer.APPEARANCES) == set(demo.CLASS_COUNTS)
    assert Builder.BUILDER_CONFIGS


def test_classes_of_other_datasets_are_described() -> None:
    found = classes.describe(["scc", "Benign", "mel", "wart"])
    assert list(found) == ["scc", "Benign", "mel", "wart"]
    malignant = [lesion.malignant for lesion in found.values()]
    assert malignant == [True, False, True, None]
    assert found["wart"].full_name == "wart"
    for name, meant in classes.SYNONYMS.items():
        assert classes.describe([name.title()])[name.title()].name == meant


def test_a_wrong_name_lists_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"`model\.backbone` must be one of: .*'mobilnet'.*Did you mean"
    ):
        look_up(BACKBONES, "mobilnet", "`model.backbone`")
