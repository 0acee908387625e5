"""The variants of the dataset on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow_datasets as tfds

from tfds_ham10000.records import CLASS_NAMES, ISIC2019_CLASS_NAMES

STORED_SIDES = (256, 400)
"""Sizes to store beside the originals: 4:3 pictures then are at least 192 and 300 high,
which is what models of up to 192 and up to 300 pixels need."""
HOMEPAGES = {
    "isic2018": "https://doi.org/10.7910/DVN/DBW86T",
    "isic2019": "https://challenge.isic-archive.com/landing/2019",
}


ATTRIBUTIONS = {
    "isic2018": "Pictures: HAM10000, Tschandl, Rosendahl, Kittler, Scientific Data "
    "5:180161 (2018), CC BY-NC 4.0.",
    "isic2019": "Pictures: ISIC challenge 2019 (HAM10000, BCN20000, MSK), CC BY-NC 4.0.",
    "demo": "No photograph was used.",
}


@dataclass(kw_only=True)
class Ham10000Config(tfds.core.BuilderConfig):
    """A variant on disk.

    Attributes:
        source: Which published files it is made of, a `dataset` of `sources.LAYOUTS`;
            "folder" for a folder of each class; "demo" for synthetic pictures.
        class_names: The labels; None if they are known only when it is built.
        num_demo_images: About how many pictures to make up.
        longest_side: Pictures that are larger are stored with this many pixels.
        without_ham10000: Leave out the pictures that are in HAM10000 too.
    """

    source: str
    class_names: Sequence[str] | None = CLASS_NAMES
    num_demo_images: int = 0
    longest_side: int | None = None
    without_ham10000: bool = False

    @property
    def synthetic(self) -> bool:
        """Whether the pictures are rendered rather than photographed."""
        return self.source == "demo"

    @property
    def attribution(self) -> str:
        """Whose the pictures are and under which licence; empty for one's own."""
        return ATTRIBUTIONS.get(self.source, "")

    @property
    def downloadable(self) -> bool:
        """Whether the builder can download its files."""
        return self.source == "isic2018"


def _published(
    name: str,
    description: str,
    *,
    source: str,
    class_names: Sequence[str] = CLASS_NAMES,
    without_ham10000: bool = False,
) -> list[Ham10000Config]:
    """Returns a config that keeps the originals, and one for each stored size."""
    return [
        Ham10000Config(
            name=name if side is None else f"{name}_{side}",
            description=description
            if side is None
            else f"{description} Longest side at most {side} pixels.",
            source=source,
            class_names=class_names,
            without_ham10000=without_ham10000,
            longest_side=side,
        )
        for side in (None, *STORED_SIDES)
    ]


CONFIGS = [
    Ham10000Config(
        name="demo",
        description="About 3,000 SYNTHETIC pictures, rendered by code; no medical value.",
        source="demo",
        num_demo_images=3000,
    ),
    Ham10000Config(
        name="demo_tiny",
        description="About 300 SYNTHETIC pictures for tests and first trials.",
        source="demo",
        num_demo_images=300,
    ),
    *_published(
        "isic2018",
        "HAM10000, the training set of ISIC 2018 Task 3, as published.",
        source="isic2018",
    ),
    *_published(
        "isic2019",
        "The training set of ISIC 2019, eight classes; it holds all of HAM10000.",
        source="isic2019",
        class_names=ISIC2019_CLASS_NAMES,
    ),
    *_published(
        "isic2019_without_ham10000",
        "The training set of ISIC 2019 without the pictures of HAM10000.",
        source="isic2019",
        class_names=ISIC2019_CLASS_NAMES,
        without_ham10000=True,
    ),
    Ham10000Config(
        name="folder",
        description="Your own labelled pictures, a folder for each class.",
        source="folder",
        class_names=None,
    ),
]
"""The first is the default."""
