"""Images for TensorBoard, each in a separate event file.

The file names contain the step. A resumed run replaces the files of repeated steps, so that
TensorBoard shows each step once.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from skincnn.config import AugmentConfig
from skincnn.files import replacing
from skincnn.metrics.sample import Sample
from skincnn.model.augment import Augmentation
from skincnn.model.mixing import Mixing
from skincnn.training.callbacks import RESUME, Validation
from skincnn.write_errors import explain_write_errors

NUM_SAMPLES = 16
CELL = 56
"""Height and width of a cell of the confusion matrix, in pixels."""
DARK_BLUE = np.array([8, 48, 107])


@dataclass(eq=False, repr=False)
class ConfusionImages(keras.callbacks.Callback):
    """Writes the validation confusion matrix after each epoch whose weights are kept.

    The weights of an epoch are kept if it is the best so far, or if `train.keep_epoch` is
    last. This callback must run after `validation`, which computes the predictions.

    Raises:
        ConfigError: See `write_image`.
    """

    validation: Validation
    class_names: Sequence[str]
    folder: Path

    def __post_init__(self) -> None:
        super().__init__()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the confusion matrix if the weights of the epoch are kept."""
        progress = self.validation.progress
        if progress.best_epoch == progress.epoch:
            sample = Sample(self.validation.labels, self.validation.probabilities)
            image = draw_confusion_matrix(sample.confusion, self.class_names)
            write_image(self.folder, "confusion_matrix", epoch, image)


def write_image(folder: Path, tag: str, step: int, image: npt.NDArray[np.uint8]) -> None:
    """Writes an image to an event file, which replaces any file of the same tag and step.

    Args:
        folder: The directory of a TensorBoard run; created if it does not exist.
        tag: Name of the image in TensorBoard.
        step: The epoch, counted from 0 as in the scalars that Keras writes.
        image: uint8 [height, width, 3] in 0..255.

    Raises:
        ConfigError: The file cannot be written.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    height, width, depth = image.shape
    summary = Summary.Image(
        height=height,
        width=width,
        colorspace=depth,
        encoded_image_string=buffer.getvalue(),
    )
    value = Summary.Value(tag=tag, image=summary)
    now = time.time()
    # TensorBoard reads the files in the order of their names.
    path = folder / f"events.out.tfevents.{step:06d}.{tag}"
    with (
        explain_write_errors(path, RESUME),
        replacing(path) as temporary,
        temporary.open("wb") as file,
    ):
        records = RecordWriter(file)
        records.write(
            Event(wall_time=now, file_version="brain.Event:2").SerializeToString()
        )
        event = Event(wall_time=now, step=step, summary=Summary(value=[value]))
        records.write(event.SerializeToString())


def sample_grid(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    config: AugmentConfig,
    seed: int,
) -> npt.NDArray[np.uint8]:
    """Returns a grid of augmented and, if configured, mixed training images.

    The grid has four columns and at most `NUM_SAMPLES` images: the first image of each
    class, then the second image of each class, and so on. The random state of the training
    run does not change.

    Args:
        images: uint8 [num_images, height, width, 3] in 0..255.
        labels: Class of each image, [num_images].
        config: Options of the augmentation and the mixing.
        seed: Random seed.

    Returns:
        uint8 [rows * height, 4 * width, 3] in 0..255.

    Raises:
        ConfigError: A custom augmentation fails; see `Augmentation`.
    """
    index_in_class = pd.Series(labels).groupby(labels).cumcount().to_numpy()
    samples = images[np.lexsort((labels, index_in_class))[:NUM_SAMPLES]]
    augmented = Augmentation(config, seed).augment(samples)
    augmented, _, _ = Mixing(config, seed)(augmented, training=True)
    augmented = np.clip(np.round(np.asarray(augmented)), 0, 255).astype(np.uint8)
    columns = math.ceil(math.sqrt(NUM_SAMPLES))
    number, height, width, depth = augmented.shape
    rows = math.ceil(number / columns)
    grid = np.zeros((rows * columns, height, width, depth), np.uint8)
    grid[:number] = augmented
    grid = grid.reshape(rows, columns, height, width, depth).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, depth)


def draw_confusion_matrix(
    confusion: npt.NDArray[np.floating[Any]], class_names: Sequence[str]
) -> npt.NDArray[np.uint8]:
    """Returns an image of a confusion matrix, with the numbers and percentages of images.

    Percentages refer to the true class and determine the color of a cell. The image is
    drawn with Pillow, which is much faster than Matplotlib.

    Args:
        confusion: Number of images, [num_classes, num_classes]; rows are true classes,
            columns are predicted classes.
        class_names: Names of the classes, in order.

    Returns:
        uint8 [height, width, 3] in 0..255.
    """
    font = ImageFont.load_default(14)
    margin = round(max(font.getlength(name) for name in class_names)) + 16
    # Column names alternate between two levels, so that long names do not overlap.
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
