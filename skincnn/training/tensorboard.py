"""Pictures for TensorBoard, each in an event file of its own.

The name of a file is that of its step, and it appears whole or not at all: a training that
is resumed writes the same files again, and TensorBoard shows each step once.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from skincnn.config import AugmentConfig
from skincnn.evaluation.metrics import Sample
from skincnn.files import replacing
from skincnn.model.augment import Augmentation
from skincnn.model.augmented import IMAGES
from skincnn.model.mixing import Mixing
from skincnn.training.callbacks import Validation

SAMPLES = 16
CELL = 56
"""Pixels; Matplotlib would draw it nicer, in a hundred times the time."""
DARK_BLUE = np.array([8, 48, 107])


class ConfusionImages(keras.callbacks.Callback):
    """Draws the confusion matrix of validation after each epoch that is the best so far.

    Must run after `Validation`.
    """

    def __init__(self, validation: Validation, class_names: Sequence[str], folder: Path):
        """Stores what to draw.

        Args:
            validation: What predicts.
            class_names: The names of the classes, in order.
            folder: Where the event files go.
        """
        super().__init__()
        self.validation = validation
        self.class_names = class_names
        self.folder = folder

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Draws the matrix, if the epoch was the best."""
        progress = self.validation.progress
        if progress.best_epoch == progress.epoch:
            sample = Sample(self.validation.labels, self.validation.probabilities)
            image = draw_confusion_matrix(sample.confusion, self.class_names)
            write_image(self.folder, "confusion_matrix", epoch, image)


def write_image(folder: Path, tag: str, step: int, image: npt.NDArray[np.uint8]) -> None:
    """Writes the event file of a picture, or replaces it.

    Args:
        folder: What TensorBoard shows as a run; made where it is missing.
        tag: What the picture is of.
        step: The epoch, counted from 0 as in the scalars of Keras.
        image: [height, width, 3] in 0..255.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    height, width, depth = image.shape
    summary = tf.compat.v1.Summary.Image(
        height=height,
        width=width,
        colorspace=depth,
        encoded_image_string=buffer.getvalue(),
    )
    value = tf.compat.v1.Summary.Value(tag=tag, image=summary)
    events = (
        tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2"),
        tf.compat.v1.Event(
            wall_time=time.time(), step=step, summary=tf.compat.v1.Summary(value=[value])
        ),
    )
    # TensorBoard reads the files of a folder in the order of their names.
    path = folder / f"events.out.tfevents.{step:06d}.{tag}"
    with replacing(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as file:
        for event in events:
            file.write(event.SerializeToString())


def write_samples(
    folder: Path, batches: tf.data.Dataset, config: AugmentConfig, seed: int
) -> None:
    """Writes the first pictures of a training as it would vary them; see `sample_grid`.

    Args:
        folder: See `write_image`.
        batches: What fit() is given.
        config: The augmentation.
        seed: Seed of the draws.
    """
    inputs, _ = next(batches.take(1).as_numpy_iterator())
    images = inputs[IMAGES] if isinstance(inputs, dict) else inputs
    write_image(folder, "training_pictures", 0, sample_grid(images, config, seed))


def sample_grid(
    images: npt.NDArray[np.uint8], config: AugmentConfig, seed: int
) -> npt.NDArray[np.uint8]:
    """Returns the first pictures as training would vary and mix them, in rows of four.

    The draws are not those of the training, whose random state stays as it is.

    Args:
        images: [num_images, height, width, 3] in 0..255.
        config: The augmentation.
        seed: Seed of the draws.
    """
    images = images[:SAMPLES]
    varied, _, _ = Mixing(config, seed)(
        Augmentation(config, seed).vary(images), training=True
    )
    varied = np.clip(np.round(np.asarray(varied)), 0, 255).astype(np.uint8)
    columns = math.ceil(math.sqrt(SAMPLES))
    number, height, width, depth = varied.shape
    rows = math.ceil(number / columns)
    grid = np.zeros((rows * columns, height, width, depth), np.uint8)
    grid[:number] = varied
    grid = grid.reshape(rows, columns, height, width, depth).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, depth)


def draw_confusion_matrix(
    confusion: npt.NDArray[np.floating[Any]], class_names: Sequence[str]
) -> npt.NDArray[np.uint8]:
    """Returns a picture of the counts, shaded by the share of each true class.

    Args:
        confusion: Counts [num_classes, num_classes], rows are the true classes.
        class_names: The names of the classes, in order.

    Returns:
        [height, width, 3].
    """
    font = ImageFont.load_default(14)
    margin = round(max(font.getlength(name) for name in class_names)) + 16
    # Names of columns stand on two levels, so that long ones do not run into each other.
    top, side = 3 * CELL // 4, CELL * len(class_names)
    page = Image.new("RGB", (margin + side + CELL // 2, top + side), "white")
    draw = ImageDraw.Draw(page)
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    for number, name in enumerate(class_names):
        middle = CELL * number + CELL // 2
        draw.text((margin - 8, top + middle), name, "black", font, anchor="rm")
        level = 10 + 18 * (number % 2)
        draw.text((margin + middle, level), name, "black", font, anchor="mm")
    for (row, column), share in np.ndenumerate(confusion / totals):
        left, upper = margin + CELL * column, top + CELL * row
        shade = np.round(255 + share * (DARK_BLUE - 255)).astype(int)
        draw.rectangle((left, upper, left + CELL, upper + CELL), tuple(shade), "white")
        draw.multiline_text(
            (left + CELL // 2, upper + CELL // 2),
            f"{int(confusion[row, column])}\n{100 * share:.0f} %",
            "white" if share > 0.55 else "black",
            font,
            anchor="mm",
            align="center",
        )
    draw.text((4, 10), "true | predicted", "black", ImageFont.load_default(10), anchor="lm")
    return np.asarray(page)
