"""Out-of-distribution (OOD) detection by the nearest neighbors of features."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.clinical_metadata import UNKNOWN, encode_clinical_metadata
from skincnn.commands import command_line
from skincnn.data import pipeline
from skincnn.data.cache import Images
from skincnn.errors import ConfigError
from skincnn.files import replacing
from skincnn.inference.predict import predict
from skincnn.inference.predictions import DISTANCE, predictions_table
from skincnn.metrics.sample import Floats

OOD_FILE = "ood.npz"
"""File with the `ReferenceFeatures` of a run."""
NUM_NEIGHBORS = 10
MAX_REFERENCES = 512
"""Maximum number of validation images whose features are kept.

With all 1001 images of a validation fold instead, the mean share of rejected images over
the 22 sets in docs/guides/evaluation.md rose from 0.91 to 0.93 for MobileNetV2, and
remained 0.98 for MobileNet."""
MIN_NORM = 1e-12
"""Features are divided by their Euclidean norm, or by this value if the norm is smaller."""


@dataclass(frozen=True)
class ReferenceFeatures:
    """Features of validation images, with which the features of other images are compared.

    The distance of an image is 1 minus the cosine similarity of its features and those of
    its k-th nearest reference image, k = `NUM_NEIGHBORS`.

    References:
        Sun, Ming, Zhu, Li: Out-of-Distribution Detection with Deep Nearest Neighbors
        (2022), arXiv:2204.06507.

    Attributes:
        references: Features of unit length, float32 [num_references, num_features]. The
            values are rounded to float16, which halves the size of the file.
    """

    references: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, features: Floats) -> ReferenceFeatures:
        """Selects the references from features of validation images.

        `features` are [num_images, num_features]; see `choose_references`.
        """
        chosen = _unit_length(features[choose_references(len(features))])
        return cls(chosen.astype(np.float16).astype(np.float32))

    @property
    def num_neighbors(self) -> int:
        """`NUM_NEIGHBORS`, or the number of references if that is smaller."""
        return min(NUM_NEIGHBORS, len(self.references))

    def distances(self, features: Floats) -> Floats:
        """Returns the distances, in 0..2, of features [num_images, num_features]."""
        return self._to_distances(self._similarities(features))

    def validation_distances(self, features: Floats, groups: Sequence[str]) -> Floats:
        """Returns the distances of the validation images from references of other groups.

        References of the same group are ignored; otherwise, a reference image would be its
        own nearest neighbor. An image with fewer than `num_neighbors` references in other
        groups gets the maximum distance, 2.

        Args:
            features: The features that were passed to `fit`, [num_images, num_features].
            groups: ID of the group (a lesion with its near-duplicates) of each image.
        """
        ids = np.asarray(groups)
        own = ids[:, None] == ids[choose_references(len(features))]
        return self._to_distances(np.where(own, -1, self._similarities(features)))

    def write(self, path: Path) -> None:
        """Writes the references to a file atomically."""
        with replacing(path) as temporary:
            np.savez(temporary, references=self.references.astype(np.float16))

    @classmethod
    def read(cls, path: Path) -> ReferenceFeatures:
        """Reads a file that was written by `write`.

        Raises:
            ConfigError: The file is missing or damaged.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls(arrays["references"].astype(np.float32))
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ConfigError(
                f"{path} cannot be read: {error}. Create it with: "
                f"{command_line('evaluate', path.parent)}"
            ) from error

    def _similarities(self, features: Floats) -> Floats:
        similarities = _unit_length(features) @ self.references.T.astype(np.float64)
        return np.asarray(similarities)

    def _to_distances(self, similarities: Floats) -> Floats:
        largest = np.partition(similarities, -self.num_neighbors, axis=1)
        return np.asarray(1 - largest[:, -self.num_neighbors])


def choose_references(num_images: int) -> npt.NDArray[np.int64]:
    """Returns the sorted indices of at most `MAX_REFERENCES` images, drawn at random.

    The seed is fixed, so the result depends only on `num_images`.
    """
    order = np.random.default_rng(0).permutation(num_images)
    return np.sort(order[:MAX_REFERENCES])


def predict_ood(
    model: keras.Model,
    references: ReferenceFeatures,
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
    return table.assign(**{DISTANCE: references.distances(features)})


def _unit_length(features: Floats) -> Floats:
    values = np.asarray(features, np.float64)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(norms, MIN_NORM))
