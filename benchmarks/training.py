"""Benchmarks of training: its overhead over the steps of the network."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from benchmarks import measure
from benchmarks.features import BATCH_SIZE, cached_views
from benchmarks.measure import Result, Round, Work, compare, rate, summarize
from skincnn.classes import HAM10000
from skincnn.config import AugmentConfig, Config, DataConfig, ModelConfig, TrainConfig
from skincnn.data import pipeline
from skincnn.data.pipeline import evaluation_batches
from skincnn.model.augment import Augmentation
from skincnn.model.classifier import build_classifier
from skincnn.training.devices import make_devices
from skincnn.training.fitting import build_augmented, fit
from skincnn.training.setup import TrainingSetup

MODEL = ModelConfig(backbone="mobilenet_v2", weights="none")
NUM_VALIDATION = 64


@dataclass(frozen=True)
class Size:
    """The amount of work per round.

    Attributes:
        image_size: Height and width of the images.
        batch_size: Images per step.
        steps: Training steps on each side of a ratio.
        affine_steps: Augmented batches on each side of a ratio.
    """

    image_size: int = 224
    batch_size: int = 32
    steps: int = 4
    affine_steps: int = 8


def run(size: Size) -> Iterator[Result]:
    """Yields each result as soon as it is measured."""
    for benchmark in BENCHMARKS:
        yield from benchmark(size)


def fitting(size: Size) -> Iterator[Result]:
    """Compares training, with its input pipeline and callbacks, with bare steps.

    An epoch is measured from its first step to its last, without validation and saving. A
    second result is the number of passes over the validation images.
    """
    config = Config(
        data=DataConfig(image_size=size.image_size, batch_size=size.batch_size),
        model=MODEL,
        train=TrainConfig(scenario="from_scratch", epochs=measure.PAIRS + 1),
    )
    classifier = build_classifier(MODEL, len(HAM10000), fused=True)
    tables = {
        "train": _table(size.steps * size.batch_size, fold=0),
        "val": _table(NUM_VALIDATION, fold=8),
    }
    setup = TrainingSetup(
        config,
        classifier,
        tables,
        _load,
        tuple(lesion.name for lesion in HAM10000),
        make_devices(config.train, size.batch_size),
    )
    timer = EpochTimer(size)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(pipeline, "evaluation_batches", timer.count_images),
        contextlib.redirect_stdout(io.StringIO()),  # the progress bar
    ):
        fit(setup, Path(folder), callbacks=[timer])
    yield summarize(
        f"training / bare step on a constant batch ({_describe(size)})",
        timer.rounds,
        at_least=0.95,
    )
    passes = [count / NUM_VALIDATION for count in timer.validated]
    yield Result(
        "passes over validation per epoch",
        float(np.mean(passes)),
        low=min(passes),
        high=max(passes),
        pairs=len(passes),
        at_least=1,
        at_most=1,
    )


class EpochTimer(keras.callbacks.Callback):
    """Measures each epoch of a training between two rounds of bare steps.

    Attributes:
        rounds: The rates of each epoch; the baseline is bare steps.
        validated: Number of validation images read in each epoch.
    """

    def __init__(self, size: Size):
        """Stores what to measure."""
        super().__init__()
        self.size = size
        self.rounds: list[Round] = []
        self.validated: list[int] = []

    def count_images(self, *inputs: Any) -> tf.data.Dataset:
        """Returns `evaluation_batches` that count the images that are read."""

        def count(images: tf.Tensor) -> tf.Tensor:
            self._count += len(images)
            return images

        batches = evaluation_batches(*inputs)
        shape = batches.element_spec.shape
        return batches.map(
            lambda images: tf.ensure_shape(
                tf.numpy_function(count, [images], tf.uint8), shape
            )
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Compiles the bare step."""
        self._count = 0
        self.bare = bare_steps(self.model, self.size)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Measures bare steps and starts the clock of the epoch."""
        self._before = rate(self.bare)
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stores the end of the step."""
        self._ended = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stores the rates and the number of validation images."""
        epoch_rate = self.size.steps * self.size.batch_size / (self._ended - self._started)
        self.rounds.append((self._before, epoch_rate, rate(self.bare)))
        self.validated.append(self._count)
        self._count = 0


def augmenting(size: Size) -> Iterator[Result]:
    """Compares a bare step with the default augmentation with one without it."""
    works = []
    for config in (AugmentConfig(), AugmentConfig(parts=())):
        classifier = build_classifier(MODEL, len(HAM10000), fused=True)
        model = build_augmented(config, classifier, seed=0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adamw", loss)
        works.append(bare_steps(model, size))
    yield compare(
        f"step with / without augmentation ({_describe(size)})", *works, at_least=0.9
    )


def fused_affine(size: Size) -> Iterator[Result]:
    """Compares flips, rotation and zoom as one affine map with three Keras layers.

    The strengths are similar, and both read the same uint8 images in 0..255.
    """
    images = tf.constant(_random_images(size.batch_size, size.image_size))
    config = AugmentConfig()
    fused = Augmentation(AugmentConfig(parts=("flip", "rotate", "zoom")))
    chain = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(config.rotation_degrees / 360),
            keras.layers.RandomZoom(config.zoom),
        ]
    )

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
        work(chain),
        at_least=2,
    )


def caching(size: Size) -> Iterator[Result]:
    """Compares an epoch on cached features with a pass through the frozen backbone."""
    yield from cached_views(size.steps * 2 * BATCH_SIZE, size.image_size)


BENCHMARKS: tuple[Callable[[Size], Iterator[Result]], ...] = (
    fitting,
    augmenting,
    fused_affine,
    caching,
)


def bare_steps(model: keras.Model, size: Size) -> Work:
    """Returns training steps of a compiled model on one batch, without any overhead.

    Args:
        model: A compiled model, which the steps train.
        size: The number of steps and the size of the batch.
    """
    images = tf.constant(_random_images(size.batch_size, size.image_size))
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


def _random_images(number: int, image_size: int) -> npt.NDArray[np.uint8]:
    shape = (number, image_size, image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _load(table: pd.DataFrame, config: DataConfig) -> npt.NDArray[np.uint8]:
    return _random_images(len(table), config.image_size)


def _table(number: int, fold: int) -> pd.DataFrame:
    names = [f"{fold}_{index}" for index in range(number)]
    columns = {"image_id": names, "lesion_id": names, "sha256": names}
    labels = np.arange(number) % len(HAM10000)
    return pd.DataFrame({**columns, "label": labels, "fold": fold})


def _describe(size: Size) -> str:
    return f"{MODEL.backbone}, {size.batch_size} x {size.image_size} px"
