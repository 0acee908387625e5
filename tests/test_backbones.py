"""The smallest network of each family is compared with Keras Applications.

The tests of a family share one network. The other networks are compared by name.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from conftest import run_here
from keras import applications
from keras.src.applications import mobilenet
from keras.src.backend import config as keras_config

from skincnn.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
)
from skincnn.errors import ConfigError
from skincnn.model.backbones import (
    BACKBONES,
    CENTERED_BGR,
    STANDARDIZED,
    SYMMETRIC,
    SYMMETRIC_128,
    UNSCALED,
    Backbone,
    Build,
    Scaling,
    build_backbone,
    check_size,
    find_backbone,
)
from skincnn.model.classifier import (
    block_of_variables,
    build_classifier,
    num_blocks,
    set_trainable,
)
from skincnn.model.networks import (
    remove_normalization,
    set_imagenet_normalization,
    use_depthwise_convolutions,
)
from skincnn.training.setup import check

slow = pytest.mark.slow
FUNCTIONS = {
    name.lower(): function
    for name, function in vars(applications).items()
    if name[0].isupper() and callable(function)
}
SMALLEST = {
    # name: (width, size in pixels, blocks)
    "resnet50": (1.0, 32, 5),
    "resnet50_v2": (1.0, 32, 5),
    "vgg16": (1.0, 32, 5),
    "mobilenet": (0.25, 32, 5),
    "mobilenet_v2": (0.35, 32, 5),
    "mobilenet_v3_small": (0.5, 32, 5),
    "efficientnet_b0": (1.0, 32, 5),
    "efficientnet_v2_b0": (1.0, 32, 5),
    "efficientnet_v2_s": (1.0, 32, 5),
    "densenet121": (1.0, 32, 5),
    "inception_v3": (1.0, 75, 5),
    "inception_resnet_v2": (1.0, 75, 5),
    "xception": (1.0, 71, 5),
    "nasnet_mobile": (1.0, 64, 5),
    "convnext_tiny": (1.0, 32, 4),
}
SLOW = (
    *("resnet50_v2", "efficientnet_v2_s", "inception_resnet_v2", "xception"),
    *("nasnet_mobile", "densenet121", "inception_v3"),
    *("vgg16", "resnet50", "efficientnet_b0", "efficientnet_v2_b0", "convnext_tiny"),
)
FROM_KERAS = [n for n in BACKBONES if n != "small_cnn" and "_lite" not in n]
BLOCKS_BY_NAME = {
    "resnet50": (r"conv(\d)", 6),
    "vgg16": (r"block(\d)", 6),
    "densenet121": (r"conv(\d)_block", 6),
    "convnext_tiny": (r"_stage_(\d)", 4),
}
"""Pattern of the stage number in layer names, and the number after the last stage."""


@dataclass(frozen=True)
class Family:
    """A network of Keras Applications, and a classifier with its weights."""

    name: str
    reference: keras.Model
    preprocess_input: Callable[[np.ndarray], np.ndarray]
    classifier: keras.Model
    images: np.ndarray


def keras_function(name: str) -> Callable[..., keras.Model]:
    return FUNCTIONS[name.replace("_", "")]


def module_of(name: str) -> ModuleType:
    return getattr(applications, keras_function(name).__module__.split(".")[-1])


def randomize(network: keras.Model, images: np.ndarray) -> None:
    """Sets biases and BatchNorm weights to values other than 0 and 1.

    Otherwise swapped weights would go unnoticed. The moving statistics are those of
    `images`, so that their features still differ after many layers.
    """
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            layer.set_weights([np.array(mean), np.array(std), np.array(0)])
            layer.finalize_state()
        else:
            weights = layer.get_weights()
            noise = [rng.uniform(-0.1, 0.1, w.shape) * (w.ndim == 1) for w in weights]
            layer.set_weights([w + n for w, n in zip(weights, noise, strict=True)])
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(images, training=True)


def make_images(size: int, number: int = 3) -> np.ndarray:
    """Returns noisy images with different tints."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 100, (number, size, size, 3))
    return (noise + rng.uniform(0, 155, (number, 1, 1, 3))).astype(np.float32)


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=slow if n in SLOW else ()) for n in SMALLEST],
)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Family:
    name = request.param
    width, size, _ = SMALLEST[name]
    options = {"alpha": width} if find_backbone(name).has_width else {}
    shape = (size, size, 3) if name.startswith("nasnet") else (None, None, 3)
    reference = keras_function(name)(
        include_top=False, weights=None, input_shape=shape, **options
    )
    images = make_images(size)
    preprocess_input = module_of(name).preprocess_input
    path = tmp_path_factory.mktemp(name) / "reference.weights.h5"
    if name.startswith("efficientnet_b"):
        # Keras adds a layer only for ImageNet weights.
        reference.save_weights(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: str(path))
            reference = keras_function(name)(include_top=False, input_shape=shape)
    randomize(reference, preprocess_input(make_images(size, 16)))
    reference.save_weights(path)
    config = ModelConfig(
        backbone=name, width_multiplier=width, weights=str(path), dropout=0.0
    )
    classifier = build_classifier(config, 7, fused=True)
    path.unlink()
    return Family(name, reference, preprocess_input, classifier, images)


