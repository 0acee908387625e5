"""The features of an image by which near-duplicates are found."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt
import scipy.fft
from PIL import Image, ImageOps

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FULL_SIZE = 40_000
"""Number of images up to which local features are detected at `LONGEST_SIDE`.

Larger datasets are searched in less detail, so that the time increases little more than
linearly; docs/guides/data.md gives the recall of both searches."""

LONGEST_SIDE = 300
"""Longest side, in pixels, to which images are resized to detect local features."""

COARSE_SIDE = 133
"""`LONGEST_SIDE` for datasets of more than `FULL_SIZE` images."""

MIN_SIDE = 16
"""Minimum length of the shorter side, in pixels at `LONGEST_SIDE`, of images in which local
features are detected."""

MAX_FEATURES = 400
"""Maximum number of local features of an image."""

MAX_COARSE_FEATURES = 100
"""`MAX_FEATURES` for datasets of more than `FULL_SIZE` images."""

HASH_SIZE = 16
"""Number of frequencies of a perceptual hash along each axis: it has 256 bits."""

ORIENTATIONS = (None, *Image.Transpose)
"""The eight symmetries of the square; None is the identity."""


@dataclass(frozen=True)
class ImageFeatures:
    """The features of an image by which near-duplicates are found.

    Attributes:
        hashes: `perceptual_hashes`, uint8 [8, 32].
        points: Positions (x, y) of the local features, [num_features, 2], in pixels at
            `LONGEST_SIDE`.
        descriptors: SIFT descriptors of the local features, uint8 [num_features, 128].
        strengths: Contrasts of the local features, [num_features].
    """

    hashes: Bytes
    points: Floats
    descriptors: Bytes
    strengths: Floats


def _close(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # raised again after a failed write
        file.close()


class FeatureFile(Mapping[str, ImageFeatures]):
    """The features of many images, by image_id, in a temporary file. Thread-safe.

    The features of an image require up to 56 kB. The file has no name, and is deleted when
    this object is deleted or the process ends.
    """

    def __init__(self, folder: Path) -> None:
        """Creates an empty file in `folder`.

        Raises:
            OSError: The file cannot be written.
        """
        # The file is needed as long as this object exists.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, _close, self._file)
        self._lock = threading.Lock()
        self._records: dict[str, tuple[int, int]] = {}

    def add(self, image_id: str, features: ImageFeatures) -> None:
        """Adds the features of an image.

        Raises:
            OSError: The file cannot be written.
        """
        parts = vars(features).values()
        content = b"".join(part.tobytes() for part in parts)
        with self._lock:
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(content)
            self._records[image_id] = start, len(features.points)

    def __getitem__(self, image_id: str) -> ImageFeatures:
        start, count = self._records[image_id]
        sizes = (len(ORIENTATIONS) * HASH_SIZE**2 // 8, count * 8, count * 128, count * 4)
        with self._lock:
            self._file.seek(start)
            content = np.frombuffer(self._file.read(sum(sizes)), np.uint8)
        hashes, points, descriptors, strengths = np.split(content, np.cumsum(sizes)[:-1])
        return ImageFeatures(
            hashes.reshape(len(ORIENTATIONS), -1),
            points.view(np.float32).reshape(count, 2),
            descriptors.reshape(count, 128),
            strengths.view(np.float32),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


def extract_features(image: Image.Image, num_images: int = 1) -> ImageFeatures:
    """Returns the features of an image in a dataset of `num_images`. Thread-safe.

    To detect local features, the image is resized, and its contrast is equalized locally,
    because most structures of a lesion differ little from the skin around them. The size
    and the maximum number of local features depend on `num_images`; see `FULL_SIZE`. Very
    narrow images have no local features; see `MIN_SIDE`. The perceptual hashes are computed
    from the image in its original size.
    """
    gray = image.convert("L")
    side, count = LONGEST_SIDE, MAX_FEATURES
    if num_images > FULL_SIZE:
        side, count = COARSE_SIDE, MAX_COARSE_FEATURES
    resized = ImageOps.contain(gray, (side, side), Image.Resampling.LANCZOS)
    points: Sequence[Any] = ()
    descriptors = None
    # OpenCV does not return from images that are a few pixels high or wide.
    if min(resized.size) * LONGEST_SIDE >= MIN_SIDE * side:
        equalize = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
        sift = cv2.SIFT.create(nfeatures=count, contrastThreshold=0.01)
        equalized = equalize.apply(np.asarray(resized))
        points, descriptors = sift.detectAndCompute(equalized, None)
    if descriptors is None:
        descriptors = np.zeros((0, 128))
    positions = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    strengths = np.array([point.response for point in points], np.float32)
    return ImageFeatures(
        perceptual_hashes(gray),
        positions[:count] * np.float32(LONGEST_SIDE / side),
        descriptors[:count].astype(np.uint8),
        strengths[:count],
    )


def perceptual_hashes(image: Image.Image) -> Bytes:
    """Returns the perceptual hash of an image in each orientation, uint8 [8, 32].

    Each of the 256 bits of a hash belongs to one of the lowest frequencies of the discrete
    cosine transform, and states whether its coefficient is above the median of all 256.

    References:
        Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010).
    """
    gray = image.convert("L")
    # Resizing first takes less than half the time of rotating the full-size image.
    small = gray.resize((4 * HASH_SIZE,) * 2, Image.Resampling.LANCZOS)
    turned = [small if o is None else small.transpose(o) for o in ORIENTATIONS]
    pixels = np.stack([np.asarray(each, np.float64) for each in turned])
    frequencies = scipy.fft.dctn(pixels, axes=(1, 2))
    lowest = frequencies[:, :HASH_SIZE, :HASH_SIZE].reshape(len(pixels), -1)
    return np.packbits(lowest > np.median(lowest, axis=1, keepdims=True), axis=1)


def root_sift(descriptors: Bytes) -> Floats:
    """Returns the square roots of L1-normalized descriptors, [num_features, 128].

    They are unit vectors, except that a descriptor of zeros gives zeros.
    """
    sums = descriptors.sum(1, dtype=np.float32, keepdims=True)
    return np.sqrt(descriptors / np.maximum(sums, 1))
