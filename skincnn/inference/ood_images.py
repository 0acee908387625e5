"""Out-of-distribution (OOD) images on which the OOD detection of a run is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.ndimage
import sklearn.datasets
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from skincnn.config import DataConfig
from skincnn.data.cache import Images
from skincnn.data.preprocess import preprocess, read_image
from skincnn.errors import ConfigError, DataError
from skincnn.paths import real_path
from tfds_ham10000.image_decoding import convert
from tfds_ham10000.image_files import IMAGE_SUFFIXES, find_files, read_file
from tfds_ham10000.records import SourceError

OOD_SET = "set"
"""Column with the name of the set of OOD images."""
OOD_TABLE = "ood"
"""Name of the predictions table of the built-in OOD images."""
IMAGES_PER_SET = 48
IMAGE_SIZE = 224
"""Height and width in pixels of generated images, except photographs and documents."""
PAGE_SIZE = (450, 600)
"""Width and height in pixels of documents."""
WORDS = (
    "patient",
    "report",
    "name",
    "date",
    "of",
    "the",
    "clinic",
    "histology",
    "no",
    "27",
)
ImageArray = npt.NDArray[np.uint8]
ImageIterator = Iterator[ImageArray]


def photographs(rng: np.random.Generator) -> ImageIterator:
    """Yields square crops of the two sample photographs of scikit-learn."""
    photos = sklearn.datasets.load_sample_images().images
    for number in range(IMAGES_PER_SET):
        photo = photos[number % len(photos)]
        size = int(rng.integers(IMAGE_SIZE // 2, min(photo.shape[:2]) + 1))
        top, left = (int(rng.integers(0, length - size + 1)) for length in photo.shape[:2])
        yield photo[top : top + size, left : left + size]


def documents(rng: np.random.Generator) -> ImageIterator:
    """Yields pages of random words in several font sizes on light paper."""
    width, height = PAGE_SIZE
    fonts = [ImageFont.load_default(size) for size in (11, 13, 16, 24)]
    for _ in range(IMAGES_PER_SET):
        page = Image.new("RGB", PAGE_SIZE, tuple(rng.integers(225, 256, 3).tolist()))
        draw, top = ImageDraw.Draw(page), int(rng.integers(10, 60))
        while top < height - 20:
            font = fonts[rng.integers(len(fonts))]
            text = " ".join(rng.choice(WORDS, int(rng.integers(2, 12))))
            left = int(rng.integers(10, width // 6))
            draw.text((left, top), text, (20, 20, 30), font)
            top += int(1.5 * draw.textbbox((0, 0), "Ag", font=font)[3])
        yield np.asarray(page)


def noise(rng: np.random.Generator) -> ImageIterator:
    """Yields images of independent random pixels."""
    for _ in range(IMAGES_PER_SET):
        yield rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


def plain_colors(rng: np.random.Generator) -> ImageIterator:
    """Yields images of a single color, like those from a camera with a covered lens."""
    for _ in range(IMAGES_PER_SET):
        yield np.full((IMAGE_SIZE, IMAGE_SIZE, 3), rng.integers(0, 256, 3), np.uint8)


def stripes(rng: np.random.Generator) -> ImageIterator:
    """Yields images of stripes in two colors, like those on textiles or screens."""
    down, right = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] / IMAGE_SIZE
    for _ in range(IMAGES_PER_SET):
        angle, count = rng.uniform(0, np.pi), rng.integers(3, 30)
        wave = np.sin(2 * np.pi * count * (np.cos(angle) * right + np.sin(angle) * down))
        dark, bright = rng.integers(0, 256, (2, 3), np.uint8)
        yield np.where(wave[..., None] > 0, dark, bright)


def inverted(image: ImageArray) -> ImageArray:
    """Returns the color negative of an image."""
    return 255 - image


def blurred(image: ImageArray) -> ImageArray:
    """Returns an image blurred by a Gaussian so strongly that no structure is visible.

    The standard deviation is 8 % of the shorter side.
    """
    sigma = 0.08 * min(image.shape[:2])
    blurry = scipy.ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0))
    return blurry.round().astype(np.uint8)


def nearly_black(image: ImageArray) -> ImageArray:
    """Returns an image with 8 % of its brightness."""
    return (0.08 * image).round().astype(np.uint8)


def nearly_white(image: ImageArray) -> ImageArray:
    """Returns an image with 12 % of its difference from white."""
    return 255 - (0.12 * (255 - image)).round().astype(np.uint8)


def incomplete(image: ImageArray) -> ImageArray:
    """Returns an image whose lower two thirds are gray, as after an interrupted upload."""
    return np.where(np.arange(len(image))[:, None, None] < len(image) // 3, image, 128)


GENERATED: dict[str, Callable[[np.random.Generator], ImageIterator]] = {
    "photographs": photographs,
    "documents": documents,
    "noise": noise,
    "plain colors": plain_colors,
    "stripes": stripes,
}
"""Generators of the built-in sets of OOD images that are not dermatoscopic."""
RUINED: dict[str, Callable[[ImageArray], ImageArray]] = {
    "inverted colors": inverted,
    "extreme blur": blurred,
    "nearly black": nearly_black,
    "nearly white": nearly_white,
    "incomplete": incomplete,
}
"""Functions that make dermatoscopic images unusable, one for each set of such images."""
OOD_SETS = (*GENERATED, *RUINED)
"""Names of the built-in sets."""


def make_ood_images(config: DataConfig, validation: Images) -> tuple[pd.DataFrame, Images]:
    """Returns a table of the built-in OOD images, and the preprocessed images.

    Each set has `IMAGES_PER_SET` images, or fewer for the sets of `RUINED` if the
    validation split is smaller. These sets are made from evenly spaced validation images.

    Args:
        config: The preprocessing of the generated images.
        validation: Preprocessed validation images, uint8 [num_validation, image_size,
            image_size, 3].

    Returns:
        A table with the columns `set` (one of `OOD_SETS`) and `image_id`, and the images,
        uint8 [num_images, image_size, image_size, 3], in the order of the rows.
    """
    rng = np.random.default_rng(0)
    sets = {
        name: [np.asarray(preprocess(image, config)) for image in make(rng)]
        for name, make in GENERATED.items()
    }
    count = min(IMAGES_PER_SET, len(validation))
    rows = np.linspace(0, len(validation) - 1, count).astype(int)
    originals = [np.asarray(validation[row]) for row in rows]
    sets |= {name: [ruin(image) for image in originals] for name, ruin in RUINED.items()}
    table = pd.DataFrame(
        [
            (name, f"{name} {n}")
            for name, images in sets.items()
            for n in range(len(images))
        ],
        columns=[OOD_SET, "image_id"],
    )
    return table, np.concatenate([np.stack(images) for images in sets.values()])


def read_ood_folder(folder: Path, config: DataConfig) -> tuple[pd.DataFrame, Images]:
    """Returns a table of the OOD images in a directory, and the preprocessed images.

    They have the format of the results of `make_ood_images`. The images are the files that
    `find_files` returns. The set has the name of the directory, after symbolic links are
    resolved. An image_id is this name, "/" and the path of the file in the directory.

    Raises:
        ConfigError: The directory contains no images or does not exist, or its name is one
            of `OOD_SETS`.
        DataError: An image cannot be read or decoded.
    """
    name = real_path(folder).name
    if name in OOD_SETS:
        raise ConfigError(
            f"`ood_dir` {folder}: {name!r} is the name of a set of built-in images. Rename "
            "the directory."
        )
    if not folder.is_dir():
        raise ConfigError(
            f"`ood_dir` {folder} is not a directory. Expected an existing directory with "
            "images."
        )
    files, skipped = (found := find_files(folder)).files, found.skipped
    if not files:
        raise ConfigError(
            f"`ood_dir` {folder} {skipped.get(folder, 'contains no images')}. Expected "
            f"files ending in {', '.join(IMAGE_SUFFIXES)}."
        )
    names = [f"{name}/{path.relative_to(folder).as_posix()}" for path in files]
    rows = pd.DataFrame({OOD_SET: name, "image_id": names})
    return rows, np.stack([_read_file(path, config) for path in files])


def _read_file(path: Path, config: DataConfig) -> Images:
    try:
        content = convert(read_file(path))
        return np.asarray(read_image(tf.constant(content), config))
    except (OSError, SourceError, tf.errors.OpError) as error:
        reason = getattr(error, "message", error)  # exceptions of TensorFlow have one
        raise DataError(
            f"{path} cannot be read as an image: {reason}. Remove the file."
        ) from error
