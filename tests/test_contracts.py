"""Tests of every preset, strategy, augmentation, backbone, ...; new ones are included."""

from __future__ import annotations

import dataclasses
import json
import re
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
from skincnn.inference.corruptions import CORRUPTIONS
from skincnn.model.augment import AUGMENTATIONS, Augmentation
from skincnn.model.backbones import BACKBONES
from skincnn.model.classifier import build_classifier, set_trainable
from skincnn.model.mixing import MIXES, Mixing
from skincnn.presets import PRESETS
from skincnn.training.imbalance import STRATEGIES
from skincnn.training.setup import check
from tfds_ham10000 import Builder, demo, demo_renderer, records
from tuning.explore import explore
from tuning.spaces import SPACES, find_space, value_at


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_valid_and_documents_command_cost_and_score(name: str) -> None:
    config = PRESETS[name]()
    check(config)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    documentation = PRESETS[name].__doc__ or ""
    assert "Command: skincnn train" in documentation
    assert "Cost: " in documentation
    assert re.search("[Ss]core.*: ", documentation, re.DOTALL)


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_weights_have_a_mean_of_one(name: str) -> None:
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
def test_augmentation_depends_on_image_and_seed(name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 24, 24, 3), dtype=np.uint8)
    images[1:] = images[0]
    first, again, other = (
        np.asarray(Augmentation(AugmentConfig(parts=(name,)), seed).augment(images))
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
        # `augment` has no shortcut for magnitude 0, unlike the layer.
        varied = np.asarray(Augmentation(config).augment(images))
        assert varied.min() >= 0
        assert varied.max() <= 255
        changes.append(np.abs(varied - images).mean())
    assert changes[0] == pytest.approx(0, abs=1e-4)
    # At 0.5 all orientations are already equally likely.
    assert 0 < changes[1] < changes[2] <= changes[3]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_draws_new_parameters_in_each_graph_call(name: str) -> None:
    """A common mistake is to draw the parameters only once, during tracing."""
    layer = Augmentation(AugmentConfig(parts=(name,)))
    model = keras.Sequential([keras.Input((24, 24, 3)), layer])
    model.compile(run_eagerly=False)
    images = np.random.default_rng(0).uniform(0, 255, (16, 24, 24, 3)).astype("float32")
    import tensorflow as tf

    step = tf.function(lambda: model(images, training=True))
    assert np.abs(np.asarray(step()) - np.asarray(step())).max() > 1


@pytest.mark.parametrize("name", MIXES)
def test_mix_returns_images_partners_and_weights(name: str) -> None:
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
def test_corruption_changes_a_copy_with_the_given_generator(name: str) -> None:
    image = demo_renderer.render("mel", 1, 0)
    before = image.copy()
    function, strengths = CORRUPTIONS[name]
    for strength in strengths:
        first, again = (
            function(image, strength, np.random.default_rng(7)) for _ in range(2)
        )
        assert (first.shape, first.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(first, again)
        assert 0.5 < np.abs(first.astype(float) - image).mean() < 128
    np.testing.assert_array_equal(image, before)
    assert "augmentation" in (function.__doc__ or "").lower()


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_declares_scaling_sizes_and_widths(name: str) -> None:
    """See test_backbones.py for the outputs of the smallest network of each family."""
    entry = BACKBONES[name]
    for values in (entry.scaling.scale, entry.scaling.offset):
        assert np.broadcast_to(values, 3).dtype == np.float64
    assert entry.native_size == 0 or entry.min_size <= entry.native_size <= 600
    assert entry.min_size >= 32
    assert entry.min_size % entry.size_multiple == 0
    assert entry.imagenet_widths is not None
    assert 1.0 in entry.imagenet_widths or entry.native_size == 0
    assert entry.has_width or entry.imagenet_widths == (1.0,)
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
        # A frozen backbone keeps its weights and its moving statistics.
        before = [np.array(w) for w in model.get_layer("backbone").get_weights()]
        model.compile("adam", loss)
        model.fit(images, np.arange(4), verbose=0)
        after = model.get_layer("backbone").get_weights()
        changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
        assert all(changed) if blocks is None else not any(changed)

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
def test_synthetic_dataset_config_is_described_as_such(config: object) -> None:
    assert ("SYNTHETIC" in config.description) == config.synthetic  # type: ignore[attr-defined]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", SPACES)
def test_space_sets_named_fields_and_defaults_to_the_preset(name: str, preset: str) -> None:
    config = PRESETS[preset]()
    if name == "augmentation" and config.train.cached_views:
        pytest.skip("features are not augmented")
    space = find_space([name])
    parameters = explore(space, config).space  # checks defaults, choices, random draws
    assert parameters
    rng = np.random.default_rng(1)
    for draw in range(20):
        hp = keras_tuner.HyperParameters()
        for parameter in parameters:
            hp.merge([parameter])
            if draw and hp.is_active(parameter):
                seed = int(rng.integers(2**31))
                hp.values[parameter.name] = parameter.random_sample(seed)
        chosen = space(hp, config)
        assert Config.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen
        for path, value in hp.values.items():
            value = pytest.approx(value, rel=1e-5) if type(value) is float else value
            assert value_at(chosen, path) == value
        if not draw and name != "backbone":  # the backbone space sets the stages
            assert set(chosen.augment.parts) == set(config.augment.parts)
            augment = dataclasses.replace(chosen.augment, parts=config.augment.parts)
            optimizer = dataclasses.replace(
                chosen.optimizer, weight_decay=config.optimizer.weight_decay
            )
            changed = dataclasses.replace(chosen, augment=augment, optimizer=optimizer)
            assert changed == config


def test_class_order_is_the_same_everywhere() -> None:
    names = tuple(lesion.name for lesion in classes.HAM10000)
    assert names == records.CLASS_NAMES == tuple(sorted(names))
    assert set(names) == set(demo_renderer.APPEARANCES) == set(demo.CLASS_COUNTS)
    assert Builder.BUILDER_CONFIGS


def test_classes_of_other_datasets_are_described() -> None:
    described = classes.describe(["scc", "Benign", "mel", "wart"])
    assert list(described) == ["scc", "Benign", "mel", "wart"]
    malignant = [lesion.malignant for lesion in described.values()]
    assert malignant == [True, False, True, None]
    assert described["wart"].full_name == "wart"
    for lesion in (*classes.HAM10000, *classes.ISIC2019_ONLY):
        assert classes.describe([lesion.full_name])[lesion.full_name] == lesion
    for name, synonyms in classes.SYNONYMS.items():
        for synonym in synonyms:
            assert classes.describe([synonym.title()])[synonym.title()].name == name
    assert len(classes.SHORT_NAMES) == sum(map(len, classes.SYNONYMS.values()))


@pytest.mark.parametrize(
    "label",
    [
        # HAM10000 and the ISIC challenges, ISIC Archive, Derm7pt, Fitzpatrick17k, DDI
        *("mel", "MEL", "melanoma"),
        *("Melanoma Invasive", "Melanoma in situ", "Melanoma, NOS", "Melanoma metastasis"),
        *("melanoma (in situ)", "melanoma (less than 0.76 mm)", "melanoma metastasis"),
        *("melanoma (0.76 to 1.5 mm)", "melanoma (more than 1.5 mm)"),
        *("malignant melanoma", "superficial spreading melanoma ssm"),
        *("melanoma-in-situ", "nodular-melanoma-(nm)", "melanoma-acral-lentiginous"),
    ],
)
def test_published_spellings_of_melanoma_are_melanoma(label: str) -> None:
    described = classes.describe([label])[label]
    assert (described.name, described.malignant) == ("mel", True)
    assert "melanoma" in described.full_name.lower()


@pytest.mark.parametrize("label", ["no melanoma", "nevus or melanoma", "melanosis"])
def test_other_labels_are_not_melanoma(label: str) -> None:
    assert classes.describe([label])[label].name == label
