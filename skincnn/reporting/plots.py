"""Style of all figures; figures of training runs and of the most confident errors.

All figures remain readable at half their size and with color vision deficiency.
"""

from __future__ import annotations

import functools
import io
import itertools
import sys
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from skincnn.classes import NOTHING_DECLARED, LesionClass
from skincnn.evaluation.mistakes import Mistakes
from skincnn.inference.grad_cam import overlay
from skincnn.metrics.bootstrap import Estimate
from skincnn.reporting.labels import full_name, metric_label

BLUE, ORANGE = "#0072b2", "#d55e00"  # color-blind safe pair of Okabe and Ito
GRAY = "#777777"
PALETTE = (BLUE, "#009e73", "#cc79a7", "#000000")
"""Okabe-Ito colors for lines that also differ in their dash pattern."""
DPI = 110
FALLBACK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "PingFang SC", "Hiragino Sans"),
    *("Noto Sans", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS"),
)
"""Fonts for characters that DejaVu Sans lacks, if they are installed."""
COLUMNS = 3
"""Number of pairs of images in a row."""
IMAGE, GAP, LINE = 1.6, 0.25, 0.17
"""Width of an image, gap between pairs and height of a line of text, in inches."""
LINE_LENGTH = 45
"""Maximum number of characters in a line above a pair, and of the image name below it."""
KEY = (
    "Right of each image: Grad-CAM, the regions that raised the score of the predicted "
    "class (yellow: most)."
)
NO_MATH: dict[str, Any] = {"loc": "left", "parse_math": False}
"""Style of texts with names, in which dollar signs must not start a formula."""


