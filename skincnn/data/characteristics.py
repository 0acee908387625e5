"""The images that a run uses: their flow into the splits, and their characteristics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from skincnn.classes import NOTHING_DECLARED, LesionClass, describe
from skincnn.config import NUM_FOLDS, DataConfig
from skincnn.data.identifiers import Identifiers, count_ids, find_identifiers
from skincnn.data.label_maps import LabelMap
from skincnn.data.skin_tone import ITA, SKIN_TONES
from skincnn.records import Part

if TYPE_CHECKING:
    from skincnn.data.combined import CombinedDataset

DATASET = "dataset_name"
"""Column with the name of the prepared dataset of an image. The column `dataset` contains
the image set within that dataset."""
SUBGROUPS = {
    "dataset": DATASET,
    "age band": "age",
    "sex": "sex",
    "site": "localization",
    "Fitzpatrick skin type": "skin_type",
    "source": "dataset",
    "ground truth by": "dx_type",
}
"""Attributes of images, and the column of a table of images with the values of each."""
AGE_BANDS = {
    "under 30": 30,
    "30 to 44": 45,
    "45 to 59": 60,
    "60 to 74": 75,
    "75 and over": 999,
}
"""Upper limit of each age band in years (exclusive)."""
UNKNOWN = "not known"
"""Replaces missing values of an attribute."""
MAX_VALUES = 30
"""Maximum number of different known values of an attribute by which images are counted and
divided into subgroups. A column with more values, such as one value for each image, does
not describe subgroups."""
MANY_VALUES = f"more than {MAX_VALUES} different values"
"""Replaces the known values of an attribute that has more than `MAX_VALUES`."""
OFFICIAL = "in an official split (evaluated only with --split)"
OTHER_FOLDS = "in folds that this run does not use"
SAME_LESION = "further images of the same lesion"
SEVERAL_IMAGES = "validation and test images of lesions with several images"
OTHER_GROUPS = "training images that --data.train-fraction leaves out"
NO_CLASS = "images whose label has no class"
COPIES = "copies of images of another dataset"
NOT_IN_SOURCES = "images that are in no split because a source is left out"
"""Reasons why images of the dataset are in no split; see `ImageFlow.unused`."""


class DatasetInfo(Part):
    """A prepared dataset, and what a run uses of it.

    Attributes:
        name: Name, such as "isic2018".
        full_name: Full name of the TFDS dataset.
        attribution: Source and license of the images of the datasets isic2018 and isic2019
            (all variants), a note on synthetic images, or "" for other datasets.
        synthetic: Whether the images are synthetic.
        stored_longest_side: Size in pixels to which the longest side of larger images was
            reduced; None if the stored images have their original size.
        label_map: The class of each label, or None if its images are not used.
        num_stored: Number of images in the dataset, including official splits.
        num_copies: Number of its images that are not used because an earlier dataset of the
            run contains a copy.
        num_images: Number of its images in each split of the run.
    """

    name: str
    full_name: str
    attribution: str
    synthetic: bool
    stored_longest_side: int | None
    label_map: LabelMap
    num_stored: int
    num_copies: int
    num_images: dict[str, int]

    @property
    def labels_without_class(self) -> list[str]:
        """The labels whose images are not used."""
        return [name for name, known in self.label_map.classes.items() if known is None]


class ImageFlow(Part):
    """The number of images from the source files to the splits of a run.

    Attributes:
        num_read: Number of images in the source files, including excluded images.
        excluded: Number of images that are not in the dataset, by reason.
        unused: Number of images that are in the dataset but in none of the splits, by
            reason.
        splits: Number of images in "train", "val" and "test".

    In the common flow of several models, `unused` and `splits` can be empty; see
    `combine_flows`.
    """

    num_read: int
    excluded: dict[str, int]
    unused: dict[str, int]
    splits: dict[str, int]

    @property
    def num_stored(self) -> int:
        """Number of images in the dataset."""
        return self.num_read - sum(self.excluded.values())


class Characteristics(Part):
    """The characteristics of the images of a split: one column of a baseline table.

    Attributes:
        num_lesions: Number of lesions; None unless known for all images.
        num_patients: Number of patients; None unless known for all images.
        num_groups: Number of groups of images; see `Identifiers.unit`.
        age_quartiles: Lower quartile, median and upper quartile of the age in years; None
            if no age is known.
        classes: Number of images by class.
        attributes: Number of images by attribute and value, in the order of `SUBGROUPS`.
            See `subgroup_values`, also for `UNKNOWN` and `MANY_VALUES`.
        malignant_by: Number of images of malignant classes by how the diagnosis was
            established, such as "histo".
    """

    num_images: int
    identifiers: Identifiers
    num_lesions: int | None
    num_patients: int | None
    num_groups: int
    age_quartiles: tuple[float, float, float] | None
    classes: dict[str, int]
    attributes: dict[str, dict[str, int]]
    malignant_by: dict[str, int]


def describe_images(
    table: pd.DataFrame,
    class_names: Sequence[str],
    declared: Mapping[str, LesionClass] = NOTHING_DECLARED,
) -> Characteristics:
    """Returns the characteristics of the images of a table.

    The table has the columns lesion_id, group_id and label (a class name), and may have
    patient_id and the columns in `SUBGROUPS`. An attribute without a column is not known
    for any image. For `declared`, see `skincnn.classes.describe`.
    """
    counts = table["label"].value_counts()
    described = describe(class_names, declared)
    malignant = [name for name, known in described.items() if known.malignant]
    ages = np.array([], float)
    if "age" in table:
        ages = pd.to_numeric(table["age"], errors="coerce").dropna().to_numpy(float)
    quartiles = np.quantile(ages, [0.25, 0.5, 0.75]).tolist() if len(ages) else None
    return Characteristics(
        num_images=len(table),
        identifiers=find_identifiers(table),
        num_lesions=count_ids(table, "lesion"),
        num_patients=count_ids(table, "patient"),
        num_groups=int(table["group_id"].nunique()),
        age_quartiles=quartiles,
        classes={name: int(counts.get(name, 0)) for name in class_names},
        attributes={
            attribute: _count_values(table, column)
            for attribute, column in SUBGROUPS.items()
        },
        malignant_by=_count_values(
            table[table["label"].isin(malignant)], SUBGROUPS["ground truth by"]
        ),
    )


def describe_flow(
    dataset: CombinedDataset, tables: Mapping[str, pd.DataFrame], config: DataConfig
) -> ImageFlow:
    """Returns the flow of the images of prepared datasets into the splits of a run.

    `tables` are those of "train", "val" and "test" from `skincnn.data.splits.make_splits`.

    Raises:
        ConfigError, DataError, OSError: See `CombinedDataset.links`.
    """
    excluded: Counter[str] = Counter()
    for part in dataset.parts:
        report = part.builder.read_report()
        excluded.update(report.excluded)
        excluded.update(map(_category, report.left_out.values()))
    stored = dataset.split_sizes
    in_folds = sum(count for name, count in stored.items() if name.startswith("fold_"))
    num_used = sum(map(len, tables.values()))
    folds = (*config.train_folds, *config.validation_folds, *config.test_folds)
    in_used_folds = sum(stored.get(f"fold_{fold}", 0) for fold in folds)
    selection = []
    if config.split_by == "image" or dataset.links.groups:
        # Images can be in other folds than the stored ones: the sizes are not known.
        in_used_folds = in_folds
        if len(folds) < NUM_FOLDS:
            selection.append(OTHER_FOLDS)
    if config.single_image_lesions:
        selection.append(SEVERAL_IMAGES)
    if config.one_image_per_lesion != "none":
        selection.append(SAME_LESION)
    if config.train_fraction < 1:
        selection.append(OTHER_GROUPS)
    if config.leave_out:
        selection.append(NOT_IN_SOURCES)
    if any(None in part.label_map.classes.values() for part in dataset.parts):
        selection.append(NO_CLASS)
    if dataset.links.copies:
        selection.append(COPIES)
    unused = {
        OFFICIAL: sum(stored.values()) - in_folds,
        OTHER_FOLDS: in_folds - in_used_folds,
    }
    if in_used_folds > num_used:
        unused[", or ".join(selection)] = in_used_folds - num_used
    return ImageFlow(
        num_read=sum(stored.values()) + excluded.total(),
        excluded=dict(sorted(excluded.items())),
        unused={reason: count for reason, count in unused.items() if count},
        splits={name: len(table) for name, table in tables.items()},
    )


def combine_flows(flows: Iterable[ImageFlow | None]) -> ImageFlow | None:
    """Returns the common flow of several models.

    If `unused` or `splits` differ between models, both are empty. The result is None if the
    flow of a model is None, or if `num_read` or `excluded` differ between models, because
    the models then have different datasets.
    """
    first, *others = flows
    if first is None or any(
        flow is None or (flow.num_read, flow.excluded) != (first.num_read, first.excluded)
        for flow in others
    ):
        return None
    if all(flow == first for flow in others):
        return first
    return first.model_copy(update={"unused": {}, "splits": {}})


def subgroup_values(column: pd.Series) -> pd.Series:
    """Returns the subgroup of each image: the value, the age band, or the skin tone.

    `column` is a column of a table of images. Its name determines the result: ages in years
    ("age") are replaced by `AGE_BANDS`, and angles in degrees (`ITA`) by `SKIN_TONES`. In
    any other column, the known values are unchanged or, if more than `MAX_VALUES` of them
    are different, all replaced by `MANY_VALUES`. Missing values (NaN, "" and "unknown") are
    replaced by `UNKNOWN`.
    """
    if column.name == "age":
        edges = [-np.inf, *AGE_BANDS.values()]
        bands = pd.cut(column, edges, right=False, labels=list(AGE_BANDS))
        return bands.cat.add_categories(UNKNOWN).fillna(UNKNOWN)
    if column.name == ITA:
        edges = [-np.inf, *SKIN_TONES.values()]
        tones = pd.cut(column, edges, labels=list(SKIN_TONES))
        return tones.cat.add_categories(UNKNOWN).fillna(UNKNOWN)
    values = column.astype(str)
    is_known = ~values.isin(["", "unknown", "nan"])
    if values[is_known].nunique() > MAX_VALUES:
        values = values.mask(is_known, MANY_VALUES)
    return values.where(is_known, UNKNOWN)


def align_values(columns: Sequence[Mapping[str, int]]) -> list[Mapping[str, int]]:
    """Returns the counts of several sets of images in a form that can be compared.

    Each of `columns` is the number of images of one set by value of the same attribute. If
    one of the sets has `MANY_VALUES`, the known values of all sets are counted as
    `MANY_VALUES`; otherwise, the counts are unchanged.
    """
    if not any(MANY_VALUES in counts for counts in columns):
        return list(columns)
    missing = [counts.get(UNKNOWN, 0) for counts in columns]
    return [
        {MANY_VALUES: sum(counts.values()) - count, UNKNOWN: count}
        for counts, count in zip(columns, missing, strict=True)
    ]


def _count_values(table: pd.DataFrame, column: str) -> dict[str, int]:
    """Returns the number of images by value, with the missing values last."""
    if column not in table:
        return {UNKNOWN: len(table)}
    counts = subgroup_values(table[column]).value_counts(sort=False).sort_index()
    known = {str(name): int(n) for name, n in counts.items() if n and name != UNKNOWN}
    return known | {UNKNOWN: len(table) - sum(known.values())}


def _category(reason: str) -> str:
    """Returns the reason why an image file is invalid, without details of the file."""
    if re.match(r"\d+x\d+", reason):
        return "too many pixels"
    if re.match(r"\d+ bytes", reason):
        return "too many bytes"
    return reason.split(" (")[0]
