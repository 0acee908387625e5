"""Overlap audit: images of another dataset that overlap with those used in training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skincnn.config import Config
from skincnn.data import pipeline
from skincnn.data.characteristics import DATASET
from skincnn.data.combined import CombinedDataset, open_datasets
from skincnn.data.links import KINDS, StoredImages, find_links
from skincnn.data.splits import make_splits
from skincnn.errors import DataError
from skincnn.evaluation.external.result import GROUP
from skincnn.inference.run_dir import RunInfo


def open_training_images(
    info: RunInfo, config: Config, data_dir: Path | None, workdir: Path
) -> tuple[CombinedDataset, dict[str, pd.DataFrame]]:
    """Returns the dataset of a run, and its splits "train", "val" and "test".

    Raises:
        ConfigError: See `open_datasets`, `make_splits` and `CombinedDataset.links`.
        DataError: The dataset is missing, damaged or not the one that the run was trained
            on.
        OSError: See `CombinedDataset.links`.
    """
    fix = (
        "Build the dataset of the run in --data-dir, or use --skip-overlap-audit: the "
        "scores can then be too high, and the report says so."
    )
    data = config.data
    try:
        dataset = open_datasets(data.datasets, data_dir, data.label_maps)
    except DataError as error:
        raise DataError(
            "The external images cannot be compared with the training images of "
            f"{workdir}. {fix} The cause: {error}"
        ) from error
    splits = make_splits(dataset, data)
    for name, table in splits.items():
        if pipeline.fingerprint(table) != info.data_fingerprint.get(name):
            raise DataError(
                "The external images cannot be compared with the training images of "
                f"{workdir}: the split {name} of {dataset.full_name} differs from that of "
                f"the training run. {fix}"
            )
    return dataset, splits


def by_origin(dataset: CombinedDataset, table: pd.DataFrame) -> list[StoredImages]:
    """Returns the real images and the synthetic images of a table, without an empty part.

    They are separated because `find_links` does not search for near-duplicates in a part
    that is synthetic.
    """
    synthetic = [x.name for x in dataset.parts if x.builder.builder_config.synthetic]
    return [
        StoredImages(rows, dataset.iterate_files, bool(is_synthetic))
        for is_synthetic, rows in table.groupby(table[DATASET].isin(synthetic))
    ]


def find_overlap(external: StoredImages, *trained: StoredImages) -> pd.Series[str]:
    """Returns the kind of overlap of each external image, and "" for no overlap.

    If there are several kinds of overlap, the first one in
    `skincnn.evaluation.external.result.KINDS` is returned. `trained` are the training and
    validation images of a run, in one or several parts.

    Raises:
        DataError, OSError: See `find_links`.
    """
    table = external.table
    links = find_links([*trained, external])
    kinds = pd.Series("", table.index)
    for kind in KINDS:
        linked = links.loc[links["kind"] == kind, "second"]
        kinds[table["image_id"].isin(linked) & (kinds == "")] = kind
    in_group = table["group_id"].isin(table["group_id"][kinds != ""])
    kinds[in_group & (kinds == "")] = GROUP
    return kinds
