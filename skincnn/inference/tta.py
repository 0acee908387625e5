"""Test-time augmentation: the same pictures shown several times, and the mean answer."""

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

View = Callable[[Images], Images]
"""From square pictures [batch, size, size, 3] to as many of the same size."""


def orientations(config: Config, count: int) -> list[View]:
    """Returns the first `count` of the eight orientations; each comes once.

    Raises:
        ConfigError: More than eight are asked for.
    """
    del config
    if count > 8:
        raise ConfigError(f"There are 8 orientations. Received: --num-views {count}.")
    return [_orientation(number) for number in range(count)]


def random_views(config: Config, count: int) -> list[View]:
    """Returns `count` ways to vary pictures as in training, by `config.augment`.

    Raises:
        ConfigError: The run was trained without augmentation.
    """
    if not config.augment.parts or config.augment.magnitude == 0:
        raise ConfigError(
            "Random views vary pictures as in training, and this run has no "
            "augmentation. Use orientations."
        )
    return [_random_view(config)] * count


VIEWS: dict[str, Callable[[Config, int], list[View]]] = {
    "d4": orientations,
    "augment": random_views,
}


def predict_views(
    classifier: keras.Model, batches: tf.data.Dataset, views: Sequence[View]
) -> list[npt.NDArray[np.float32]]:
    """Returns the logits of each view, [num_images, num_classes].

    Args:
        classifier: A model from what is in the batches to logits.
        batches: Those of `pipeline.evaluation_batches`.
        views: What is done to the pictures, in turn.
    """
    bar = tqdm(views, desc="Views", unit="view")
    return [predict_logits(classifier, _seen(batches, view)) for view in bar]


def _orientation(number: int) -> View:
    """Returns quarter turns, from 4 on after a reflection; 0 is the identity."""

    def turn(images: Images) -> Images:
        mirrored = images[:, :, ::-1] if number >= 4 else images
        return np.ascontiguousarray(np.rot90(mirrored, number % 4, axes=(1, 2)))

    return turn


def _random_view(config: Config) -> View:
    """Returns a function that draws anew whenever it is called."""
    augmentation = Augmentation(config.augment, seed=config.seed)

    def vary(images: Images) -> Images:
        varied = np.asarray(augmentation(images, training=True))
        return np.asarray(np.clip(np.round(varied), 0, 255), np.uint8)

    return vary


def _seen(batches: tf.data.Dataset, view: View) -> tf.data.Dataset:
    """Returns the same batches with other pictures."""

    def generate() -> Iterator[Any]:
        for batch in batches.as_numpy_iterator():
            if isinstance(batch, dict):
                yield {**batch, "images": view(batch["images"])}
            else:
                yield view(batch)

    return tf.data.Dataset.from_generator(
        generate, output_signature=batches.element_spec
    ).apply(tf.data.experimental.assert_cardinality(int(batches.cardinality())))
