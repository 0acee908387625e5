"""Which pictures train, which choose the epoch, and which test."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import pandas as pd
import tensorflow_datasets as tfds

from skincnn.config import NUM_FOLDS, DataConfig
from skincnn.data.pipeline import read_table

SPLITS = ("train", "val", "test")


def make_splits(
    builder: tfds.core.DatasetBuilder,
    config: DataConfig,
    names: Collection[str] = SPLITS,
) -> dict[str, pd.DataFrame]:
    """Returns the tables of some of `SPLITS`, a row for each picture.

    Args:
        builder: A dataset that is on disk.
        config: The folds of each split, `split_by` and `one_image_per_lesion`.
        names: Which splits to return.
    """
    folds = {
        "train": config.train_folds,
        "val": config.validation_folds,
        "test": config.test_folds,
    }
    folds = {name: folds[name] for name in names}
    if config.split_by == "image":
        # Any picture may be in any split; `fold` still says where it is stored.
        table = read_table(builder, range(NUM_FOLDS))
        fold = image_folds(table)
    else:
        table = read_table(builder, sorted(sum(folds.values(), ())))
        fold = table["fold"]
    splits = {name: table[fold.isin(of)] for name, of in folds.items()}
    thinned = {
        "none": (),
        "train": ("train",),
        "evaluation": ("val", "test"),
        "all": SPLITS,
    }[config.one_image_per_lesion]
    return {
        name: (one_image_per_lesion(rows) if name in thinned else rows).reset_index(
            drop=True
        )
        for name, rows in splits.items()
    }


def image_folds(table: pd.DataFrame) -> pd.Series[int]:
    """Returns a fold for each picture by itself: the leaky protocol.

    Each class is dealt to the ten folds in turn, in the order of the SHA-256 of the
    image_id, so that folds are stratified and the same on every machine.

    Args:
        table: A row for each picture, with image_id and label.
    """
    digests = table["image_id"].map(_digest)
    return digests.groupby(table["label"]).rank(method="first").astype(int) % NUM_FOLDS


def one_image_per_lesion(table: pd.DataFrame) -> pd.DataFrame:
    """Returns one row of each lesion, in the order of `table`.

    It is the one whose image_id has the smallest SHA-256: any rule that does not look
    at the pictures would do.
    """
    digests = table["image_id"].map(_digest)
    return table.loc[digests.groupby(table["lesion_id"]).idxmin().sort_values()]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
