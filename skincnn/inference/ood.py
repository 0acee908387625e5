"""Out-of-distribution (OOD) detection by the Mahalanobis distance of features."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import sklearn.covariance
import sklearn.datasets
import sklearn.model_selection
import tensorflow as tf

from skincnn.clinical_metadata import UNKNOWN, encode_clinical_metadata
from skincnn.config import DataConfig
from skincnn.data import pipeline
from skincnn.data.cache import Images
from skincnn.data.preprocess import preprocess, read_image
from skincnn.errors import ConfigError, DataError
from skincnn.files import images_in, replacing
from skincnn.inference.predict import predict
from skincnn.inference.predictions import DISTANCE, predictions_table
from skincnn.metrics.sample import Floats

OOD_SET = "set"
"""Column with the name of the set of OOD images."""
OOD_TABLE = "ood"
"""Name of the predictions table of the built-in OOD images."""
OOD_FILE = "ood.npz"
"""File with the `FeatureGaussian` of a run."""
MIN_RELATIVE_STD = 1e-3
"""Minimum standard deviation of an eigen-direction, relative to the root mean square of the
features. Directions with less variance would make the distances depend on float32 rounding
errors, which differ between processors."""
NUM_FOLDS = 5
IMAGES_PER_SET = 48
IMAGE_SIZE = 224
"""Height and width in pixels of the built-in images, except photographs."""
ImageIterator = Iterator[npt.NDArray[np.uint8]]


def photographs(rng: np.random.Generator) -> ImageIterator:
    """Yields square crops of the two sample photographs of scikit-learn."""
    photos = sklearn.datasets.load_sample_images().images
    for number in range(IMAGES_PER_SET):
        photo = photos[number % len(photos)]
        size = int(rng.integers(IMAGE_SIZE // 2, min(photo.shape[:2]) + 1))
        top, left = (int(rng.integers(0, length - size + 1)) for length in photo.shape[:2])
        yield photo[top : top + size, left : left + size]


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


OOD_SETS: dict[str, Callable[[np.random.Generator], ImageIterator]] = {
    "photographs": photographs,
    "noise": noise,
    "plain colors": plain_colors,
    "stripes": stripes,
}
"""Generators of the built-in sets of OOD images, none of which is dermatoscopic."""


@dataclass(frozen=True)
class FeatureGaussian:
    """A Gaussian fitted to the backbone's features of in-distribution images.

    A single Gaussian is as effective as one for each class: Kamoi and Kobayashi, Why is the
    Mahalanobis Distance Effective for Anomaly Detection? (2020), arXiv:2003.00402, based on
    Lee et al. (2018), arXiv:1807.03888. For a fine-tuned network, a threshold on
    the energy of the logits (Liu et al., 2020) rejected none of the photographs, noise and
    stripes (docs/results.md).

    Attributes:
        mean: Mean of the features, [num_features].
        precision: Inverse covariance (or pseudo-inverse), [num_features, num_features].
    """

    mean: Floats
    precision: Floats

    @classmethod
    def fit(cls, features: Floats) -> FeatureGaussian:
        """Fits a Gaussian to features [num_images, num_features] of at least two images.

        The covariance is estimated with Ledoit-Wolf shrinkage (2004). Eigen-directions with
        a relative standard deviation below `MIN_RELATIVE_STD` are dropped. If all images
        have the same features, all distances are 0.
        """
        fitted = sklearn.covariance.LedoitWolf().fit(features)
        values, vectors = np.linalg.eigh(fitted.covariance_)
        kept = values >= MIN_RELATIVE_STD**2 * np.mean(np.square(features))
        if kept.all():
            return cls(fitted.location_, fitted.precision_)
        root = vectors[:, kept] / np.sqrt(values[kept])
        return cls(fitted.location_, root @ root.T)

    def distances(self, features: Floats) -> Floats:
        """Returns squared Mahalanobis distances divided by num_features, [num_images].

        The features are [num_images, num_features].
        """
        centered = np.asarray(features, np.float64) - self.mean
        squared = np.einsum("ij,jk,ik->i", centered, self.precision, centered)
        return np.asarray(squared / len(self.mean))

    def write(self, path: Path) -> None:
        """Writes the Gaussian to a file atomically."""
        with replacing(path) as temporary:
            np.savez(temporary, mean=self.mean, precision=self.precision)

    @classmethod
    def read(cls, path: Path) -> FeatureGaussian:
        """Reads a Gaussian from a file that was written by `write`.

        Raises:
            ConfigError: The file is missing or damaged.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(arrays["mean"], arrays["precision"])
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ConfigError(
                f"{path} cannot be read: {error}. Create it with scripts/evaluate.py "
                f"{path.parent}."
            ) from error


