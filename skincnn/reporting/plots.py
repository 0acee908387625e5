"""Figures, made to be read at half their size and without color vision."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from skincnn.classes import describe
from skincnn.metrics.classification import auc_per_class, average_precision_per_class
from skincnn.metrics.sample import Sample
from skincnn.reporting.report_text import label

BLUE, ORANGE = "#0072b2", "#d55e00"  # Okabe and Ito's color-blind safe pair
GRAY = "#777777"
PALETTE = (BLUE, "#009e73", "#cc79a7", "#000000")
"""More of their colors, for lines that also differ in their dashes."""
MAX_DECISION_THRESHOLD = 0.5
""""Act only if it is likelier than not" is the most that anyone would ask for."""


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
        count = int(confusion[row, column])
        share = f"{100 * rate:.0f} %" if rate >= 0.005 else "< 1 %"
        axes.text(
            column,
            row,
            f"{count}\n{share}" if count else "0",
            ha="center",
            va="center",
            fontsize=12 if count else 10,
            color="white" if rate > 0.55 else "black" if count else GRAY,
        )
    ticks = range(len(class_names))
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right"} if _long(class_names) else {}
    axes.set_xticks(ticks, class_names, fontsize=12, **slanted)
    rows = [
        f"{name}\n(n = {int(total)})"
        for name, total in zip(class_names, totals[:, 0], strict=True)
    ]
    axes.set_yticks(ticks, rows, fontsize=12)
    axes.set_xlabel("predicted class", fontsize=12)
    axes.set_ylabel("true class", fontsize=12)
    axes.set_title(f"Confusion matrix. {title}", fontsize=13)
    _emphasise([*axes.get_xticklabels(), *axes.get_yticklabels()])
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
    figure.suptitle(f"Learning curves. {title}", fontsize=12)
    left, right = figure.subplots(1, 2)
    left.plot(history["epoch"], history["loss"], color=BLUE, marker="o", markersize=4)
    left.set_title("training loss (weighted)", fontsize=12)
    styles = itertools.cycle(zip(PALETTE, ("-", "--", ":", "-."), strict=True))
    for name in history.columns[history.columns.str.startswith("val_")]:
        text = label(name.removeprefix("val_"))
        color, style = next(styles)
        right.plot(
            history["epoch"], history[name], style, color=color, linewidth=2, label=text
        )
    right.axvline(best_epoch, color=ORANGE, linewidth=1.5, label="epoch kept")
    right.set_title("validation", fontsize=12)
    right.set_ylim(0, 1)
    right.legend(fontsize=10, loc="best")
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


def plot_roc_curves(
    y_true: npt.NDArray[np.integer[Any]],
    y_prob: npt.NDArray[np.floating[Any]],
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Draws each class's ROC curve, the class against all others, in a panel of its own.

    Args:
        y_true: Integer labels [num_images].
        y_prob: Probabilities [num_images, num_classes].
        class_names: The names of the classes, in order.
        title: What was predicted, for the heading.
    """
    sample = Sample(y_true, y_prob)
    aucs = auc_per_class(sample)
    figure, panels = _panels(class_names, y_true, f"ROC curves. {title}")
    for (true, false), auc, axes in zip(sample.curves, aucs, panels, strict=True):
        if not np.isnan(auc):
            axes.plot(false / false[-1], true / true[-1], color=BLUE, linewidth=2)
            _add_to_title(axes, f"AUC {auc:.2f}")
        axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":")
    figure.supxlabel("1 - specificity", fontsize=12)
    figure.supylabel("sensitivity", fontsize=12)
    return figure


