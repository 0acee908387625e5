"""The directive `results`: a table, or a chart, of the scores in a CSV file.

The file contains rows and columns of a compare.csv, which `skincnn compare` writes. The
directive shows one table for each protocol, because scores on different images must not be
compared:

    ```{results} folds_1/leaky_split.csv
    :scores: balanced_accuracy melanoma_auc
    :runs: lesion-.*
    ```

`runs` is a regular expression; by default, all rows are shown. `chart` draws the scores
instead of listing them. A line below links to the file, which also has the commands.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from skincnn.reporting.labels import metric_label

DEFAULT_SCORES = "balanced_accuracy macro_f1 accuracy melanoma_auc melanoma_sensitivity"


class Results(SphinxDirective):
    """See the module."""

    required_arguments = 1
    option_spec = {  # noqa: RUF012
        "scores": directives.unchanged,
        "runs": directives.unchanged,
        "chart": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Returns the tables or the chart, and a link to the file."""
        name, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(name)
        frame = pd.read_csv(path, dtype={"seed": str})
        frame = frame[frame["run"].str.fullmatch(self.options.get("runs", ".*"))]
        if frame.empty:
            raise self.error(f"{name} has no run {self.options.get('runs')!r}")
        scores = self.options.get("scores", DEFAULT_SCORES).split()
        scores = [score for score in scores if score in frame]
        parts = dict(list(frame.groupby("protocol", sort=False)))
        text = [
            f"Data and commands: {{download}}`{Path(name).name} <{self.arguments[0]}>`\n"
        ]
        if "chart" in self.options:
            text.insert(0, f"```{{image}} /{self._draw(parts, scores[0])}\n```\n")
        else:
            text[:0] = [to_markdown(f"{p}", rows, scores) for p, rows in parts.items()]
        return self.parse_text_to_nodes("\n".join(text))

    def _draw(self, parts: dict[Any, pd.DataFrame], score: str) -> str:
        """Draws a chart into the source folder of the site, and returns its path there."""
        from matplotlib.figure import Figure

        count = sum(map(len, parts.values()))
        figure = Figure(figsize=(8, 0.26 * count + 0.7 * len(parts)), layout="constrained")
        grid = figure.subplots(
            len(parts),
            squeeze=False,
            sharex=True,
            height_ratios=[len(rows) + 1 for rows in parts.values()],
        )[:, 0]
        for axes, (protocol, rows) in zip(grid, parts.items(), strict=True):
            values, low, high = (
                rows[f"{score}{end}"].iloc[::-1] for end in ("", "_low", "_high")
            )
            axes.errorbar(
                values,
                range(len(rows)),
                xerr=[values - low, high - values],
                fmt="o",
                color="tab:orange" if "by image" in str(protocol) else "tab:blue",
            )
            axes.set_yticks(range(len(rows)), rows["run"].iloc[::-1], parse_math=False)
            axes.set_title(protocol, fontsize=10)
            axes.grid(axis="x", alpha=0.3)
        grid[-1].set_xlabel(f"{metric_label(score)} with its 95 % confidence interval")
        digest = hashlib.sha256(pd.concat(parts).to_csv().encode()).hexdigest()[:8]
        path = Path("_charts", f"{score}_{digest}.png")
        (Path(self.env.srcdir) / path).parent.mkdir(exist_ok=True)
        figure.savefig(Path(self.env.srcdir) / path, dpi=110, metadata={"Software": None})
        return path.as_posix()


def to_markdown(protocol: str, rows: pd.DataFrame, scores: list[str]) -> str:
    """Returns one row per run, with the highest value of each score in bold."""
    best = {score: rows[score].max() for score in scores}
    header = ["run", *map(metric_label, scores), "predictions"]
    lines = [header, ["---"] * len(header)]
    for _, row in rows.iterrows():
        cells = []
        for score in scores:
            value, low, high = (row[f"{score}{end}"] for end in ("", "_low", "_high"))
            text = f"**{_short(value)}**" if value == best[score] else _short(value)
            cells.append(f"{text}\u00a0[{_short(low)},\u00a0{_short(high)}]")
        fingerprints = str(row["fingerprint"]).split()
        lines.append([row["run"], *cells, " ".join(f[:8] for f in fingerprints)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{protocol}**\n\n{table}\n"


def _short(value: float) -> str:
    """Returns ".123" for 0.123."""
    return f"{value:.3f}".removeprefix("0")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("results", Results)
    return {"parallel_read_safe": True}
