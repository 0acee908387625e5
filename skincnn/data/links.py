"""Links: images of different datasets that show the same lesion or patient.

Images are linked if they have an equal published ID (of the image, the lesion or the
patient), an identical file, or are near-duplicates. Groups that links connect are merged.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image
from pydantic import Field

from skincnn.data.identifiers import ID_COLUMNS
from skincnn.progress import ProgressBar
from skincnn.records import Part, Record
from tfds_ham10000.near_duplicates import (
    FeatureFile,
    ImageFeatures,
    connected_components,
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
IMAGE_ID = "image_id"
FILE = "file"
NEAR_DUPLICATE = "near_duplicate"
KINDS = (IMAGE_ID, FILE, *ID_COLUMNS.values(), NEAR_DUPLICATE)
"""Kinds of links, in the order in which they are searched for: an equal published image_id,
an identical file, an equal published lesion_id or patient_id, near-duplicates."""
COPIES = (IMAGE_ID, FILE)
"""Kinds of links between two copies of an image."""
CHUNK = 256
"""Number of encoded images in memory while features are computed."""


@dataclass(frozen=True)
class StoredImages:
    """Images of a dataset, for `find_links`.

    Attributes:
        table: One row per image, with the columns image_id, lesion_id, group_id, sha256 and
            optionally patient_id.
        files: Yields the image_id and the bytes of the file of each row of a table.
        synthetic: Whether the images are synthetic. Near-duplicates of synthetic images are
            not searched for, because all synthetic images are similar.
    """

    table: pd.DataFrame
    files: Callable[[pd.DataFrame], Iterator[tuple[str, bytes]]]
    synthetic: bool


class MergedGroup(Part):
    """The merged group to which a group of a dataset belongs.

    Attributes:
        group_id: ID of the merged group.
        fold: Fold of the merged group; None if all its images are in official splits.
        stored_fold: Fold in which the dataset itself stores the images of its group; None
            if they are in official splits only.
    """

    group_id: str
    fold: int | None
    stored_fold: int | None


class Links(Record):
    """The links between several datasets.

    Attributes:
        groups: The merged group of each group that is merged with others, by the group_id
            in the dataset.
        copies: Images in folds that are left out because an earlier dataset contains a
            copy: the image_id of that copy, by the image_id of the image left out.
        label_conflicts: Copies and near-duplicates whose labels have different names: two
            image_ids, and their labels.
    """

    groups: dict[str, MergedGroup] = Field(default={})
    copies: dict[str, str] = Field(default={})
    label_conflicts: tuple[tuple[str, str, str, str], ...] = ()


def published_ids(ids: pd.Series[str]) -> pd.Series[str]:
    """Returns the last `PUBLISHED_ID` in each ID; NaN if an ID contains none."""
    return ids.str.findall(PUBLISHED_ID).str[-1]


def is_same_id(table: pd.DataFrame, other: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Returns, for each row, whether its published ID in a column is also in `other`."""
    return published_ids(table[column]).isin(published_ids(other[column]).dropna())


def find_links(datasets: Sequence[StoredImages]) -> pd.DataFrame:
    """Returns pairs of linked images of different datasets.

    The columns are `first` and `second`, the image_ids in an earlier and in a later
    dataset, and `kind`, one of `KINDS`. Of several images of a group with the same ID or
    file in the earlier dataset, only the first is listed. The search for near-duplicates
    leaves out synthetic datasets, and images of later datasets that are copies.

    Raises:
        DataError: A dataset is damaged; see `skincnn.data.datasets.iterate_files`.
        OSError: A temporary file cannot be written, or an image cannot be decoded.
    """
    pairs = list(itertools.combinations(range(len(datasets)), 2))
    found = [
        link
        for i, j in pairs
        for kind in KINDS[:-1]
        for link in _find_equal(datasets[i].table, datasets[j].table, kind)
    ]
    copies = {second for _, second, kind in found if kind in COPIES}
    num_images = sum(len(images.table) for images in datasets)

    @functools.cache
    def features(index: int) -> FeatureFile:
        table = datasets[index].table
        if index:
            table = table[~table["image_id"].isin(copies)]
        return _extract_all(table, datasets[index].files, num_images)

    for i, j in pairs:
        if not (datasets[i].synthetic or datasets[j].synthetic):
            similar = find_near_duplicates_between(features(j), features(i))
            found += [(pair.second, pair.first, NEAR_DUPLICATE) for pair in similar]
    return pd.DataFrame(found, columns=["first", "second", "kind"], dtype=object)


