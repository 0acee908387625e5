"""Training setups with random images, for tests that need no dataset."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pandas as pd

from skincnn.config import Config, DataConfig
from skincnn.data.cache import Images
from skincnn.model.classifier import build_classifier
from skincnn.training.devices import make_devices
from skincnn.training.setup import TrainingSetup


def make_rows(num_images: int, num_classes: int) -> pd.DataFrame:
    """Returns a table of images whose classes alternate."""
    names = [f"{number:03d}" for number in range(num_images)]
    rows = pd.DataFrame({"image_id": names, "lesion_id": names, "sha256": names})
    return rows.assign(fold=0, label=np.arange(num_images) % num_classes)


def draw_images(rows: pd.DataFrame, config: DataConfig) -> Images:
    """Returns random images for table rows, the same in each call."""
    shape = (len(rows), config.image_size, config.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def make_setup(
    config: Config, num_classes: int, num_train: int, num_val: int
) -> TrainingSetup:
    """Returns the setup of a training run on random images."""
    devices = make_devices(config.train, config.data.batch_size)
    with devices.scope():
        classifier = build_classifier(config.model, num_classes, fused=True)
    sizes = {"train": num_train, "val": num_val}
    tables = {name: make_rows(size, num_classes) for name, size in sizes.items()}
    class_names = tuple(f"class {number}" for number in range(num_classes))
    return TrainingSetup(config, classifier, tables, draw_images, class_names, devices)


def flat_features(*, metadata: bool) -> tuple[Any, keras.KerasTensor]:
    """Returns the inputs of a network for images of 8x8 pixels, and all pixels in 0..1.

    With `metadata`, the inputs are a dictionary, and two values follow the pixels.
    """
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3), name="images")
    pixels = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    if not metadata:
        return images, pixels
    clinical = keras.Input((2,), name="metadata")
    features = keras.layers.Concatenate()([pixels, clinical])
    return {"images": images, "metadata": clinical}, features
