"""The data of a configuration, its untrained model, and a figure of training images."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from PIL import Image

from skincnn.api.preview import plot_preview
from skincnn.clinical_metadata import CLINICAL_COLUMNS, encode_clinical_metadata
from skincnn.config import Config
from skincnn.data import pipeline
from skincnn.data.cache import Cache, Images
from skincnn.data.combined import open_datasets
from skincnn.data.leakage import LeakageAudit, audit
from skincnn.data.splits import make_splits
from skincnn.model.classifier import build_classifier
from skincnn.paths import to_path
from skincnn.reporting.plots import to_image
from skincnn.startup import own_settings

PathLike = str | Path


@dataclass(frozen=True, eq=False)
class Split:
    """The training, validation or test images of a configuration.

    Attributes:
        table: One row per image: image_id, lesion_id, group_id, label (the index of the
            class), age, sex, localization and others.
        class_names: Class names, in the order of the labels.
    """

    table: pd.DataFrame
    class_names: tuple[str, ...]
    _config: Config
    _load: functools.partial[Images]

    @functools.cached_property
    def images(self) -> Images:
        """The preprocessed images, uint8 [num_images, size, size, 3]; read on first use."""
        return self._load(self.table, self._config.data)

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """The index of the class of each image, [num_images]."""
        return self.table["label"].to_numpy(np.int32)

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool = False, seed: int = 0
    ) -> tf.data.Dataset:
        """Returns batches of images in 0..255 and labels, for `keras.Model.fit`.

        The images are neither augmented nor sampled by the imbalance strategy;
        `skincnn.train` does both.

        Args:
            batch_size: Number of images in a batch; `data.batch_size` by default.
            shuffle: Whether to shuffle the images, differently in each iteration.
            seed: Seed of the order.

        Returns:
            Batches (images uint8 [batch, size, size, 3], labels int32 [batch]). If the
            configuration includes clinical metadata, the first element is a dictionary of
            `images` and `metadata` (float32 [batch, num_columns]).
        """
        inputs: Any = {"images": pipeline.share(self.images)}
        if self._config.model.clinical_metadata:
            inputs["metadata"] = encode_clinical_metadata(self.table)
        rows = tf.data.Dataset.range(len(self.table))
        if shuffle:
            rows = rows.shuffle(len(self.table), seed, reshuffle_each_iteration=True)

        def read(batch: tf.Tensor) -> tuple[Any, tf.Tensor]:
            parts = {name: tf.gather(values, batch) for name, values in inputs.items()}
            labels = tf.gather(self.labels, batch)
            return (parts if len(parts) > 1 else parts["images"]), labels

        batched = rows.batch(batch_size or self._config.data.batch_size)
        return batched.map(read, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


@dataclass(frozen=True, eq=False)
class Data:
    """The splits of a configuration.

    Attributes:
        train, val, test: The training, validation and test split.
        class_names: Class names, in the order of the labels.
        leakage: Result of the leakage audit of the three splits.
    """

    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    leakage: LeakageAudit


@own_settings()
def load_data(
    config: Config, data_dir: PathLike | None = None, cache: Cache = "auto"
) -> Data:
    """Returns the training, validation and test splits of a configuration.

    Images are read when they are first used.

    Args:
        config: The configuration.
        data_dir: The directory of built datasets; by default the data directory of TFDS.
            Synthetic datasets are built if necessary.
        cache: Where decoded images are kept: "memory", "disk", or "auto".

    Raises:
        ConfigError: A dataset or the source to leave out does not exist, or a label map is
            not valid.
        DataError: A dataset has not been built, images are selected by lesions that are not
            known, or the splits do not pass the leakage audit.
    """
    fields = config.data
    dataset = open_datasets(fields.datasets, _path(data_dir), fields.label_maps)
    names = dataset.class_names
    tables = make_splits(dataset, fields)
    leakage = audit(
        tables,
        names,
        inputs=CLINICAL_COLUMNS if config.model.clinical_metadata else (),
        siblings_allowed=fields.split_by == "image",
        may_lack_classes=("test",) if fields.leave_out else (),
    )
    load = functools.partial(pipeline.load_images, dataset, cache=cache)
    splits: Mapping[str, Split] = {
        name: Split(table, names, config, load) for name, table in tables.items()
    }
    return Data(splits["train"], splits["val"], splits["test"], names, leakage)


@own_settings()
def build_model(config: Config, num_classes: int) -> keras.Model:
    """Returns the untrained classifier of a configuration, which is not compiled.

    The model takes images [batch, size, size, 3] in 0..255 and returns logits [batch,
    num_classes]. With `model.clinical_metadata`, it takes a dictionary of `images` and
    `metadata`, as in `Split.batches`. Use a loss with `from_logits=True`:

        model = skincnn.build_model(config, num_classes=7)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        batches = data.train.batches(shuffle=True)
        model.fit(batches, validation_data=data.val.batches(), shuffle=False)

    Without `shuffle=False`, Keras warns that it does not shuffle a `tf.data.Dataset`.

    Raises:
        ConfigError: The backbone or its weights do not exist or cannot be used.
    """
    size = config.data.image_size
    return build_classifier(config.model, num_classes, seed=config.seed, image_size=size)


@own_settings()
def show_batch(config: Config, data_dir: PathLike | None = None) -> Image.Image:
    """Returns a figure of a training image of each class, with augmented copies.

    Raises:
        ConfigError: The dataset does not exist.
        DataError: The dataset has not been built.
    """
    return to_image(plot_preview(config, _path(data_dir)))


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else to_path(path)
