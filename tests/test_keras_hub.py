"""Backbones of KerasHub: tiny random networks that are saved as presets."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import run_here

from skincnn.config import Config, DataConfig, ModelConfig
from skincnn.errors import ConfigError
from skincnn.inference.grad_cam import GradCam
from skincnn.inference.load import load_model
from skincnn.inference.run_dir import read_run
from skincnn.model import keras_hub_backbone
from skincnn.model.backbones import build_backbone, find_backbone
from skincnn.model.classifier import (
    BACKBONE_LAYER,
    POOLING_LAYER,
    block_of_variables,
    build_classifier,
    num_blocks,
    set_trainable,
)
from skincnn.training.run import save_model

SIZE = 32
SCALE, OFFSET = (0.01, 0.02, 0.03), (-1.0, -2.0, -3.0)
TOKENS = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "patch_size": 8}
DINO = {**TOKENS, "intermediate_dim": 16, "num_register_tokens": 3}
SHAPE = {"image_shape": (SIZE, SIZE, 3)}
CONFIGS: dict[str, dict[str, Any]] = {
    "VGG": {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 8], **SHAPE},
    "HGNetV2": {
        "depths": [1, 1],
        "embedding_size": 8,
        "hidden_sizes": [8, 12],
        "stem_channels": [3, 8, 8],
        "hidden_act": "relu",
        "use_learnable_affine_block": False,
        "stackwise_stage_filters": [(8, 8, 8, 1, 1, 3), (8, 8, 12, 1, 1, 3)],
        "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, False],
    },
    "ViT": {**TOKENS, "mlp_dim": 16, **SHAPE},
    "DeiT": {**TOKENS, "intermediate_dim": 16, **SHAPE},
    "DINOV2": {**DINO, "position_embedding_shape": (SIZE, SIZE), **SHAPE},
    "DINOV3": {**DINO, **SHAPE},
    "SwinTransformer": {
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (1, 2),
        "window_size": 2,
        "drop_path": 0.5,
        **SHAPE,
    },
    "MiT": {
        "layerwise_depths": [1, 1],
        "num_layers": 2,
        "layerwise_num_heads": [1, 2],
        "layerwise_sr_ratios": [2, 1],
        "max_drop_path_rate": 0.5,
        "layerwise_patch_sizes": [7, 3],
        "layerwise_strides": [4, 2],
        "hidden_dims": [8, 16],
        **SHAPE,
    },
}
"""Constructor arguments of each family."""
NUM_OTHER_TOKENS = {"ViT": 1, "DeiT": 2, "DINOV2": 4, "DINOV3": 4, "SwinTransformer": 0}
NUM_BLOCKS = {"VGG": 2, "HGNetV2": 3, "ViT": 3, "DeiT": 3, "DINOV2": 3, "DINOV3": 3}
NUM_BLOCKS |= {"SwinTransformer": 3, "MiT": 4}
RESIZABLE = ("HGNetV2", "DINOV2", "DINOV3", "SwinTransformer", "MiT", "VGG")
families = pytest.mark.parametrize("family", CONFIGS)
needs_keras_hub = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None,
    reason="keras-hub is not installed (extra: hub)",
)
pytestmark = [
    # KerasHub 0.32: Swin passes masks to layers without support for masks.
    pytest.mark.filterwarnings("ignore:Layer 'attn'.*was passed an input with a mask"),
]
Preset = Callable[[str], Path]


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    """Returns a function that saves the preset of a family and returns its directory."""
    root = tmp_path_factory.mktemp("presets")

    def save(family: str) -> Path:
        import keras_hub

        if not (root / family).exists():
            backbone_class = getattr(keras_hub.models, f"{family}Backbone")
            converter_class = getattr(keras_hub.layers, f"{family}ImageConverter")
            backbone = backbone_class(**CONFIGS[family])
            backbone.save_to_preset(root / family)
            converter_class(scale=SCALE, offset=OFFSET).save_to_preset(root / family)
        return root / family

    return save


def make_images(size: int = SIZE) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (2, size, size, 3)).astype(np.float32)


def expected_features(family: str, folder: Path, images: np.ndarray) -> np.ndarray:
    """Returns the pooled output of the backbone of KerasHub itself."""
    import keras_hub

    options = {}
    if images.shape[1] != SIZE and family != "HGNetV2":
        options["image_shape"] = images.shape[1:]
    backbone = keras_hub.models.Backbone.from_preset(str(folder), **options)
    inputs = keras_hub.layers.ImageConverter.from_preset(str(folder))(images)
    if isinstance(backbone.input, dict):
        [name] = backbone.input
        inputs = {name: inputs}
    outputs = backbone(inputs)
    outputs = np.asarray(outputs["stage2"] if family == "HGNetV2" else outputs)
    if family not in NUM_OTHER_TOKENS:
        return outputs.mean(axis=(1, 2))
    num_others = NUM_OTHER_TOKENS[family]
    parts = [outputs[:, num_others:].mean(axis=1), *([outputs[:, 0]] * (num_others > 0))]
    return np.concatenate(parts, axis=-1)


def pooled(classifier: keras.Model, images: np.ndarray) -> np.ndarray:
    output = classifier.get_layer(POOLING_LAYER).output
    return np.asarray(keras.Model(classifier.input, output)(images))


def classify(folder: Path, fused: bool = False, size: int | None = None) -> keras.Model:
    config = ModelConfig(backbone=f"keras_hub:{folder}")
    return build_classifier(config, 7, fused=fused, image_size=size)


@needs_keras_hub
@families
def test_features_are_those_of_keras_hub(family: str, preset: Preset) -> None:
    folder = preset(family)
    classifier = classify(folder, fused=True)
    images = make_images()
    expected = expected_features(family, folder, images)
    np.testing.assert_allclose(pooled(classifier, images), expected, rtol=1e-3, atol=1e-4)
    paths = [variable.path for variable in classifier.weights]
    assert len(set(paths)) == len(paths)
    untrained = build_backbone(f"keras_hub:{folder}", 1.0, "none").get_weights()
    trained = classifier.get_layer(BACKBONE_LAYER).get_weights()
    assert any(not np.array_equal(*both) for both in zip(untrained, trained, strict=True))


@needs_keras_hub
@families
def test_networks_are_built_for_the_image_size_if_possible(
    family: str, preset: Preset
) -> None:
    folder = preset(family)
    larger = 2 * SIZE
    classifier = classify(folder, size=larger)
    images = make_images(larger)
    if family in RESIZABLE:
        expected = expected_features(family, folder, images)
    else:
        resized = keras.layers.Resizing(SIZE, SIZE)(images)
        expected = expected_features(family, folder, np.asarray(resized))
    np.testing.assert_allclose(pooled(classifier, images), expected, rtol=1e-3, atol=1e-4)
    # Other sizes, as in training with a progressive size, are resized.
    assert pooled(classifier, make_images(SIZE + 8)).shape == expected.shape


@needs_keras_hub
@families
def test_blocks_are_trained_alone(family: str, preset: Preset) -> None:
    classifier = classify(preset(family), fused=True)
    network = classifier.get_layer(BACKBONE_LAYER)
    assert num_blocks(classifier) == NUM_BLOCKS[family]
    block_of = block_of_variables(classifier)
    for blocks in (*range(NUM_BLOCKS[family]), None, 1):
        set_trainable(classifier, blocks, "frozen")
        limit = NUM_BLOCKS[family] if blocks is None else blocks
        for layer in network._flatten_layers():
            for variable in layer._trainable_variables:
                norm = isinstance(layer, keras.layers.BatchNormalization)
                expected = block_of[variable.path] <= limit and not norm
                constant = variable.name in keras_hub_backbone.CONSTANT_VARIABLES
                assert variable.trainable == (expected and not constant), variable.path


@needs_keras_hub
@pytest.mark.parametrize("family", ["SwinTransformer", "MiT"])
def test_stochastic_depth_of_frozen_layers_is_inactive(family: str, preset: Preset) -> None:
    network = classify(preset(family), fused=True).get_layer(BACKBONE_LAYER)
    images = make_images() / 255
    expected = np.asarray(network(images, training=False))
    network.trainable = False
    np.testing.assert_array_equal(network(images, training=True), expected)
    network.trainable = True
    outputs = [np.asarray(network(images, training=True)) for _ in range(5)]
    assert any(not np.array_equal(output, expected) for output in outputs)


@needs_keras_hub
def test_the_class_token_does_not_contribute_to_grad_cam(preset: Preset) -> None:
    classifier = classify(preset("ViT"))
    images = make_images()
    before = GradCam(classifier)(images, np.array([0, 1]))
    dense = classifier.get_layer("logits")
    kernel, bias = dense.get_weights()
    kernel[TOKENS["hidden_dim"] :] += 10
    dense.set_weights([kernel, bias])
    after = GradCam(classifier)(images, np.array([0, 1]))
    np.testing.assert_array_equal(after, before)
    assert before.shape == (2, 4, 4)
    assert before.max() == 1


@needs_keras_hub
@pytest.mark.parametrize("family", ["ViT", "DINOV2", "SwinTransformer"])
def test_a_trained_model_is_saved_and_loaded(
    family: str, preset: Preset, tmp_path: Path
) -> None:
    size = 48
    classifier = classify(preset(family), fused=True, size=size)
    set_trainable(classifier, None)
    classifier.compile("sgd", "mse")
    images = make_images(size)
    classifier.train_on_batch(images, np.ones((2, 7)))
    model = ModelConfig(backbone=f"keras_hub:{preset(family)}")
    config = Config(model=model, data=DataConfig(image_size=size))
    save_model(config, classifier, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = classifier(images)
    np.testing.assert_allclose(loaded(images), expected, rtol=1e-4, atol=1e-5)


@needs_keras_hub
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_base_patch16_224_imagenett", "neither a preset .* Did you mean 'vit_base_"),
        ("bert_tiny_en_uncased", "is not an image backbone"),
        ("clip_vit_base_patch16", "could not be loaded|is not an image backbone"),
    ],
)
def test_unusable_presets_are_errors(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("kagglehub.model_download", fail)
    with pytest.raises(ConfigError, match=message):
        find_backbone(f"keras_hub:{name}")


@needs_keras_hub
def test_a_failed_download_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("kagglehub.model_download", fail)
    with pytest.raises(ConfigError, match=r"resnet_18.* no network.*keras_hub:DIRECTORY"):
        find_backbone("keras_hub:resnet_18_imagenet")


@needs_keras_hub
def test_damaged_presets_are_errors(preset: Preset, tmp_path: Path) -> None:
    import keras_hub

    with pytest.raises(ConfigError, match="could not be loaded"):
        find_backbone(f"keras_hub:{tmp_path}")
    backbone = keras_hub.models.VGGBackbone(**CONFIGS["VGG"])
    backbone.save_to_preset(tmp_path)
    with pytest.raises(ConfigError, match=r"has no image converter.*save_to_preset"):
        find_backbone(f"keras_hub:{tmp_path}")
    keras_hub.layers.VGGImageConverter().save_to_preset(tmp_path)
    assert find_backbone(f"keras_hub:{tmp_path}").scaling.scale == 1.0
    (tmp_path / "model.weights.h5").write_text("damaged")
    with pytest.raises(ConfigError, match="could not be loaded"):
        build_backbone(f"keras_hub:{tmp_path}", 1.0, "imagenet")
    with pytest.raises(ConfigError, match=r"must be 1\.0"):
        build_backbone(f"keras_hub:{tmp_path}", 0.5, "none")


@needs_keras_hub
@pytest.mark.parametrize("family", ["DINOV2", "SwinTransformer", "MiT"])
def test_the_image_size_must_be_divisible(family: str, preset: Preset) -> None:
    with pytest.raises(ConfigError, match="requires images of 32 px or a multiple of 8 px"):
        classify(preset(family), size=SIZE + 4)


def test_a_missing_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"keras_hub:vit.*pip install -e '\.\[hub\]'"):
        find_backbone("keras_hub:vit_base_patch16_224_imagenet")


@needs_keras_hub
@pytest.mark.slow
def test_training_evaluation_and_export(
    preset: Preset, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    arguments = [
        *("--model.backbone", f"keras_hub:{preset('ViT')}", "--data.datasets", "demo_tiny"),
        *("--data.image-size", SIZE, "--train.epochs", 2, "--train.scenario", "fine_tune"),
        *("--model.weights", "imagenet", "--model.width-multiplier", 1),
        *("--optimizer.layer-decay", 0.7, "--workdir", workdir, "--data-dir", data_dir),
    ]
    result = run_here("train.py", *arguments)
    assert result.returncode == 0, result.stderr
    for script in ("evaluate.py", "export.py"):
        result = run_here(script, workdir, "--data-dir", data_dir)
        assert result.returncode == 0, result.stderr
    info, _ = read_run(workdir)
    assert "keras-hub" in info.versions
    objects = keras.saving.get_custom_objects()
    monkeypatch.delitem(objects, "keras_hub>ViTBackbone")
    monkeypatch.setitem(sys.modules, "keras_hub.src.models.vit.vit_backbone", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"model\.keras requires keras_hub"):
        load_model(workdir, info)
