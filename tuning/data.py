"""What all trials of a search share: pictures are read once, and so are their features."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from skincnn.config import Config, DataConfig
from skincnn.data import datasets, pipeline
from skincnn.data.cache import Cache, Images
from skincnn.data.leakage import audit
from skincnn.data.preprocessing_spec import preprocessing_fields
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError
from skincnn.model.classifier import BACKBONE_LAYER
from skincnn.training.features import Features, compute_features

SPLITS = ("train", "val")
"""What a search is shown: no test fold."""
FIXED = (
    *("dataset", "train_folds", "validation_folds", "test_folds"),
    *("split_by", "one_image_per_lesion"),
)
"""Fields of `DataConfig` that say which pictures there are: the same in every trial."""
KEPT_FEATURES = 4
"""Of so many sets of pictures, mostly training and validation, features are kept."""


class SearchData:
    """The pictures of a search, in training and in validation.

    Attributes:
        class_names: The names of the labels, in order.
        tables: The rows of "train" and "val".
    """

    def __init__(self, config: DataConfig, data_dir: Path | None, cache: Cache = "auto"):
        """Reads what is known of the pictures, and audits their splits.

        Raises:
            ConfigError: There is no such dataset.
            DataError: It is not built, or its splits leak.
        """
        self.class_names = datasets.class_names(config.dataset, data_dir)
        self._builder = datasets.open_dataset(config.dataset, data_dir)
        self._cache = cache
        self._fixed = {name: getattr(config, name) for name in FIXED}
        self.tables = make_splits(self._builder, config, SPLITS)
        audit(self.tables, self.class_names, siblings_allowed=config.split_by == "image")
        self._images: dict[tuple[Any, ...], Images] = {}
        self._features: OrderedDict[tuple[Any, ...], Features] = OrderedDict()

    def check(self, config: Config) -> None:
        """Checks that a trial is about these very pictures.

        Raises:
            ConfigError: A space changed what must be equal in all trials.
        """
        changed = [
            name for name in FIXED if getattr(config.data, name) != self._fixed[name]
        ]
        if changed:
            raise ConfigError(
                f"A space must leave data.{', data.'.join(changed)} as the preset has it: "
                "scores on other pictures cannot be compared."
            )

    def fingerprint(self) -> dict[str, str]:
        """Returns what tells these pictures from others, for each split."""
        return {name: pipeline.fingerprint(table) for name, table in self.tables.items()}

    def load(self, table: pd.DataFrame, config: DataConfig) -> Images:
        """Returns the pictures of one of `tables`, which are read at the first call."""
        split = next(name for name, rows in self.tables.items() if rows is table)
        key = split, *preprocessing_fields(config).values()
        if key not in self._images:
            images = pipeline.load_images(self._builder, table, config, self._cache)
            self._images[key] = images
        return self._images[key]

    def compute(
        self, classifier: keras.Model, images: Images, orientations: int
    ) -> Features:
        """Returns `compute_features`, or what it returned for the same weights before."""
        backbone = classifier.get_layer(BACKBONE_LAYER)
        digest = hashlib.sha256()
        for weights in backbone.get_weights():
            digest.update(np.ascontiguousarray(weights).tobytes())
        policy = keras.config.dtype_policy().name
        # What `load` returned is never let go: no other array has its id.
        key = id(images), orientations, policy, digest.hexdigest()
        if key not in self._features:
            self._features[key] = compute_features(classifier, images, orientations)
            while len(self._features) > KEPT_FEATURES:
                self._features.popitem(last=False)
        self._features.move_to_end(key)
        return self._features[key]
