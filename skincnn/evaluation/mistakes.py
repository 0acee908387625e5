"""Confident errors of a model, with the images and their Grad-CAM maps."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.errors import ConfigError
from skincnn.evaluation.results import FOLDER
from skincnn.files import replacing
from skincnn.inference.grad_cam import GradCam, Maps
from skincnn.inference.predictions import arrays, class_names_of
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.operating_points import find_targets
from skincnn.metrics.sample import Labels

NUM_MISTAKES = 12
COLUMNS = ("image_id", "label", "predicted", "confidence", "probability_of_label")
DAMAGED = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)
"""Exceptions raised while a missing or damaged file is read with `np.load`."""


@dataclass(frozen=True, eq=False)
class Mistakes:
    """results/<split>.mistakes.npz: confident errors on one split; see `find_mistakes`.

    Attributes:
        table: One row for each error, with `COLUMNS`. Probabilities are calibrated;
            `confidence` is the probability of the predicted class.
        images: Images, uint8 [num_mistakes, height, width, 3].
        maps: Grad-CAM maps of the predicted classes, [num_mistakes, rows, columns] in 0..1.
    """

    table: pd.DataFrame
    images: npt.NDArray[np.uint8]
    maps: Maps

    def write(self, path: Path) -> None:
        """Writes the arrays to `path` atomically."""
        columns = {name: np.array(self.table[name].tolist()) for name in COLUMNS}
        content: dict[str, Any] = {**columns, "images": self.images, "maps": self.maps}
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **content)

    @classmethod
    def read(cls, path: Path) -> Mistakes:
        """Reads a file that was written by `write`.

        Raises:
            ConfigError: The file is missing or damaged.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                table = pd.DataFrame({name: content[name] for name in COLUMNS})
                return cls(table, content["images"], content["maps"])
        except DAMAGED as error:
            raise ConfigError(
                f"{path} cannot be read: {error}. Recreate it with scripts/evaluate.py, "
                "or delete it."
            ) from error


def mistakes_path(workdir: Path, split: str) -> Path:
    """Returns the path of results/<split>.mistakes.npz in a run directory."""
    return workdir / FOLDER / f"{split}.mistakes.npz"


def collect_mistakes(
    grad_cam: GradCam,
    images: npt.NDArray[np.uint8],
    metadata: npt.NDArray[np.float32] | None,
    predictions: pd.DataFrame,
    calibration_map: CalibrationMap,
    count: int = NUM_MISTAKES,
) -> Mistakes | None:
    """Returns the errors from `find_mistakes`, with Grad-CAM maps of the predicted classes.

    Returns None if all predictions are correct.

    Args:
        grad_cam: Grad-CAM of the model that made the predictions.
        images: Images, uint8 [num_images, height, width, 3], in the order of `predictions`.
        metadata: Encoded clinical metadata, [num_images, num_columns]; None if not used.
        predictions: The predictions table of the images.
        calibration_map: Calibrates the probabilities.
        count: Maximum number of errors.
    """
    class_names = class_names_of(predictions)
    table = find_mistakes(predictions, calibration_map, count)
    if table.empty:
        return None
    rows = table["position"].to_numpy()
    shown = np.array(images[rows])
    inputs = shown if metadata is None else {"images": shown, "metadata": metadata[rows]}
    predicted = table["predicted"].map({name: i for i, name in enumerate(class_names)})
    maps = grad_cam(inputs, predicted.to_numpy())
    return Mistakes(table.drop(columns="position"), shown, maps)


def find_mistakes(
    predictions: pd.DataFrame, calibration_map: CalibrationMap, count: int
) -> pd.DataFrame:
    """Returns at most `count` confident errors, one image per lesion.

    At most `count // 2` melanomas (or malignant lesions, if melanoma is not a class) that
    are predicted as benign come first, followed by the other errors. Both parts are sorted
    by decreasing confidence. The columns are `position` (the row number in `predictions`)
    and `COLUMNS`.
    """
    class_names = class_names_of(predictions)
    y_true, y_prob = arrays(predictions, class_names)
    calibrated = calibration_map.apply(y_prob)
    y_pred, rows = y_prob.argmax(axis=1), np.arange(len(y_true))
    table = pd.DataFrame(
        {
            "position": rows,
            "image_id": predictions["image_id"].to_numpy(),
            "label": np.asarray(class_names)[y_true],
            "predicted": np.asarray(class_names)[y_pred],
            "confidence": calibrated[rows, y_pred],
            "probability_of_label": calibrated[rows, y_true],
            "lesion_id": predictions["lesion_id"].to_numpy(),
            "missed": _missed(y_true, y_pred, class_names),
        }
    )
    wrong = table[y_true != y_pred]
    wrong = wrong.sort_values("confidence", ascending=False, kind="stable")
    first = wrong[wrong["missed"]].drop_duplicates("lesion_id").head(count // 2)
    mistakes = pd.concat([first, wrong]).drop_duplicates("lesion_id").head(count)
    return mistakes.drop(columns=["lesion_id", "missed"]).reset_index(drop=True)


def _missed(
    y_true: Labels, y_pred: Labels, class_names: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Returns whether each image is a melanoma predicted as benign, [num_images].

    If melanoma is not a class, all malignant lesions are treated as melanomas.
    """
    targets = find_targets(class_names)
    if not targets:
        return np.zeros(len(y_true), bool)
    flagged = targets["malignant"].positive(y_pred)
    return targets.get("melanoma", targets["malignant"]).positive(y_true) & ~flagged
