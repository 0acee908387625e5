"""Figures of the results of an evaluation.

The heading of each figure contains the argument `title`, which describes the images.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from skincnn.classes import NOTHING_DECLARED, LesionClass, describe
from skincnn.data.characteristics import ImageFlow
from skincnn.evaluation.results import (
    SubgroupScores,
    TargetScores,
)
from skincnn.evaluation.robustness import (
    CorruptionResult,
    CorruptionScores,
)
from skincnn.metrics.classification import auc_per_class, average_precision_per_class
from skincnn.metrics.sample import Sample
from skincnn.reporting.labels import class_label, corruption_label, subgroup_label
from skincnn.reporting.plots import BLUE, GRAY, ORANGE, draw_estimate

MAX_DECISION_THRESHOLD = 0.5
"""Largest threshold of the decision curves. A biopsy is usually indicated at a lower
probability of melanoma."""
LINE_LENGTH = 22
"""Maximum number of characters in a line of a class label."""
LINE_HEIGHT = 0.17
"""Height of a line in inches."""


def plot_confusion_matrix(
    confusion: npt.NDArray[Any],
    class_names: Sequence[str],
    title: str,
    declared: Mapping[str, LesionClass] = NOTHING_DECLARED,
) -> Figure:
    """Draws each count, and its share of the true class, which determines the color.

    `confusion` contains the counts, [num_classes, num_classes]; rows are true classes. For
    `declared`, see `skincnn.classes.describe`.
    """
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)
    figure = Figure(figsize=(9.2, 8.2), layout="constrained")
    axes = figure.add_subplot()
    colors = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        count = int(confusion[row, column])
        percent = f"{100 * share:.0f} %" if share >= 0.005 else "< 1 %"
        axes.text(
            column,
            row,
            f"{count}\n{percent}" if count else "0",
            ha="center",
            va="center",
            fontsize=12 if count else 10,
            color="white" if share > 0.55 else "black" if count else GRAY,
        )
    ticks = range(len(class_names))
    columns = [_wrap(name, declared) for name in class_names]
    rows = [f"{name}\nn = {int(n)}" for name, n in zip(columns, totals[:, 0], strict=True)]
    axes.set_xticks(
        ticks, columns, fontsize=11, rotation=45, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(ticks, rows, fontsize=11)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        _style_classes(labels, class_names, declared)
    axes.set_xlabel("predicted class", fontsize=12)
    axes.set_ylabel("true class", fontsize=12)
    axes.set_title(f"Confusion matrix\n{title}", fontsize=13)
    bar = figure.colorbar(colors, ax=axes, shrink=0.8)
    bar.set_label("share of the true class", fontsize=12)
    return figure


def plot_roc_curves(
    sample: Sample,
    class_names: Sequence[str],
    title: str,
    declared: Mapping[str, LesionClass] = NOTHING_DECLARED,
) -> Figure:
    """Draws the one-vs-rest ROC curve of each class, in one panel per class."""
    aucs = auc_per_class(sample)
    texts = [f"AUC {auc:.2f}" for auc in aucs]
    figure, panels = _panels(class_names, sample, texts, f"ROC curves\n{title}", declared)
    for (true, false), auc, axes in zip(sample.curves, aucs, panels, strict=True):
        if not np.isnan(auc):
            axes.plot(false / false[-1], true / true[-1], color=BLUE, linewidth=2)
        axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":")
    figure.supxlabel("1 - specificity", fontsize=12)
    figure.supylabel("sensitivity", fontsize=12)
    return figure


def plot_precision_recall_curves(
    sample: Sample,
    class_names: Sequence[str],
    title: str,
    declared: Mapping[str, LesionClass] = NOTHING_DECLARED,
) -> Figure:
    """Draws the precision-recall curve of each class, in one panel per class."""
    averages = average_precision_per_class(sample)
    texts = [f"AP {average:.2f}" for average in averages]
    heading = f"Precision-recall curves (AP: average precision)\n{title}"
    figure, panels = _panels(class_names, sample, texts, heading, declared)
    for (true, false), average, axes in zip(sample.curves, averages, panels, strict=True):
        if not np.isnan(average):
            precision = true[1:] / (true + false)[1:]
            axes.step(true[1:] / true[-1], precision, color=BLUE, linewidth=2, where="pre")
        axes.axhline(true[-1] / len(sample.y_true), color=GRAY, linestyle=":")
    figure.supxlabel("recall (dotted line: prevalence of the class)", fontsize=12)
    figure.supylabel("precision", fontsize=12)
    return figure


def plot_target_calibration(targets: Mapping[str, TargetScores], title: str) -> Figure:
    """Draws the observed share of each target against its calibrated probability.

    Each point is a probability band: its mean probability, and its observed share with the
    confidence interval. Below, bars show the number of images in each band.
    """
    figure = Figure(figsize=(4.5 * len(targets), 5.1), layout="constrained")
    figure.suptitle(f"Reliability curves\n{title}", fontsize=12)
    grid = figure.subplots(
        2, len(targets), sharex=True, squeeze=False, height_ratios=[3, 1]
    )
    for (upper, lower), (name, target) in zip(grid.T, targets.items(), strict=True):
        for band in target.calibration.bands:
            share, mean = band.observed, band.predicted
            if mean is None or share.value is None:
                continue
            if share.low is not None and share.high is not None:
                upper.plot([mean, mean], [share.low, share.high], color=BLUE, linewidth=2)
            upper.plot(mean, share.value, "s", color=BLUE, markersize=6, clip_on=False)
            style = {"align": "edge", "color": BLUE, "edgecolor": "white"}
            lower.bar(band.low, band.num_images, band.high - band.low, **style)
        upper.plot([0, 1], [0, 1], color=GRAY, linestyle=":")
        upper.set_ylim(-0.02, 1.02)
        upper.set_xlim(-0.02, 1.02)
        upper.grid(alpha=0.3)
        upper.set_title(name if name == "melanoma" else "malignant lesions", fontsize=12)
        lower.set_yscale("symlog", linthresh=1)
        lower.set_xlabel("calibrated probability", fontsize=11)
    grid[0, 0].set_ylabel("observed share", fontsize=11)
    grid[1, 0].set_ylabel("images", fontsize=11)
    return figure


def plot_reliability(before: pd.DataFrame, after: pd.DataFrame, title: str) -> Figure:
    """Draws reliability diagrams of the largest probability before and after calibration.

    `before` and `after` are tables of `skincnn.metrics.calibration.reliability`.
    """
    figure = Figure(figsize=(8.6, 5.1), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr,call-arg]
    figure.suptitle(f"Reliability diagram\n{title}", fontsize=12)
    grid = figure.subplots(
        2, 2, sharex=True, sharey="row", gridspec_kw={"height_ratios": [3, 1]}
    )
    for (upper, lower), bins in zip(grid.T, (before, after), strict=True):
        filled = bins[bins["num_images"] > 0]
        upper.plot([0, 1], [0, 1], color=GRAY, linestyle=":")
        upper.plot(
            filled["confidence"], filled["accuracy"], color=BLUE, marker="o", linewidth=2
        )
        upper.grid(alpha=0.3)
        upper.set_ylim(0, 1)
        width = bins["high"] - bins["low"]
        style = {"align": "edge", "color": BLUE, "edgecolor": "white"}
        lower.bar(bins["low"], bins["num_images"], width, **style)
        lower.set_xlim(0, 1)
        lower.set_xlabel("confidence (largest probability)", fontsize=11)
    grid[0, 0].set_title("before calibration", fontsize=12)
    grid[0, 1].set_title("after calibration", fontsize=12)
    grid[0, 0].set_ylabel("accuracy", fontsize=11)
    grid[1, 0].set_ylabel("images", fontsize=11)
    return figure


def plot_decision_curves(curves: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draws the decision curve of each target, compared with treating all or none."""
    figure = Figure(figsize=(4.5 * len(curves), 4.0), layout="constrained")
    figure.suptitle(f"Decision curves\n{title}", fontsize=12)
    grid = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, curve) in zip(grid, curves.items(), strict=True):
        low = curve[curve["threshold"] <= MAX_DECISION_THRESHOLD]
        axes.plot(low["threshold"], low["model"], color=BLUE, linewidth=2, label="model")
        axes.plot(
            low["threshold"], low["all"], color=ORANGE, linestyle="--", label="treat all"
        )
        axes.axhline(0, color=GRAY, linestyle=":", label="treat none")
        top = max(float(low["model"].max()), float(low["all"].max()), 0.01)
        axes.set_ylim(-0.25 * top, 1.1 * top)
        axes.set_title(name if name == "melanoma" else "malignant lesions", fontsize=12)
        axes.set_xlabel("threshold probability", fontsize=11)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=10, loc="upper right")
    grid[0].set_ylabel("net benefit per image", fontsize=11)
    return figure


