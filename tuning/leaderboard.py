"""The files of a finished search: a table, a figure and the best configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from keras_tuner.engine.trial import Trial, TrialStatus

from skincnn.files import replacing, write_json, write_text
from skincnn.metrics.classification import METRICS
from skincnn.reporting.plots import to_png
from tuning.explore import active_values
from tuning.hypermodel import TrainingModel
from tuning.plots import plot_search
from tuning.results import read_result

FIRST = ["rank", "trial", "score"]
LAST = ["best_epoch", "epochs", "seconds", "folder"]
NUM_PRINTED = 10
"""Rows of the leaderboard that are printed."""


def make_leaderboard(
    trials: Iterable[Trial], model: TrainingModel, executions: int = 1
) -> pd.DataFrame:
    """Returns one row per completed trial, the best first.

    Columns are rank, trial, score (mean of the executions), the hyperparameters (empty if
    not active), best_epoch and epochs (means), seconds (sum), and the directory of the
    first execution.
    """
    rows = []
    for trial in trials:
        if trial.status != TrialStatus.COMPLETED:
            continue
        hp = trial.hyperparameters
        folders = [model.path(model.config(hp, number)) for number in range(executions)]
        results = [result for folder in folders if (result := read_result(folder))]
        rows.append(
            {
                "trial": trial.trial_id,
                "score": trial.score,
                **active_values(hp),
                "best_epoch": np.mean([result.best_epoch for result in results]),
                "epochs": np.mean([result.epochs for result in results]),
                "seconds": round(sum(result.seconds for result in results), 1),
                "folder": str(folders[0].relative_to(model.folder.parent)),
            }
        )
    higher = METRICS[model.base.train.monitor].higher_is_better
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
    """Writes leaderboard.csv, search.png, and best.json for `train.py --config`.

    Args:
        table: The leaderboard of `make_leaderboard`.
        best: The trial of its first row.
        model: The model of the search.
        workdir: The directory of the search.
        title: Title of the figure.
    """
    objective = model.base.train.monitor
    write_text(workdir / "leaderboard.csv", table.to_csv(index=False))
    write_json(workdir / "best.json", model.config(best.hyperparameters).to_dict())
    higher = METRICS[objective].higher_is_better
    values = table.drop(columns=[*FIRST, *LAST])
    figure = plot_search(values, table["score"], objective, title, higher_is_better=higher)
    with replacing(workdir / "search.png") as temporary:
        temporary.write_bytes(to_png(figure))


def format_leaderboard(table: pd.DataFrame) -> str:
    """Returns the first rows of the leaderboard for the terminal."""
    rows = table.head(NUM_PRINTED).drop(columns=["best_epoch", "folder"])
    values = [name for name in rows.columns if name not in (*FIRST, *LAST)]
    # Without constant hyperparameters, and with the last part of each path only.
    rows = rows.drop(columns=[n for n in values if rows[n].astype(str).nunique() == 1])
    rows = rows.rename(columns=lambda name: name.rpartition(".")[2])
    text: str = rows.to_string(
        index=False, na_rep="-", float_format=lambda value: f"{value:.4g}"
    )
    return text
