"""Training, validation and test splits, composed of folds."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
import pandas as pd

from skincnn.config import FINAL_TEST_FOLD, NUM_FOLDS, DataConfig
from skincnn.data.characteristics import DATASET
from skincnn.data.combined import CombinedDataset
from skincnn.data.identifiers import known_ids
from skincnn.errors import ConfigError, DataError
from skincnn.lookup import suggest
from tfds_ham10000.records import join_first

SPLITS = ("train", "val", "test")


def make_splits(
    dataset: CombinedDataset, config: DataConfig, names: Collection[str] = SPLITS
) -> dict[str, pd.DataFrame]:
    """Returns the tables of the named splits, with one row per image.

    The splits are determined by the fields `train_folds`, `validation_folds`, `test_folds`,
    `leave_out`, `split_by`, `one_image_per_lesion`, `single_image_lesions` and
    `train_fraction` of the configuration.

    Raises:
        ConfigError: The source that is left out does not exist, or has no images for the
            test split; see also `CombinedDataset.links`.
        DataError: The dataset is damaged; see also `select_lesions` and
            `CombinedDataset.links`.
        OSError: See `CombinedDataset.links`.
    """
    all_folds = {
        "train": config.train_folds,
        "val": config.validation_folds,
        "test": config.test_folds,
    }
    by_image = config.split_by == "image"
    if config.leave_out:
        # The source is tested in all folds of the run. Fold 0 is left out, unless the split
        # is by image, which does not reserve it for the final test.
        scored = {fold for folds in all_folds.values() for fold in folds}
        if not by_image:
            scored.discard(FINAL_TEST_FOLD)
        all_folds["test"] = tuple(sorted(scored))
    folds = {name: all_folds[name] for name in names}
    # In a split by image, an image of any stored fold may be in any split.
    used = range(NUM_FOLDS) if by_image else sorted(set(sum(folds.values(), ())))
    table = dataset.read_table(used)
    if config.leave_out and not is_source(table, config.leave_out).any():
        _require_source(dataset, config.leave_out)
    fold = image_folds(table) if by_image else table["fold"]
    splits = {}
    for name, split_folds in folds.items():
        in_split = fold.isin(split_folds)
        if config.leave_out:
            in_split &= in_role(table, config.leave_out, name)
        rows = select_lesions(table, in_split, config, name)
        if name == "train" and config.train_fraction < 1:
            rows = fraction_of_groups(rows, config.train_fraction)
        splits[name] = rows.reset_index(drop=True)
    if config.leave_out and splits.get("test", table).empty:
        raise ConfigError(
            f"`data.leave_out` {config.leave_out!r}: the test split would have no images. "
            f"Expected images of this source in the folds {folds['test']} that meet the "
            "other settings of `data`. Use other folds, or leave out another source."
        )
    return splits


def _require_source(dataset: CombinedDataset, source: str) -> None:
    table = dataset.read_table(range(NUM_FOLDS))
    if not is_source(table, source).any():
        known = sorted({*table[DATASET], *table["dataset"]})
        raise ConfigError(
            f"`data.leave_out` must be one of: {join_first(known)}. Received: {source!r}."
            f"{suggest(known, source)}"
        )


def is_source(table: pd.DataFrame, source: str) -> pd.Series[bool]:
    """Returns whether each image is from a dataset or an image set with this name."""
    return (table[DATASET] == source) | (table["dataset"] == source)


def in_role(table: pd.DataFrame, source: str, split: str) -> pd.Series[bool]:
    """Returns which images a split may contain when a source is left out.

    The test split contains the images of the source. The other splits contain those of
    other sources, except images in a group with an image of the source.
    """
    left_out = is_source(table, source)
    if split == "test":
        return left_out
    return ~table["group_id"].isin(table.loc[left_out, "group_id"])


def image_folds(table: pd.DataFrame) -> pd.Series[int]:
    """Returns a fold in 0..9 for each image, ignoring lesions (a leaky protocol).

    Within each class, images are ordered by the SHA-256 of their image_id and assigned to
    the ten folds in turn. The folds are stratified and the same on every machine.
    """
    digests = table["image_id"].map(_digest)
    return digests.groupby(table["label"]).rank(method="first").astype(int) % NUM_FOLDS


def select_lesions(
    table: pd.DataFrame, in_split: pd.Series[bool], config: DataConfig, split: str
) -> pd.DataFrame:
    """Returns the rows of a split that `DataConfig` selects by their lesion.

    Args:
        table: The images of this split and of any other splits. A lesion has a single image
            if `table` contains only one of its images.
        in_split: Whether each image of `table` is in the split.
        config: The fields `single_image_lesions` and `one_image_per_lesion` are used.
        split: The name of the split; any other name than "train" is an evaluation split.

    Raises:
        DataError: The selection requires the lesion of every image in `table`, but not all
            lesions are known.
    """
    kind = "train" if split == "train" else "evaluation"
    is_single = config.single_image_lesions and kind == "evaluation"
    is_thinned = config.one_image_per_lesion in (kind, "all")
    rows = table[in_split]
    if is_single or is_thinned:
        _require_lesions(table, split)
    if is_single:
        rows = rows[single_image_lesions(table)[in_split]]
    return one_image_per_lesion(rows) if is_thinned else rows


def _require_lesions(table: pd.DataFrame, split: str) -> None:
    num_known = len(known_ids(table, "lesion"))
    if num_known < len(table):
        raise DataError(
            "`data.one_image_per_lesion` and `data.single_image_lesions` require the "
            f"lesion of every image, but it is known for {num_known:,} of {len(table):,} "
            f"images. Do not use these settings with the split {split}, or build a dataset "
            "with lesion_ids."
        )


def one_image_per_lesion(table: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per lesion, in the order of `table`; all lesions must be known.

    The image whose image_id has the smallest SHA-256 is kept. This choice is arbitrary and
    reproducible, and does not depend on the content of the images.
    """
    digests = table["image_id"].map(_digest)
    return table.loc[digests.groupby(table["lesion_id"]).idxmin().sort_values()]


def fraction_of_groups(table: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """Returns all images of a share of the groups of each class.

    The groups whose IDs have the smallest SHA-256 are kept, at least one of each class. The
    groups of a smaller share are therefore among those of a larger share. The class of a
    group is that of its first image.

    Args:
        table: Images with the columns group_id and label.
        fraction: Share of the groups, above 0 and at most 1.
    """
    groups = table.groupby("group_id")["label"].first()
    digests = pd.Series(groups.index.map(_digest), groups.index)
    by_class = digests.groupby(groups)
    kept = by_class.rank(method="first") <= np.ceil(fraction * by_class.transform("size"))
    return table[table["group_id"].map(kept)]


def single_image_lesions(table: pd.DataFrame) -> pd.Series[bool]:
    """Returns whether a row is the only row of its lesion, for each row of `table`."""
    return ~table["lesion_id"].duplicated(keep=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