def plot_subgroups(
    subgroups: Sequence[SubgroupScores], overall: float | None, title: str
) -> Figure:
    """Draws the accuracy of each scored subgroup with its interval.

    At least one subgroup must have scores. `overall` is the accuracy on all images, drawn
    as a line; None for no line.
    """
    rows = [group for group in subgroups if group.scores]
    labels = [
        f"{subgroup_label(group.attribute)}: {subgroup_label(group.value)} "
        f"(n = {group.num_images})"
        for group in rows
    ]
    # As narrow as the labels allow, to be readable on a phone.
    width = 3.0 + 0.075 * max(map(len, labels))
    height = 1.4 + 0.27 * max(len(rows), 3)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    positions = np.arange(len(rows))[::-1]
    for y, group in zip(positions, rows, strict=True):
        draw_estimate(axes, y, group.scores["accuracy"], BLUE)
    if overall is not None:
        axes.axvline(overall, color=ORANGE, linestyle="--", label="all images")
    axes.set_yticks(positions, labels, fontsize=10, parse_math=False)
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy with confidence interval", fontsize=11)
    figure.suptitle(f"Accuracy of subgroups\n{title}", fontsize=12)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=10, loc="outside lower right")
    return figure


def plot_corruptions(result: CorruptionResult, title: str) -> Figure:
    """Draws heat maps of scores: a row for each corruption, a column for each severity.

    The first map shows balanced accuracy. The second map shows melanoma sensitivity, if it
    is known. The first column of each map shows the score on the clean images.
    """
    headings = {"balanced_accuracy": "balanced accuracy"}
    sensitivity = result.clean.melanoma_sensitivity
    if sensitivity is not None and sensitivity.value is not None:
        headings["melanoma_sensitivity"] = "melanoma sensitivity"
    scores: dict[str, list[CorruptionScores]] = {}
    for row in result.rows:
        scores.setdefault(row.name, [result.clean]).append(row.scores)
    size = (1.9 + 4.6 * len(headings), 1.8 + 0.4 * len(scores))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"Corrupted images\n{title}", fontsize=13)
    panels = figure.subplots(1, len(headings), sharey=True, squeeze=False)[0]
    for axes, (name, heading) in zip(panels, headings.items(), strict=True):
        values = [[getattr(one, name).value for one in row] for row in scores.values()]
        _heat_map(axes, np.array(values, float))
        axes.set_title(heading, fontsize=12)
        axes.set_xlabel("severity", fontsize=12)
    panels[0].set_yticks(range(len(scores)), map(corruption_label, scores), fontsize=12)
    return figure


