"""The picture of a search, made to be read at half its size and without color vision."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from skincnn.reporting.plots import GRAY, ORANGE

Places = npt.NDArray[np.float64]
Ticks = list[tuple[float, str]]

ABSENT = -0.12
"""Where a line runs that has no value for a hyperparameter; values are in 0..1."""
CROWDED = 0.25
"""Where the median is below this share of the largest value, the axis is logarithmic."""
MIN_FOR_IMPORTANCE = 10


def plot_search(
    values: pd.DataFrame,
    scores: pd.Series[float],
    objective: str,
    title: str,
    *,
    higher_is_better: bool = True,
) -> Figure:
    """Draws each trial as a line through its values, to its score on the right.

    Hyperparameters stand in the order of their importance, the most important first.

    Args:
        values: A column for each hyperparameter, a row for each trial, the best first.
        scores: The score of each trial.
        objective: The name of the score.
        title: What was searched, for the heading.
        higher_is_better: Whether the best score is the highest.
    """
    columns = {name: place(values[name]) for name in values.columns}
    places = {name: positions for name, (positions, _) in columns.items()}
    shares = importance(places, np.asarray(scores, np.float64))
    names = sorted(places, key=lambda name: -shares.get(name, 0.0))
    height, ticks = place(scores)
    figure = Figure(figsize=(2.5 + 1.6 * (len(names) + 1), 6.0), layout="constrained")
    axes = figure.add_subplot()
    lines = np.array([*(places[name] for name in names), height]).T
    shades = matplotlib.colormaps["viridis"](height if higher_is_better else 1 - height)
    for line, shade in reversed(list(zip(lines[1:], shades[1:], strict=True))):
        axes.plot(line, color=shade, linewidth=1.5, alpha=0.8)
    axes.plot(lines[0], color=ORANGE, linewidth=3.5, label="the best trial", zorder=3)
    for number, name in enumerate(names):
        _draw_axis(axes, number, columns[name][1])
    _draw_axis(axes, len(names), ticks)
    labels = [_label(name, shares) for name in names]
    axes.set_xticks(range(len(names) + 1), [*labels, objective.replace("_", "\n")])
    axes.tick_params(axis="x", labelsize=13, length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.3, len(names) + 0.7)
    axes.set_ylim(ABSENT - 0.06, 1.06)
    axes.spines[:].set_visible(False)
    title = f"{title}: {len(values)} trials"
    if shares:
        title += " (in brackets: the share in what the score depends on)"
    axes.set_title(title, fontsize=14, loc="left")
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 1.1), fontsize=13, frameon=False)
    return figure


def place(values: pd.Series[Any]) -> tuple[Places, Ticks]:
    """Returns where values stand on an axis, and what is written beside it.

    Returns:
        A height in 0..1 for each value, `ABSENT` where there is none; and heights with
        their labels: each value where they are few or no numbers, else both ends.
    """
    present = values.dropna()
    absent: Ticks = [(ABSENT, "not used")] if len(present) < len(values) else []
    heights = np.full(len(values), ABSENT)
    numbers = present.map(type).isin((int, float, np.int64, np.float64)).all()
    distinct = sorted(set(present)) if numbers else sorted(set(present), key=str)
    if numbers and len(distinct) > 5:
        scale = np.array([distinct[0], distinct[-1]], float)
        found = present.to_numpy(float)
        if scale[0] > 0 and np.median(found) < CROWDED * scale[1]:
            scale, found = np.log(scale), np.log(found)
        heights[values.notna()] = (found - scale[0]) / (scale[1] - scale[0])
        ends = [(0.0, f"{distinct[0]:.4g}"), (1.0, f"{distinct[-1]:.3g}")]
        return heights, [*absent, *ends]
    steps = np.linspace(0, 1, len(distinct)) if len(distinct) > 1 else [0.5]
    where = dict(zip(distinct, map(float, steps), strict=True))
    heights[values.notna()] = [where[value] for value in present]
    texts = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in distinct]
    return heights, [*absent, *zip(where.values(), texts, strict=True)]


def importance(places: dict[str, Places], scores: Places) -> dict[str, float]:
    """Returns the share of each hyperparameter in what the score depends on.

    A random forest learns the score; each column of it is then shuffled, and what that
    costs is divided by the sum. Empty below `MIN_FOR_IMPORTANCE` trials, or where nothing
    is learnt.

    References:
        Breiman, Random Forests (2001), Machine Learning 45.
    """
    if len(scores) < MIN_FOR_IMPORTANCE or not places:
        return {}
    inputs = np.array(list(places.values())).T
    forest = RandomForestRegressor(100, random_state=0).fit(inputs, scores)
    found = permutation_importance(forest, inputs, scores, random_state=0)
    costs = np.maximum(found.importances_mean, 0)
    if costs.sum() == 0:
        return {}
    return dict(zip(places, (costs / costs.sum()).tolist(), strict=True))


def _draw_axis(axes: Axes, number: int, ticks: Ticks) -> None:
    axes.axvline(number, color=GRAY, linewidth=1, zorder=0)
    for height, text in ticks:
        axes.annotate(
            text.replace("_", " "),
            (number, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=12,
            bbox={
                "boxstyle": "round,pad=0.1",
                "facecolor": "white",
                "alpha": 0.75,
                "lw": 0,
            },
            zorder=4,
        )


def _label(name: str, shares: dict[str, float]) -> str:
    text = name.rpartition(".")[2].replace("_", "\n")
    return f"{text}\n({shares[name]:.0%})" if shares else text
