"""Test-time augmentation (TTA): predictions for several views of each image."""

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
from skincnn.parts import describe
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
            f"`num_views` must be at most {len(numbers)} for `tta` d4, which has "
            f"{len(numbers)} orientations. Received: {count}."
        )

    def view(number: int, images: Images) -> Images:
        with tf.device("CPU"):
            return np.asarray(orient(images, number))

    return [functools.partial(view, number) for number in numbers[:count]]


def augmented_views(config: Config, count: int) -> list[View]:
    """Returns `count` views, each of which augments images at random as in training.

    Unlike in training, images are not mixed.

    Raises:
        ConfigError: The run was trained without augmentation, or a custom augmentation
            cannot be imported; see also `Augmentation`.
    """
    if not config.augment.parts or config.augment.magnitude == 0:
        raise ConfigError(
            "`tta` augment requires a run that was trained with augmentation. Received: "
            "a run without augmentation. Use d4."
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
"""The kinds of test-time augmentation: functions of the configuration of the run and the
number of views."""


def predict_views(
    classifier: keras.Model, batches: tf.data.Dataset, views: Sequence[View]
) -> list[npt.NDArray[np.float32]]:
    """Returns the logits for each view, each [num_images, num_classes].

    For the batches, see `predict`.

    Raises:
        ConfigError: A custom augmentation fails.
    """
    progress = ProgressBar(views, desc="Views", unit="view")
    return [_predict_view(classifier, batches, view) for view in progress]


def _predict_view(
    classifier: keras.Model, batches: tf.data.Dataset, view: View
) -> npt.NDArray[np.float32]:
    errors: list[ConfigError] = []

    def apply(images: Images) -> Images:
        try:
            return view(images)
        except ConfigError as error:
            errors.append(error)
            raise

    def generate() -> Iterator[Any]:
        for batch in batches.as_numpy_iterator():
            if isinstance(batch, dict):
                yield {**batch, "images": apply(batch["images"])}
            else:
                yield apply(batch)

    viewed = tf.data.Dataset.from_generator(generate, output_signature=batches.element_spec)
    count = tf.data.experimental.assert_cardinality(int(batches.cardinality()))
    try:
        return predict(classifier, viewed.apply(count))[0]
    except tf.errors.OpError:  # TensorFlow replaces the exceptions of a generator
        if errors:
            raise ConfigError(describe(errors[0])) from errors[0]
        raise
