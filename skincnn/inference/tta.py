"""Test-time augmentation (TTA): the mean prediction over several views of an image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from skincnn.config import Config
from skincnn.data.cache import Images
from skincnn.errors import ConfigError
from skincnn.inference.predict import predict
from skincnn.model.augment import Augmentation
from skincnn.model.orientations import ORIENTATIONS, orient
from skincnn.progress import ProgressBar

View = Callable[[Images], Images]
"""A transformation of square images [batch, size, size, 3] that preserves the shape."""


def d4_views(config: Config, count: int) -> list[View]:
    """Returns views with the first `count` of the eight rotations and reflections.

    Raises:
        ConfigError: `count` is greater than 8.
    """
    numbers = ORIENTATIONS["d4"]
    if count > len(numbers):
        raise ConfigError(
            f"--num-views must be at most {len(numbers)} for --tta d4, which has "
            f"{len(numbers)} orientations. Received: {count}."
        )

    def view(number: int, images: Images) -> Images:
        with tf.device("CPU"):
            return np.asarray(orient(images, number))

    return [functools.partial(view, number) for number in numbers[:count]]


def augmented_views(config: Config, count: int) -> list[View]:
    """Returns `count` views, each of which augments images at random, as in training.

    Raises:
        ConfigError: The run was trained without augmentation.
    """
    if not config.augment.parts or config.augment.magnitude == 0:
        raise ConfigError(
            "--tta augment requires a run that was trained with augmentation. Received: "
            "a run without augmentation. Use --tta d4."
        )
    augmentation = Augmentation(config.augment, seed=config.seed)

    def view(images: Images) -> Images:
        augmented = np.asarray(augmentation(images, training=True))
        return np.asarray(np.clip(np.round(augmented), 0, 255), np.uint8)

    return [view] * count


VIEWS: dict[str, Callable[[Config, int], list[View]]] = {
    "d4": d4_views,
    "augment": augmented_views,
}


def predict_views(
    classifier: keras.Model, batches: tf.data.Dataset, views: Sequence[View]
) -> list[npt.NDArray[np.float32]]:
    """Returns a list of the logits for each view, each [num_images, num_classes].

    For the batches, see `predict`.
    """
    progress = ProgressBar(views, desc="Views", unit="view")
    return [predict(classifier, _apply(view, batches))[0] for view in progress]


def _apply(view: View, batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the batches with `view` applied to the images."""

    def generate() -> Iterator[Any]:
        for batch in batches.as_numpy_iterator():
            if isinstance(batch, dict):
                yield {**batch, "images": view(batch["images"])}
            else:
                yield view(batch)

    viewed = tf.data.Dataset.from_generator(generate, output_signature=batches.element_spec)
    return viewed.apply(tf.data.experimental.assert_cardinality(int(batches.cardinality())))
