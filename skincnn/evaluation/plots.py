"""Figures, made to be read at half their size and without colour vision."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

BLUE, ORANGE = "#0072b2", "#d55e00"  # Okabe and Ito's colour-blind safe pair


def plot_confusion_matrix(
    confusion: npt.NDArray[np.floating[Any]], class_names: Sequence[str], title: str
) -> Figure:
    """Draws counts, shaded by the share of each true class, with that share below.

    Args:
        confusion: Counts [num_classes, num_classes], rows are the true classes.
        class_names: The names of the classes, in order.
        title: What was predicted, for the heading.
    """
    totals = confusion.sum(axis=1, keepdims=True)
    rates = np.divide(
        confusion, totals, out=np.zeros_like(confusion, float), where=totals > 0
    )
    figure = Figure(figsize=(7.2, 6.2), layout="constrained")
    axes = figure.add_subplot()
    shades = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    for (row, column), rate in np.ndenumerate(rates):
        axes.text(
            column,
            row,
            f"{int(confusion[row, column])}\n{100 * rate:.0f} %",
            ha="center",
            va="center",
            fontsize=10,
            color="white" if rate > 0.55 else "black",
        )
    ticks = range(len(class_names))
    axes.set_xticks(ticks, class_names, fontsize=12)
    rows = [
        f"{name}\n(n = {int(total)})"
        for name, total in zip(class_names, totals[:, 0], strict=True)
    ]
    axes.set_yticks(ticks, rows, fontsize=12)
    axes.set_xlabel("predicted class", fontsize=12)
    axes.set_ylabel("true class", fontsize=12)
    axes.set_title(title, fontsize=13)
    bar = figure.colorbar(shades, ax=axes, shrink=0.8)
    bar.set_label("share of the true class", fontsize=12)
    return figure


def plot_learning_curves(history: pd.DataFrame, best_epoch: int, title: str) -> Figure:
    """Draws the training loss, and the validation scores with the epoch that was kept.

    Args:
        history: Columns epoch, loss and val_<metric>, a row for each epoch.
        best_epoch: The epoch whose weights were kept, counted from 1.
        title: What was trained on, for the heading.
    """
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    figure.suptitle(title, fontsize=12)
    left, right = figure.subplots(1, 2)
    left.plot(history["epoch"], history["loss"], color=BLUE, marker="o", markersize=4)
    left.set_title("training loss (weighted)", fontsize=12)
    styles = itertools.cycle(["-", "--", ":", "-."])
    for name in history.columns[history.columns.str.startswith("val_")]:
        label = name.removeprefix("val_").replace("_", " ")
        right.plot(history["epoch"], history[name], next(styles), label=label)
    right.axvline(best_epoch, color=ORANGE, linewidth=1.5, label="epoch kept")
    right.set_title("validation", fontsize=12)
    right.set_ylim(0, 1)
    right.legend(fontsize=10, loc="lower right")
    for axes in (left, right):
        axes.set_xlabel("epoch", fontsize=11)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def plot_learning_rates(test: pd.DataFrame, suggestion: float | None, title: str) -> Figure:
    """Draws the loss against the learning rate, and the rate that is suggested.

    Args:
        test: Columns learning_rate, loss and smoothed_loss, a row for each step.
        suggestion: The rate, if there is one.
        title: What was trained, for the heading.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    rates = test["learning_rate"]
    axes.plot(rates, test["loss"], color="0.75", label="loss of a step")
    axes.plot(rates, test["smoothed_loss"], color=BLUE, linewidth=2, label="smoothed")
    if suggestion is not None:
        axes.axvline(
            suggestion, color=ORANGE, linestyle="--", label=f"suggested: {suggestion:.1e}"
        )
    axes.set_xscale("log")
    # The last losses may be as large as they like, or no numbers; the fall is what counts.
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
    """Returns the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
