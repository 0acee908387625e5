"""The tables and the figure of a comparison of runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from report_runs import make_table
from run_dirs import CONFIG, write_run

from skincnn.config import OptimizerConfig
from skincnn.evaluation.compared_runs import ComparedRun, read_compared_run
from skincnn.evaluation.comparison import compare
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.intervals import Difference
from skincnn.reporting.comparison_tables import plot_comparison, to_frame, to_markdown
from skincnn.reporting.plots import to_png


def read_run(workdir: Path, number: int, **changes: object) -> ComparedRun:
    """Returns a run whose predictions depend on `number`."""
    tables = {split: make_table(10 * number + n) for n, split in enumerate(("val", "test"))}
    config = dataclasses.replace(CONFIG, **changes)
    write_run(workdir, tables, config=config)
    return read_compared_run(workdir, "test")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[ComparedRun]:
    """Returns runs with two seeds of each of two recipes, a and b."""
    root = tmp_path_factory.mktemp("runs")
    return [
        read_run(
            root / f"{name}_{seed}",
            2 * number + seed,
            seed=seed,
            optimizer=OptimizerConfig(learning_rate=rate),
        )
        for number, (name, rate) in enumerate((("a", 1e-3), ("b", 2e-3)))
        for seed in (0, 1)
    ]


def test_tables_have_captions(seeds: list[ComparedRun]) -> None:
    tables = compare(seeds[:2], "macro_f1", 100)
    text = to_markdown(tables)
    assert "| run | macro F1 | balanced accuracy | accuracy | macro AUC | melanoma " in text
    assert "Paired difference of these runs, run minus a_0. The intervals cover " in text
    assert (
        "of lesions, not the variance between training runs. Bold: p < 0.05, for each"
        in text
    )
    assert "2 different predictions tables are scored here." in text
    assert "\nTo reproduce each row:\n\n| run | predictions | seed |" in text
    assert (
        "After calibration on the validation split; melanoma sensitivity and "
        "specificity at the validation threshold for 90 % specificity:\n\n| run | melanoma "
        "AUC | melanoma sensitivity | melanoma specificity | log loss after "
        "calibration |\n"
    ) in text
    assert "recipes" not in text
    for run in seeds[:2]:
        assert f"| {run.name} | {run.fingerprint[:8]} |" in text
        assert f"`{run.command}`" in text
    frame = to_frame(tables).set_index("run")
    assert frame["baseline"].unique().tolist() == ["a_0"]
    assert not frame["changed_since_result"].any()


def test_recipes_are_compared_across_seeds(seeds: list[ComparedRun]) -> None:
    [rows] = compare(seeds, "macro_f1", 100, average_seeds=True).values()
    text = to_markdown({"": rows})
    assert (
        "Difference between recipes: mean over seeds minus mean of a_0 and 1 other seed. "
        "The intervals include the variance between seeds, estimated from 4 runs of 2 "
        "recipes. Bold: "
    ) in text
    frame = to_frame({"": rows}).set_index("run")
    scores = np.array([[frame["macro_f1"][f"{n}_{s}"] for s in (0, 1)] for n in "ab"])
    deviation = np.sqrt(scores.var(axis=1, ddof=1).mean())
    assert f"| standard deviation across seeds | {deviation:.4f} |" in text
    wider = frame.filter(regex="^macro_f1_recipe").dropna()
    assert wider.index.tolist() == ["mean of b_0 and 1 other seed"]


@pytest.mark.parametrize("kind", ["differences", "recipe_differences"])
def test_significant_differences_are_bold(seeds: list[ComparedRun], kind: str) -> None:
    """In a table of more than five differences, by the Benjamini-Hochberg procedure."""
    [rows] = compare(seeds, "macro_f1", 100, average_seeds=True).values()
    compared = [row for row in rows if getattr(row, kind)]
    names = ["macro_f1", "balanced_accuracy", "accuracy", "macro_auc", "melanoma_recall"]
    p_values = np.linspace(0.001, 0.08, len(compared) * len(names))
    numbers = iter(p_values)
    changed = [
        dataclasses.replace(
            row,
            **{
                kind: {
                    name: Difference(Estimate(p, p - 1, p + 1), p)
                    for name, p in zip(names, numbers, strict=False)
                }
                | {name: d for name, d in getattr(row, kind).items() if name not in names}
            },
        )
        for row in compared
    ]
    text = to_markdown({"": changed})
    # The largest k with p(k) <= 0.05 k / n: all up to it are significant.
    count = len(p_values)
    limit = 0.05
    if count > 5:
        passed = p_values <= 0.05 * np.arange(1, count + 1) / count
        limit = p_values[passed].max(initial=0)
        assert f"among the {count} differences of this table" in text
    for p in p_values:
        cell = f"{p:+.3f} [{p - 1:+.3f}, {p + 1:+.3f}]"
        assert (f"| **{cell}** |" in text) == (p <= limit), cell


def test_protocols_are_not_ranked_together(
    seeds: list[ComparedRun], tmp_path: Path
) -> None:
    leaky = dataclasses.replace(read_run(tmp_path / "leaky", 1), is_leaky=True)
    tables = compare([seeds[0], leaky], "macro_f1", 100)
    assert to_markdown(tables).startswith("These runs were tested on different images or")
    figure = plot_comparison(tables, "macro_f1")
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.endswith(": LEAKY, not comparable") for title in titles] == [False, True]
    assert figure.axes[-1].get_xlabel() == "macro F1 with its confidence interval"
    assert to_png(figure).startswith(b"\x89PNG")


def test_changed_predictions_are_marked(tmp_path: Path) -> None:
    read_run(tmp_path / "a", 0)
    path = tmp_path / "a/predictions/test.csv"
    path.write_text(path.read_text().replace("i119", "i120"))
    tables = compare([read_compared_run(tmp_path / "a", "test")], "macro_f1", 100)
    assert "(CHANGED since it was scored)" in to_markdown(tables)
    assert to_frame(tables)["changed_since_result"].tolist() == [True]


def test_the_figure_has_room_for_long_names(seeds: list[ComparedRun]) -> None:
    figure = plot_comparison(
        compare(seeds, "macro_f1", 100, average_seeds=True), "macro_f1"
    )
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.5
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "mean of b_0 and 1 other seed" in names
