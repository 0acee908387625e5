"""The builder configs: the variants of the dataset on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import tensorflow_datasets as tfds

from tfds_ham10000.records import CLASS_NAMES, ISIC2019_CLASS_NAMES

STORED_SIDES = (256, 400)
"""Longest sides, in pixels, of the downsized variants. The shorter side of a 4:3 image is
then 192 or 300 pixels, and has to be upsampled for models with a larger input size."""
HOMEPAGES = {
    "isic2018": "https://doi.org/10.7910/DVN/DBW86T",
    "isic2019": "https://challenge.isic-archive.com/landing/2019",
}
ATTRIBUTIONS = {
    "isic2018": "Images: HAM10000, Tschandl, Rosendahl, Kittler, Scientific Data "
    "5:180161 (2018), CC BY-NC 4.0.",
    "isic2019": "Images: ISIC challenge 2019 (HAM10000, BCN20000, MSK), CC BY-NC 4.0.",
    "demo": "The images are synthetic.",
}


OWN_SOURCES = {
    "folder": "one directory per class",
    "table": "with a table that has one row per image",
}
"""Text on where the labels are, by `source`; see `Ham10000Config.own`."""


@dataclass(kw_only=True)
class Ham10000Config(tfds.core.BuilderConfig):
    """A variant of the dataset on disk.

    `source` is the `dataset` of a layout in `tfds_ham10000.sources.LAYOUTS`, "folder" for
    images in one directory per class, "table" for a table of images, or "demo" for
    synthetic images.
    """

    source: str
    class_names: Sequence[str] | None = CLASS_NAMES  # None: known only after the build
    num_demo_images: int = 0  # the argument of `demo.make_dataset`
    longest_side: int | None = None  # maximum, in pixels; None: original size
    without_ham10000: bool = False  # whether to omit images that are also in HAM10000

    @property
    def synthetic(self) -> bool:
        """Whether the images are synthetic."""
        return self.source == "demo"

    @property
    def own(self) -> bool:
        """Whether the build determines the classes: for `source` "folder" or "table".

        The images are the user's own, or those of a published dataset with a table.
        """
        return self.source in OWN_SOURCES

    @property
    def attribution(self) -> str:
        """Credits of ISIC 2018 or 2019, a note on synthetic images, or "" for others."""
        return ATTRIBUTIONS.get(self.source, "")

    @property
    def downloadable(self) -> bool:
        """Whether the builder can download the source files."""
        return self.source == "isic2018"


ORIGINALS = (
    Ham10000Config(
        name="isic2018",
        description="HAM10000, the training set of ISIC 2018 Task 3.",
        source="isic2018",
    ),
    Ham10000Config(
        name="isic2019",
        description="The training set of ISIC 2019, with eight classes. "
        "It includes HAM10000.",
        source="isic2019",
        class_names=ISIC2019_CLASS_NAMES,
    ),
    Ham10000Config(
        name="isic2019_without_ham10000",
        description="The training set of ISIC 2019 without the images of HAM10000.",
        source="isic2019",
        class_names=ISIC2019_CLASS_NAMES,
        without_ham10000=True,
    ),
)
"""The configs of the published images in their original size."""


def _downsized(original: Ham10000Config, side: int) -> Ham10000Config:
    return replace(  # type: ignore[call-arg]  # TFDS has no types
        original,
        name=f"{original.name}_{side}",
        description=f"{original.description} Longest side at most {side} pixels.",
        longest_side=side,
    )


def own_config(name: str, source: str) -> Ham10000Config:
    """Returns the config of a dataset with the `source` "folder" or "table"."""
    return Ham10000Config(
        name=name,
        description=f"Your own or other labeled images, {OWN_SOURCES[source]}.",
        source=source,
        class_names=None,
    )


CONFIGS = [
    Ham10000Config(
        name="demo",
        description="About 3,000 SYNTHETIC images, rendered by code; no medical value.",
        source="demo",
        num_demo_images=3000,
    ),
    Ham10000Config(
        name="demo_tiny",
        description="About 350 SYNTHETIC images for tests and first trials.",
        source="demo",
        num_demo_images=300,
    ),
    *ORIGINALS,
    *(_downsized(original, side) for original in ORIGINALS for side in STORED_SIDES),
    own_config("folder", "folder"),
    own_config("table", "table"),
]
"""The configs with fixed names; the first is the default. See `own_config` for others."""