def cross_validated_distances(features: Floats, lesion_ids: Sequence[str]) -> Floats:
    """Returns the distance of each image, cross-validated over lesions, [num_images].

    Each distance is computed with a Gaussian that was fitted to other lesions; a Gaussian
    fitted to the same image would give a smaller distance. The features are
    [num_images, num_features], of at least two lesions.
    """
    distances = np.empty(len(features))
    folds = sklearn.model_selection.GroupKFold(min(NUM_FOLDS, len(set(lesion_ids))))
    for fitted, held_out in folds.split(features, groups=lesion_ids):
        gaussian = FeatureGaussian.fit(features[fitted])
        distances[held_out] = gaussian.distances(features[held_out])
    return distances


def make_ood_images(config: DataConfig) -> tuple[pd.DataFrame, Images]:
    """Returns a table of the built-in OOD images, and the preprocessed images.

    The columns are `set` (a key of `OOD_SETS`) and `image_id`. The images are uint8
    [num_images, image_size, image_size, 3]. Only the preprocessing depends on `config`.
    """
    rng = np.random.default_rng(0)
    rows = [
        (name, f"{name} {number}", np.asarray(preprocess(image, config)))
        for name, make in OOD_SETS.items()
        for number, image in enumerate(make(rng))
    ]
    sets, names, images = zip(*rows, strict=True)
    return pd.DataFrame({OOD_SET: sets, "image_id": names}), np.stack(images)


def read_ood_folder(folder: Path, config: DataConfig) -> tuple[pd.DataFrame, Images]:
    """Returns the OOD images in a directory and its subdirectories; see `make_ood_images`.

    The name of the directory becomes the name of the set.

    Raises:
        ConfigError: The directory contains no images, or its name is a key of `OOD_SETS`.
        DataError: An image cannot be decoded.
    """
    name = folder.resolve().name
    if name in OOD_SETS:
        raise ConfigError(
            f"--ood-dir {folder}: {name!r} is the name of a set of built-in images. Rename "
            "the directory."
        )
    files = images_in(folder)
    if not files:
        raise ConfigError(
            f"--ood-dir {folder} contains no images. Expected files ending in .jpg, .png, "
            ".gif, .bmp or .webp."
        )
    names = [f"{name}/{path.relative_to(folder)}" for path in files]
    rows = pd.DataFrame({OOD_SET: name, "image_id": names})
    return rows, np.stack([_read_file(path, config) for path in files])


def predict_ood(
    model: keras.Model,
    gaussian: FeatureGaussian,
    rows: pd.DataFrame,
    images: Images,
    class_names: Sequence[str],
) -> pd.DataFrame:
    """Returns the predictions table of OOD images.

    The columns are `set`, `image_id`, the probabilities and the energy as in
    `predictions_table`, and `DISTANCE`. If the model uses clinical metadata, the metadata
    of all images are unknown. The model is from `with_features`; `rows` and `images` are
    from `make_ood_images` or `read_ood_folder`.
    """
    rows = rows.assign(label=np.nan, sha256="")
    metadata = None
    if isinstance(model.input, dict):
        missing = {"age": np.nan, "sex": UNKNOWN, "localization": UNKNOWN}
        metadata = encode_clinical_metadata(pd.DataFrame([missing] * len(images)))
    batches = pipeline.evaluation_batches(images, metadata)
    logits, features = predict(model, batches)
    table = predictions_table(rows, logits, class_names).drop(columns="label")
    return table.assign(**{DISTANCE: gaussian.distances(features)})


def _read_file(path: Path, config: DataConfig) -> Images:
    try:
        return np.asarray(read_image(tf.constant(path.read_bytes()), config))
    except tf.errors.OpError as error:
        raise DataError(
            f"{path} cannot be decoded as an image: {error.message}. Remove the file."
        ) from error
