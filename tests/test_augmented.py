from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from skincnn.config import AugmentConfig
from skincnn.model.augment import AUGMENTATIONS, Augmentation
from skincnn.model.augmented import AugmentedClassifier
from skincnn.model.mixing import Mixing

CLASSES = 4
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 24, 24, 3), dtype=np.uint8)
LABELS = np.int32([0, 1, 2, 3, 0, 1, 2, 3])
CATEGORICAL = keras.losses.CategoricalCrossentropy(from_logits=True)
MIXES = ("mixup", "cutmix")


def tiny_classifier() -> keras.Model:
    inputs = keras.Input((None, None, 3), name="images")
    features = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    features = keras.layers.Conv2D(4, 3, activation="relu")(features)
    features = keras.layers.GlobalAveragePooling2D()(features)
    logits = keras.layers.Dense(CLASSES, dtype="float32")(features)
    return keras.Model(inputs, logits)


def with_metadata(return_metadata: bool = False) -> keras.Model:
    """Returns a model of images and metadata, or one that returns the metadata."""
    images = keras.Input((None, None, 3), name="images")
    metadata = keras.Input((CLASSES,), name="metadata")
    if return_metadata:
        outputs = keras.layers.Identity()(metadata)
    else:
        pooled = keras.layers.GlobalAveragePooling2D()(images)
        both = keras.layers.Concatenate()([pooled, metadata])
        outputs = keras.layers.Dense(CLASSES)(both)
    return keras.Model({"images": images, "metadata": metadata}, outputs)


def build(
    config: AugmentConfig, classifier: keras.Model | None = None
) -> AugmentedClassifier:
    mixing = None if config.mix == "none" else Mixing(config, seed=1)
    return AugmentedClassifier(
        Augmentation(config, seed=1), classifier or tiny_classifier(), mixing
    )


@pytest.fixture(params=["float32", "mixed_bfloat16", "mixed_float16"])
def policy(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("mix", MIXES)
def test_the_labels_are_mixed_like_the_images(mix: str) -> None:
    model = build(AugmentConfig(parts=(), mix=mix, mix_alpha=1))
    model.compile(loss=CATEGORICAL)
    outputs = model(IMAGES, training=True)
    partner, share = np.asarray(outputs["partner"]), np.asarray(outputs["share"])
    one_hot = np.eye(CLASSES)[LABELS]
    targets = share[:, None] * one_hot + (1 - share[:, None]) * one_hot[partner]
    log_softmax = np.asarray(keras.ops.log_softmax(outputs["logits"]))
    expected = -(targets * log_softmax).sum(axis=1).mean()
    for labels in (LABELS, LABELS[:, None], one_hot.astype(np.float32)):
        loss = model.compute_loss(IMAGES, labels, outputs)
        assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_mixing_trains_with_ema_weights_in_every_precision(policy: str) -> None:
    model = build(AugmentConfig(parts=("light",), mix="cutmix", mix_alpha=1))
    optimizer = keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.9)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(optimizer, CATEGORICAL, metrics=[metric])
    before = [np.array(weight) for weight in model.get_weights()]
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4)
    history = model.fit(
        batches, validation_data=batches, epochs=2, shuffle=False, verbose=0
    ).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    trained = zip(before, model.get_weights(), strict=True)
    assert any(not np.array_equal(first, last) for first, last in trained)


def test_without_mixing_the_classifier_gets_augmented_images() -> None:
    config = AugmentConfig(parts=("rotate",))
    classifier = tiny_classifier()
    model = build(config, classifier)
    augmented = Augmentation(config, seed=1)(IMAGES, training=True)
    np.testing.assert_allclose(
        model(IMAGES, training=True), classifier(augmented), atol=1e-5
    )
    np.testing.assert_allclose(
        model.predict(IMAGES, verbose=0), classifier(IMAGES), atol=1e-5
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = model.evaluate(IMAGES, LABELS, verbose=0)
    log_softmax = np.asarray(keras.ops.log_softmax(classifier(IMAGES)))
    assert loss == pytest.approx(-log_softmax[np.arange(8), LABELS].mean(), rel=1e-4)


def test_images_are_augmented_in_float32_in_every_precision(policy: str) -> None:
    """Half precision would round the pixel values."""
    received = []

    class Record(keras.layers.Layer):
        def call(self, images: object) -> object:
            received.append(images)
            return images

    config = AugmentConfig(parts=("rotate", "light"))
    model = AugmentedClassifier(Augmentation(config), Record(dtype="float32"))
    images = IMAGES.astype(np.float32) + 0.25
    model(images, training=False)
    np.testing.assert_array_equal(received[-1], images)
    model(images, training=True)
    keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(received[-1], Augmentation(config)(images, training=True))


def test_metadata_is_mixed_like_the_images() -> None:
    metadata = RNG.normal(size=(8, CLASSES)).astype(np.float32)
    inputs = {"images": IMAGES, "metadata": metadata}
    config = AugmentConfig(parts=("flip",), mix="mixup", mix_alpha=1)
    model = build(config, with_metadata(return_metadata=True))
    np.testing.assert_array_equal(model(inputs, training=False), metadata)
    outputs = {name: np.asarray(v) for name, v in model(inputs, training=True).items()}
    share = outputs["share"][:, None]
    expected = share * metadata + (1 - share) * metadata[outputs["partner"]]
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)


def test_a_model_with_metadata_trains() -> None:
    metadata = RNG.normal(size=(8, CLASSES)).astype(np.float32)
    model = build(AugmentConfig(parts=(), mix="cutmix"), with_metadata())
    model.compile("sgd", CATEGORICAL)
    inputs = {"images": IMAGES, "metadata": metadata}
    history = model.fit(inputs, LABELS, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()


class Gpu:
    device_type = "GPU"


@pytest.mark.parametrize("mix", ["none", *MIXES])
def test_keras_compiles_the_whole_model_with_xla(
    mix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, Keras disables XLA for models with affine augmentation layers of Keras."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: [Gpu()])
    model = build(AugmentConfig(parts=tuple(AUGMENTATIONS), mix=mix))
    model.compile("sgd", CATEGORICAL)
    assert model.jit_compile is True
    reference = keras.Sequential([keras.layers.RandomRotation(0.1), tiny_classifier()])
    reference.compile("sgd", CATEGORICAL)
    assert reference.jit_compile is False


@pytest.mark.parametrize("mix", MIXES)
def test_xla_compiles_a_training_step(mix: str) -> None:
    model = build(AugmentConfig(parts=("rotate", "blur"), mix=mix))
    model.compile("sgd", CATEGORICAL, jit_compile=True)
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(
        4, drop_remainder=True
    )
    history = model.fit(batches, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("mix", ["none", "mixup"])
def test_the_model_can_be_serialized(mix: str, tmp_path: object) -> None:
    model = build(AugmentConfig(mix=mix, parts=("flip",)))
    model(IMAGES)
    copy = AugmentedClassifier.from_config(model.get_config())
    assert copy.augmentation.config == model.augmentation.config
    assert (copy.mixing is None) == (mix == "none")
    path = f"{tmp_path}/model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(loaded(IMAGES), model(IMAGES), atol=1e-5)
