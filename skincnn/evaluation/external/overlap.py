"""Overlap audit: images of another dataset that overlap with the training images."""

from __future__ import annotations

import functools
import io
import itertools
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from skincnn.config import Config
from skincnn.data import datasets, pipeline
from skincnn.data.splits import make_splits
from skincnn.errors import DataError
from skincnn.evaluation.external.result import (
    FILE,
    GROUP,
    IMAGE_ID,
    LESION_ID,
    NEAR_DUPLICATE,
    PATIENT_ID,
)
from skincnn.inference.run_dir import RunInfo
from tfds_ham10000.near_duplicates import (
    FeatureFile,
    ImageFeatures,
    extract_features,
    find_near_duplicates_between,
)

PUBLISHED_ID = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:ISIC|HAM|BCN|MSK\d?|IL|IP)_\d{7,}|PAT_\d+(?:_\d+_\d+)?|[0-9a-f]{32})"
    r"(?![A-Za-z0-9])"
)
"""Pattern of IDs that identify the same image, lesion or patient in all datasets.

Such an ID can be part of a name, such as "nv/ISIC_0012653_downsampled". Other IDs, such as
"001", can be equal by chance."""
CHUNK = 256
"""Number of encoded images in memory while features are computed."""


def published_ids(ids: pd.Series[str]) -> pd.Series[str]:
    """Returns the last `PUBLISHED_ID` in each ID, and NaN for other IDs."""
    return ids.str.findall(PUBLISHED_ID).str[-1]


def open_training_images(
    info: RunInfo, config: Config, data_dir: Path | None, workdir: Path
) -> tuple[tfds.core.DatasetBuilder, dict[str, pd.DataFrame]]:
    """Returns the dataset of a run, and its splits "train", "val" and "test".

    Raises:
        DataError: The dataset is missing or not the one that the run was trained on.
    """
    fix = (
        "Build the dataset of the run in --data-dir, or use --skip-overlap-audit: the "
        "scores can then be too high, and the report says so."
    )
    try:
        builder = datasets.open_dataset(config.data.dataset, data_dir)
    except DataError as error:
        raise DataError(
            f"The external images cannot be compared with the training images of "
            f"{workdir}: {error} {fix}"
        ) from error
    splits = make_splits(builder, config.data)
    for name, table in splits.items():
        if pipeline.fingerprint(table) != info.data_fingerprint.get(name):
            raise DataError(
                f"The external images cannot be compared with the training images of "
                f"{workdir}: the split {name} of {builder.info.full_name} differs from "
                f"that of the training run, {info.dataset}. {fix}"
            )
    return builder, splits


def find_overlap(
    external: tuple[tfds.core.DatasetBuilder, pd.DataFrame],
    trained: tuple[tfds.core.DatasetBuilder, pd.DataFrame],
) -> pd.Series[str]:
    """Returns the kind of overlap of each external image, and "" for no overlap.

    If there are several kinds of overlap, the first one in `KINDS` is returned.

    Args:
        external: Dataset and table (from `read_table`) of the external images.
        trained: The same for the training and validation images.
    """
    builder, table = external
    seen = trained[1]
    kinds = pd.Series("", table.index)

    def mark(kind: str, matches: pd.Series[bool]) -> None:
        kinds[matches & (kinds == "")] = kind

    mark(IMAGE_ID, is_same_id(table, seen, IMAGE_ID))
    mark(FILE, table["sha256"].isin(seen["sha256"]))
    for column in (LESION_ID, PATIENT_ID):
        if column in table and column in seen:
            mark(column, is_same_id(table, seen, column))
    similar = find_similar((builder, table[kinds == ""]), trained)
    mark(NEAR_DUPLICATE, table["image_id"].isin(similar))
    mark(GROUP, table["group_id"].isin(table["group_id"][kinds != ""]))
    return kinds


def is_same_id(table: pd.DataFrame, other: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Returns whether the published ID of each image in a column is also in `other`."""
    return published_ids(table[column]).isin(published_ids(other[column]).dropna())


def find_similar(
    external: tuple[tfds.core.DatasetBuilder, pd.DataFrame],
    trained: tuple[tfds.core.DatasetBuilder, pd.DataFrame],
) -> set[str]:
    """Returns the image_ids of external images that have a near-duplicate in `trained`.

    Empty if the training images are synthetic, because synthetic images are all similar.
    See `find_overlap` for the arguments.
    """
    if external[1].empty or trained[0].builder_config.synthetic:
        return set()
    num_images = len(external[1]) + len(trained[1])
    features = (_extract_all(images, num_images) for images in (external, trained))
    return {pair.first for pair in find_near_duplicates_between(*features)}


def _extract_all(
    images: tuple[tfds.core.DatasetBuilder, pd.DataFrame], num_images: int
) -> FeatureFile:
    """Returns the features of the images of a table, computed on all CPU cores.

    See `extract_features` for `num_images`.
    """
    features = FeatureFile(Path(tempfile.gettempdir()))
    files = pipeline.iterate_files(*images)
    extract = functools.partial(_extract, num_images=num_images)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(desc="Comparing images", total=len(images[1]), unit="img") as progress,
    ):
        while chunk := list(itertools.islice(files, CHUNK)):
            image_ids, contents = zip(*chunk, strict=True)
            for image_id, values in zip(
                image_ids, pool.map(extract, contents), strict=True
            ):
                features.add(image_id, values)
                progress.update()
    return features


def _extract(content: bytes, num_images: int) -> ImageFeatures:
    with Image.open(io.BytesIO(content)) as image:
        return extract_features(image.convert("RGB"), num_images)