def merge_groups(tables: Sequence[pd.DataFrame], links: pd.DataFrame) -> Links:
    """Merges the groups that `links` connects, and lists copies and conflicting labels.

    A merged group is in the lowest of the folds of its images, so that no image of fold 0,
    which is kept for the final test, gets into another fold.

    Args:
        tables: The images of each dataset, with the columns image_id and group_id (no ID
            occurs in two datasets), `fold` (a number, or NaN in official splits) and
            `label` (the name of the label).
        links: See `find_links`.
    """
    images = pd.concat([x for x in tables if len(x)]).set_index("image_id")
    first, second = images.loc[links["first"]], images.loc[links["second"]]
    pairs = list(zip(first["group_id"], second["group_id"], strict=True))
    linked = sorted({name for pair in pairs for name in pair})
    stored = images.groupby("group_id")["fold"].min().dropna().astype(int)
    merged_of = connected_components(linked, pairs)
    members = pd.Series(merged_of, dtype=str)
    folds = stored.reindex(members.index).groupby(members).min().dropna().astype(int)
    is_copy = links["kind"].isin(COPIES) & second["fold"].notna().to_numpy()
    same_image = links["kind"].isin((*COPIES, NEAR_DUPLICATE))
    differ = same_image & (first["label"].to_numpy() != second["label"].to_numpy())
    rows = zip(
        *(links[differ][name] for name in ("first", "second")),
        *(part["label"][differ.to_numpy()] for part in (first, second)),
        strict=True,
    )
    return Links(
        groups={
            name: MergedGroup(
                group_id=merged,
                fold=_as_int(folds, merged),
                stored_fold=_as_int(stored, name),
            )
            for name, merged in merged_of.items()
        },
        copies=dict(links[is_copy][["second", "first"]][::-1].to_numpy().tolist()),
        label_conflicts=tuple(dict.fromkeys(rows)),
    )


def _as_int(values: Mapping[str, int] | pd.Series[int], name: str) -> int | None:
    return int(values[name]) if name in values else None


def _find_equal(
    first: pd.DataFrame, second: pd.DataFrame, kind: str
) -> list[tuple[str, str, str]]:
    """Returns the links by an equal ID or an identical file, as in `find_links`."""
    column = "sha256" if kind == FILE else kind
    if column not in first or column not in second:
        return []
    parts = []
    for table in (first, second):
        values = table[column] if kind == FILE else published_ids(table[column])
        parts.append(table[["image_id", "group_id"]].assign(value=values).dropna())
    earlier = parts[0].drop_duplicates(["value", "group_id"])
    pairs = earlier.merge(parts[1], on="value", suffixes=("_1", "_2"))
    ids = zip(pairs["image_id_1"], pairs["image_id_2"], strict=True)
    return [(first_id, second_id, kind) for first_id, second_id in ids]


def _extract_all(
    table: pd.DataFrame,
    read: Callable[[pd.DataFrame], Iterator[tuple[str, bytes]]],
    num_images: int,
) -> FeatureFile:
    """Returns the features of the images of a table, computed on all CPU cores.

    See `extract_features` for `num_images`.
    """
    features = FeatureFile(Path(tempfile.gettempdir()))
    files = read(table)
    extract = functools.partial(_extract, num_images=num_images)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        ProgressBar(desc="Extracting features", total=len(table), unit="img") as progress,
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