def plot_precision_recall_curves(
    y_true: npt.NDArray[np.integer[Any]],
    y_prob: npt.NDArray[np.floating[Any]],
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Draws each class's precision over its recall, beside its share of the pictures.

    Args:
        y_true: Integer labels [num_images].
        y_prob: Probabilities [num_images, num_classes].
        class_names: The names of the classes, in order.
        title: What was predicted, for the heading.
    """
    sample = Sample(y_true, y_prob)
    averages = average_precision_per_class(sample)
    figure, panels = _panels(class_names, y_true, f"Precision and recall. {title}")
    for (true, false), average, axes in zip(sample.curves, averages, panels, strict=True):
        if not np.isnan(average):
            precision = true[1:] / (true + false)[1:]
            axes.step(true[1:] / true[-1], precision, color=BLUE, linewidth=2, where="pre")
            _add_to_title(axes, f"AP {average:.2f}")
        axes.axhline(true[-1] / len(y_true), color=GRAY, linestyle=":")
    figure.supxlabel("recall (dotted: the share of the class)", fontsize=12)
    figure.supylabel("precision", fontsize=12)
    return figure


def plot_reliability(
    before: pd.DataFrame, after: pd.DataFrame, temperature: float, title: str
) -> Figure:
    """Draws how often the model is right over how sure it is, with and without temperature.

    Args:
        before: From `calibration.reliability`, of the probabilities as they are.
        after: From the same function, of those with the temperature.
        temperature: Fitted on validation.
        title: What was predicted, for the heading.
    """
    figure = Figure(figsize=(8.6, 4.9), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr,call-arg]
    figure.suptitle(f"Calibration. {title}", fontsize=12)
    grid = figure.subplots(
        2, 2, sharex=True, sharey="row", gridspec_kw={"height_ratios": [3, 1]}
    )
    headings = ("as trained", f"with temperature {temperature:.2f}")
    for (upper, lower), bins, heading in zip(
        grid.T, (before, after), headings, strict=True
    ):
        filled = bins[bins["num_images"] > 0]
        upper.plot([0, 1], [0, 1], color=GRAY, linestyle=":")
        upper.plot(
            filled["confidence"], filled["accuracy"], color=BLUE, marker="o", linewidth=2
        )
        upper.set_title(heading, fontsize=12)
        upper.grid(alpha=0.3)
        upper.set_ylim(0, 1)
        lower.bar(
            bins["low"],
            bins["num_images"],
            bins["high"] - bins["low"],
            align="edge",
            color=BLUE,
            edgecolor="white",
        )
        lower.set_xlim(0, 1)
        lower.set_xlabel("confidence (the largest probability)", fontsize=11)
    grid[0, 0].set_ylabel("accuracy", fontsize=11)
    grid[1, 0].set_ylabel("pictures", fontsize=11)
    return figure


def plot_decision_curves(curves: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draws the net benefit of acting on the model, on everyone and on no one.

    Args:
        curves: Name of a target to `operating.decision_curve`.
        title: What was predicted, for the heading.
    """
    figure = Figure(figsize=(4.5 * len(curves), 3.8), layout="constrained")
    figure.suptitle(f"Decision curves. {title}", fontsize=12)
    grid = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, curve) in zip(grid, curves.items(), strict=True):
        low = curve[curve["threshold"] <= MAX_DECISION_THRESHOLD]
        axes.plot(
            low["threshold"], low["model"], color=BLUE, linewidth=2, label="the model"
        )
        axes.plot(
            low["threshold"], low["all"], color=ORANGE, linestyle="--", label="everyone"
        )
        axes.axhline(0, color=GRAY, linestyle=":", label="no one")
        top = max(float(low["model"].max()), float(low["all"].max()), 0.01)
        axes.set_ylim(-0.25 * top, 1.1 * top)
        axes.set_title(f"acting on {name}", fontsize=12)
        axes.set_xlabel("probability from which on one acts", fontsize=11)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=10, loc="upper right")
    grid[0].set_ylabel("net benefit per picture", fontsize=11)
    return figure


def plot_subgroups(
    subgroups: Sequence[Mapping[str, Any]], overall: float, title: str
) -> Figure:
    """Draws the accuracy of each subgroup with its interval, in the order of the list.

    Args:
        subgroups: Those of report.json, "scores" among their keys.
        overall: The accuracy of all pictures.
        title: What was predicted, for the heading.
    """
    rows = [group for group in subgroups if group["scores"]]
    labels = [
        f"{group['attribute']}: {group['value']} (n = {group['num_images']})"
        for group in rows
    ]
    # As narrow as the names allow: it must be read on a telephone.
    width = 3.0 + 0.075 * max(map(len, labels))
    height = 1.4 + 0.27 * max(len(rows), 3)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(rows))[::-1]
    for place, group in zip(places, rows, strict=True):
        found = group["scores"]["accuracy"]
        axes.plot([found["low"], found["high"]], [place, place], color=BLUE, linewidth=2)
        axes.plot(found["value"], place, "s", color=BLUE, markersize=6, clip_on=False)
    axes.axvline(overall, color=ORANGE, linestyle="--", label="all pictures")
    axes.set_yticks(places, labels, fontsize=10)
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy with its interval", fontsize=11)
    figure.suptitle(f"Subgroups\n{title}", fontsize=12)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=10, loc="lower left")
    return figure


