"""A comparison of runs as a data frame, as Markdown and as a figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.figure import Figure

from skincnn.evaluation.compared_runs import describe_provenance
from skincnn.evaluation.comparison import Row
from skincnn.evaluation.scoring import CALIBRATED, CALIBRATED_LOG_LOSS
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.intervals import Difference
from skincnn.metrics.operating_points import HEADLINE_POINT
from skincnn.reporting.labels import interval, metric_label, signed
from skincnn.reporting.plots import BLUE, GRAY, ORANGE, draw_estimate
from skincnn.reporting.text.identifier_text import PLURALS

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
UNDEFINED = Difference(Estimate(None, None, None), None)
MANY_COMPARISONS = 5
"""Number of differences in a table above which p-values are adjusted."""
ALPHA = 0.05
"""Significance level, or false discovery rate in a table of many differences."""


def to_frame(tables: Tables) -> pd.DataFrame:
    """Returns the rows of all protocols; see `skincnn.api.compare.Comparison.to_frame`."""
    return pd.DataFrame(
        [_frame_row(protocol, row) for protocol, rows in tables.items() for row in rows]
    )


def _frame_row(protocol: str, row: Row) -> dict[str, object]:
    values: dict[str, object] = {"protocol": protocol, "run": row.name}
    for name, score in row.scores.items():
        values |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    for name in row.scores:
        difference = row.differences.get(name, UNDEFINED)
        for part, number in dataclasses.asdict(difference.estimate).items():
            values[f"{name}_difference_{part}"] = number
        wider = row.recipe_differences.get(name, UNDEFINED)
        values |= {
            f"{name}_difference_p": difference.p_value,
            f"{name}_recipe_difference_low": wider.estimate.low,
            f"{name}_recipe_difference_high": wider.estimate.high,
            f"{name}_recipe_difference_p": wider.p_value,
        }
    return values | {
        "baseline": row.baseline,
        "minutes": round(_minutes(row), 1),
        "num_parameters": row.runs[0].info.num_parameters,
        "fingerprint": " ".join(run.fingerprint for run in row.runs),
        "predictions_sha256": " ".join(run.sha256 for run in row.runs),
        "changed_since_result": any(run.changed for run in row.runs),
        "seed": _seeds(row),
        "folds": row.runs[0].folds,
        "code_and_hardware": _code_and_hardware(row),
        "command": row.command,
    }


def to_markdown(tables: Tables) -> str:
    """Returns the tables of each protocol, and the commands that reproduce the rows.

    Scores of calibrated probabilities, if there are any, are in separate tables.
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
        tables_scored = {run.fingerprint for row in rows for run in row.runs}
        scored = f"{len(tables_scored)} different predictions tables are scored here."
        parts += (
            [f"**{protocol}**\n", f"{scored}\n"]
            if len(tables_scored) > 1
            else [f"**{protocol}**\n"]
        )
        parts += _score_tables(rows, names, header, costs)
        if any(row.scores[CALIBRATED_LOG_LOSS].value is not None for row in rows):
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
        leaky = rows[0].runs[0].is_leaky
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
    between recipes. Significant differences are bold; see `_mark`.
    """
    header = ["run", *map(metric_label, names)]
    cells = [
        [row.name, *(interval(row.scores[name]) for name in names), *more]
        for row, more in zip(rows, more_cells or [()] * len(rows), strict=True)
    ]
    parts = [f"{_table([*header, *more_header], cells)}\n"]
    compared = [row for row in rows if row.differences]
    if compared:
        cells, meaning = _mark([[r.differences[n] for n in names] for r in compared])
        caption = (
            f"Paired difference of these runs, run minus {rows[0].baseline}. The intervals "
            f"cover the sampling of {PLURALS[rows[0].runs[0].unit]}, not the variance "
            "between training runs. "
            f"{meaning}"
        )
        cells = [[row.name, *line] for row, line in zip(compared, cells, strict=True)]
        parts.append(f"{caption}\n\n{_table(header, cells)}\n")
    compared = [row for row in rows if row.recipe_differences]
    if compared:
        cells, meaning = _mark([[r.recipe_differences[n] for n in names] for r in compared])
        cells = [[row.name, *line] for row, line in zip(compared, cells, strict=True)]
        parts.append(_recipe_table(rows[0], names, header, cells, meaning))
    return parts


def _recipe_table(
    row: Row,
    names: Sequence[str],
    header: Sequence[str],
    cells: list[list[str]],
    meaning: str,
) -> str:
    """Returns the table of the differences between recipes, with its caption."""
    spread = row.spread
    assert spread is not None
    deviations = (f"{spread.standard_deviation(name):.4f}" for name in names)
    cells = [*cells, ["standard deviation across seeds", *deviations]]
    recipes = "recipe" if spread.num_recipes == 1 else "recipes"
    caption = (
        f"Difference between recipes: mean over seeds minus {row.baseline}. The intervals "
        f"include the variance between seeds, estimated from {spread.num_runs} runs of "
        f"{spread.num_recipes} {recipes}. {meaning}"
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


def _mark(lines: Sequence[Sequence[Difference]]) -> tuple[list[list[str]], str]:
    """Returns differences with significant ones in bold, and the meaning of bold.

    In a table of more than `MANY_COMPARISONS` differences, p-values are adjusted: Benjamini
    and Hochberg, Controlling the false discovery rate (1995).
    """
    p_values = [d.p_value for line in lines for d in line if d.p_value is not None]
    limit, meaning = ALPHA, f"Bold: p < {ALPHA}, for each difference on its own."
    if len(p_values) > MANY_COMPARISONS:
        adjusted = scipy.stats.false_discovery_control(p_values)
        significant = [p for p, q in zip(p_values, adjusted, strict=True) if q < ALPHA]
        limit = np.nextafter(max(significant, default=0.0), 1.0)
        meaning = (
            f"Bold: significant among the {len(p_values)} differences of this table, with "
            f"a false discovery rate of {100 * ALPHA:.0f} % (Benjamini-Hochberg). The "
            "intervals are not adjusted, so some can exclude 0 by chance."
        )
    cells = []
    for line in lines:
        texts = [signed(difference.estimate) for difference in line]
        bold = [d.p_value is not None and d.p_value < limit for d in line]
        cells.append([f"**{t}**" if b else t for t, b in zip(texts, bold, strict=True)])
    return cells, meaning


def _minutes(row: Row) -> float:
    return sum(run.info.training_seconds for run in row.runs) / 60


def _seeds(row: Row) -> str:
    return " ".join(str(run.config.seed) for run in row.runs if run.config)


def _code_and_hardware(row: Row) -> str:
    texts = dict.fromkeys(describe_provenance(run.info.provenance) for run in row.runs)
    return "; ".join(text or "not known" for text in texts) if any(texts) else ""


def _fingerprints(row: Row) -> str:
    return ", ".join(
        f"{run.fingerprint[:8]}{' (CHANGED since it was scored)' if run.changed else ''}"
        for run in row.runs
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