def plot_flow(flow: ImageFlow, splits: Sequence[str], title: str) -> Figure:
    """Draws the flow of the images into the splits, as in CONSORT and STARD.

    `splits` are the texts of the lowest boxes.
    """
    figure = Figure(figsize=(9.2, 6.2), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    axes.set_title(f"Flow of the images\n{title}", fontsize=12)
    main, side = 0.32, 0.79
    steps: tuple[tuple[float, str, str, Mapping[str, int]], ...] = (
        (0.92, f"images in the source files\n{flow.num_read:,}", "excluded", flow.excluded),
        (0.58, f"images in the dataset\n{flow.num_stored:,}", "not used", flow.unused),
    )
    if not flow.splits:  # several models, which leave out different images
        steps = steps[:1]
    places = (np.arange(len(splits)) + 0.5) / len(splits)
    bar = 0.25
    _draw_line(axes, (main, 0.92), (main, bar))
    _draw_line(axes, (min(main, *places), bar), (max(main, *places), bar))
    for place in places:
        _draw_line(axes, (place, bar), (place, 0.1))
    for height, text, label, reasons in steps:
        _draw_line(axes, (main, height - 0.16), (side, height - 0.16))
        lines = [f"{label}: {sum(reasons.values()):,} images"]
        for reason, count in reasons.items():
            lines += textwrap.wrap(f"{reason}: {count:,}", 40)
        _draw_box(axes, (side, height - 0.16), "\n".join(lines), fontsize=10)
        _draw_box(axes, (main, height), text)
    if not flow.splits:
        _draw_box(axes, (main, 0.58), f"images in the dataset\n{flow.num_stored:,}")
    for place, text in zip(places, splits, strict=True):
        _draw_box(axes, (place, 0.1), text)
    return figure


def _draw_box(
    axes: Axes, center: tuple[float, float], text: str, fontsize: int = 11
) -> None:
    box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": BLUE}
    axes.text(*center, text, ha="center", va="center", fontsize=fontsize, bbox=box)


def _draw_line(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws a line; boxes that are drawn later cover its ends."""
    axes.plot(*zip(start, end, strict=True), color=GRAY, linewidth=1.2)


def _heat_map(axes: Axes, values: npt.NDArray[np.float64]) -> None:
    """Draws a heat map of scores, [num_corruptions, 1 + num_severities] in 0..1."""
    highest = max(float(values.max()), 0.01)
    axes.imshow(values, cmap="viridis", vmin=0, vmax=highest, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axes.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=12,
            color="white" if value < 0.6 * highest else "black",
        )
    axes.axvline(0.5, color="white", linewidth=4)
    axes.set_xticks(
        range(values.shape[1]), ["clean", *range(1, values.shape[1])], fontsize=12
    )


def _panels(
    class_names: Sequence[str],
    sample: Sample,
    scores: Sequence[str],
    title: str,
    declared: Mapping[str, LesionClass],
) -> tuple[Figure, list[Axes]]:
    """Returns a figure with one panel per class, titled with the class and its score."""
    columns = min(4, len(class_names))
    rows = -(-len(class_names) // columns)
    headings = [
        f"{_wrap(name, declared)}\n{f'n = {count:.0f}, {score}' if count else 'no images'}"
        for name, count, score in zip(class_names, sample.counts, scores, strict=True)
    ]
    heading = LINE_HEIGHT * max(text.count("\n") + 1 for text in headings) + 0.1
    width, height = 2.4 * columns + 0.6, (2.2 + heading) * rows + 1.2
    figure = Figure(figsize=(width, height))
    # Automatic layout would take longer than the rest of the figure.
    figure.subplots_adjust(
        left=0.85 / width,
        right=1 - 0.15 / width,
        bottom=0.6 / height,
        top=1 - (0.6 + heading) / height,
        wspace=0.12,
        hspace=(heading + 0.05) / 2.2,
    )
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for number in range(len(class_names), len(panels)):
        panels[number].set_axis_off()
        if number >= columns:
            panels[number - columns].tick_params(labelbottom=True)
    panels = panels[: len(class_names)]
    for axes, text in zip(panels, headings, strict=True):
        axes.set_title(text, fontsize=10)
        axes.set_xticks([0, 0.5, 1])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
    _style_classes([axes.title for axes in panels], class_names, declared)
    return figure, panels


def _wrap(class_name: str, declared: Mapping[str, LesionClass]) -> str:
    """Returns the label of a class, broken into short lines."""
    label = class_label(class_name, declared)
    return textwrap.fill(label, LINE_LENGTH, break_long_words=False)


def _style_classes(
    texts: Sequence[Text], class_names: Sequence[str], declared: Mapping[str, LesionClass]
) -> None:
    """Sets melanoma in bold, and turns off mathematical notation in class names."""
    known = describe(class_names, declared)
    for text, name in zip(texts, class_names, strict=True):
        text.set_parse_math(False)
        if known[name].name == "mel":
            text.set_fontweight("bold")
