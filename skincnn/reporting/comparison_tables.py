"""A comparison of runs as Markdown, as CSV and as a chart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from skincnn.evaluation.comparison import Row, Run
from skincnn.evaluation.scoring import CALIBRATED, CALIBRATED_ECE
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.operating_points import HEADLINE_POINT
from skincnn.reporting.plots import BLUE, GRAY, ORANGE
from skincnn.reporting.report_text import interval, label

CALIBRATED_SAID = (
    "With probabilities calibrated on validation; the sensitivity and the specificity for "
    f"melanoma are at the threshold that gave {HEADLINE_POINT.text} there:"
)
"""What stands above the table of `CALIBRATED`."""


def to_frame(tables: dict[str, list[Row]]) -> pd.DataFrame:
    """Returns all rows as plain numbers, for CSV: a score is in eight columns."""
    rows = []
    for protocol, group in tables.items():
        for row in group:
            found: dict[str, Any] = {"protocol": protocol, "run": row.name}
            for name, value in row.scores.items():
                found |= {
                    name: value.value,
                    f"{name}_low": value.low,
                    f"{name}_high": value.high,
                }
            for name in row.scores:
                difference = row.differences.get(name, Estimate(None, None, None))
                for part, number in dataclasses.asdict(difference).items():
                    found[f"{name}_difference_{part}"] = number
                wider = row.recipe_differences.get(name, Estimate(None, None, None))
                found |= {
                    f"{name}_recipe_difference_low": wider.low,
                    f"{name}_recipe_difference_high": wider.high,
                }
            found |= {
                "against": row.against,
                "minutes": round(_minutes(row), 1),
                "num_parameters": row.runs[0].num_parameters,
                "predictions_sha256": " ".join(run.sha256 for run in row.runs),
                "changed_since_report": any(run.changed for run in row.runs),
                "seed": _seeds(row),
                "folds": row.runs[0].folds,
                "trained_by": _trained_by(row),
                "command": row.command,
            }
            rows.append(found)
    return pd.DataFrame(rows)


def to_markdown(tables: dict[str, list[Row]]) -> str:
    """Returns the tables of each protocol; they are not to be read as one ranking.

    A table has the scores, and one the differences; then the same of what needs calibrated
    probabilities, where it is known. Below them stands the command of each row; what asks
    a run in another way, or averages several, needs those runs.

    Args:
        tables: From `compare`.
    """
    parts = []
    if len(tables) > 1:
        parts.append(
            "These runs were tested on different pictures, or one of them by a leaky "
            "protocol: a rank holds within its table only.\n"
        )
    for protocol, rows in tables.items():
        names = [name for name in rows[0].scores if name not in CALIBRATED]
        cost = [
            [
                f"{_minutes(row):.1f}",
                f"{row.runs[0].num_parameters:,}",
                _fingerprints(row),
            ]
            for row in rows
        ]
        header = ["minutes", "parameters", "predictions"]
        parts += [f"**{protocol}**\n", *_scores(rows, names, header, cost)]
        if any(row.scores[CALIBRATED_ECE].value is not None for row in rows):
            names = [name for name in rows[0].scores if name in CALIBRATED]
            parts += [f"{CALIBRATED_SAID}\n", *_scores(rows, names)]
    rows_of_all = [row for rows in tables.values() for row in rows]
    if any(row.command for row in rows_of_all):
        header = [
            "run",
            "predictions",
            "seed",
            "train / validation / test folds",
            "trained by",
            "command",
        ]
        cells = [
            [
                row.name,
                _fingerprints(row),
                _seeds(row),
                row.runs[0].folds,
                _trained_by(row),
                _code(row.command),
            ]
            for row in rows_of_all
        ]
        parts.append(f"Each again:\n\n{_table(header, cells)}\n")
    return "\n".join(parts)


def plot_comparison(tables: dict[str, list[Row]], sort_by: str) -> Figure:
    """Draws what is sorted by with its interval, a run in each line, the best on top."""
    count = sum(map(len, tables.values()))
    figure = Figure(
        figsize=(8.6, 0.9 * len(tables) + 0.34 * count + 0.6), layout="constrained"
    )
    grid = figure.subplots(
        len(tables),
        1,
        squeeze=False,
        sharex=True,
        gridspec_kw={"height_ratios": [len(rows) + 1 for rows in tables.values()]},
    )[:, 0]
    for axes, (protocol, rows) in zip(grid, tables.items(), strict=True):
        places = np.arange(len(rows))[::-1]
        leaky = rows[0].runs[0].split_by == "image"
        color = ORANGE if leaky else BLUE
        for place, row in zip(places, rows, strict=True):
            found = row.scores[sort_by]
            if found.low is not None and found.high is not None:
                axes.plot([found.low, found.high], [place, place], color=color, linewidth=2)
            if found.value is not None:
                axes.plot(found.value, place, color=color, marker="s", markersize=6)
        axes.set_yticks(places, [row.name for row in rows], fontsize=11)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_title(
            f"{protocol}{': LEAKY, not comparable' if leaky else ''}", fontsize=11
        )
        axes.grid(axis="x", alpha=0.3, color=GRAY)
    grid[-1].set_xlabel(f"{label(sort_by)} with its interval", fontsize=11)
    return figure


def _scores(
    rows: Sequence[Row],
    names: Sequence[str],
    more_header: Sequence[str] = (),
    more: Sequence[Sequence[str]] | None = None,
) -> list[str]:
    """Returns a table of these scores, with columns more, and one of their differences."""
    header = ["run", *(label(name) for name in names)]
    cells = [
        [row.name, *(_interval(row.scores[name]) for name in names), *cost]
        for row, cost in zip(rows, more or [()] * len(rows), strict=True)
    ]
    parts = [f"{_table([*header, *more_header], cells)}\n"]
    cells = [
        [row.name, *(_interval(row.differences[name], "+.3f") for name in names)]
        for row in rows
        if row.differences
    ]
    if cells:
        parts.append(f"Less {rows[0].against}, paired:\n\n{_table(header, cells)}\n")
    cells = [
        [row.name, *(_told(row.recipe_differences[name]) for name in names)]
        for row in rows
        if row.recipe_differences
    ]
    spread = rows[0].spread
    if cells and spread:
        deviations = (spread.standard_deviations[name] for name in names)
        cells.append(["standard deviation of a seed", *(f"{x:.4f}" for x in deviations)])
        recipes = "recipe" if spread.num_recipes == 1 else "recipes"
        said = (
            f"Less {rows[0].against}, as recipes: other seeds are counted in, by what they "
            f"do to {spread.num_runs} runs of {spread.num_recipes} {recipes}; bold where "
            "that leaves out 0:"
        )
        parts.append(f"{said}\n\n{_table(header, cells)}\n")
    return parts


def _told(found: Estimate) -> str:
    """Returns a difference with its interval, in bold where that leaves out 0."""
    text = _interval(found, "+.3f")
    told = found.low is not None and found.high is not None and found.low * found.high > 0
    return f"**{text}**" if told else text


def _minutes(row: Row) -> float:
    return sum(run.minutes for run in row.runs)


def _seeds(row: Row) -> str:
    return " ".join(str(run.seed) for run in row.runs if run.seed is not None)


def _trained_by(row: Row) -> str:
    if not any(run.trained_by for run in row.runs):
        return ""
    return "; ".join(dict.fromkeys(run.trained_by or "not known" for run in row.runs))


def _fingerprints(row: Row) -> str:
    return ", ".join(_fingerprint(run) for run in row.runs)


def _fingerprint(run: Run) -> str:
    return f"{run.sha256[:8]}{' (CHANGED since its report)' if run.changed else ''}"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _interval(found: Estimate, spec: str = ".3f") -> str:
    return interval(dataclasses.asdict(found), spec)
