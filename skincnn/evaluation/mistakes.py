"""The most confident errors of a model, with the images and their Grad-CAM maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.classes import NOTHING_DECLARED, LesionClass
from skincnn.evaluation.results import FOLDER
from skincnn.files import open_npz, replacing
from skincnn.inference.grad_cam import GradCam, Maps
from skincnn.inference.predictions import arrays, class_names_of
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.operating_points import Target, find_targets
from skincnn.metrics.sample import Flags, Labels

NUM_MISTAKES = 12
COLUMNS = (
    *("image_id", "label", "predicted", "confidence", "probability_of_label"),
    "is_missed",
)


@dataclass(frozen=True, eq=False)
class Mistakes:
    """results/<split>.mistakes.npz: errors on one split from `find_mistakes`.

    Attributes:
        table: One row for each error, with `COLUMNS`. Probabilities are calibrated;
            `confidence` is the probability of the predicted class. `is_missed` is true if
            the image belongs to the target "malignant" ("melanoma" if there is no target
            "malignant"; see `find_targets`), but the predicted class does not.
        images: Images, uint8 [num_mistakes, height, width, 3].
        maps: Grad-CAM maps of the predicted classes, [num_mistakes, rows, columns] in 0..1.
    """

    table: pd.DataFrame
    images: npt.NDArray[np.uint8]
    maps: Maps

    def write(self, path: Path) -> None:
        """Writes the arrays to `path` atomically.

        Raises:
            OSError: The file cannot be written; see `skincnn.files.replacing`.
        """
        columns = {name: np.array(self.table[name].tolist()) for name in COLUMNS}
        content: dict[str, Any] = {**columns, "images": self.images, "maps": self.maps}
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **content)

    @classmethod
    def read(cls, path: Path) -> Mistakes:
        """Reads a file that was written by `write`.

        Raises:
            DataError: The file is missing or damaged.
        """
        fix = "Recreate it with `skincnn evaluate`, or delete it."
        with open_npz(path, fix) as content:
            table = pd.DataFrame({name: content[name] for name in COLUMNS})
            return cls(table, content["images"], content["maps"])


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
    declared: Mapping[str, LesionClass] = NOTHING_DECLARED,
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
        declared: See `skincnn.classes.describe`.
    """
    class_names = class_names_of(predictions)
    table = find_mistakes(predictions, calibration_map, count, declared)
    if table.empty:
        return None
    rows = table["position"].to_numpy()
    shown = np.array(images[rows])
    inputs = shown if metadata is None else {"images": shown, "metadata": metadata[rows]}
    predicted = table["predicted"].map({name: i for i, name in enumerate(class_names)})
    maps = grad_cam(inputs, predicted.to_numpy())
    return Mistakes(table.drop(columns="position"), shown, maps)


def find_mistakes(
    predictions: pd.DataFrame,
    calibration_map: CalibrationMap,
    count: int,
    declared: Mapping[str, LesionClass] = NOTHING_DECLARED,
) -> pd.DataFrame:
    """Returns the most confident errors, at most `count` and one image per lesion.

    If the lesion of an image is not known, its group counts as the lesion. The first rows
    are at most `count // 2` missed images (see `is_missed` of `Mistakes`), only melanomas
    if melanoma is a class; the other errors follow. Both parts are sorted by decreasing
    confidence. The columns are `position` (the row number in `predictions`) and `COLUMNS`.
    """
    class_names = class_names_of(predictions)
    y_true, y_prob = arrays(predictions, class_names)
    calibrated = calibration_map.apply(y_prob)
    y_pred, rows = y_prob.argmax(axis=1), np.arange(len(y_true))
    targets = find_targets(class_names, declared)
    missed, comes_first = _find_missed(y_true, y_pred, targets)
    lesions = predictions["lesion_id"]
    table = pd.DataFrame(
        {
            "position": rows,
            "image_id": predictions["image_id"].to_numpy(),
            "label": np.asarray(class_names)[y_true],
            "predicted": np.asarray(class_names)[y_pred],
            "confidence": calibrated[rows, y_pred],
            "probability_of_label": calibrated[rows, y_true],
            "is_missed": missed,
            "comes_first": comes_first,
            "lesion": lesions.where(lesions != "", predictions["group_id"]).to_numpy(),
        }
    )
    wrong = table[y_true != y_pred]
    wrong = wrong.sort_values("confidence", ascending=False, kind="stable")
    first = wrong[wrong["comes_first"]].drop_duplicates("lesion").head(count // 2)
    mistakes = pd.concat([first, wrong]).drop_duplicates("lesion").head(count)
    return mistakes.drop(columns=["lesion", "comes_first"]).reset_index(drop=True)


def _find_missed(
    y_true: Labels, y_pred: Labels, targets: Mapping[str, Target]
) -> tuple[Flags, Flags]:
    """Returns `is_missed` of `Mistakes`, and whether each image comes first, [num_images].

    Missed melanomas come first; if melanoma is not a class, all missed images do.
    """
    target = targets.get("malignant", targets.get("melanoma"))
    if target is None:
        nothing = np.zeros(len(y_true), bool)
        return nothing, nothing
    missed = target.positive(y_true) & ~target.positive(y_pred)
    return missed, missed & targets.get("melanoma", target).positive(y_true)
