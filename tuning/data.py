"""Images and features that all trials of a search share."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from skincnn.config import Config, DataConfig
from skincnn.data import pipeline
from skincnn.data.cache import Cache, Images
from skincnn.data.combined import open_datasets
from skincnn.data.leakage import audit
from skincnn.data.preprocessing_spec import preprocessing_fields
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError
from skincnn.model.classifier import BACKBONE_LAYER
from skincnn.training.features import Features, compute_features

SPLITS = ("train", "val")
"""The splits that a search uses; test images are never used."""
FIXED = (
    *("datasets", "label_maps", "leave_out"),
    *("train_folds", "validation_folds", "test_folds"),
    *("split_by", "one_image_per_lesion", "single_image_lesions", "train_fraction"),
    "final_test",
)
"""Fields of `DataConfig` that select the images, and that no trial may change."""
MAX_CACHED_FEATURES = 4
"""Maximum number of feature arrays in memory, each for one split."""


class SearchData:
    """The images of a search, with caches of decoded images and features.

    Args:
        config: The datasets and the splits.
        data_dir: The root directory of built datasets; None for the default of TFDS.
        cache: Where to keep decoded images; see `skincnn.data.cache.cached_images`.

    Raises:
        ConfigError: A dataset or the source to leave out does not exist, `data_dir` cannot
            be used, a label map is not valid or lacks a label that has no default class, or
            a synthetic dataset or the links between datasets cannot be written.
        DataError: A dataset has not been built or is damaged, `config` requires lesions
            that are not known, or the splits do not pass the leakage audit.
        OSError: See `skincnn.data.combined.CombinedDataset.links`.
    """

    def __init__(self, config: DataConfig, data_dir: Path | None, cache: Cache = "auto"):
        self._dataset = open_datasets(config.datasets, data_dir, config.label_maps)
        self.class_names = self._dataset.class_names
        self._cache = cache
        self._fixed = {name: getattr(config, name) for name in FIXED}
        self.tables = make_splits(self._dataset, config, SPLITS)
        audit(self.tables, self.class_names, siblings_allowed=config.split_by == "image")
        self._images: dict[tuple[Any, ...], Images] = {}
        self._features: OrderedDict[tuple[Any, ...], Features] = OrderedDict()

    def check(self, config: Config) -> None:
        """Raises a `ConfigError` if a space changed a field in `FIXED`."""
        changed = [
            name for name in FIXED if getattr(config.data, name) != self._fixed[name]
        ]
        if changed:
            raise ConfigError(
                f"A space must not change data.{', data.'.join(changed)}: scores on "
                "different images cannot be compared."
            )

    def fingerprint(self) -> dict[str, str]:
        """Returns the fingerprint of the images of each split."""
        return {name: pipeline.fingerprint(table) for name, table in self.tables.items()}

    def load_images(self, table: pd.DataFrame, config: DataConfig) -> Images:
        """Returns the images of one of `tables`, and keeps the array for later calls.

        Raises:
            ConfigError, DataError: See `skincnn.data.pipeline.load_images`.
        """
        split = next(name for name, rows in self.tables.items() if rows is table)
        key = split, *preprocessing_fields(config).values()
        if key not in self._images:
            images = pipeline.load_images(self._dataset, table, config, self._cache)
            self._images[key] = images
        return self._images[key]

    def compute_features(
        self, classifier: keras.Model, images: Images, num_views: int
    ) -> Features:
        """Returns the backbone features of images, from a cache if possible.

        The cache key consists of the images, the number of views, the precision, the
        normalization and the backbone weights. See
        `skincnn.training.features.compute_features`.
        """
        digest = hashlib.sha256()
        for layer in classifier.layers:
            if isinstance(layer, keras.layers.Rescaling):
                digest.update(repr((layer.scale, layer.offset)).encode())
        for weights in classifier.get_layer(BACKBONE_LAYER).get_weights():
            digest.update(np.ascontiguousarray(weights).tobytes())
        policy = keras.config.dtype_policy().name
        # The id is unique because `load_images` keeps all arrays.
        key = id(images), num_views, policy, digest.hexdigest()
        if key not in self._features:
            self._features[key] = compute_features(classifier, images, num_views)
            while len(self._features) > MAX_CACHED_FEATURES:
                self._features.popitem(last=False)
        self._features.move_to_end(key)
        return self._features[key]
