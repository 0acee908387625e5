"""The TFDS builder of HAM10000, other published or own images, and synthetic images."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from pydantic import BaseModel, ConfigDict
from tensorflow_datasets.core import registered, shuffle, utils

from tfds_ham10000 import demo, download, layouts, sources
from tfds_ham10000.configs import CONFIGS, HOMEPAGES, Ham10000Config
from tfds_ham10000.folds import (
    PUBLISHED_SEARCH,
    StoredSplits,
    count_known_pairs,
    groups_are_published,
    published_assignments,
    split_into_folds,
)
from tfds_ham10000.groups import GroupBy, published_id
from tfds_ham10000.image_decoding import CheckedImages, require_valid
from tfds_ham10000.image_files import Images
from tfds_ham10000.layouts import Source
from tfds_ham10000.locks import free_space, hold_lock
from tfds_ham10000.near_duplicates import (
    FeatureFile,
    extract_features,
    find_near_duplicates,
)
from tfds_ham10000.progress import TerminalBar
from tfds_ham10000.records import DeclaredClass, Record, count_missing
from tfds_ham10000.table.options import TableOptions

# TFDS sorts splits of up to this size in memory. No option changes the default of 1 GB,
# with which a fold of ISIC 2019 would require 900 MB of memory.
shuffle.MAX_MEM_BUFFER_SIZE = 300 << 20

REPORT = "build.json"


class BuildReport(BaseModel):
    """The content of build.json: what a build read, converted and skipped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notes: list[str]  # messages for the user
    source: str | None = None  # the origin of the source files; None if synthetic
    changed: int = 0  # number of images that are not stored byte for byte
    left_out: dict[str, str] = {}  # the reason for each skipped image, by image_id
    # Number of images that the table, an option or the config leaves out, by reason.
    excluded: dict[str, int] = {}
    missing: dict[str, int]  # number of missing values by field; see `count_missing`
    group_by: GroupBy  # which images form a group, before near-duplicates are joined
    num_images: int  # number of stored images, in all splits
    num_with_lesion: int  # number of stored images whose lesion is known
    num_with_patient: int  # number of stored images whose patient is known
    classes: list[DeclaredClass] = []  # those in classes.json, in label order
    columns: dict[str, str] = {}  # the column of the table that each field was read from
    layout: str = ""  # title of the published dataset recognized by its table; "" if none
    table_options: TableOptions = sources.NO_OPTIONS  # how a table was read
    # Pairs of near-duplicates that are not known to show the same lesion: two image_ids,
    # the method and the number of inliers (see `NearDuplicate`). Pairs of two images of
    # HAM10000 are not included (see `judged_pairs`), here and in `label_conflicts`.
    near_duplicates: list[tuple[str, str, str, int]] = []
    # Pairs of near-duplicates with different labels: two image_ids, and their labels.
    label_conflicts: list[tuple[str, str, str, str]] = []
    # Number of pairs of images with the same lesion_id, and how many of them the search for
    # near-duplicates finds, without pairs of two images of HAM10000. If all images are in
    # HAM10000: `PUBLISHED_SEARCH`. Both are 0 for synthetic images, which are not searched.
    known_pairs: int = 0
    found_pairs: int = 0


