"""Whether a picture is of the kind that the model was trained on, and what if it is not."""

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
import sklearn.metrics
import sklearn.model_selection
import tensorflow as tf

from skincnn.clinical_metadata import UNKNOWN, encode_clinical_metadata
from skincnn.config import DataConfig
from skincnn.data import pipeline
from skincnn.data.cache import Images
from skincnn.data.preprocess import preprocess, read_image
from skincnn.errors import ConfigError, DataError
from skincnn.files import IMAGE_SUFFIXES, images_in, replacing
from skincnn.inference.predict import predict_logits_and_features
from skincnn.inference.predictions import DISTANCE, predictions_table
from skincnn.metrics.sample import Floats

SET = "set"
OOD_TABLE = "ood"
"""Name of the predictions table of the built-in out-of-distribution images."""
OOD_FILE = "ood.npz"
"""The file of a run's folder that holds its `Familiar`."""
RESOLUTION = 1e-3
"""Standard deviation, as a share of the features' root mean square, below which arithmetic
in float32, whose last digits depend on the processor, would show in the distances."""
NUM_PARTS = 5
"""In which validation is cut, to fix the threshold; see `distances_within`."""
NUM_PICTURES = 48
SIDE = 224
"""Pixels of the pictures that are made here, before they are resized as all are."""
Pictures = Iterator[npt.NDArray[np.uint8]]


