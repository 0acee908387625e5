"""Overlap audit: images of another dataset that overlap with the training images."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skincnn.config import Config
from skincnn.data import pipeline
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
        DataError: The dataset is missing or not the one that the run was trained on.
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
            f"The external images cannot be compared with the training images of "
            f"{workdir}: {error} {fix}"
        ) from error
    splits = make_splits(dataset, data)
    for name, table in splits.items():
        if pipeline.fingerprint(table) != info.data_fingerprint.get(name):
            raise DataError(
                f"The external images cannot be compared with the training images of "
                f"{workdir}: the split {name} of {dataset.full_name} differs from that of "
                f"the training run. {fix}"
            )
    return dataset, splits


def find_overlap(external: StoredImages, trained: StoredImages) -> pd.Series[str]:
    """Returns the kind of overlap of each external image, and "" for no overlap.

    If there are several kinds of overlap, the first one in `KINDS` is returned. `trained`
    are the training and validation images of a run.
    """
    table = external.table
    links = find_links([trained, external])
    kinds = pd.Series("", table.index)
    for kind in KINDS:
        linked = links.loc[links["kind"] == kind, "second"]
        kinds[table["image_id"].isin(linked) & (kinds == "")] = kind
    in_group = table["group_id"].isin(table["group_id"][kinds != ""])
    kinds[in_group & (kinds == "")] = GROUP
    return kinds
