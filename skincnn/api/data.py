"""The data of a configuration, its untrained model, and a figure of augmented images."""

from __future__ import annotations

import functools
import os
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
from skincnn.config.section import require_count
from skincnn.data import pipeline
from skincnn.data.cache import Cache, Images
from skincnn.data.combined import open_datasets
from skincnn.data.leakage import LeakageAudit, audit
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError
from skincnn.model.classifier import build_classifier
from skincnn.paths import to_path
from skincnn.reporting.plots import to_image
from skincnn.startup import own_settings

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        """Returns, for example, `Split(35 images)`."""
        return f"Split({len(self.table)} images)"

    @functools.cached_property
    @own_settings()
    def images(self) -> Images:
        """The preprocessed images, uint8 [num_images, size, size, 3]; read on first use.

        Raises:
            ConfigError, DataError: See `skincnn.data.pipeline.load_images`.
        """
        return self._load(self.table, self._config.data)

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """The index of the class of each image, [num_images]."""
        return self.table["label"].to_numpy(np.int32)

    @own_settings()
    def batches(
        self, batch_size: int | None = None, *, shuffle: bool = False, seed: int = 0
    ) -> tf.data.Dataset:
        """Returns batches of images in 0..255 and labels, for `keras.Model.fit`.

        The images are neither augmented nor sampled by the imbalance strategy;
        `skincnn.train` does both.

        Args:
            batch_size: Number of images in a batch; `data.batch_size` by default.
            shuffle: Whether to shuffle the images, differently in each iteration.
            seed: Seed of the shuffling.

        Returns:
            Batches (images uint8 [batch, size, size, 3], labels int32 [batch]). If the
            configuration includes clinical metadata, the first element is a dictionary of
            `images` and `metadata` (float32 [batch, num_columns]).

        Raises:
            ConfigError: `batch_size` is not a positive integer, or `seed` is not an integer
                of at least 0; see also `images`.
            DataError: The clinical metadata are invalid; see also `images`.
        """
        batch_size = self._config.data.batch_size if batch_size is None else batch_size
        require_count("batch_size", batch_size)
        require_count("seed", seed, minimum=0)
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

        batched = rows.batch(batch_size)
        return batched.map(read, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        """Returns, for example, `Data(train: 282, val: 35, test: 35 images; 7 classes)`."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        sizes = ", ".join(f"{name}: {len(split.table)}" for name, split in parts.items())
        return f"Data({sizes} images; {len(self.class_names)} classes)"


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
        cache: Where decoded images are kept: "memory", "disk", or "auto"; see
            `skincnn.data.cache.cached_images`.

    Raises:
        ConfigError: `config` is not a `Config`, `data_dir` cannot be used, a dataset or the
            source `data.leave_out` does not exist, this source has no images for the test
            split, a label map is not valid or lacks a label that has no default class, or a
            synthetic dataset or the links between datasets cannot be written.
        DataError: A dataset has not been built or is damaged, required lesion_ids are
            missing, or the splits do not pass the leakage audit.
        OSError: See `skincnn.data.combined.CombinedDataset.links`.
    """
    require_config(config)
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
    """Returns the classifier of a configuration, neither trained nor compiled.

    Its backbone has the weights `model.weights`. The model takes images [batch, size, size,
    3] in 0..255 and returns logits [batch, num_classes]. With `model.clinical_metadata`, it
    takes a dictionary of `images` and `metadata`, as in `Split.batches`. Use a loss with
    `from_logits=True`:

        data = skincnn.load_data(config)
        model = skincnn.build_model(config, len(data.class_names))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        batches = data.train.batches(shuffle=True)
        model.fit(batches, validation_data=data.val.batches(), shuffle=False)

    Without `shuffle=False`, Keras warns that it does not shuffle a `tf.data.Dataset`.

    Raises:
        ConfigError: `config` or `num_classes` is not valid, or the backbone or its weights
            do not exist or cannot be used; see `skincnn.model.backbones.build_backbone`.
    """
    require_config(config)
    require_count("num_classes", num_classes, minimum=2)
    size = config.data.image_size
    return build_classifier(
        config.model, int(num_classes), seed=config.seed, image_size=size
    )


@own_settings()
def show_batch(config: Config, data_dir: PathLike | None = None) -> Image.Image:
    """Returns a figure of an image of each class, with augmented copies.

    The images are from the first of `data.train_folds` that has images; a class without
    images in this fold is not shown. Other settings that determine the training split, such
    as `data.split_by` image or `data.leave_out`, are ignored: the images may belong to
    another split, or to none.

    Args:
        config: The configuration.
        data_dir: The directory of built datasets; by default the data directory of TFDS.
            Synthetic datasets are built if necessary.

    Raises:
        ConfigError: `config` is not a `Config`, a dataset does not exist or cannot be
            written, `data_dir` cannot be used, a label map is not valid or lacks a label
            that has no default class, or a part of the augmentation is not valid or fails.
        DataError: A dataset has not been built or is damaged, or none of these folds has
            images.
        OSError: See `skincnn.data.combined.CombinedDataset.links`.
    """
    require_config(config)
    return to_image(plot_preview(config, _path(data_dir)))


def require_config(config: object) -> None:
    """Raises a `ConfigError` if `config` is not a `Config`."""
    if not isinstance(config, Config):
        raise ConfigError(
            "`config` must be a configuration, such as skincnn.preset('quickstart') or "
            f"skincnn.Config.from_dict(values). Received: {type(config).__name__}."
        )


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else to_path(path)
