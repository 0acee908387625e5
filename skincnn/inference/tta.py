"""Test-time augmentation (TTA): the mean prediction over several views of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tqdm import tqdm

from skincnn.config import Config
from skincnn.data.cache import Images
from skincnn.errors import ConfigError
from skincnn.inference.predict import predict_logits
from skincnn.model.augment import Augmentation
from skincnn.model.orientations import ORIENTATIONS, orient

View = Callable[[Images], Images]
"""A transformation of square images [batch, size, size, 3] that preserves their shape."""


def d4_views(config: Config, count: int) -> list[View]:
    """Returns the first `count` of the eight orientations.

    Raises:
        ConfigError: `count` is greater than 8.
    """
    del config
    numbers = ORIENTATIONS["d4"]
    if count > len(numbers):
        raise ConfigError(
            f"--num-views must be at most {len(numbers)} for --tta d4, the number of "
            f"orientations. Received: {count}."
        )
    return [_oriented_view(number) for number in numbers[:count]]


def augmented_views(config: Config, count: int) -> list[View]:
    """Returns `count` random augmentations, as in training (`config.augment`).

    Raises:
        ConfigError: The run was trained without augmentation.
    """
    if not config.augment.parts or config.augment.magnitude == 0:
        raise ConfigError(
            "--tta augment requires a run that was trained with augmentation. Received: "
            "a run without augmentation. Use --tta d4."
        )
    return [_augmented_view(config)] * count


VIEWS: dict[str, Callable[[Config, int], list[View]]] = {
    "d4": d4_views,
    "augment": augmented_views,
}


def predict_views(
    classifier: keras.Model, batches: tf.data.Dataset, views: Sequence[View]
) -> list[npt.NDArray[np.float32]]:
    """Returns the logits of each view, [num_images, num_classes].

    Args:
        classifier: A model from the elements of the batches to logits.
        batches: From `pipeline.evaluation_batches`.
        views: The views of each image.
    """
    progress = tqdm(views, desc="Views", unit="view")
    return [predict_logits(classifier, _apply(view, batches)) for view in progress]


def _oriented_view(number: int) -> View:
    def view(images: Images) -> Images:
        with tf.device("CPU"):
            return np.asarray(orient(images, number))

    return view


def _augmented_view(config: Config) -> View:
    """Returns a function that draws a new augmentation at every call."""
    augmentation = Augmentation(config.augment, seed=config.seed)

    def view(images: Images) -> Images:
        augmented = np.asarray(augmentation(images, training=True))
        return np.asarray(np.clip(np.round(augmented), 0, 255), np.uint8)

    return view


def _apply(view: View, batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the batches with a view of each image."""

    def generate() -> Iterator[Any]:
        for batch in batches.as_numpy_iterator():
            if isinstance(batch, dict):
                yield {**batch, "images": view(batch["images"])}
            else:
                yield view(batch)

    return tf.data.Dataset.from_generator(
        generate, output_signature=batches.element_spec
    ).apply(tf.data.experimental.assert_cardinality(int(batches.cardinality())))