def test_features_match_keras_applications(family: Family) -> None:
    def reference_features(images: np.ndarray) -> np.ndarray:
        features = family.reference(family.preprocess_input(images), training=False)
        return np.asarray(features).mean(axis=(1, 2))

    head = family.classifier.get_layer("logits")
    features = keras.Model(family.classifier.input, head.input)(family.images)
    expected = reference_features(family.images.copy())
    tolerance = 0.003 * np.abs(expected).max()
    np.testing.assert_allclose(features, expected, rtol=0, atol=tolerance)
    # The test would detect a normalization that is off by two gray levels.
    assert np.abs(reference_features(family.images + 2) - expected).max() > 3 * tolerance


def test_blocks_are_stages_of_constant_resolution(family: Family) -> None:
    block_of = block_of_variables(family.classifier)
    assert num_blocks(family.classifier) == SMALLEST[family.name][2]
    assert list(block_of) == [weight.path for weight in family.classifier.weights]
    pattern, head = BLOCKS_BY_NAME.get(family.name, ("$^", 0))
    for path, block in block_of.items():
        match = re.search(pattern, path)
        assert not match or block == head - int(match[1]), path


def test_a_frozen_network_works_as_in_inference(family: Family) -> None:
    """This includes dropout and stochastic depth, which `fit` would enable."""
    model, images = family.classifier, family.images
    expected = np.asarray(model(images, training=False))
    set_trainable(model, 0)
    np.testing.assert_array_equal(model(images, training=True), expected)
    set_trainable(model, None, "frozen")
    results = [np.asarray(model(images, training=True)) for _ in range(2)]
    random = np.abs(results[0] - results[1]).max() > 1e-6 * np.abs(expected).max()
    # ConvNeXt of Keras has stochastic depth with probability 0.
    assert random == family.name.startswith("efficientnet")


def test_the_table_contains_every_network_of_keras_applications() -> None:
    assert {name.replace("_", "") for name in FROM_KERAS} == set(FUNCTIONS)


@pytest.mark.parametrize("name", FROM_KERAS)
def test_each_name_builds_its_network(name: str) -> None:
    def functions(build: Callable[..., object]) -> Iterator[object]:
        for value in inspect.getclosurevars(build).nonlocals.values():
            if inspect.isfunction(value):
                yield value
                yield from functions(value)

    assert keras_function(name) in functions(BACKBONES[name].build)


@pytest.mark.parametrize("name", FROM_KERAS)
def test_scaling_matches_preprocess_input(name: str) -> None:
    images = make_images(4)
    expected = module_of(name).preprocess_input(images.copy())
    scaling = BACKBONES[name].scaling
    scaled = (images[..., ::-1] if scaling.bgr else images) * scaling.scale + scaling.offset
    if np.array_equal(expected, images):  # Keras normalizes inside the network.
        assert name.startswith(("efficientnet", "convnext", "mobilenet_v3"))
    else:
        np.testing.assert_allclose(scaled, expected, atol=1e-4)


@pytest.mark.parametrize("scaling", [UNSCALED, SYMMETRIC, STANDARDIZED, CENTERED_BGR])
def test_other_channel_statistics_replace_those_of_imagenet(scaling: Scaling) -> None:
    """A standardized image is scaled like an ImageNet image with the same values."""

    def apply(scaling: Scaling, images: np.ndarray) -> np.ndarray:
        images = images[..., ::-1] if scaling.bgr else images
        return images * scaling.scale + scaling.offset

    assert scaling.with_statistics(IMAGENET_MEAN, IMAGENET_STD) is scaling
    mean, std = (0.76, 0.55, 0.57), (0.14, 0.15, 0.17)
    standardized = np.random.default_rng(0).normal(size=(5, 7, 3))
    images, imagenet = (
        255 * (standardized * deviation + center)
        for center, deviation in ((mean, std), (IMAGENET_MEAN, IMAGENET_STD))
    )
    actual = apply(scaling.with_statistics(mean, std), images)
    np.testing.assert_allclose(actual, apply(scaling, imagenet), rtol=1e-9)
    if scaling is STANDARDIZED:
        np.testing.assert_allclose(actual, standardized, rtol=1e-9)
    # With a mean of 0, networks with centered inputs receive the images as they are. The
    # mean that Keras subtracts differs from `IMAGENET_MEAN` by up to 0.5 gray levels.
    if scaling is CENTERED_BGR:
        unshifted = scaling.with_statistics((0, 0, 0), IMAGENET_STD)
        np.testing.assert_allclose(apply(unshifted, images), images[..., ::-1], atol=0.51)