def photographs(rng: np.random.Generator) -> Pictures:
    """Yields square pieces of the two photographs that come with scikit-learn."""
    photos = sklearn.datasets.load_sample_images().images
    for number in range(NUM_PICTURES):
        photo = photos[number % len(photos)]
        side = int(rng.integers(SIDE // 2, min(photo.shape[:2]) + 1))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        yield photo[top : top + side, left : left + side]


def noise(rng: np.random.Generator) -> Pictures:
    """Yields pictures of independent pixels."""
    for _ in range(NUM_PICTURES):
        yield rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def plain_colors(rng: np.random.Generator) -> Pictures:
    """Yields pictures of one color, as of a covered lens."""
    for _ in range(NUM_PICTURES):
        yield np.full((SIDE, SIDE, 3), rng.integers(0, 256, 3), np.uint8)


def stripes(rng: np.random.Generator) -> Pictures:
    """Yields stripes of two colors, as of cloth or a screen."""
    down, right = np.mgrid[:SIDE, :SIDE] / SIDE
    for _ in range(NUM_PICTURES):
        angle, count = rng.uniform(0, np.pi), rng.integers(3, 30)
        wave = np.sin(2 * np.pi * count * (np.cos(angle) * right + np.sin(angle) * down))
        dark, bright = rng.integers(0, 256, (2, 3), np.uint8)
        yield np.where(wave[..., None] > 0, dark, bright)


UNKNOWN_SETS: dict[str, Callable[[np.random.Generator], Pictures]] = {
    "photographs": photographs,
    "noise": noise,
    "plain colors": plain_colors,
    "stripes": stripes,
}
"""Pictures that are no dermatoscopy."""


@dataclass(frozen=True)
class FeatureGaussian:
    """What the backbone says of pictures that are what they should be: a Gaussian.

    One for all classes, which tells strange pictures as well as one for each: Kamoi and
    Kobayashi, Why is the Mahalanobis Distance Effective for Anomaly Detection? (2020),
    arXiv:2003.00402, after Lee et al. (2018), arXiv:1807.03888. The energy of the logits
    (Liu et al., 2020) refused no photograph, noise or stripes on a fine-tuned network
    (CHANGELOG, Results).

    Attributes:
        mean: [num_features].
        precision: The inverse of the covariance, [num_features, num_features].
    """

    mean: Floats
    precision: Floats

    @classmethod
    def fit(cls, features: Floats) -> FeatureGaussian:
        """Fits it, with the shrinkage of Ledoit and Wolf (2004).

        Directions in which the pictures differ by less than float32 can tell count for
        nothing; with none left, as of a network that answers everything alike, all
        distances are 0.

        Args:
            features: [num_images, num_features], two pictures or more.
        """
        fitted = sklearn.covariance.LedoitWolf().fit(features)
        values, vectors = np.linalg.eigh(fitted.covariance_)
        told = values >= RESOLUTION**2 * np.mean(np.square(features))
        if told.all():
            return cls(fitted.location_, fitted.precision_)
        root = vectors[:, told] / np.sqrt(values[told])
        return cls(fitted.location_, root @ root.T)

    def distances(self, features: Floats) -> Floats:
        """Returns the squared Mahalanobis distances per feature, [num_images]."""
        away = np.asarray(features, np.float64) - self.mean
        found = np.einsum("ij,jk,ik->i", away, self.precision, away)
        return np.asarray(found / len(self.mean))

    def write(self, path: Path) -> None:
        """Writes it to a file, whole or not at all."""
        with replacing(path) as temporary:
            np.savez(temporary, mean=self.mean, precision=self.precision)

    @classmethod
    def read(cls, path: Path) -> FeatureGaussian:
        """Reads what `write` wrote.

        Raises:
            ConfigError: There is no such file, or it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(arrays["mean"], arrays["precision"])
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ConfigError(
                f"{path} cannot be read: {error}. Make it with scripts/evaluate.py "
                f"{path.parent}."
            ) from error


def distances_within(features: Floats, lesion_ids: Sequence[str]) -> Floats:
    """Returns the distance of each picture from the others, those of its lesion left out.

    With its own features in the fit a picture would seem nearer than a new one.

    Args:
        features: [num_images, num_features].
        lesion_ids: [num_images]; two lesions or more.
    """
    found = np.empty(len(features))
    parts = sklearn.model_selection.GroupKFold(min(NUM_PARTS, len(set(lesion_ids))))
    for others, part in parts.split(features, groups=lesion_ids):
        found[part] = FeatureGaussian.fit(features[others]).distances(features[part])
    return found


def make_ood_images(config: DataConfig) -> tuple[pd.DataFrame, Images]:
    """Returns out-of-distribution images, the same ones for every run.

    Args:
        config: The preprocessing.

    Returns:
        A row for each image with `set` (a name of `UNKNOWN_SETS`) and `image_id`; and
        uint8 [num_images, image_size, image_size, 3].
    """
    rng = np.random.default_rng(0)
    made = [
        (name, f"{name} {number}", np.asarray(preprocess(image, config)))
        for name, make in UNKNOWN_SETS.items()
        for number, image in enumerate(make(rng))
    ]
    sets, names, images = zip(*made, strict=True)
    return pd.DataFrame({SET: sets, "image_id": names}), np.stack(images)


def read_ood_folder(folder: Path, config: DataConfig) -> tuple[pd.DataFrame, Images]:
    """Returns the user's out-of-distribution images; see `make_ood_images`.

    Args:
        folder: Searched for images, subfolders included. Its name becomes the set.
        config: The preprocessing.

    Raises:
        ConfigError: The folder has no image, or the name of one of `UNKNOWN_SETS`.
        DataError: A file cannot be decoded.
    """
    name = folder.resolve().name
    if name in UNKNOWN_SETS:
        raise ConfigError(
            f"--ood-dir {folder}: built-in images are named {name!r} as well. Rename the "
            "folder."
        )
    files = images_in(folder)
    if not files:
        raise ConfigError(
            f"--ood-dir {folder} contains no image. Expected files ending in "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    names = [f"{name}/{path.relative_to(folder)}" for path in files]
    rows = pd.DataFrame({SET: name, "image_id": names})
    return rows, np.stack([_read_file(path, config) for path in files])


def predict_ood(
    classifier: keras.Model,
    familiar: FeatureGaussian,
    rows: pd.DataFrame,
    images: Images,
    class_names: Sequence[str],
) -> pd.DataFrame:
    """Returns a predictions table of pictures that are no dermatoscopy.

    Columns are `set`, image_id, those of `predictions_table` but a label, and `DISTANCE`.
    A model with metadata is told that nothing is known of the patients.

    Args:
        classifier: The model.
        familiar: Fitted on validation.
        rows: From `make_ood_images` or `read_ood_folder`.
        images: uint8 [num_images, height, width, 3].
        class_names: The names of the classes, in order.
    """
    rows = rows.assign(label=np.nan, sha256="")
    patients = None
    if isinstance(classifier.input, dict):
        nobody = {"age": np.nan, "sex": UNKNOWN, "localization": UNKNOWN}
        patients = encode_clinical_metadata(pd.DataFrame([nobody] * len(images)))
    batches = pipeline.evaluation_batches(images, patients)
    logits, features = predict_logits_and_features(classifier, batches)
    table = predictions_table(rows, logits, class_names).drop(columns="label")
    return table.assign(**{DISTANCE: familiar.distances(features)})


def _read_file(path: Path, config: DataConfig) -> Images:
    try:
        return np.asarray(read_image(tf.constant(path.read_bytes()), config))
    except tf.errors.OpError as error:
        raise DataError(
            f"{path} is no picture that can be read: {error.message}. Take it out of the "
            "folder."
        ) from error
