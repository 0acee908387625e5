"""What a search found: a table, a picture, and the configuration of the best trial."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from keras_tuner.engine.trial import Trial, TrialStatus

from skincnn.files import replacing, write_json, write_text
from skincnn.metrics.classification import METRICS
from skincnn.reporting.plots import to_png
from tuning.hypermodel import TrainingModel, read_result, shown_values
from tuning.plots import plot_search

FIRST = ["rank", "trial", "score"]
LAST = ["best_epoch", "epochs", "seconds", "folder"]
SHOWN = 10
"""Lines of the leader board on the terminal."""


def make_board(
    trials: Iterable[Trial], model: TrainingModel, executions: int = 1
) -> pd.DataFrame:
    """Returns a row for each trial that was completed, the best first.

    Columns are rank, trial, score (the mean of the executions), the hyperparameters (empty
    where one is not active), best_epoch and epochs (means), seconds (the sum), and the
    folder of the first execution.
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
                **shown_values(hp),
                "best_epoch": np.mean([result.best_epoch for result in results]),
                "epochs": np.mean([result.epochs for result in results]),
                "seconds": round(sum(result.seconds for result in results), 1),
                "folder": str(folders[0].relative_to(model.folder.parent)),
            }
        )
    higher = METRICS[model.base.train.monitor].higher_is_better
    board = pd.DataFrame(rows, columns=None if rows else ["trial", "score", *LAST])
    board = board.sort_values(
        ["score", "trial"], ascending=[not higher, True], ignore_index=True
    )
    board.insert(0, "rank", range(1, len(board) + 1))
    names = [name for name in board.columns if name not in (*FIRST, *LAST)]
    return board[[*FIRST, *sorted(names), *LAST]]


def write_board(
    board: pd.DataFrame, best: Trial, model: TrainingModel, workdir: Path, title: str
) -> None:
    """Writes leaderboard.csv, search.png, and best.json, which `train.py --config` trains.

    Args:
        board: What `make_board` returns.
        best: The trial of its first row.
        model: What trained it.
        workdir: The search's folder.
        title: What was searched, for the picture.
    """
    objective = model.base.train.monitor
    write_text(workdir / "leaderboard.csv", board.to_csv(index=False))
    write_json(workdir / "best.json", model.config(best.hyperparameters).to_dict())
    higher = METRICS[objective].higher_is_better
    values = board.drop(columns=[*FIRST, *LAST])
    figure = plot_search(values, board["score"], objective, title, higher_is_better=higher)
    with replacing(workdir / "search.png") as temporary:
        temporary.write_bytes(to_png(figure))


def summary(board: pd.DataFrame) -> str:
    """Returns the first lines of the leader board for the terminal."""
    shown = board.head(SHOWN).drop(columns=["best_epoch", "folder"])
    values = [name for name in shown.columns if name not in (*FIRST, *LAST)]
    # One value for all is no news; the last part of a path says enough.
    shown = shown.drop(columns=[n for n in values if shown[n].astype(str).nunique() == 1])
    shown = shown.rename(columns=lambda name: name.rpartition(".")[2])
    text: str = shown.to_string(
        index=False, na_rep="-", float_format=lambda value: f"{value:.4g}"
    )
    return text
