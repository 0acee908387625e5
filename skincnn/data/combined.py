"""Prepared datasets whose images are used together; a single dataset is the simplest case.

Each dataset is prepared, and divided into folds, on its own. Groups that links connect are
then merged: their images, except those in official splits, get the same fold.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow_datasets as tfds

from skincnn.classes import LesionClass
from skincnn.data import datasets, links
from skincnn.data.characteristics import DATASET, DatasetInfo
from skincnn.data.datasets import STORED_IN
from skincnn.data.identifiers import ID_COLUMNS
from skincnn.data.label_maps import ANY_OTHER, LabelMap, find_label_map, read_user_map
from skincnn.data.links import Links, StoredImages, find_links, merge_groups
from skincnn.errors import ConfigError
from skincnn.paths import to_path
from skincnn.records import read_record, write_record

LINKS_FOLDER = "skincnn_links"
"""Directory, beside the built datasets, with the links between datasets."""
LINKS_VERSION = 1
"""Increment this when the links between the same datasets change."""
LABEL_MAPS = "--data.label-maps"


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset, and the class of each of its labels.

    `prefix` precedes its IDs: "" for a single dataset, otherwise the name and a slash. The
    methods raise a `DataError` if the files of the dataset are damaged.
    """

    name: str
    builder: tfds.core.DatasetBuilder
    label_map: LabelMap
    prefix: str

    @property
    def labels(self) -> list[str]:
        """The names of the labels."""
        return list(self.builder.info.features["label"].names)

    def read_rows(self, splits: Sequence[str]) -> pd.DataFrame:
        """Returns the table of `datasets.read_rows`, changed for use with other datasets.

        `label` is the name of the label, the column `DATASET` is added, and known IDs begin
        with `prefix`. Published IDs of lesions and patients have no prefix, because they
        mean the same in all datasets.
        """
        table = datasets.read_rows(self.builder, splits)
        names = np.array(self.labels, object)[table["label"].to_numpy(np.int64)]
        table = table.assign(**{"label": names, DATASET: self.name})
        if self.prefix:
            for column in ("image_id", "group_id", *ID_COLUMNS.values()):
                ids = table[column]
                kept = ids == ""
                if column in ID_COLUMNS.values():
                    kept |= ids.str.fullmatch(links.PUBLISHED_ID)
                table[column] = ids.where(kept, self.prefix + ids)
        return table

    def iterate_files(self, table: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
        """Yields the image_id and the bytes of the file of each row of a table."""
        ids = table["image_id"].str.removeprefix(self.prefix)
        splits = sorted(table[STORED_IN].unique())
        for image_id, content in datasets.iterate_files(self.builder, ids, splits):
            yield self.prefix + image_id, content


@dataclass(frozen=True, eq=False)
class CombinedDataset:
    """One or several prepared datasets.

    Methods that read a dataset raise a `DataError` if its files are damaged. `read_table`,
    `describe` and `label_conflicts` also raise the errors of `links`.

    Attributes:
        parts: The prepared datasets. Images in folds are left out if an earlier dataset
            contains a copy; see `Links.copies`.
        class_names: Class names, in the order of the labels of the images.
    """

    parts: tuple[PreparedDataset, ...]
    class_names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The names of the datasets, joined by "+"."""
        return "+".join(part.name for part in self.parts)

    @property
    def full_name(self) -> str:
        """The full names of the TFDS datasets, joined by " + "."""
        return " + ".join(part.builder.info.full_name for part in self.parts)

    @property
    def synthetic(self) -> bool:
        """Whether all images are synthetic."""
        return all(part.builder.builder_config.synthetic for part in self.parts)

    @property
    def attribution(self) -> str:
        """The `attribution` of all datasets; see `DatasetInfo`."""
        texts = (part.builder.builder_config.attribution for part in self.parts)
        return " ".join(dict.fromkeys(filter(None, texts)))

    @property
    def folders(self) -> dict[str, Path]:
        """The directory of each prepared dataset, by name."""
        return {part.name: Path(part.builder.data_dir) for part in self.parts}

    @property
    def root(self) -> Path:
        """The root directory of the built datasets."""
        # `data_dir` is <root>/<name>/<config>/<version>.
        return Path(self.parts[0].builder.data_dir).parents[2]

    @property
    def split_sizes(self) -> Counter[str]:
        """Number of stored images of all datasets by TFDS split, such as "fold_3"."""
        sizes: Counter[str] = Counter()
        for part in self.parts:
            splits = part.builder.info.splits
            sizes.update({name: info.num_examples for name, info in splits.items()})
        return sizes

    @property
    def declared(self) -> dict[str, LesionClass]:
        """The classes that the datasets declare, by name; earlier datasets have priority.

        See `datasets.declared_classes`. Only classes in `class_names` are included.
        """
        declared: dict[str, LesionClass] = {}
        for part in self.parts:
            declared = datasets.declared_classes(part.builder) | declared
        return {name: declared[name] for name in self.class_names if name in declared}

    @functools.cached_property
    def links(self) -> Links:
        """The links between the datasets, which are kept in a file; none for one dataset.

        Raises:
            ConfigError: The file of the links cannot be written, or is damaged.
            DataError, OSError: See `skincnn.data.links.find_links`.
        """
        if len(self.parts) == 1:
            return Links()
        path = self.root / LINKS_FOLDER / f"{self.name[:100]}-{self._key()}.json"
        if not path.exists():
            found = self._find_links()
            try:
                write_record(path, found)
            except OSError as error:
                raise ConfigError(
                    f"The links between the datasets cannot be written to {path}: {error}. "
                    "Use another --data-dir."
                ) from error
        return read_record(path, Links, "Delete the file; it is then written again.")

    def read_table(self, folds: Iterable[int | str]) -> pd.DataFrame:
        """Returns a table with one row for each image in `folds`, without the images.

        Images whose label has no class are left out, and so are images in folds if an
        earlier dataset contains a copy of them. The rows are in the order of `folds`.

        Args:
            folds: Fold numbers in 0..9, and names of TFDS splits. Folds and splits that a
                dataset lacks, for example because it has few patients or lesions, are
                empty.

        Returns:
            `TABLE_COLUMNS` (`label` is the index of the class), `sha256` (the SHA-256 of
            the stored image file), the name of the dataset (`DATASET`), the TFDS split that
            contains the image (`STORED_IN`), and `fold`, the number of the fold or the name
            of the official split. With several datasets, known IDs begin with the name of
            the dataset, except published lesion_ids and patient_ids; the images of a merged
            group have one group_id and, except those in official splits, one fold.
        """
        folds = [fold_of(fold) for fold in folds]
        tables = [self._read_part(part, folds) for part in self.parts]
        table = pd.concat([x for x in tables if len(x)] or tables[:1], ignore_index=True)
        order = table["fold"].map({fold: index for index, fold in enumerate(folds)})
        return table.loc[order.sort_values(kind="stable").index].reset_index(drop=True)

    def iterate_files(self, table: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
        """Yields the image_id and the bytes of the image file of each row of a table.

        The table has the columns image_id, `DATASET` and `STORED_IN`. The images are in
        the order in which the datasets store them.
        """
        for part, positions in self.locate(table):
            yield from part.iterate_files(table.iloc[positions])

    def read_files(self, table: pd.DataFrame) -> list[bytes]:
        """Returns the image file of each row as bytes, in order; see `iterate_files`."""
        files = dict(self.iterate_files(table))
        return [files[image_id] for image_id in table["image_id"]]

    def locate(
        self, table: pd.DataFrame
    ) -> Iterator[tuple[PreparedDataset, npt.NDArray[np.int64]]]:
        """Yields each dataset with images in a table, and the positions of their rows."""
        for part in self.parts:
            positions = np.flatnonzero(table[DATASET] == part.name)
            if len(positions):
                yield part, positions

    def describe(self, tables: Mapping[str, pd.DataFrame]) -> tuple[DatasetInfo, ...]:
        """Returns a description of each dataset; `tables` are a run's splits by name."""
        return tuple(
            DatasetInfo(
                name=part.name,
                full_name=part.builder.info.full_name,
                attribution=part.builder.builder_config.attribution,
                synthetic=part.builder.builder_config.synthetic,
                stored_longest_side=part.builder.builder_config.longest_side,
                label_map=part.label_map,
                num_stored=sum(x.num_examples for x in part.builder.info.splits.values()),
                num_copies=sum(x.startswith(part.prefix) for x in self.links.copies),
                num_images={
                    name: int((table[DATASET] == part.name).sum())
                    for name, table in tables.items()
                },
            )
            for part in self.parts
        )

    def label_conflicts(self) -> list[tuple[str, str, str, str]]:
        """Returns two image_ids and their labels for each pair of conflicting labels.

        The pairs are copies or near-duplicates. Labels of the same dataset conflict if they
        differ; pairs of HAM10000 images are not included. Labels of different datasets
        conflict if both have a class, and the classes differ.
        """
        maps = {part.prefix: part.label_map.classes for part in self.parts}

        def find_class(image_id: str, label: str) -> str | None:
            return next(
                classes[label]
                for prefix, classes in maps.items()
                if image_id.startswith(prefix)
            )

        within = [
            (part.prefix + a, part.prefix + b, c, d)
            for part in self.parts
            for a, b, c, d in part.builder.read_report().label_conflicts
        ]
        across = [
            (a, b, c, d)
            for a, b, c, d in self.links.label_conflicts
            if (first := find_class(a, c)) and (second := find_class(b, d))
            if first != second
        ]
        return [*within, *across]

    def _read_part(self, part: PreparedDataset, folds: Sequence[int | str]) -> pd.DataFrame:
        merged = {
            name: group
            for name, group in self.links.groups.items()
            if name.startswith(part.prefix)
        }
        moved = [
            group.stored_fold
            for group in merged.values()
            if group.fold in folds and group.stored_fold is not None
        ]
        wanted = dict.fromkeys(map(stored_name, [*folds, *sorted(set(moved))]))
        splits = [name for name in wanted if name in part.builder.info.splits]
        table = part.read_rows(splits)
        index_of = {name: index for index, name in enumerate(self.class_names)}
        classes = {
            label: index_of.get(name or "", -1)
            for label, name in part.label_map.classes.items()
        }
        table = table.assign(
            label=table["label"].map(classes).astype(np.int64),
            fold=table[STORED_IN].map(fold_of),
        )
        new_folds = table["group_id"].map({x: group.fold for x, group in merged.items()})
        is_moved = table[STORED_IN].str.startswith("fold_") & new_folds.notna()
        table.loc[is_moved, "fold"] = new_folds[is_moved].astype(int)
        new_ids = {name: group.group_id for name, group in merged.items()}
        table["group_id"] = table["group_id"].map(lambda name: new_ids.get(name, name))
        kept = (table["label"] >= 0) & table["fold"].isin(folds)
        kept &= ~table["image_id"].isin(self.links.copies)
        return table[kept]

    def _find_links(self) -> Links:
        stored, tables = [], []
        for part in self.parts:
            table = part.read_rows(list(part.builder.info.splits))
            synthetic = part.builder.builder_config.synthetic
            stored.append(StoredImages(table, part.iterate_files, synthetic))
            folds = pd.to_numeric(table[STORED_IN].map(fold_of), errors="coerce")
            tables.append(table.assign(fold=folds))
        return merge_groups(tables, find_links(stored))

    def _key(self) -> str:
        """Returns a hash of the names, sizes and build reports, but not of the images."""
        content: list[Any] = [LINKS_VERSION]
        for part in self.parts:
            info = part.builder.info
            sizes = {name: [x.num_examples, x.num_bytes] for name, x in info.splits.items()}
            report = part.builder.read_report().model_dump(mode="json")
            content.append([info.full_name, sizes, report])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def class_names(
    names: Sequence[str], data_dir: Path | None = None, label_maps: Sequence[str] = ()
) -> tuple[str, ...]:
    """Returns the class names of the first dataset, after its label map is applied.

    All datasets are mapped to these classes. The arguments are those of `open_datasets`;
    `datasets.class_names` states which datasets must be built first.

    Raises:
        ConfigError: The first dataset does not exist, `data_dir` cannot be used, or the
            label map is not valid or leaves fewer than two classes.
        DataError: See `datasets.class_names`.
    """
    labels = datasets.class_names(names[0], data_dir)
    user_map = _read_map(names[0], label_maps, None)
    classes = (user_map.get(label, user_map.get(ANY_OTHER, label)) for label in labels)
    unique = tuple(dict.fromkeys(name for name in classes if name is not None))
    if user_map and len(unique) < 2:
        raise ConfigError(
            f"{LABEL_MAPS} {names[0]}=FILE: expected a label map with two classes or more. "
            f"Received: {', '.join(unique) or 'no class'}."
        )
    return unique


def open_datasets(
    names: Sequence[str], data_dir: Path | None = None, label_maps: Sequence[str] = ()
) -> CombinedDataset:
    """Returns the prepared datasets with these names, which are used as one.

    Synthetic datasets are built if necessary.

    Args:
        names: The names of one or several datasets; see `DataConfig.datasets`.
        data_dir: The directory of built datasets; by default the data directory of TFDS.
        label_maps: See `DataConfig.label_maps`.

    Raises:
        ConfigError: See `class_names` and `datasets.open_dataset`; or a label map is not
            valid or lacks a label that has no default class.
        DataError: See `datasets.open_dataset`.
    """
    classes = class_names(names, data_dir, label_maps)
    parts = []
    for name in names:
        builder = datasets.open_dataset(name, data_dir)
        labels = builder.info.features["label"].names
        user_map = _read_map(name, label_maps, classes)
        if name == names[0] and ANY_OTHER in user_map:
            # Labels of the first dataset have no defaults; see `class_names`.
            user_map = {**dict.fromkeys(labels, user_map[ANY_OTHER]), **user_map}
        flag = f"{LABEL_MAPS} {name}=FILE"
        label_map = find_label_map(labels, classes, user_map, flag)
        prefix = f"{name}/" if len(names) > 1 else ""
        parts.append(PreparedDataset(name, builder, label_map, prefix))
    return CombinedDataset(tuple(parts), classes)


def stored_name(fold: int | str) -> str:
    """Returns the name of the TFDS split for a fold number or an official split."""
    return fold if isinstance(fold, str) else f"fold_{fold}"


def fold_of(split: int | str) -> int | str:
    """Returns the fold number of a TFDS split, or the name of an official split."""
    name = stored_name(split)
    return int(name.removeprefix("fold_")) if name.startswith("fold_") else name


def _read_map(
    name: str, label_maps: Sequence[str], classes: Sequence[str] | None
) -> dict[str, str | None]:
    paths = dict(entry.split("=", 1) for entry in label_maps)
    path = to_path(paths[name]) if name in paths else None
    return read_user_map(path, classes, f"{LABEL_MAPS} {name}=FILE:")