def test_the_classifier_normalizes_by_the_channel_statistics() -> None:
    images = make_images(4)
    logits = {}
    for mean in (IMAGENET_MEAN, (0.0, 0.0, 0.0)):
        config = ModelConfig(
            backbone="test_presets:one_layer", weights="none", channel_mean=mean
        )
        logits[mean] = build_classifier(config, 3)
    shifted = images + 255 * np.float32(IMAGENET_MEAN)
    np.testing.assert_allclose(
        logits[0.0, 0.0, 0.0](images), logits[IMAGENET_MEAN](shifted), rtol=1e-4, atol=1e-4
    )


SCALINGS = {
    "unscaled": UNSCALED,
    "symmetric": SYMMETRIC,
    "symmetric_128": SYMMETRIC_128,
    "standardized": STANDARDIZED,
    "centered_bgr": CENTERED_BGR,
}
LOAD = """
import sys, keras, numpy as np
for path in sys.argv[2:]:
    model = keras.saving.load_model(path)
    np.save(path + ".npy", model.predict(np.load(sys.argv[1]), verbose=0))
assert not [name for name in sys.modules if name.startswith("skincnn")]
"""


def assert_keras_alone_loads(
    models: dict[str, keras.Model], images: np.ndarray, folder: Path
) -> None:
    """Saves models and loads them in a process that does not import this package."""
    np.save(folder / "images.npy", images)
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
        with zipfile.ZipFile(folder / f"{name}.keras") as archive:
            assert b"skincnn" not in archive.read("config.json")
    paths = [str(folder / f"{name}.keras") for name in models]
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, str(folder / "images.npy"), *paths],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for path, model in zip(paths, models.values(), strict=True):
        expected = model.predict(images, verbose=0)
        np.testing.assert_allclose(
            np.load(f"{path}.npy"), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )


def tiny(size: int | None, width: float, weights: str | None) -> keras.Model:
    inputs = keras.Input((size, size, 3))
    return keras.Model(inputs, keras.layers.Conv2D(4, 3, activation="gelu")(inputs))


def test_keras_alone_loads_every_scaling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {}
    for name, scaling in SCALINGS.items():
        monkeypatch.setitem(BACKBONES, name, Backbone(tiny, scaling))
        models[name] = build_classifier(ModelConfig(backbone=name, weights="none"), 7)
    assert_keras_alone_loads(models, make_images(16), tmp_path)


@slow
@pytest.mark.parametrize("name", SMALLEST)
def test_keras_alone_loads_every_family(name: str, tmp_path: Path) -> None:
    config = ModelConfig(backbone=name, width_multiplier=SMALLEST[name][0], weights="none")
    images = make_images(96 if name.startswith("nasnet") else 75)
    assert_keras_alone_loads({name: build_classifier(config, 7)}, images, tmp_path)


def test_the_smallest_width_can_be_built() -> None:
    for name, backbone in BACKBONES.items():
        if backbone.has_width:
            config = ModelConfig(backbone=name, width_multiplier=0.04, weights="none")
            assert build_classifier(config, 7).output_shape == (None, 7)


@slow
@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in SMALLEST])
def test_the_larger_networks_can_be_built(name: str) -> None:
    model = build_classifier(ModelConfig(backbone=name, weights="none"), 7)
    assert np.isfinite(model(make_images(96)[:1])).all()
    assert num_blocks(model) == (4 if name.startswith(("convnext", "small")) else 5)


