"""A comparison of runs as Markdown, as CSV and as a figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from skincnn.evaluation.compared_runs import describe_provenance
from skincnn.evaluation.comparison import Row
from skincnn.evaluation.scoring import CALIBRATED, CALIBRATED_ECE
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.operating_points import HEADLINE_POINT
from skincnn.reporting.labels import interval, metric_label, signed
from skincnn.reporting.plots import BLUE, GRAY, ORANGE, draw_estimate

Tables = dict[str, list[Row]]
"""Rows by protocol, from `skincnn.evaluation.comparison.compare`."""
NOT_COMPARABLE = (
    "These runs were tested on different images or with different protocols. Compare runs "
    "only within a table."
)
CALIBRATED_CAPTION = (
    "After calibration on the validation split; melanoma sensitivity and "
    f"specificity at the validation threshold for {HEADLINE_POINT.text}:"
)
UNDEFINED = Estimate(None, None, None)


def to_frame(tables: Tables) -> pd.DataFrame:
    """Returns the rows of all protocols, for CSV, with eight columns for each score."""
    return pd.DataFrame(
        [_frame_row(protocol, row) for protocol, rows in tables.items() for row in rows]
    )


def _frame_row(protocol: str, row: Row) -> dict[str, object]:
    values: dict[str, object] = {"protocol": protocol, "run": row.name}
    for name, score in row.scores.items():
        values |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    for name in row.scores:
        difference = row.differences.get(name, UNDEFINED)
        for part, number in dataclasses.asdict(difference).items():
            values[f"{name}_difference_{part}"] = number
        wider = row.recipe_differences.get(name, UNDEFINED)
        values |= {
            f"{name}_recipe_difference_low": wider.low,
            f"{name}_recipe_difference_high": wider.high,
        }
    return values | {
        "baseline": row.baseline,
        "minutes": round(_minutes(row), 1),
        "num_parameters": row.runs[0].info.num_parameters,
        "predictions_sha256": " ".join(run.sha256 for run in row.runs),
        "changed_since_result": any(run.changed for run in row.runs),
        "seed": _seeds(row),
        "folds": row.runs[0].folds,
        "code_and_hardware": _code_and_hardware(row),
        "command": row.command,
    }


def to_markdown(tables: Tables) -> str:
    """Returns the tables of each protocol, and the commands that reproduce the rows.

    Scores of calibrated probabilities, if there are any, are in tables of their own.
    """
    parts = [f"{NOT_COMPARABLE}\n"] if len(tables) > 1 else []
    for protocol, rows in tables.items():
        names = [name for name in rows[0].scores if name not in CALIBRATED]
        header = ["minutes", "parameters", "predictions"]
        costs = [
            [
                f"{_minutes(row):.1f}",
                f"{row.runs[0].info.num_parameters:,}",
                _fingerprints(row),
            ]
            for row in rows
        ]
        parts += [f"**{protocol}**\n", *_score_tables(rows, names, header, costs)]
        if any(row.scores[CALIBRATED_ECE].value is not None for row in rows):
            names = [name for name in rows[0].scores if name in CALIBRATED]
            parts += [f"{CALIBRATED_CAPTION}\n", *_score_tables(rows, names)]
    all_rows = [row for rows in tables.values() for row in rows]
    if any(row.command for row in all_rows):
        parts.append(f"To reproduce each row:\n\n{_commands_table(all_rows)}\n")
    return "\n".join(parts)


def plot_comparison(tables: Tables, sort_by: str) -> Figure:
    """Draws the metric `sort_by` of each run with its interval, one panel per protocol."""
    count = sum(map(len, tables.values()))
    size = (8.6, 0.9 * len(tables) + 0.34 * count + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(tables),
        1,
        squeeze=False,
        sharex=True,
        gridspec_kw={"height_ratios": [len(rows) + 1 for rows in tables.values()]},
    )[:, 0]
    for axes, (protocol, rows) in zip(grid, tables.items(), strict=True):
        positions = np.arange(len(rows))[::-1]
        leaky = rows[0].runs[0].split_by == "image"
        color = ORANGE if leaky else BLUE
        for y, row in zip(positions, rows, strict=True):
            draw_estimate(axes, y, row.scores[sort_by], color)
        axes.set_yticks(
            positions, [row.name for row in rows], fontsize=11, parse_math=False
        )
        axes.set_ylim(-0.7, len(rows) - 0.3)
        warning = ": LEAKY, not comparable" if leaky else ""
        axes.set_title(f"{protocol}{warning}", fontsize=11)
        axes.grid(axis="x", alpha=0.3, color=GRAY)
    grid[-1].set_xlabel(
        f"{metric_label(sort_by)} with its confidence interval", fontsize=11
    )
    return figure


def _score_tables(
    rows: Sequence[Row],
    names: Sequence[str],
    more_header: Sequence[str] = (),
    more_cells: Sequence[Sequence[str]] | None = None,
) -> list[str]:
    """Returns Markdown tables of the scores of each run, and of the differences, if any.

    One table contains the paired differences from the baseline, another the differences
    between recipes.
    """
    header = ["run", *map(metric_label, names)]
    cells = [
        [row.name, *(interval(row.scores[name]) for name in names), *more]
        for row, more in zip(rows, more_cells or [()] * len(rows), strict=True)
    ]
    parts = [f"{_table([*header, *more_header], cells)}\n"]
    cells = [
        [row.name, *(signed(row.differences[name]) for name in names)]
        for row in rows
        if row.differences
    ]
    if cells:
        caption = f"Paired difference, run minus {rows[0].baseline}:"
        parts.append(f"{caption}\n\n{_table(header, cells)}\n")
    cells = [
        [row.name, *(_emphasize(row.recipe_differences[name]) for name in names)]
        for row in rows
        if row.recipe_differences
    ]
    if cells:
        parts.append(_recipe_table(rows[0], names, header, cells))
    return parts


def _recipe_table(
    row: Row, names: Sequence[str], header: Sequence[str], cells: list[list[str]]
) -> str:
    """Returns the table of the differences between recipes, with its caption."""
    spread = row.spread
    assert spread is not None
    deviations = (f"{spread.standard_deviations[name]:.4f}" for name in names)
    cells = [*cells, ["standard deviation across seeds", *deviations]]
    recipes = "recipe" if spread.num_recipes == 1 else "recipes"
    caption = (
        f"Difference between recipes: mean over seeds minus {row.baseline}. The intervals "
        f"include the variance between seeds, estimated from {spread.num_runs} runs of "
        f"{spread.num_recipes} {recipes}. Bold: the interval does not contain 0."
    )
    return f"{caption}\n\n{_table(header, cells)}\n"


def _commands_table(rows: Sequence[Row]) -> str:
    folds = "train / validation / test folds"
    header = ["run", "predictions", "seed", folds, "code and hardware", "command"]
    cells = [
        [
            row.name,
            _fingerprints(row),
            _seeds(row),
            row.runs[0].folds,
            _code_and_hardware(row),
            f"`{row.command}`" if row.command else "",
        ]
        for row in rows
    ]
    return _table(header, cells)


def _emphasize(difference: Estimate) -> str:
    """Returns a difference with its interval, in bold if the interval excludes 0."""
    text = signed(difference)
    if difference.low is None or difference.high is None:
        return text
    return f"**{text}**" if difference.low * difference.high > 0 else text


def _minutes(row: Row) -> float:
    return sum(run.info.training_seconds for run in row.runs) / 60


def _seeds(row: Row) -> str:
    return " ".join(str(run.config.seed) for run in row.runs if run.config)


def _code_and_hardware(row: Row) -> str:
    texts = dict.fromkeys(describe_provenance(run.info.provenance) for run in row.runs)
    return "; ".join(text or "not known" for text in texts) if any(texts) else ""


def _fingerprints(row: Row) -> str:
    return ", ".join(
        f"{run.sha256[:8]}{' (CHANGED since it was scored)' if run.changed else ''}"
        for run in row.runs
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
