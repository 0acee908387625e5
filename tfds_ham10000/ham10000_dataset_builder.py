"""The TFDS builder of HAM10000 and its relatives, with a synthetic stand-in."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle
from tqdm import tqdm

from tfds_ham10000 import demo, download, layouts, sources
from tfds_ham10000.configs import CONFIGS, HOMEPAGES, Ham10000Config
from tfds_ham10000.exclusive import exclusive
from tfds_ham10000.images import Images
from tfds_ham10000.layouts import Source
from tfds_ham10000.near_duplicates import find_similar, perceptual_hashes
from tfds_ham10000.pictures import CheckedImages, refuse_bad
from tfds_ham10000.records import Record, count_missing
from tfds_ham10000.splitting import Stored, groups_are_published, into_folds

MAX_BUFFER = 300 << 20
"""Bytes of a split that are sorted in memory; TFDS's own limit is 1 GB."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Dermatoscopic pictures of skin lesions in ten lesion-grouped folds.

    Splits are `fold_0` .. `fold_9`; see `folds.place`. Where their files are there,
    `validation_official` and `test_official` are splits of their own. What is stored of a
    picture, see `pictures`.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {  # noqa: RUF012
        "1.0.0": "HAM10000 and the synthetic demo pictures in ten folds.",
        "2.0.0": "Folds keep near-duplicates together as well, so they are other folds; "
        "group_id names what is kept together. ISIC 2019, folders of classes, official "
        "splits, smaller stored sizes, download.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    isic2018 is downloaded from Harvard Dataverse if no manual directory is given. Else put
    the files of one of these into a folder and give it as the manual directory.
    For isic2018:
    {sources.where_to_get("isic2018")}
    For isic2019:
    {sources.where_to_get("isic2019")}
    For folder: a folder of pictures for each class, below Train/ and Test/ or directly.
    The published pictures are under CC BY-NC 4.0: not for commercial use.
    """
    BUILDER_CONFIGS = CONFIGS

    def __init__(self, *, on_bad_image: str = "fail", **kwargs: Any):
        """Makes a builder.

        Args:
            on_bad_image: "fail", or "skip" to leave out up to 1 % of the pictures.
            kwargs: `data_dir`, `config` and `version`, as of any TFDS builder.
        """
        self._on_bad_image = on_bad_image
        super().__init__(**kwargs)

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds the dataset, unless it is there; waits for another process that does."""
        # Nothing is written where nothing is to be built: the disk may be read-only.
        if Path(self.data_dir).is_dir() and self.is_prepared():
            return
        with exclusive(Path(self.data_dir)), _bounded_memory():
            super().download_and_prepare(**kwargs)
        if not self.info.splits:  # another process built it meanwhile
            self.info.read_from_directory(self.data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(
                        names=self.builder_config.class_names
                    ),
                    "image_id": tfds.features.Text(),
                    "lesion_id": tfds.features.Text(),
                    "group_id": tfds.features.Text(),
                    "dx_type": tfds.features.Text(),
                    "age": tfds.features.Scalar(np.float32),
                    "sex": tfds.features.Text(),
                    "localization": tfds.features.Text(),
                    "dataset": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=HOMEPAGES.get(self.builder_config.source),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        report: dict[str, Any] = {"notes": []}
        images: Images
        if self.builder_config.synthetic:
            records, images = demo.make_dataset(self.builder_config.num_demo_images)
            stored = into_folds({"train": records}, similar=())
        else:
            source = self._read_source(dl_manager, report)
            self.info.features["label"].names = list(source.class_names)
            stored, images = self._check(source, report)
        records = [record for of_split in stored.splits.values() for record in of_split]
        report["notes"] += stored.notes
        report["missing"] = count_missing(records)
        self._report_path.write_text(json.dumps(report, indent=2) + "\n")
        progress: tqdm[Any] = tqdm(total=len(records), desc="Writing pictures", unit="img")
        return {
            name: self._generate_examples(of_split, stored.group_of, images, progress)
            for name, of_split in stored.splits.items()
        }

    def _generate_examples(
        self,
        records: list[Record],
        group_of: dict[str, str],
        images: Images,
        progress: tqdm[Any],
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in records:
            example = dataclasses.asdict(record)
            example["label"] = example.pop("dx")
            example["group_id"] = group_of[record.image_id]
            yield record.image_id, {**example, "image": images.read(record.image_id)}
            progress.update()
        if progress.n == progress.total:
            progress.close()

    def read_report(self) -> dict[str, Any]:
        """Returns what was read, left out, changed and missing when it was built.

        Returns:
            `missing`: how many pictures lack a value, by column; `notes`: what a user
            should know. Of published pictures also `source`: where they were; `changed`:
            how many are not stored byte for byte; `left_out`: why, by image_id.
        """
        return dict(json.loads(self._report_path.read_text()))

    @property
    def _report_path(self) -> Path:
        return Path(self.data_dir, "build.json")

    def _read_source(
        self, dl_manager: tfds.download.DownloadManager, report: dict[str, Any]
    ) -> Source:
        config = self.builder_config
        folder = _manual_dir(dl_manager, config)
        if folder is None:
            source = layouts.read_ham10000(download.fetch(dl_manager))
            report["source"] = "Harvard Dataverse, doi:10.7910/DVN/DBW86T"
        else:
            source = sources.read_source(folder, config.source)
            report["source"] = str(folder)
        return layouts.without_ham10000(source) if config.without_ham10000 else source

    def _check(self, source: Source, report: dict[str, Any]) -> tuple[Stored, Images]:
        """Returns the splits and the pictures that can be used."""
        ids = [r.image_id for records in source.splits.values() for r in records]
        if self.builder_config.longest_side is None:
            _require_space(Path(self.data_dir), sum(map(source.images.size, ids)))
        known = groups_are_published(source.splits)
        images = CheckedImages(
            source.images,
            ids,
            Path(self.data_dir),
            longest_side=self.builder_config.longest_side,
            look=None if known else perceptual_hashes,
        )
        refuse_bad(images.bad, len(ids), self._on_bad_image)
        report["notes"] += source.notes
        report.update(changed=images.num_changed, left_out=images.bad)
        splits = {
            name: [record for record in records if record.image_id not in images.bad]
            for name, records in source.splits.items()
        }
        return into_folds(splits, find_similar(images.seen)), images


def _require_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise OSError(
            errno.ENOSPC,
            f"the pictures have {num_bytes / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free",
        )


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """Lets TFDS sort a split on disk sooner: a fold of ISIC 2019 has 900 MB."""
    before = shuffle.MAX_MEM_BUFFER_SIZE
    shuffle.MAX_MEM_BUFFER_SIZE = MAX_BUFFER
    try:
        yield
    finally:
        shuffle.MAX_MEM_BUFFER_SIZE = before


def _manual_dir(
    dl_manager: tfds.download.DownloadManager, config: Ham10000Config
) -> Path | None:
    """Returns the manual directory; None if it may be done without, and none was given."""
    try:
        folder = Path(dl_manager.manual_dir)
    except AssertionError:
        if config.downloadable:
            return None
        raise
    # TFDS's default is shared by all datasets: that it is there says nothing.
    shared = folder == Path(dl_manager.download_dir, "manual")
    if config.downloadable and shared and not sources.holds(folder, config.source):
        return None
    return folder
