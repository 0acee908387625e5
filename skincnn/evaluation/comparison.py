"""Several runs as one table: scores with intervals, paired differences, and their cost."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from skincnn.errors import ConfigError
from skincnn.evaluation.folder import read_report
from skincnn.evaluation.intervals import (
    Estimate,
    bootstrap,
    estimate,
    lesion_weights,
    lesions_of_rates,
)
from skincnn.evaluation.metrics import METRICS, Sample, Scores, recall_per_class
from skincnn.evaluation.operating import find_targets
from skincnn.evaluation.plots import BLUE, GREY, ORANGE
from skincnn.evaluation.predictions import arrays, class_names_of, read_predictions
from skincnn.evaluation.verdict import interval, label
from skincnn.files import sha256
from skincnn.lookup import look_up

SHOWN = ("macro_f1", "balanced_accuracy", "accuracy", "macro_auc")
"""Of `METRICS`, the columns beside the one that is sorted by."""
MELANOMA_RECALL = "melanoma_recall"
MIN_RESAMPLES = 100
"""As of `evaluate.resamples`: the ends of an interval need some resamples beyond them."""


@dataclass(frozen=True)
class Run:
    """A run's predictions of one split, and what they cost.

    Attributes:
        name: Of its folder.
        predictions: The table, sorted by image_id.
        class_names: The names of the labels, in order.
        split_by: "lesion", or "image" for the leaky protocol.
        made_up: Whether the pictures are made up.
        sha256: Of the file of the predictions.
        changed: Whether that is not the one that the run's report was made from.
        minutes: Of training.
        num_parameters: Of the model.
    """

    name: str
    predictions: pd.DataFrame
    class_names: tuple[str, ...]
    split_by: str
    made_up: bool
    sha256: str
    changed: bool
    minutes: float
    num_parameters: int

    @property
    def protocol(self) -> str:
        """Returns what two runs must share to be ranked side by side."""
        columns = ["image_id", "lesion_id", "label"]
        rows = self.predictions[columns].to_csv(index=False)
        digest = hashlib.sha256((rows + ",".join(self.class_names)).encode()).hexdigest()
        made_up = "MADE-UP pictures, " if self.made_up else ""
        count = len(self.predictions)
        return f"{made_up}split by {self.split_by}, {count} pictures ({digest[:8]})"


@dataclass(frozen=True)
class Row:
    """What the comparison says of one run.

    Attributes:
        run: The run.
        scores: Name to score, of the metric that is sorted by, of `SHOWN`, and of
            "melanoma_recall" where there is such a class.
        difference: By how much it exceeds the first run in the metric that is sorted by, on
            the same resamples; None for that run, and where the pictures are others.
    """

    run: Run
    scores: dict[str, Estimate]
    difference: Estimate | None


def read_run(workdir: Path, split: str) -> Run:
    """Returns the predictions of a run's folder.

    Raises:
        ConfigError: The folder holds no evaluated run, or no such split.
        DataError: The table is damaged.
    """
    path = workdir / "predictions" / f"{split}.csv"
    missing = [
        str(file.relative_to(workdir))
        for file in (path, workdir / "report.json")
        if not file.is_file()
    ]
    if missing:
        raise ConfigError(
            f"{workdir} holds no evaluated run: {', '.join(missing)} is missing. Expected "
            "the --workdir of a finished scripts/train.py; or make the split with "
            f"scripts/evaluate.py {workdir} --split {split}."
        )
    predictions = read_predictions(path).sort_values("image_id", ignore_index=True)
    digest = sha256(path)
    report = read_report(workdir, "split_by", "training_seconds", "num_parameters")
    return Run(
        workdir.resolve().name,
        predictions,
        tuple(class_names_of(predictions)),
        report["split_by"],
        report.get("made_up", False),
        digest,
        _written(report, split) not in (None, digest),
        report["training_seconds"] / 60,
        report["num_parameters"],
    )


def compare(
    runs: Sequence[Run],
    sort_by: str,
    resamples: int,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, list[Row]]:
    """Returns the rows of each protocol, the best first.

    Args:
        runs: The runs; differences are against the first.
        sort_by: Name of `METRICS`.
        resamples: Of the lesions, the same ones for every run of a protocol.
        seed: Their seed.
        confidence: Coverage, between 0 and 1.

    Raises:
        ConfigError: There is no such metric, there are fewer than 100 resamples, or two
            runs have the same name.
    """
    if resamples < MIN_RESAMPLES:
        raise ConfigError(
            f"--resamples must be {MIN_RESAMPLES} or more. Received: {resamples}."
        )
    metric = look_up(METRICS, sort_by, "--sort")
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            "The folders must have different names, by which the table calls them. "
            f"Received twice: {', '.join(twice)}."
        )
    by_protocol: dict[str, list[Run]] = {}
    for run in runs:
        by_protocol.setdefault(run.protocol, []).append(run)
    tables = {}
    for protocol, group in by_protocol.items():
        lesions = group[0].predictions["lesion_id"].tolist()
        weights = lesion_weights(lesions, resamples, seed)
        columns = dict.fromkeys((sort_by, *SHOWN))
        functions = {name: METRICS[name].function for name in columns}
        known = find_targets(group[0].class_names)
        melanoma = [target for target in known if target.name == "melanoma"]
        for target in melanoma:
            functions[MELANOMA_RECALL] = _recall_of(target.classes[0])
        values = {
            run.name: bootstrap(
                functions, *arrays(run.predictions, run.class_names), weights
            )
            for run in group
        }
        counts = {
            run.name: lesions_of_rates(lesions, *arrays(run.predictions, run.class_names))
            for run in group
        }
        for target in melanoma:
            for count in counts.values():
                count[MELANOMA_RECALL] = count["recall"][list(target.classes[:1])]
        first = values.get(runs[0].name)
        rows = [
            Row(
                run,
                {
                    name: estimate(value, confidence, counts[run.name].get(name))[0]
                    for name, value in values[run.name].items()
                },
                None
                if first is None or run.name == runs[0].name
                else estimate(values[run.name][sort_by] - first[sort_by], confidence)[0],
            )
            for run in group
        ]
        tables[protocol] = sorted(
            rows,
            key=lambda row: row.scores[sort_by].value or 0.0,
            reverse=metric.higher_is_better,
        )
    return tables


def to_frame(tables: dict[str, list[Row]], sort_by: str) -> pd.DataFrame:
    """Returns all rows as plain numbers, for CSV: a score is in three columns."""
    rows = []
    for protocol, group in tables.items():
        for row in group:
            found: dict[str, Any] = {"protocol": protocol, "run": row.run.name}
            for name, value in row.scores.items():
                found |= {
                    name: value.value,
                    f"{name}_low": value.low,
                    f"{name}_high": value.high,
                }
            difference = row.difference or Estimate(None, None, None)
            for part, number in dataclasses.asdict(difference).items():
                found[f"{sort_by}_difference_{part}"] = number
            found |= {
                "minutes": round(row.run.minutes, 1),
                "num_parameters": row.run.num_parameters,
                "predictions_sha256": row.run.sha256,
                "changed_since_report": row.run.changed,
            }
            rows.append(found)
    return pd.DataFrame(rows)


def to_markdown(tables: dict[str, list[Row]], sort_by: str, first: str) -> str:
    """Returns a table for each protocol; they are not to be read as one ranking.

    Args:
        tables: From `compare`.
        sort_by: What they are sorted by.
        first: The run that differences are against.
    """
    parts = []
    if len(tables) > 1:
        parts.append(
            "These runs were tested on different pictures, or one of them by a leaky "
            "protocol: a rank holds within its table only.\n"
        )
    for protocol, rows in tables.items():
        names = list(rows[0].scores)
        header = ["run", *(label(name) for name in names)]
        header += [f"{label(sort_by)} less that of {first}", "minutes", "parameters"]
        header += ["predictions"]
        lines = [
            f"**{protocol}**\n",
            f"| {' | '.join(header)} |",
            f"|{'---|' * len(header)}",
        ]
        for row in rows:
            cells = [row.run.name, *(_interval(row.scores[name]) for name in names)]
            cells.append(_interval(row.difference, "+.3f") if row.difference else "")
            cells.append(f"{row.run.minutes:.1f}")
            cells.append(f"{row.run.num_parameters:,}")
            changed = " (CHANGED since its report)" if row.run.changed else ""
            cells.append(f"{row.run.sha256[:8]}{changed}")
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
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
        for place, row in zip(places, rows, strict=True):
            found = row.scores[sort_by]
            colour = ORANGE if row.run.split_by == "image" else BLUE
            if found.low is not None and found.high is not None:
                axes.plot(
                    [found.low, found.high], [place, place], color=colour, linewidth=2
                )
            if found.value is not None:
                axes.plot(found.value, place, color=colour, marker="s", markersize=6)
        axes.set_yticks(places, [row.run.name for row in rows], fontsize=11)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        leaky = ": LEAKY, not comparable" if rows[0].run.split_by == "image" else ""
        axes.set_title(f"{protocol}{leaky}", fontsize=11)
        axes.grid(axis="x", alpha=0.3, color=GREY)
    grid[-1].set_xlabel(f"{label(sort_by)} with its interval", fontsize=11)
    return figure


def _written(report: dict[str, Any], split: str) -> str | None:
    """Returns the SHA-256 of the table that a report was made from, None if not known."""
    content = report.get("splits", {}).get(split, {})
    return content.get("sha256")


def _recall_of(index: int) -> Any:
    def recall(sample: Sample) -> Scores:
        return recall_per_class(sample)[..., index]

    return recall


def _interval(found: Estimate, spec: str = ".3f") -> str:
    return interval(dataclasses.asdict(found), spec)