# Spyder imports modules again. TFDS would raise an error if the name is registered.
registered._DATASET_REGISTRY.pop("ham10000", None)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Images of skin lesions in ten folds, which do not separate images of a group.

    The splits are `fold_0` .. `fold_9`, except empty folds (see `folds`), and, if the
    source has them, `validation_official` and `test_official`. `image_decoding` describes
    the format of the stored images.
    """

    VERSION = tfds.core.Version("4.1.0")
    RELEASE_NOTES = {  # noqa: RUF012
        "1.0.0": "HAM10000 and the synthetic demo images in ten folds.",
        "2.0.0": "New folds that keep near-duplicates together. Added group_id, ISIC 2019, "
        "class directories, official splits, downsized variants and the download.",
        "3.0.0": "New folds, because many more near-duplicates were found.",
        "4.0.0": "Added patient_id and the config table. A lesion_id that is not known is "
        "empty, instead of equal to the image_id. Images of HAM10000 in class directories "
        "have their published lesion_id.",
        "4.1.0": "Added skin_type.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    isic2018 is downloaded from Harvard Dataverse if no manual directory with files is
    given, and the demo datasets need no files. In all other cases, put the files of one of
    the following layouts into the manual directory.
    For isic2018:
    {sources.download_instructions("isic2018")}
    For isic2019:
    {sources.download_instructions("isic2019")}
    For folder: one directory of images per class, at the top level, or in Train/ and
    optionally in Validation/ and Test/.
    For table: a table with one row per image, and the images; the tables of published
    datasets are recognized.
    The images of isic2018 and isic2019 are licensed under CC BY-NC 4.0: no commercial use.
    """
    BUILDER_CONFIGS = CONFIGS

    def __init__(
        self,
        *,
        on_bad_image: str = "fail",
        table_options: TableOptions = sources.NO_OPTIONS,
        **kwargs: Any,
    ):
        """Creates a builder.

        Args:
            on_bad_image: What to do during the build with images that cannot be read or
                decoded or are too large. "fail" raises an error. "skip" omits them, but
                raises an error if they are more than 1 % of all images.
            table_options: How to read the table, if the `source` of the config is "table".
            kwargs: `data_dir`, `config` and `version`, as for any TFDS builder.

        Raises:
            google.protobuf.json_format.ParseError: dataset_info.json is damaged.
            ValueError, AssertionError: `config` or `version` does not exist.
        """
        self._on_bad_image = on_bad_image
        self._table_options = table_options
        super().__init__(**kwargs)

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds the dataset unless it exists. Waits while another process builds it.

        Raises:
            SourceError: The source files are missing, incomplete, invalid or damaged, too
                many images are invalid (see `on_bad_image`), the download failed, or there
                are too few groups for training, validation and testing. The error is an
                `OptionError` if an option is missing, is invalid or does not fit the files.
            ValueError: `folds_isic2018.csv` was modified.
            AssertionError: The config requires a manual directory, but none is given, or
                the directory does not exist or is empty.
            OSError: The dataset cannot be written, for example because the disk is full.
                TensorFlow raises tf.errors.OpError instead, and TFDS wraps some of these
                errors in a RuntimeError.
        """
        # This check precedes the lock file, because the disk may be read-only.
        if self.is_prepared():
            return
        with build_lock(Path(self.data_dir)), download.permit_md5(), _any_space():
            super().download_and_prepare(**kwargs)
        if not self.info.splits:  # another process has built the dataset
            self.info.read_from_directory(self.data_dir)

    def is_prepared(self) -> bool:
        """Returns whether the dataset is built.

        TFDS would search for the file with a pattern, and not find it in a directory with a
        name such as "[1]".
        """
        return Path(self.data_dir, "dataset_info.json").is_file()

    def read_report(self) -> BuildReport:
        """Returns the report of the build.

        Raises:
            OSError: build.json cannot be read.
            pydantic.ValidationError: build.json is damaged.
        """
        return BuildReport.model_validate_json(Path(self.data_dir, REPORT).read_bytes())

    def _log_download_bytes(self) -> None:
        """Prints one line; TFDS prints "Downloading" even if nothing is downloaded."""
        print(f"Building {self.info.full_name} in {self.data_dir}", file=sys.stderr)

    def _log_download_done(self) -> None:
        """Prints nothing, unlike TFDS."""

    def _create_builder_config(
        self, builder_config: str | Ham10000Config | None, version: str | None
    ) -> Ham10000Config:
        # TFDS logs a warning for each config that is not in `BUILDER_CONFIGS`.
        if isinstance(builder_config, Ham10000Config):
            return builder_config
        return super()._create_builder_config(builder_config, version=version)

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        info = self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=config.class_names),
                    **_text_features("image_id", "lesion_id", "patient_id", "group_id"),
                    **_text_features("dx_type"),
                    "age": tfds.features.Scalar(np.float32),
                    **_text_features("sex", "localization", "dataset", "skin_type"),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=HOMEPAGES.get(config.source),
        )
        # TFDS would look for a published copy, and leave an empty temporary directory.
        info.initialize_from_bucket = lambda: None
        return info

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        notes: list[str] = []
        report: dict[str, Any] = {}
        images: Images
        if self.builder_config.synthetic:
            records, images = demo.make_dataset(self.builder_config.num_demo_images)
            stored = split_into_folds({"train": records}, near_duplicates=())
        else:
            source, report["source"] = self._read_source(dl_manager)
            self.info.features["label"].names = list(source.class_names)
            images, features = self._check_images(source)
            group_by = self._table_options.group_by
            stored, search = _split(source, images.errors, features, group_by)
            notes, report["excluded"] = source.notes, source.excluded
            report |= {"classes": source.classes, "columns": source.columns}
            report |= {"layout": source.layout, "table_options": self._table_options}
            report |= {"changed": images.num_converted, "left_out": images.errors, **search}
        records = [record for split in stored.splits.values() for record in split]
        notes += stored.notes
        content = BuildReport(
            notes=notes,
            missing=count_missing(records),
            group_by=stored.group_by,
            num_images=len(records),
            num_with_lesion=sum(bool(record.lesion_id) for record in records),
            num_with_patient=sum(bool(record.patient_id) for record in records),
            **report,
        )
        text = content.model_dump_json(indent=2)
        Path(self.data_dir, REPORT).write_text(text, encoding="utf-8")
        progress: TerminalBar = TerminalBar(
            total=len(records), desc="Writing images", unit="img"
        )
        return {
            name: self._generate_examples(split, stored.group_of, images, progress)
            for name, split in stored.splits.items()
        }

    def _generate_examples(
        self,
        records: list[Record],
        group_of: dict[str, str],
        images: Images,
        progress: TerminalBar,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in records:
            example = dataclasses.asdict(record)
            example["label"] = example.pop("dx")
            example["group_id"] = group_of[record.image_id]
            yield record.image_id, {**example, "image": images.read(record.image_id)}
            progress.update()
        if progress.n == progress.total:
            progress.close()

    def _read_source(self, dl_manager: tfds.download.DownloadManager) -> tuple[Source, str]:
        """Returns the source and a description of its origin."""
        config = self.builder_config
        folder = _manual_dir(dl_manager, config)
        if folder is None:
            source = layouts.read_ham10000(
                download.fetch(Path(dl_manager.download_dir, "ham10000"))
            )
            origin = "Harvard Dataverse, doi:10.7910/DVN/DBW86T"
        else:
            source = sources.read_source(folder, config.source, self._table_options)
            origin = str(folder)
        if config.without_ham10000:
            source = layouts.without_ham10000(source)
        return source, origin

    def _check_images(self, source: Source) -> tuple[CheckedImages, FeatureFile]:
        """Returns the images, and features; no features if all images are in HAM10000."""
        ids = [r.image_id for records in source.splits.values() for r in records]
        folder, longest_side = Path(self.data_dir), self.builder_config.longest_side
        if longest_side is None:
            _require_space(folder, sum(map(source.images.size, ids)))
        extract = functools.partial(extract_features, num_images=len(ids))
        inspect = None if groups_are_published(source.splits) else extract
        features = FeatureFile(folder)
        images = CheckedImages(
            source.images,
            ids,
            folder,
            longest_side=longest_side,
            inspect=inspect,
            store=features.add,
        )
        require_valid(images.errors, len(ids), self._on_bad_image)
        return images, features


def _text_features(*names: str) -> dict[str, tfds.features.Text]:
    return {name: tfds.features.Text() for name in names}


@contextlib.contextmanager
def build_lock(dataset_dir: Path) -> Iterator[None]:
    """Holds a lock so that only one process at a time builds the dataset in `dataset_dir`.

    Waits while another process holds the lock; see `hold_lock`. Incomplete directories of
    the dataset that exist when the lock is acquired belong to killed builds and are
    deleted.

    Raises:
        OSError: The lock cannot be created, or an incomplete directory cannot be deleted.
    """
    folder = dataset_dir.parent
    folder.mkdir(parents=True, exist_ok=True)

    def wait(hint: str) -> None:
        text = f"Waiting for another process to build {dataset_dir}. {hint}"
        print(text.rstrip(), file=sys.stderr)

    with hold_lock(folder / f".{dataset_dir.name}.lock", wait):
        for incomplete in folder.glob(f"incomplete.*_{dataset_dir.name}"):
            shutil.rmtree(incomplete)
        yield


def _split(
    source: Source,
    errors: Collection[str],
    features: FeatureFile,
    group_by: GroupBy | None,
) -> tuple[StoredSplits, dict[str, Any]]:
    """Returns the splits of all valid images, and what the report says about the search.

    `errors` are the image_ids of invalid images.
    """
    splits = {
        name: [record for record in records if record.image_id not in errors]
        for name, records in source.splits.items()
    }
    published = published_assignments().keys()
    skipped = {name for name in features if published_id(name) in published}
    found = find_near_duplicates(features, skip=skipped)
    stored = split_into_folds(
        splits, [(pair.first, pair.second) for pair in found], group_by
    )
    record_of = {r.image_id: r for split in splits.values() for r in split}
    lesion_of = {name: record.lesion_id for name, record in record_of.items()}
    across = [
        pair
        for pair in found
        if not lesion_of[pair.first] or lesion_of[pair.first] != lesion_of[pair.second]
    ]
    pairs = [(record_of[pair.first], record_of[pair.second]) for pair in found]
    known_pairs, found_pairs = PUBLISHED_SEARCH
    if features:
        known_pairs = count_known_pairs(lesion_of, features)
        known_pairs -= count_known_pairs(lesion_of, skipped)
        found_pairs = len(found) - len(across)
    return stored, {
        "near_duplicates": [dataclasses.astuple(pair) for pair in across],
        "label_conflicts": [
            (a.image_id, b.image_id, a.dx, b.dx) for a, b in pairs if a.dx != b.dx
        ],
        "known_pairs": known_pairs,
        "found_pairs": found_pairs,
    }


@contextlib.contextmanager
def _any_space() -> Iterator[None]:
    """Lets TFDS ignore the free space, which is unknown if a network drive reports 0."""
    check = utils.has_sufficient_disk_space
    utils.has_sufficient_disk_space = lambda *args, **kwargs: True
    try:
        yield
    finally:
        utils.has_sufficient_disk_space = check


def _require_space(folder: Path, num_bytes: int) -> None:
    free = free_space(folder)
    if free < num_bytes:
        raise OSError(
            errno.ENOSPC,
            f"The images require {num_bytes / 1e6:.0f} MB of disk space, but only "
            f"{free / 1e6:.0f} MB are free",
            str(folder),
        )


def _manual_dir(
    dl_manager: tfds.download.DownloadManager, config: Ham10000Config
) -> Path | None:
    """Returns the manual directory; None if the files have to be downloaded."""
    try:
        folder = Path(dl_manager.manual_dir)
    except AssertionError:
        if config.downloadable:
            return None
        raise
    # All TFDS datasets share the default directory, which may lack the files of this one.
    if config.downloadable and folder == Path(dl_manager.download_dir, "manual"):
        present = folder.is_dir() and sources.match_layout(folder, config.source)
        return folder if present else None
    return folder
