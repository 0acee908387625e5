"""The TFDS builder of HAM10000, with a made-up stand-in that needs no download."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_ham10000 import demo, sources
from tfds_ham10000.folds import NUM_FOLDS, Place, place, published_places
from tfds_ham10000.near_duplicates import find_similar


@dataclasses.dataclass(kw_only=True)
class Ham10000Config(tfds.core.BuilderConfig):
    """A variant on disk.

    Attributes:
        num_demo_images: About how many pictures to make up; 0 reads the published files.
    """

    num_demo_images: int = 0

    @property
    def made_up(self) -> bool:
        """Whether the pictures are rendered rather than photographed."""
        return self.num_demo_images > 0


class Builder(tfds.core.GeneratorBasedBuilder):
    """Dermatoscopic pictures of seven kinds of skin lesion in ten lesion-grouped folds.

    Splits are `fold_0` .. `fold_9`; see `folds.place`. The bytes of the published
    JPEG files are kept as they are.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {  # noqa: RUF012
        "1.0.0": "HAM10000 and the made-up demo pictures in ten folds.",
        "2.0.0": "Folds keep near-duplicates together as well; group_id names them.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    For the config isic2018:
    1. Open Harvard Dataverse, doi:10.7910/DVN/DBW86T.
    2. Put {", ".join((*sources.IMAGE_ARCHIVES, sources.METADATA_FILE))} into one folder.
    3. Give that folder as the manual directory.
    The pictures are under CC BY-NC 4.0: not for commercial use.
    """
    BUILDER_CONFIGS = [  # noqa: RUF012
        Ham10000Config(
            name="demo",
            description="About 3,000 MADE-UP pictures, rendered by code; no medical value.",
            num_demo_images=3000,
        ),
        Ham10000Config(
            name="demo_tiny",
            description="About 300 MADE-UP pictures for tests and first trials.",
            num_demo_images=300,
        ),
        Ham10000Config(
            name="isic2018",
            description="HAM10000, the training set of ISIC 2018 Task 3, as published.",
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(None, None, 3), encoding_format="jpeg"
                    ),
                    "label": tfds.features.ClassLabel(names=sources.CLASS_NAMES),
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
            homepage=None
            if self.builder_config.made_up
            else "https://doi.org/10.7910/DVN/DBW86T",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        images: sources.ImageArchives | demo.DemoImages
        if self.builder_config.made_up:
            records, images = demo.make_dataset(self.builder_config.num_demo_images)
        else:
            records, images = sources.read_ham10000(Path(dl_manager.manual_dir))
            sources.check_images(records, images)
        places = self._places(records, images)
        progress: tqdm[Any] = tqdm(total=len(records), desc="Writing pictures", unit="img")
        return {
            f"fold_{fold}": self._generate_examples(
                [record for record in records if places[record.image_id].fold == fold],
                places,
                images,
                progress,
            )
            for fold in range(NUM_FOLDS)
        }

    def _places(
        self, records: list[sources.Record], images: sources.ImageArchives | demo.DemoImages
    ) -> dict[str, Place]:
        # Made-up lesions have no twins, and HAM10000's are published.
        known = self.builder_config.made_up or all(
            record.image_id in published_places() for record in records
        )
        ids = [] if known else [record.image_id for record in records]
        return place(records, find_similar(ids, images.read))

    def _generate_examples(
        self,
        records: list[sources.Record],
        places: dict[str, Place],
        images: sources.ImageArchives | demo.DemoImages,
        progress: tqdm[Any],
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in records:
            example = dataclasses.asdict(record)
            example["label"] = example.pop("dx")
            example["group_id"] = places[record.image_id].group_id
            yield record.image_id, {**example, "image": images.read(record.image_id)}
            progress.update()
        if progress.n == progress.total:
            progress.close()
