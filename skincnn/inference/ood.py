"""Out-of-distribution (OOD) detection by Gaussians fitted to features of inner blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.clinical_metadata import UNKNOWN, encode_clinical_metadata
from skincnn.commands import command_line
from skincnn.data import pipeline
from skincnn.data.cache import Images
from skincnn.files import open_npz, replacing
from skincnn.inference.predict import predict
from skincnn.inference.predictions import DISTANCE, predictions_table
from skincnn.metrics.sample import Floats

T = TypeVar("T")
OOD_FILE = "ood.npz"
"""File with the `FeatureGaussian` of a run."""
ACCEPTED = 0.95
"""The limit of the distance is this quantile of the distances of the validation images, but
at least `skincnn.evaluation.ood.MIN_DISTANCE`. About this share of these images, or more,
is accepted as in-distribution."""
NUM_PARTS = 5
"""Maximum number of parts of the validation split. Each is compared with the others."""
MIN_STD = 0.01
"""Lower bound of the standard deviation of a feature, as a fraction of the largest one in
the block. Smaller values are replaced with the bound."""
MIN_VARIANCE = 1e-4
"""Lower bound of the variance of the standardized features in any direction."""
SMALLEST = 1e-6
"""Lower bound of divisors. Rounding errors of float32 are about 1e-7."""


@dataclass(frozen=True)
class BlockGaussian:
    """A Gaussian distribution of the features in one block of the backbone.

    Attributes:
        mean: float32 [num_features].
        whitening: float32 [num_features, num_features]. The distance is the Euclidean norm
            of (features - mean) @ whitening. This is a Mahalanobis distance, which
            `fit_gaussian` scales by a constant.
    """

    mean: npt.NDArray[np.float32]
    whitening: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, features: Floats) -> BlockGaussian:
        """Fits mean and covariance of features [num_images, num_features].

        The covariance of the standardized features is estimated as by Ledoit and Wolf, A
        well-conditioned estimator for large-dimensional covariance matrices (2004).
        """
        # Not required for predictions. MLflow would log the `fit` of an estimator.
        from sklearn.covariance import empirical_covariance, ledoit_wolf_shrinkage

        values = np.asarray(features, np.float64)
        mean, std = values.mean(axis=0), values.std(axis=0)
        std = np.maximum(std, max(MIN_STD * std.max(), SMALLEST))
        if len(values) > 1:
            standardized = (values - mean) / std
            shrinkage = ledoit_wolf_shrinkage(standardized, assume_centered=True)
            sample = empirical_covariance(standardized, assume_centered=True)
            target = np.eye(len(sample)) * (np.trace(sample) / len(sample))
            covariance = (1 - shrinkage) * sample + shrinkage * target
        else:
            covariance = np.zeros((values.shape[1], values.shape[1]))
        variances, directions = np.linalg.eigh(covariance)
        whitening = directions / np.sqrt(np.maximum(variances, MIN_VARIANCE))
        return cls(mean.astype(np.float32), (whitening / std[:, None]).astype(np.float32))

    def distances(self, features: Floats) -> Floats:
        """Returns the distance of each image, [num_images], 0 or larger.

        `features` are [num_images, num_features].
        """
        differences = np.asarray(features, np.float64) - self.mean
        return np.asarray(np.linalg.norm(differences @ self.whitening, axis=1))


@dataclass(frozen=True)
class FeatureGaussian:
    """Gaussians of the features of validation images, to detect images unlike these.

    There is one Gaussian for each of `inner_blocks`. The distance of an image is the
    largest of its Mahalanobis distances in these blocks, each divided by the quantile
    `ACCEPTED` of the distances of validation images from other validation images; see
    `fit_gaussian`. docs/guides/evaluation.md compares this method with others.

    References:
        Lee et al., A simple unified framework for detecting out-of-distribution samples
        (2018), arXiv:1807.03888: Mahalanobis distances in several layers.

    Attributes:
        blocks: The Gaussians, beginning with the first block.
    """

    blocks: tuple[BlockGaussian, ...]

    def distances(self, features: Sequence[Floats]) -> Floats:
        """Returns the distance of each image, [num_images], 0 or larger.

        `features` contains [num_images, num_features] for each block of `with_features`.
        The last block, if there are several, is not used; see `inner_blocks`.
        """
        pairs = zip(self.blocks, inner_blocks(features), strict=True)
        distances = [block.distances(values) for block, values in pairs]
        return np.asarray(np.max(distances, axis=0))

    def write(self, path: Path) -> None:
        """Writes the Gaussians to a file atomically.

        Raises:
            OSError: The file cannot be written; see `skincnn.files.replacing`.
        """
        arrays: dict[str, Any] = {"num_blocks": len(self.blocks)}
        arrays |= {f"mean{n}": block.mean for n, block in enumerate(self.blocks)}
        arrays |= {f"whitening{n}": block.whitening for n, block in enumerate(self.blocks)}
        with replacing(path) as temporary:
            np.savez(temporary, **arrays)

    @classmethod
    def read(cls, path: Path) -> FeatureGaussian:
        """Reads a file that was written by `write`.

        Raises:
            DataError: The file is missing, not readable or damaged.
        """
        fix = f"Create it with: {command_line('evaluate', path.parent)}"
        with open_npz(path, fix) as arrays:
            return cls(
                tuple(
                    BlockGaussian(arrays[f"mean{n}"], arrays[f"whitening{n}"])
                    for n in range(int(arrays["num_blocks"]))
                )
            )


def fit_gaussian(
    features: Sequence[Floats], groups: Sequence[str]
) -> tuple[FeatureGaussian, Floats]:
    """Fits Gaussians to validation images.

    Args:
        features: For each block, [num_images, num_features]; see `with_features`.
        groups: ID of the group of each image (a patient, a lesion or an image, with its
            near-duplicates).

    Returns:
        The Gaussians, and the distances of the validation images, [num_images]. For these
        distances, the groups are divided into up to `NUM_PARTS` parts, and the images of
        each part are compared with Gaussians that are fitted to the other parts. If all
        images are in one group, they are compared with Gaussians fitted to themselves.
    """
    blocks, distances = [], []
    for values in inner_blocks(features):
        own = _distances_from_others(values, groups)
        limit = max(float(np.quantile(own, ACCEPTED)), SMALLEST)
        block = BlockGaussian.fit(values)
        blocks.append(replace(block, whitening=block.whitening / np.float32(limit)))
        distances.append(own / limit)
    return FeatureGaussian(tuple(blocks)), np.asarray(np.max(distances, axis=0))


def inner_blocks(features: Sequence[T]) -> Sequence[T]:
    """Returns the items of all blocks except the last, or that of the only block.

    Training adapts the last block to the classes. In this block, even images with inverted
    colors can have usual features.
    """
    return features[:-1] or features


def _distances_from_others(features: Floats, groups: Sequence[str]) -> Floats:
    parts = pd.factorize(np.asarray(groups))[0] % NUM_PARTS
    distances = np.empty(len(features))
    for number in np.unique(parts):
        own = parts == number
        others = features if own.all() else features[~own]
        distances[own] = BlockGaussian.fit(others).distances(features[own])
    return distances


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
    logits, *features = predict(model, batches)
    table = predictions_table(rows, logits, class_names).drop(columns="label")
    return table.assign(**{DISTANCE: gaussian.distances(features)})
