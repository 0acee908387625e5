"""The answers that were surest and wrong, as pictures with what the network looked at."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from skincnn.classes import describe
from skincnn.inference.grad_cam import GradCam, Maps, overlay
from skincnn.inference.predictions import arrays
from skincnn.metrics.calibration import apply_temperature
from skincnn.metrics.operating_points import find_targets
from skincnn.metrics.sample import Labels
from skincnn.reporting.plots import ORANGE

COUNT = 12
COLUMNS = 3
"""Pairs of pictures side by side."""
PICTURE, GAP, HEAD, FOOT, TEXTS = 1.6, 0.25, 1.15, 0.3, 0.75
"""Inches: a picture's width; between pairs; over and under all; over and under a pair."""
ABOVE, BELOW = 34, 52
"""Letters that fit a line over and under a pair."""
KEY = (
    "Right of each picture: what spoke for the answer given (Grad-CAM, yellow: most).\n"
    "MISSED: malignant, and called what is not."
)


def find_mistakes(
    predictions: pd.DataFrame, class_names: Sequence[str], temperature: float, count: int
) -> pd.DataFrame:
    """Returns the wrong answers that were surest, at most one picture of a lesion.

    Melanomas that were called benign come first and have up to half of the places (where
    the classes know of no melanoma: what is malignant). The others are any mistakes. Both
    parts are in the order of their confidence, then of the table.

    Args:
        predictions: A predictions table.
        class_names: The names of the classes, in order.
        temperature: That of the calibration.
        count: How many are wanted; there may be fewer.

    Returns:
        Columns position (the number of the row in `predictions`), image_id, label,
        predicted, confidence (the calibrated probability of `predicted`) and
        probability_of_label (that of `label`).
    """
    y_true, y_prob = arrays(predictions, class_names)
    calibrated = apply_temperature(y_prob, temperature)
    y_pred, rows = y_prob.argmax(axis=1), np.arange(len(y_true))
    answers = pd.DataFrame(
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
    wrong = answers[y_true != y_pred]
    wrong = wrong.sort_values("confidence", ascending=False, kind="stable")
    first = wrong[wrong["missed"]].drop_duplicates("lesion_id").head(count // 2)
    found = pd.concat([first, wrong]).drop_duplicates("lesion_id").head(count)
    return found.drop(columns=["lesion_id", "missed"]).reset_index(drop=True)


def draw_mistakes(
    classifier: keras.Model,
    images: npt.NDArray[np.uint8],
    patients: npt.NDArray[np.float32] | None,
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    temperature: float,
    title: str,
    count: int = COUNT,
) -> Figure | None:
    """Draws the wrong answers that were surest, with maps of the classes that were said.

    Args:
        classifier: The model that made the predictions; see `GradCam`.
        images: uint8 [num_images, height, width, 3], in the order of the table.
        patients: What it was told of them, [num_images, num_fields], if anything.
        predictions: A predictions table.
        class_names: The names of the classes, in order.
        temperature: That of the calibration.
        title: What was predicted, for the heading.
        count: How many mistakes to draw at most.

    Returns:
        None where there is no mistake.
    """
    mistakes = find_mistakes(predictions, class_names, temperature, count)
    if mistakes.empty:
        return None
    rows = mistakes["position"].to_numpy()
    shown = np.array(images[rows])
    inputs = shown if patients is None else {"images": shown, "metadata": patients[rows]}
    said = mistakes["predicted"].map({name: i for i, name in enumerate(class_names)})
    maps = GradCam(classifier)(inputs, said.to_numpy())
    known = describe(class_names)
    malignant = [name for name in class_names if known[name].malignant]
    return plot_mistakes(mistakes, shown, maps, title, malignant)


def plot_mistakes(
    mistakes: pd.DataFrame,
    images: npt.NDArray[np.uint8],
    maps: Maps,
    title: str,
    malignant: Collection[str],
) -> Figure:
    """Draws each picture beside itself under its map; missed malignant ones are framed.

    Args:
        mistakes: From `find_mistakes`, at least one.
        images: Their pictures, [len(mistakes), height, width, 3].
        maps: What spoke for the class that was said, [len(mistakes), height', width'].
        title: What was predicted, for the heading.
        malignant: The names of the malignant classes.
    """
    rows = -(-len(mistakes) // COLUMNS)
    tall = PICTURE * images.shape[1] / images.shape[2]
    width = COLUMNS * (2 * PICTURE + GAP) + GAP
    height = HEAD + rows * (tall + TEXTS)
    figure = Figure(figsize=(width, height))
    figure.suptitle(f"{title}: the surest mistakes\n{KEY}", fontsize=12, y=1 - 0.1 / height)
    # Places by hand: to have them found takes longer than all the rest.
    grid = figure.add_gridspec(
        rows,
        COLUMNS,
        left=GAP / width,
        right=1 - GAP / width,
        top=1 - HEAD / height,
        bottom=FOOT / height,
        wspace=GAP / (2 * PICTURE),
        hspace=TEXTS / tall,
    )
    for number, mistake in enumerate(mistakes.itertuples()):
        cell = grid[divmod(number, COLUMNS)].subgridspec(1, 2, wspace=0.04)
        pair = [figure.add_subplot(cell[0, half]) for half in range(2)]
        missed = mistake.label in malignant and mistake.predicted not in malignant
        _show(pair[0], images[number], missed)
        _show(pair[1], overlay(images[number], maps[number]), missed)
        _caption(pair[0], mistake, missed)
    return figure


def _missed(
    y_true: Labels, y_pred: Labels, class_names: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Returns which melanomas were called what is not malignant, [num_images]."""
    targets = find_targets(class_names)
    if not targets:
        return np.zeros(len(y_true), bool)
    called = targets["malignant"].positive(y_pred)
    return targets.get("melanoma", targets["malignant"]).positive(y_true) & ~called


def _show(axes: Any, image: npt.NDArray[np.uint8], framed: bool) -> None:
    axes.imshow(image)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=framed, color=ORANGE, linewidth=4)


def _caption(axes: Any, mistake: Any, missed: bool) -> None:
    said = (
        f"{mistake.label} called {mistake.predicted}, {_percent(mistake.confidence)} sure"
    )
    # Two dollars in a name would be a formula.
    plain = {"loc": "left", "parse_math": False}
    axes.set_title(textwrap.fill(said, ABOVE), fontsize=12, pad=5, **plain)
    right = f"  ({mistake.label}: {_percent(mistake.probability_of_label)})"
    image_id = _end(mistake.image_id, max(BELOW - len(right), 12))
    axes.set_xlabel(image_id + right, fontsize=8, **plain)
    if missed:
        box = {"facecolor": ORANGE, "edgecolor": "none", "pad": 2.5}
        place = {"x": 0.03, "y": 0.97, "va": "top", "transform": axes.transAxes}
        axes.text(s="MISSED", color="white", weight="bold", fontsize=10, bbox=box, **place)


def _percent(probability: float) -> str:
    """Returns it in percent; nothing is certain."""
    if probability >= 0.995:
        return "over 99 %"
    return f"{100 * probability:.0f} %" if probability >= 0.005 else "under 1 %"


def _end(name: str, most: int) -> str:
    """Returns a name of up to `most` letters, of a longer one its end."""
    return name if len(name) <= most else f"...{name[3 - most :]}"