def to_png(figure: Figure) -> bytes:
    """Returns the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _panels(
    class_names: Sequence[str], y_true: npt.NDArray[np.integer[Any]], title: str
) -> tuple[Figure, list[Any]]:
    """Returns a panel of the unit square for each class, named with its pictures."""
    columns = min(4, len(class_names))
    rows = -(-len(class_names) // columns)
    extra = 0.2 if _long(class_names) else 0.0  # names on a line of their own
    width, height = 2.4 * columns + 0.6, (2.4 + extra) * rows + 1.0
    figure = Figure(figsize=(width, height))
    # Places by hand: to have them found takes longer than all the rest.
    figure.subplots_adjust(
        left=0.85 / width,
        right=1 - 0.15 / width,
        bottom=0.6 / height,
        top=1 - (0.65 + extra) / height,
    )
    figure.subplots_adjust(wspace=0.12, hspace=0.25 + extra / 2)
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for number in range(len(class_names), len(panels)):
        panels[number].set_axis_off()
        if number >= columns:
            panels[number - columns].tick_params(labelbottom=True)
    for index, (axes, name) in enumerate(zip(panels, class_names, strict=False)):
        count = int((y_true == index).sum())
        between = "\n" if extra else " "
        text = f"{name}{between}(n = {count})" if count else f"no {name}"
        axes.set_title(text, fontsize=11)
        _emphasise([axes.title])
        axes.set_xticks([0, 0.5, 1])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
    return figure, panels[: len(class_names)]


def _long(class_names: Sequence[str]) -> bool:
    """Returns whether the names would run into each other beside each other."""
    return max(map(len, class_names)) > 8


def _add_to_title(axes: Any, text: str) -> None:
    axes.title.set_text(f"{axes.get_title()}: {text}")


def _emphasise(labels: Sequence[Any]) -> None:
    """Sets those of melanoma in bold: it is what must not be missed."""
    for shown in labels:
        name = shown.get_text().split("\n")[0].split(" (")[0]
        if describe([name])[name].name == "mel":
            shown.set_fontweight("bold")


def plot_corruptions(content: Mapping[str, Any], title: str) -> Figure:
    """Draws the scores of each corruption, a row, and severity, a column, as a heat map.

    A panel of balanced accuracy and, where it is known, one of melanoma sensitivity; the
    first column is that of the pictures as they are.

    Args:
        content: From `robustness.score_corruptions`.
        title: What was predicted, for the heading.
    """
    clean, rows = content["clean"], content["rows"]
    scores = {"balanced_accuracy": "balanced accuracy"}
    found = clean["melanoma_sensitivity"]
    if found is not None and found["value"] is not None:
        scores["melanoma_sensitivity"] = "melanoma sensitivity"
    names = list(dict.fromkeys(row["name"] for row in rows))
    figure = Figure(
        figsize=(1.9 + 4.6 * len(scores), 1.5 + 0.4 * len(names)), layout="constrained"
    )
    figure.suptitle(title, fontsize=13)
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, (score, heading) in zip(panels, scores.items(), strict=True):
        values = [
            [clean[score]["value"]]
            + [row[score]["value"] for row in rows if row["name"] == name]
            for name in names
        ]
        _heat_map(axes, np.array(values, float))
        axes.set_title(heading, fontsize=12)
        axes.set_xlabel("severity", fontsize=12)
    panels[0].set_yticks(
        range(len(names)), [name.replace("_", " ") for name in names], fontsize=12
    )
    return figure


def _heat_map(axes: Any, values: npt.NDArray[np.float64]) -> None:
    """Draws scores in 0..1, [rows, 1 + severities], each with its number."""
    most = max(float(values.max()), 0.01)
    axes.imshow(values, cmap="viridis", vmin=0, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=12,
            color="white" if value < 0.6 * most else "black",
        )
    axes.axvline(0.5, color="white", linewidth=4)
    axes.set_xticks(
        range(values.shape[1]), ["as is", *range(1, values.shape[1])], fontsize=12
    )
