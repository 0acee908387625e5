"""Benchmarks of training: overhead, other frameworks, augmentation, cached features."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from benchmarks import measure
from benchmarks.images import random_images
from benchmarks.measure import Result, Round, Size, Work, compare, rate, summarize
from skincnn.classes import HAM10000
from skincnn.config import AugmentConfig, Config, DataConfig, ModelConfig, TrainConfig
from skincnn.data import pipeline
from skincnn.data.cache import Images
from skincnn.model.augment import Augmentation
from skincnn.model.classifier import build_classifier, set_trainable
from skincnn.training.devices import make_devices
from skincnn.training.features import (
    Features,
    build_head,
    compute_features,
    steps_per_execution,
)
from skincnn.training.fitting import build_augmented, fit
from skincnn.training.setup import TrainingSetup

MODEL = ModelConfig(backbone="mobilenet_v2", weights="none")
LITE = ModelConfig(backbone="efficientnet_lite0", weights="none")
WITHOUT = AugmentConfig(parts=())
NUM_VALIDATION = 64
FEATURE_BATCH_SIZE = DataConfig().batch_size
EPOCH_IMAGES = 8000
"""Images per epoch on cached features, about as many as in the HAM10000 training folds."""


def fitting(size: Size) -> Iterator[Result]:
    """Compares training, including input pipeline and callbacks, with training steps alone.

    The second result is the mean number of predictions of the validation images per epoch.
    """
    timer = time_epochs(
        size, MODEL, AugmentConfig(), lambda model: constant_batch_steps(model, size)
    )
    yield summarize(
        f"training / steps on a constant batch ({_describe(size)})",
        timer.rounds,
        at_least=0.95,
    )
    counts = timer.num_predictions
    yield Result(
        "predictions of the validation images per epoch",
        float(np.mean(counts)),
        low=min(counts),
        high=max(counts),
        pairs=len(counts),
        at_least=1,
        at_most=1,
    )


def efficientnet_lite(size: Size) -> Iterator[Result]:
    """Compares training of EfficientNet-Lite0 with plain Keras and, if installed, PyTorch.

    All train the same architecture with AdamW on the same number of images in memory,
    without augmentation. The step of plain Keras is the same as ours except for the layers
    of `training_layer` and the layer for augmentation.
    """
    images = random_images(size.steps * size.batch_size, size.image_size)
    labels = np.arange(len(images)) % len(HAM10000)
    plain = _compile(build_classifier(LITE, len(HAM10000)))

    def fit_plain() -> int:
        plain.fit(images, labels, size.batch_size, verbose=0)
        return len(images)

    yield _compare_epochs(size, "fit of Keras", fit_plain, at_least=0.95)
    if importlib.util.find_spec("timm") is None:
        print("timm is not installed: the comparison with PyTorch is skipped.")
    else:
        yield _compare_epochs(size, "PyTorch", torch_epoch(size, images, labels))
    ours = build_augmented(
        WITHOUT, build_classifier(LITE, len(HAM10000), fused=True), seed=0
    )
    yield compare(
        f"step / step of plain Keras ({_describe(size, LITE)})",
        constant_batch_steps(_compile(ours), size),
        constant_batch_steps(plain, size),
        at_least=0.95,
    )


def _compare_epochs(size: Size, name: str, epoch: Work, **limits: float) -> Result:
    timer = time_epochs(size, LITE, WITHOUT, lambda _: epoch)
    return summarize(f"epoch / {name} ({_describe(size, LITE)})", timer.rounds, **limits)


def torch_epoch(
    size: Size, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]
) -> Work:
    """Returns an epoch of PyTorch with EfficientNet-Lite0 of timm."""
    import timm
    import torch

    layout = torch.channels_last  # faster than the default on CPUs
    model = timm.create_model("tf_efficientnet_lite0", num_classes=len(HAM10000))
    model.to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters())
    loss_function = torch.nn.CrossEntropyLoss()
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)

    def epoch() -> int:
        for batch in torch.randperm(len(inputs)).split(size.batch_size):
            scaled = (inputs[batch].permute(0, 3, 1, 2).float() - 127) / 128
            loss = loss_function(
                model(scaled.contiguous(memory_format=layout)), targets[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()
        return len(inputs)

    return epoch


def time_epochs(
    size: Size,
    model: ModelConfig,
    augment: AugmentConfig,
    make_baseline: Callable[[keras.Model], Work],
) -> EpochTimer:
    """Trains with `fit`, and returns the timer of its epochs; see `EpochTimer`."""
    config = Config(
        data=DataConfig(image_size=size.image_size, batch_size=size.batch_size),
        augment=augment,
        model=model,
        train=TrainConfig(scenario="from_scratch", epochs=measure.PAIRS + 1),
    )
    train = _table(size.steps * size.batch_size, fold=0)
    classifier = build_classifier(model, len(HAM10000), fused=True)
    classifier = PredictionCounter(classifier.input, classifier.output)
    setup = TrainingSetup(
        config,
        classifier,
        {"train": train, "val": _table(NUM_VALIDATION, fold=8)},
        _load,
        tuple(lesion.name for lesion in HAM10000),
        make_devices(config.train, size.batch_size),
    )
    timer = EpochTimer(size, classifier, make_baseline)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),  # the progress bar
    ):
        fit(setup, Path(folder), callbacks=[timer])
    return timer


class PredictionCounter(keras.Model):
    """A functional model that counts calls to `predict`."""

    count = 0

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """Returns the predictions of the model."""
        self.count += 1
        return super().predict(*arguments, **options)


class EpochTimer(keras.callbacks.Callback):
    """Measures the speed of each epoch relative to a baseline.

    The baseline is timed before and after each epoch. The time of an epoch ends with its
    last step, before validation and saving.

    Attributes:
        rounds: For each epoch, the rates of the baseline before it, of the epoch, and of
            the baseline after it, in images/s.
        num_predictions: How often the validation images were predicted in each epoch.
    """

    def __init__(
        self,
        size: Size,
        classifier: PredictionCounter,
        make_baseline: Callable[[keras.Model], Work],
    ):
        """`make_baseline` receives the compiled model that is trained."""
        super().__init__()
        self.size = size
        self.classifier = classifier
        self.make_baseline = make_baseline
        self.rounds: list[Round] = []
        self.num_predictions: list[int] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Builds the baseline."""
        self._baseline = self.make_baseline(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Measures the baseline and starts the timer of the epoch."""
        self._before = rate(self._baseline)
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Records the end of the step."""
        self._ended = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measures the baseline again, and stores the rates and number of predictions."""
        epoch_rate = self.size.steps * self.size.batch_size / (self._ended - self._started)
        self.rounds.append((self._before, epoch_rate, rate(self._baseline)))
        self.num_predictions.append(self.classifier.count)
        self.classifier.count = 0


def augmenting(size: Size) -> Iterator[Result]:
    """Compares training steps with and without the default augmentation."""
    works = []
    for config in (AugmentConfig(), WITHOUT):
        classifier = build_classifier(MODEL, len(HAM10000), fused=True)
        model = _compile(build_augmented(config, classifier, seed=0))
        works.append(constant_batch_steps(model, size))
    yield compare(
        f"step with / without augmentation ({_describe(size)})",
        works[0],
        works[1],
        at_least=0.9,
    )


def fused_affine(size: Size) -> Iterator[Result]:
    """Compares flip, rotation and zoom as one affine transform with three Keras layers.

    Both process the same uint8 images in 0..255 with similar ranges of the transforms.
    """
    images = tf.constant(random_images(size.batch_size, size.image_size))
    config = AugmentConfig()
    fused = Augmentation(AugmentConfig(parts=("flip", "rotate", "zoom")))
    layers = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(config.rotation_degrees / 360),
        keras.layers.RandomZoom(config.zoom),
    ]

    def work(layer: keras.layers.Layer) -> Work:
        call = tf.function(lambda images: layer(images, training=True))

        def once() -> int:
            for _ in range(size.affine_steps):
                augmented_images = call(images)
            float(augmented_images[0, 0, 0, 0])  # waits for the device
            return size.affine_steps * size.batch_size

        return once

    yield compare(
        f"flip, rotation and zoom fused / three layers of Keras ({size.image_size} px)",
        work(fused),
        work(keras.Sequential(layers)),
        at_least=2,
    )


def caching(size: Size) -> Iterator[Result]:
    """Compares an epoch on cached features with training through the frozen backbone.

    Both call `fit` without augmentation and callbacks. To fill the epoch, the features of
    a smaller number of images are repeated.
    """
    images = random_images(2 * size.steps * FEATURE_BATCH_SIZE, size.image_size)
    labels = np.random.default_rng(0).integers(0, len(HAM10000), EPOCH_IMAGES)
    classifier = build_classifier(MODEL, len(HAM10000), fused=True)
    set_trainable(classifier, 0)
    computed = compute_features(classifier, images)
    features = np.resize(computed, (EPOCH_IMAGES, computed.shape[1]))
    frozen = build_augmented(AugmentConfig(magnitude=0), classifier, seed=0)
    head = build_head(classifier)

    def fit_epoch(model: keras.Model, inputs: Images | Features) -> int:
        batches = pipeline.training_batches(
            inputs, labels[: len(inputs)], FEATURE_BATCH_SIZE, seed=0, epochs=range(1)
        )
        steps = int(batches.cardinality())
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
        return steps * FEATURE_BATCH_SIZE

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    frozen.compile("adam", loss)
    steps = steps_per_execution(EPOCH_IMAGES // FEATURE_BATCH_SIZE)
    head.compile("adam", loss, steps_per_execution=steps)
    yield compare(
        f"epoch on cached / computed features ({MODEL.backbone}, {size.image_size} px)",
        lambda: fit_epoch(head, features),
        lambda: fit_epoch(frozen, images),
        at_least=100,
    )


BENCHMARKS: dict[str, Callable[[Size], Iterator[Result]]] = {
    "fitting": fitting,
    "efficientnet_lite": efficientnet_lite,
    "augmenting": augmenting,
    "fused_affine": fused_affine,
    "caching": caching,
}


def constant_batch_steps(model: keras.Model, size: Size) -> Work:
    """Returns a function that runs training steps of a compiled model on one batch.

    The steps have no overhead for input, metrics or callbacks.
    """
    images = tf.constant(random_images(size.batch_size, size.image_size))
    labels = tf.constant(np.arange(size.batch_size) % len(HAM10000), tf.int32)
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=bool(model.jit_compile))
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.loss(labels, model(images, training=True))
            scaled = optimizer.scale_loss(loss)
        variables = model.trainable_variables
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        optimizer.apply(gradients, variables)
        return loss

    def once() -> int:
        for _ in range(size.steps):
            loss = step()
        float(loss)  # waits for the device
        return size.steps * size.batch_size

    return once


def _load(table: pd.DataFrame, config: DataConfig) -> Images:
    return random_images(len(table), config.image_size)


def _table(num_images: int, fold: int) -> pd.DataFrame:
    names = [f"{fold}_{number}" for number in range(num_images)]
    columns = {"image_id": names, "lesion_id": names, "sha256": names}
    labels = np.arange(num_images) % len(HAM10000)
    return pd.DataFrame({**columns, "label": labels, "fold": fold})


def _compile(model: keras.Model) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adamw", loss)
    return model


def _describe(size: Size, model: ModelConfig | None = None) -> str:
    backbone = (model or MODEL).backbone
    return f"{backbone}, {size.batch_size} x {size.image_size} px"
