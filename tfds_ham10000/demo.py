"""The synthetic dataset, whose images resemble dermatoscopic images.

The images are rendered by `demo_renderer` and have no medical meaning. The dataset has the
classes of HAM10000, a similar class imbalance, and lesions with several images, so that
training and evaluation can be tried without real data.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tfds_ham10000.demo_renderer import SEED, render
from tfds_ham10000.records import CLASS_NAMES, Record

CLASS_COUNTS = dict(zip(CLASS_NAMES, (327, 514, 1099, 115, 1113, 6705, 142), strict=True))
"""The number of images of each class in HAM10000."""
VIEWS_PER_LESION = (0.55, 0.30, 0.15)
"""Probabilities that a lesion has 1, 2 or 3 images."""
MEAN_VIEWS = 1.6
MIN_LESIONS = 10
"""Minimum number of lesions per class: one for each of the ten folds."""
SITES = ("back", "trunk", "abdomen", "face", "lower extremity", "unknown")


@dataclass(frozen=True)
class DemoImages:
    """Synthetic images by image_id. Each image is rendered when it is read."""

    views: dict[str, tuple[str, int, int]]  # (dx, lesion number, view number)

    def read(self, image_id: str) -> bytes:
        """Returns an image as the bytes of a JPEG file."""
        buffer = io.BytesIO()
        image = Image.fromarray(render(*self.views[image_id]))
        image.save(buffer, format="JPEG", quality=92)
        return buffer.getvalue()


def make_dataset(num_images: int) -> tuple[list[Record], DemoImages]:
    """Returns the records and the images of a synthetic dataset.

    The dataset has about `num_images` images, and the proportions of the classes are about
    those of HAM10000. However, each class has at least ten lesions, so that a small dataset
    has more images, and larger shares of rare classes. The records are the same on every
    machine.
    """
    records: list[Record] = []
    views: dict[str, tuple[str, int, int]] = {}
    total = sum(CLASS_COUNTS.values())
    lesion = 0
    for dx, count in CLASS_COUNTS.items():
        for _ in range(max(MIN_LESIONS, round(num_images * count / total / MEAN_VIEWS))):
            rng = np.random.default_rng([SEED, 1, lesion])
            record = _make_record(rng, dx, lesion)
            for view in range(1 + int(rng.choice(3, p=VIEWS_PER_LESION))):
                image_id = f"DEMO_{len(records):07d}"
                records.append(dataclasses.replace(record, image_id=image_id))
                views[image_id] = (dx, lesion, view)
            lesion += 1
    return records, DemoImages(views)


def _make_record(rng: np.random.Generator, dx: str, lesion: int) -> Record:
    """Returns a random record of a lesion, with an empty image_id."""
    mean_age = {"nv": 45, "df": 50, "vasc": 50}.get(dx, 65)
    age = float(np.clip(5 * np.rint(rng.normal(mean_age, 14) / 5), 5, 85))
    return Record(
        image_id="",
        lesion_id=f"DEMO_LESION_{lesion:06d}",
        dx=dx,
        dx_type="synthetic",
        age=float("nan") if rng.random() < 0.01 else age,
        sex=str(rng.choice(["female", "male", "unknown"], p=[0.48, 0.5, 0.02])),
        localization=str(rng.choice(SITES)),
        dataset="synthetic",
    )