def test_imagenet_weights_are_requested_without_top_at_the_native_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = build_backbone("mobilenet", 0.25, "none")
    source.save_weights(tmp_path / "source.weights.h5")
    requested = []

    def get_file(name: str, *_: object, **__: object) -> str:
        requested.append(name)
        return str(tmp_path / "source.weights.h5")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    network = build_backbone("mobilenet", 0.25, "imagenet")
    for a, b in zip(network.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert requested == ["mobilenet_2_5_224_tf_no_top.h5"]


def normalizing_network(size: int | None, width: float, weights: str | None) -> keras.Model:
    """A network that starts with rescaling and normalization, as EfficientNet does."""
    inputs = keras.Input((size, size, 3))
    scaled = keras.layers.Normalization()(keras.layers.Rescaling(1 / 255)(inputs))
    network = keras.Model(inputs, keras.layers.Conv2D(4, 3)(scaled), name="inside")
    return set_imagenet_normalization(network)


def grouped_network(size: int | None, width: float, weights: str | None) -> keras.Model:
    """A network with a grouped convolution, as in ConvNeXt."""
    inputs = keras.Input((size, size, 3))
    features = keras.layers.Conv2D(4, 2)(inputs)
    features = keras.layers.Conv2D(4, 7, groups=4, padding="same")(features)
    return keras.Model(inputs, features)


@pytest.mark.parametrize(
    ("build", "adapt"),
    [
        (normalizing_network, remove_normalization),
        (grouped_network, use_depthwise_convolutions),
    ],
)
def test_weights_saved_before_or_after_adapting_are_loaded(
    build: Build,
    adapt: Callable[[keras.Model], keras.Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BACKBONES, "adapted", Backbone(build, UNSCALED, adapt=adapt))
    before = build(None, 1.0, None)
    after = adapt(before)
    assert [layer.name for layer in after.layers] != [layer.name for layer in before.layers]
    for source in (before, after):
        path = tmp_path / f"{source.name}.weights.h5"
        source.save_weights(path)
        network = build_backbone("adapted", 1.0, str(path))
        for a, b in zip(network.get_weights(), after.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    images = make_images(16)
    if adapt is use_depthwise_convolutions:
        np.testing.assert_allclose(after(images), before(images), rtol=1e-4, atol=1e-3)
        assert isinstance(after.layers[-1], keras.layers.DepthwiseConv2D)


def test_an_efficientnet_with_another_normalization_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Backbone(normalizing_network, UNSCALED, adapt=remove_normalization)
    monkeypatch.setitem(BACKBONES, "adapted", entry)
    source = normalizing_network(None, 1.0, None)
    source.layers[2].set_weights([np.zeros(3), np.ones(3), np.array(0)])
    path = tmp_path / "source.weights.h5"
    source.save_weights(path)
    with pytest.raises(ConfigError, match="trained with a different normalization"):
        build_backbone("adapted", 1.0, str(path))


def test_small_cnn_accepts_any_size_and_width() -> None:
    for width, size in ((0.05, 33), (1.0, 16)):
        network = build_backbone("small_cnn", width, "none")
        filters = max(1, round(256 * width))
        assert network(np.zeros((1, size, size + 8, 3))).shape[-1] == filters
    assert 1.1e6 < network.count_params() < 1.3e6


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("inception_v3", 74, "_size` must be >= 75 for inception_v3. Received: 74"),
        ("xception", 70, "must be >= 71"),
        ("nasnet_large", 330, "must be 331 or a multiple of 32 for .* Received: 330."),
    ],
)
def test_unsupported_sizes_are_errors(name: str, size: int, message: str) -> None:
    train = TrainConfig(progressive_epochs=1, epochs=2, progressive_image_size=size)
    model = ModelConfig(backbone=name)
    with pytest.raises(ConfigError, match=message):
        check(Config(data=DataConfig(image_size=224), model=model, train=train))
    with pytest.raises(ConfigError, match=message):
        check(Config(data=DataConfig(image_size=size), model=model))


def test_nasnet_accepts_its_native_size_and_multiples_of_32() -> None:
    for size in (32, 224, 256, 331):
        check_size("nasnet_large", size, "`data.image_size`")


MODULE = """
import keras

def net():
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, keras.layers.Conv2D(4, 3, strides=2)(inputs))

def wide(width, weights):
    network = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.Conv2D(int(8 * width), 3)]
    )
    if weights == "imagenet":
        network.set_weights([w * 0 + 7 for w in network.get_weights()])
    return network

def nested():
    norm = keras.layers.BatchNormalization(name="inner_norm")
    part = keras.Sequential([keras.Input((None, None, 4)), norm], name="part")
    inputs = keras.Input((None, None, 3))
    features = part(keras.layers.Conv2D(4, 3, strides=2)(inputs))
    return keras.Model(inputs, keras.layers.Conv2D(8, 3, strides=2)(features))

def broken():
    raise RuntimeError("no such thing")

def text():
    return "a network"

def flat():
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))

def fixed():
    inputs = keras.Input((64, 64, 3))
    return keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))

number = 3
"""


@pytest.fixture
def my_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes modules of a user to the current directory."""
    (tmp_path / "my_nets.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("import nowhere_to_be_found")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)


@pytest.mark.usefixtures("my_nets")
def test_a_user_function_is_a_backbone() -> None:
    config = ModelConfig(backbone="my_nets:net", weights="none")
    check(Config(model=config, train=TrainConfig(scenario="from_scratch")))
    model = build_classifier(replace(config, dropout=0.0), 7, fused=True)
    images = make_images(40)
    network = model.get_layer("backbone")
    # It has no normalization.
    expected = model.get_layer("logits")(np.asarray(network(images)).mean(axis=(1, 2)))
    np.testing.assert_allclose(model(images), expected, rtol=1e-4)


@pytest.mark.usefixtures("my_nets")
def test_a_user_function_may_have_width_and_weights() -> None:
    network = build_backbone("my_nets:wide", 0.5, "imagenet")
    assert network.output_shape == (None, None, None, 4)
    assert all((w == 7).all() for w in network.get_weights())
    assert not any(
        (w == 7).any() for w in build_backbone("my_nets:wide", 1.0, "none").get_weights()
    )


@pytest.mark.usefixtures("my_nets")
def test_nested_models_are_frozen_with_their_block() -> None:
    config = ModelConfig(backbone="my_nets:nested", weights="none")
    model = build_classifier(config, 7, fused=True)
    assert num_blocks(model) == 2
    inner = model.get_layer("backbone").get_layer("part").get_layer("inner_norm")
    assert block_of_variables(model)[inner.gamma.path] == 2
    for blocks, batch_norm, trainable in (
        (1, "train", False),
        (2, "train", True),
        (None, "frozen", False),
    ):
        set_trainable(model, blocks, batch_norm)
        assert inner.trainable == trainable


@pytest.mark.usefixtures("my_nets")
@pytest.mark.parametrize(
    ("name", "width", "weights", "message"),
    [
        ("nowhere_at_all:net", 1, "none", "there is no module 'nowhere_at_all'"),
        (
            "my_broken:net",
            1,
            "none",
            r"'my_broken' cannot be imported \(.*my_broken.py, line 1\).*nowhere_to",
        ),
        ("my_nets:nett", 1, "none", "has no function 'nett'.*Did you mean 'net'"),
        ("my_nets:number", 1, "none", "has no function 'number'"),
        (":net", 1, "none", "must be package.module:function"),
        ("my_nets:broken", 1, "none", r"line 24\): RuntimeError: no such thing"),
        ("my_nets:text", 1, "none", "must return a Keras Model"),
        ("my_nets:flat", 1, "none", "must map images .* to feature maps"),
        ("my_nets:fixed", 1, "none", r"Received: \(None, 64, 64, 3\)"),
        ("my_nets:net", 1, "imagenet", "my_nets:net has no ImageNet weights"),
        ("my_nets:net", 1, "nowhere.h5", "which is not a file"),
        ("small_cnn", 1, "imagenet", "small_cnn has no ImageNet weights"),
        ("resnet50", 0.5, "none", "must be 1.0 for resnet50, which has no width"),
        ("mobilenet_v3_small", 0.5, "imagenet", r"must be one of \(0\.75, 1\.0\)"),
    ],
)
def test_unusable_backbones_are_errors(
    name: str, width: float, weights: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_backbone(name, width, weights)


@pytest.mark.parametrize(
    ("address", "message"),
    [("http://127.0.0.1:9/", "URL fetch failure"), ("{}/", "file signature not found")],
)
def test_a_failed_download_is_an_error_before_training(
    address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mobilenet_2_5_224_tf_no_top.h5").write_text("<html>no</html>")
    address = address.format(tmp_path.as_uri())
    monkeypatch.setattr(mobilenet, "BASE_WEIGHT_PATH", address)
    monkeypatch.setattr(keras_config, "_KERAS_DIR", str(tmp_path / "keras"))
    mine = tmp_path / "keras/models/mine.h5"
    mine.parent.mkdir(parents=True)
    mine.touch()
    flags = (
        "--data.datasets demo_tiny --train.scenario fine_tune --model.backbone mobilenet "
        "--model.width-multiplier 0.25 --model.weights imagenet"
    ).split()
    where = ("--workdir", tmp_path / "run", "--data-dir", tmp_path / "data")
    done = run_here("train.py", *where, *flags, exit_code=2)
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: The ImageNet weights of mobilenet, width 0.25, could")
    assert message in error
    # Neither data, nor a run, nor an incomplete file remains.
    assert list(mine.parent.iterdir()) == [mine]
    assert not {"run", "data"} & {path.name for path in tmp_path.iterdir()}