def plot_learning_curves(
    history: pd.DataFrame, best_epoch: int | None, title: str
) -> Figure:
    """Draws the losses and the validation metrics of each epoch.

    `history` has the columns epoch, loss and val_<metric>. Epochs are counted from 1. A
    line marks `best_epoch`, unless it is None.
    """
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    figure.suptitle(f"Learning curves\n{title}", fontsize=12)
    left, right = figure.subplots(1, 2)
    epochs = history["epoch"]
    left.plot(
        epochs, history["loss"], color="black", marker="o", markersize=4, label="training"
    )
    left.set_title("loss", fontsize=12)
    styles = itertools.cycle(zip(PALETTE, ("-", "--", ":", "-."), strict=True))
    metrics = history.filter(regex="^val_")
    for column, values in metrics.items():
        name = str(column).removeprefix("val_")
        color, style = next(styles)
        text, axes = metric_label(name), right
        if name == "log_loss":
            text, axes = "validation (log loss)", left
        axes.plot(epochs, values, style, color=color, linewidth=2, label=text)
    if best_epoch is not None:
        right.axvline(best_epoch, color=ORANGE, linewidth=1.5, label="selected epoch")
    right.set_title("validation metrics", fontsize=12)
    shares = metrics.drop(columns="val_log_loss", errors="ignore")
    if shares.isna().to_numpy().all() or (
        shares.min().min() >= 0 and shares.max().max() <= 1
    ):
        right.set_ylim(0, 1)
    for axes in (left, right):
        axes.legend(fontsize=10, loc="best")
        axes.set_xlabel("epoch", fontsize=11)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def plot_learning_rates(test: pd.DataFrame, suggestion: float | None, title: str) -> Figure:
    """Draws the loss of a learning-rate range test, and the suggested rate, if any.

    `test` has the columns learning_rate, loss and smoothed_loss, one row per step.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    rates = test["learning_rate"]
    axes.plot(rates, test["loss"], color="0.75", label="loss of each step")
    axes.plot(rates, test["smoothed_loss"], color=BLUE, linewidth=2, label="smoothed loss")
    if suggestion is not None:
        text = f"suggested rate: {suggestion:.1e}"
        axes.axvline(suggestion, color=ORANGE, linestyle="--", label=text)
    axes.set_xscale("log")
    # The last losses can be huge or infinite; the axis shows the decrease before them.
    smoothed = test["smoothed_loss"].replace([np.inf, -np.inf], np.nan)
    low, first = smoothed.min(), smoothed.iloc[0]
    if np.isfinite(first) and first > low:
        axes.set_ylim(low - 0.25 * (first - low), first + (first - low))
    axes.set_xlabel("learning rate", fontsize=12)
    axes.set_ylabel("training loss", fontsize=12)
    axes.set_title(title, fontsize=13)
    axes.legend(fontsize=10, loc="upper left")
    axes.grid(alpha=0.3)
    return figure


def to_png(figure: Figure) -> bytes:
    """Returns a figure as bytes in PNG format."""
    families = _installed_fonts()
    for text in figure.findobj(Text):
        text.set_fontfamily(families)
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=DPI)
    for warning in caught:
        if "missing from font" in str(warning.message):
            _note_missing_glyphs()
        else:
            warnings.warn(warning.message, stacklevel=2)
    return buffer.getvalue()


@functools.cache
def _installed_fonts() -> list[str]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed)]


@functools.cache
def _note_missing_glyphs() -> None:
    """Prints a note, once in a process."""
    print(
        "note: the figures show boxes instead of some characters. Install a font that has "
        "them, such as Noto Sans CJK, and run `skincnn report`.",
        file=sys.stderr,
    )


def to_image(figure: Figure) -> Image.Image:
    """Returns a figure as an image, which notebooks display."""
    return Image.open(io.BytesIO(to_png(figure)))


def draw_estimate(axes: Axes, y: float, score: Estimate, color: str) -> None:
    """Draws a score and its interval, if they exist, at the height `y`."""
    if score.low is not None and score.high is not None:
        axes.plot([score.low, score.high], [y, y], color=color, linewidth=2)
    if score.value is not None:
        axes.plot(score.value, y, "s", color=color, markersize=6, clip_on=False)


def plot_mistakes(
    mistakes: Mistakes,
    title: str,
    missed: str,
    declared: Mapping[str, LesionClass] = NOTHING_DECLARED,
) -> Figure:
    """Draws each image beside its Grad-CAM map; missed lesions have a frame.

    Args:
        mistakes: At least one error.
        title: Description of the images for the heading.
        missed: Which errors are marked as missed; "" if none are.
        declared: See `skincnn.classes.describe`.
    """
    rows = list(mistakes.table.itertuples())
    captions = [_caption(row, declared) for row in rows]
    above = LINE * (1 + max(text.count("\n") for text in captions)) + 0.1
    head, texts = 1.0 + above, above + 2 * LINE + 0.1
    image_height = IMAGE * mistakes.images.shape[1] / mistakes.images.shape[2]
    num_rows = -(-len(rows) // COLUMNS)
    width = COLUMNS * (2 * IMAGE + GAP) + GAP
    height = head + num_rows * (image_height + texts) - above
    figure = Figure(figsize=(width, height))
    key = f"{KEY}\nMISSED: {missed}." if missed else KEY
    heading = f"Most confident errors\n{title}\n{key}"
    figure.suptitle(heading, fontsize=11, y=1 - 0.1 / height)
    # Automatic layout would take longer than the rest of the figure.
    grid = figure.add_gridspec(
        num_rows,
        COLUMNS,
        left=GAP / width,
        right=1 - GAP / width,
        top=1 - head / height,
        bottom=(texts - above) / height,
        wspace=GAP / (2 * IMAGE),
        hspace=texts / image_height,
    )
    for number, row in enumerate(rows):
        cell = grid[divmod(number, COLUMNS)].subgridspec(1, 2, wspace=0.04)
        is_missed = bool(row.is_missed)
        left, right = (figure.add_subplot(cell[0, half]) for half in range(2))
        image = mistakes.images[number]
        _show(left, image, is_missed)
        _show(right, overlay(image, mistakes.maps[number]), is_missed)
        left.set_title(captions[number], fontsize=9.5, pad=5, **NO_MATH)
        left.set_xlabel(_below(row), fontsize=8, **NO_MATH)
        if is_missed:
            _mark(left)
    return figure


def _show(axes: Axes, image: npt.NDArray[np.uint8], framed: bool) -> None:
    axes.imshow(image)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=framed, color=ORANGE, linewidth=4)


def _caption(row: Any, declared: Mapping[str, LesionClass]) -> str:
    true, predicted = (full_name(x, declared) for x in (row.label, row.predicted))
    lines = f"True: {true}", f"Predicted: {predicted}"
    return "\n".join(textwrap.fill(line, LINE_LENGTH) for line in lines)


def _below(row: Any) -> str:
    """Returns an image name with the probabilities of the predicted and the true class."""
    predicted, true = map(_percent, (row.confidence, row.probability_of_label))
    return f"{_shorten(row.image_id)}\nProbability: predicted {predicted}, true {true}"


def _mark(axes: Axes) -> None:
    box = {"facecolor": ORANGE, "edgecolor": "none", "pad": 2.5}
    style: dict[str, Any] = {"color": "white", "weight": "bold", "fontsize": 10}
    axes.text(0.03, 0.97, "MISSED", va="top", transform=axes.transAxes, bbox=box, **style)


def _percent(probability: float) -> str:
    """Returns a probability in percent, such as "64 %", "under 1 %" or "over 99 %"."""
    if probability >= 0.995:
        return "over 99 %"
    return f"{100 * probability:.0f} %" if probability >= 0.005 else "under 1 %"


def _shorten(name: str) -> str:
    """Returns a name, or only its end if it is long."""
    return name if len(name) <= LINE_LENGTH else f"...{name[3 - LINE_LENGTH :]}"
