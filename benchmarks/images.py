"""Images for the benchmarks, and functions that write them in several layouts."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from skincnn.classes import HAM10000
from skincnn.errors import ConfigError
from tfds_ham10000 import demo
from tfds_ham10000.records import Record

ARCHIVES = ("HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip")
FIRST_NUMBER = 24306
"""Number in the first image_id of HAM10000, ISIC_0024306."""
SIZE = (600, 450)
QUALITY = 98
NUM_RENDERED = 40
"""Maximum number of different synthetic images."""


def image_files(folder: Path | None, count: int) -> list[bytes]:
    """Returns the bytes of `count` JPEG files in a directory, repeated as needed.

    Without a directory, the images are synthetic, with 600x450 pixels, a little noise and
    JPEG quality 98. Each file is about 160 kB.

    Raises:
        ConfigError: The directory does not exist or contains no .jpg files.
    """
    if folder is None:
        files = _render(min(NUM_RENDERED, count))
    else:
        files = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    if not files:
        raise ConfigError(
            f"--image-dir must be a directory with .jpg files. Received: {folder}."
        )
    return [files[number % len(files)] for number in range(count)]


def write_published_layout(files: list[bytes], folder: Path) -> None:
    """Writes images in the layout of HAM10000, with one lesion per image.

    The image_ids are from HAM10000, whose groups are published, so the build does not
    search for near-duplicates. In a search, repeated files would all be near-duplicates.
    """
    folder.mkdir(parents=True)
    records = [
        Record(
            image_id=f"ISIC_{FIRST_NUMBER + number:07d}",
            lesion_id=f"HAM_{number:07d}",
            dx=_class_of(number),
        )
        for number in range(len(files))
    ]
    table = pd.DataFrame(records).replace("unknown", "")
    table.to_csv(folder / "HAM10000_metadata.csv", index=False)
    for part, name in enumerate(ARCHIVES):
        with zipfile.ZipFile(folder / name, "w") as archive:
            for record, content in zip(records[part::2], files[part::2], strict=True):
                archive.writestr(zipfile.ZipInfo(f"{record.image_id}.jpg"), content)


def write_class_folders(files: list[bytes], folder: Path) -> None:
    """Writes the images as <class>/<number>.jpg."""
    for number, content in enumerate(files):
        path = folder / _class_of(number) / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@dataclass(frozen=True)
class PillowDataset:
    """A typical PyTorch dataset, which decodes and resizes images with Pillow.

    The worker processes of the loader import this module, which therefore does not import
    TensorFlow.
    """

    paths: list[Path]
    image_size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        with Image.open(self.paths[index]) as image:
            size = (self.image_size, self.image_size)
            return np.array(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


def random_images(count: int, image_size: int) -> npt.NDArray[np.uint8]:
    """Returns images of noise, uint8 [count, image_size, image_size, 3]."""
    shape = (count, image_size, image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _class_of(number: int) -> str:
    return HAM10000[number % len(HAM10000)].name


def _render(count: int) -> list[bytes]:
    records, images = demo.make_dataset(max(count, 300))
    rng = np.random.default_rng(0)
    files = []
    for record in records[:count]:
        small = Image.open(io.BytesIO(images.read(record.image_id)))
        large = np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(large + rng.normal(0, 5, large.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=QUALITY)
        files.append(buffer.getvalue())
    return files
