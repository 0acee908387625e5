"""The results of a search: a table, a figure and the best configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from keras_tuner.engine.trial import Trial, TrialStatus
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from skincnn.files import replacing, write_json, write_text
from skincnn.metrics.classification import find_metric
from skincnn.reporting.plots import GRAY, ORANGE, to_png
from tuning.explore import active_values
from tuning.hypermodel import TrainingModel

Positions = npt.NDArray[np.float64]
Ticks = list[tuple[float, str]]

INACTIVE = -0.12
"""Axis position of inactive hyperparameters; positions of values are in 0..1."""
LOG_BELOW = 0.25
"""An axis of more than five different numbers, all above 0, is logarithmic if median /
maximum is below this fraction."""
MIN_FOR_IMPORTANCE = 10

FIRST = ["rank", "trial", "score"]
LAST = ["best_epoch", "epochs", "seconds", "folder"]
NUM_PRINTED = 10
"""Number of rows of the leaderboard that are printed."""


def make_leaderboard(trials: Iterable[Trial], model: TrainingModel) -> pd.DataFrame:
    """Returns a table with one row per completed trial, the best trial first.

    The columns are rank, trial, score (mean over executions), one column for each
    hyperparameter (NaN if inactive), best_epoch and epochs (means over executions), seconds
    (total), and folder (of the first execution, relative to the search directory).

    Raises:
        OSError: See `read_result`.
    """
    rows = []
    for trial in trials:
        if trial.status != TrialStatus.COMPLETED:
            continue
        hp = trial.hyperparameters
        folder = model.path(model.config(hp))
        results = model.results(hp)
        rows.append(
            {
                "trial": trial.trial_id,
                "score": trial.score,
                **active_values(hp),
                "best_epoch": np.mean([result.best_epoch for result in results]),
                "epochs": np.mean([result.epochs for result in results]),
                "seconds": round(sum(result.seconds for result in results), 1),
                "folder": str(folder.relative_to(model.folder.parent)),
            }
        )
    higher = find_metric(model.base.train.monitor).higher_is_better
    table = pd.DataFrame(rows, columns=None if rows else ["trial", "score", *LAST])
    table = table.sort_values(
        ["score", "trial"], ascending=[not higher, True], ignore_index=True
    )
    table.insert(0, "rank", range(1, len(table) + 1))
    names = [name for name in table.columns if name not in (*FIRST, *LAST)]
    return table[[*FIRST, *sorted(names), *LAST]]


def write_leaderboard(
    table: pd.DataFrame, best: Trial, model: TrainingModel, workdir: Path, title: str
) -> None:
    """Writes leaderboard.csv, search.png, and best.json for `skincnn train --config`.

    `table` is from `make_leaderboard`, and `best` is the trial in its first row.

    Raises:
        OSError: A file cannot be written.
    """
    objective = model.base.train.monitor
    write_text(workdir / "leaderboard.csv", table.to_csv(index=False))
    write_json(workdir / "best.json", model.config(best.hyperparameters).to_dict())
    higher = find_metric(objective).higher_is_better
    values = table.drop(columns=[*FIRST, *LAST])
    figure = plot_search(values, table["score"], objective, title, higher_is_better=higher)
    with replacing(workdir / "search.png") as temporary:
        temporary.write_bytes(to_png(figure))


def format_leaderboard(table: pd.DataFrame) -> str:
    """Returns the first rows of the leaderboard as text for the terminal."""
    rows = table.head(NUM_PRINTED).drop(columns=["best_epoch", "folder"])
    values = [name for name in rows.columns if name not in (*FIRST, *LAST)]
    # Constant hyperparameters and full paths would not fit into a line of the terminal.
    rows = rows.drop(columns=[n for n in values if rows[n].astype(str).nunique() == 1])
    rows = rows.rename(columns=lambda name: name.rpartition(".")[2])
    text: str = rows.to_string(
        index=False, na_rep="-", float_format=lambda value: f"{value:.4g}"
    )
    return text


def plot_search(
    values: pd.DataFrame,
    scores: pd.Series[float],
    objective: str,
    title: str,
    *,
    higher_is_better: bool = True,
) -> Figure:
    """Returns a parallel-coordinates plot with one line per trial.

    The axes are the hyperparameters, in order of decreasing `importance`, and the score,
    whose name is `objective`. If `importance` returns no values, the hyperparameters are in
    the order of the columns of `values`, which has one column per hyperparameter. `values`
    and `scores` have one row per trial, the best trial first.
    """
    columns = {name: axis_positions(values[name]) for name in values.columns}
    positions = {name: heights for name, (heights, _) in columns.items()}
    shares = importance(positions, np.asarray(scores, np.float64))
    names = sorted(positions, key=lambda name: -shares.get(name, 0.0))
    height, ticks = axis_positions(scores)
    figure = Figure(figsize=(2.5 + 1.6 * (len(names) + 1), 6.0), layout="constrained")
    axes = figure.add_subplot()
    lines = np.array([*(positions[name] for name in names), height]).T
    shades = matplotlib.colormaps["viridis"](height if higher_is_better else 1 - height)
    for line, shade in reversed(list(zip(lines[1:], shades[1:], strict=True))):
        axes.plot(line, color=shade, linewidth=1.5, alpha=0.8)
    axes.plot(lines[0], color=ORANGE, linewidth=3.5, label="best trial", zorder=3)
    for number, name in enumerate(names):
        _draw_axis(axes, number, columns[name][1])
    _draw_axis(axes, len(names), ticks)
    labels = [_label(name, shares) for name in names]
    axes.set_xticks(range(len(names) + 1), [*labels, objective.replace("_", "\n")])
    axes.tick_params(axis="x", labelsize=13, length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.3, len(names) + 0.7)
    axes.set_ylim(INACTIVE - 0.06, 1.06)
    axes.spines[:].set_visible(False)
    title = f"{title}: {len(values)} trials"
    if shares:
        title += " (in parentheses: relative importance)"
    axes.set_title(title, fontsize=14, loc="left")
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 1.1), fontsize=13, frameon=False)
    return figure


def axis_positions(values: pd.Series[Any]) -> tuple[Positions, Ticks]:
    """Returns the positions of values on an axis, and the ticks of the axis.

    Returns:
        The position of each value, in 0..1 or `INACTIVE` for a missing value; and the ticks
        as (position, label). Of more than five different numbers, only the smallest and the
        largest have a tick. Otherwise, the different values are equally spaced, and each
        has a tick. If values are missing, `INACTIVE` has a tick as well.
    """
    present = values.dropna()
    inactive: Ticks = [(INACTIVE, "not used")] if len(present) < len(values) else []
    heights = np.full(len(values), INACTIVE)
    numeric = present.map(type).isin((int, float, np.int64, np.float64)).all()
    distinct = sorted(set(present)) if numeric else sorted(set(present), key=str)
    if numeric and len(distinct) > 5:
        ends = np.array([distinct[0], distinct[-1]], float)
        numbers = present.to_numpy(float)
        if ends[0] > 0 and np.median(numbers) < LOG_BELOW * ends[1]:
            ends, numbers = np.log(ends), np.log(numbers)
        heights[values.notna()] = (numbers - ends[0]) / (ends[1] - ends[0])
        ticks = [(0.0, f"{distinct[0]:.4g}"), (1.0, f"{distinct[-1]:.3g}")]
        return heights, [*inactive, *ticks]
    steps = np.linspace(0, 1, len(distinct)) if len(distinct) > 1 else [0.5]
    height_of = dict(zip(distinct, map(float, steps), strict=True))
    heights[values.notna()] = [height_of[value] for value in present]
    texts = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in distinct]
    return heights, [*inactive, *zip(height_of.values(), texts, strict=True)]


def importance(positions: dict[str, Positions], scores: Positions) -> dict[str, float]:
    """Returns the relative importance of each hyperparameter for the score.

    The importance is the permutation importance in a random forest, scaled to a sum of 1.

    Args:
        positions: Axis positions of each hyperparameter by name, [num_trials].
        scores: Score of each trial, [num_trials].

    Returns:
        The importance by name; empty for fewer than `MIN_FOR_IMPORTANCE` trials, or if no
        hyperparameter affects the score.

    References:
        Breiman (2001), Machine Learning 45, pages 5-32.
    """
    if len(scores) < MIN_FOR_IMPORTANCE or not positions:
        return {}
    inputs = np.array(list(positions.values())).T
    forest = RandomForestRegressor(100, random_state=0).fit(inputs, scores)
    result = permutation_importance(forest, inputs, scores, random_state=0)
    costs = np.maximum(result.importances_mean, 0)
    if costs.sum() == 0:
        return {}
    return dict(zip(positions, (costs / costs.sum()).tolist(), strict=True))


def _draw_axis(axes: Axes, number: int, ticks: Ticks) -> None:
    box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.75, "lw": 0}
    axes.axvline(number, color=GRAY, linewidth=1, zorder=0)
    for height, text in ticks:
        axes.annotate(
            text.replace("_", " "),
            (number, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=12,
            bbox=box,
            zorder=4,
        )


def _label(name: str, shares: dict[str, float]) -> str:
    text = name.rpartition(".")[2].replace("_", "\n")
    return f"{text}\n({shares[name]:.0%})" if shares else text
