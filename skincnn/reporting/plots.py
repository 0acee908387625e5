"""Style of all figures, and the figures of a training run.

Figures stay readable at half their size and with color vision deficiency.
"""

from __future__ import annotations

import io
import itertools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skincnn.metrics.bootstrap import Estimate
from skincnn.reporting.labels import metric_label

BLUE, ORANGE = "#0072b2", "#d55e00"  # color-blind safe pair of Okabe and Ito
GRAY = "#777777"
PALETTE = (BLUE, "#009e73", "#cc79a7", "#000000")
"""Okabe-Ito colors for lines that also differ in their dash pattern."""
DPI = 110


def plot_learning_curves(
    history: pd.DataFrame, best_epoch: int | None, title: str
) -> Figure:
    """Draws the training loss and the validation metrics of each epoch.

    `history` has the columns epoch, loss and val_<metric>. Epochs are counted from 1.
    """
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    figure.suptitle(f"Learning curves\n{title}", fontsize=12)
    left, right = figure.subplots(1, 2)
    left.plot(history["epoch"], history["loss"], color=BLUE, marker="o", markersize=4)
    left.set_title("training loss", fontsize=12)
    styles = itertools.cycle(zip(PALETTE, ("-", "--", ":", "-."), strict=True))
    for name in history.columns[history.columns.str.startswith("val_")]:
        text = metric_label(name.removeprefix("val_"))
        color, style = next(styles)
        right.plot(
            history["epoch"], history[name], style, color=color, linewidth=2, label=text
        )
    if best_epoch is not None:
        right.axvline(best_epoch, color=ORANGE, linewidth=1.5, label="selected epoch")
    right.set_title("validation metrics", fontsize=12)
    right.set_ylim(0, 1)
    right.legend(fontsize=10, loc="best")
    for axes in (left, right):
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
    # The last losses may be huge or infinite; the axis shows the decrease before them.
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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def draw_estimate(axes: Axes, y: float, score: Estimate, color: str) -> None:
    """Draws a score and its interval, if they exist, at the height `y`."""
    if score.low is not None and score.high is not None:
        axes.plot([score.low, score.high], [y, y], color=color, linewidth=2)
    if score.value is not None:
        axes.plot(score.value, y, "s", color=color, markersize=6, clip_on=False)
