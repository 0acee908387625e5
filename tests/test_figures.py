"""The figures of a report: their content and labels."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from report_runs import (
    CORRUPTIONS,
    NAMES,
    TABLES,
    WITH_OFFICIAL,
    make_mistakes,
    make_table,
)
from run_dirs import make_dataset, make_info, write_run

from skincnn.classes import LesionClass
from skincnn.data.characteristics import OFFICIAL, OTHER_FOLDS, SAME_LESION, ImageFlow
from skincnn.evaluation.mistakes import Mistakes, mistakes_path
from skincnn.evaluation.results import SubgroupScores
from skincnn.inference.grad_cam import overlay
from skincnn.inference.predictions import arrays
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.sample import Sample
from skincnn.reporting import evaluation_plots as plots
from skincnn.reporting import plots as style
from skincnn.reporting.load import load_results
from skincnn.reporting.plots import (
    plot_learning_curves,
    plot_learning_rates,
    plot_mistakes,
    to_png,
)
from skincnn.reporting.report import draw_figures, figure_title

CURVES = (
    *("confusion_matrix", "roc", "precision_recall"),
    *("reliability", "calibration", "decision_curve"),
)
TITLE = "isic2018, test split (fold 9)"


def test_every_result_has_its_figure(tmp_path: Path) -> None:
    write_run(tmp_path, WITH_OFFICIAL)
    make_mistakes().write(mistakes_path(tmp_path, "test"))
    figures = draw_figures(load_results(tmp_path))
    names = [*CURVES, "subgroups"]
    assert set(figures) == {
        "flow",
        "learning_curves",
        "confusion_matrix_val",
        "mistakes_test",
        *(f"{name}_{split}" for name in names for split in ("test", "test_official")),
    }
    for figure in figures.values():
        assert to_png(figure).startswith(b"\x89PNG")
    [axes, _] = figures["confusion_matrix_test"].axes
    assert axes.get_title() == f"Confusion matrix\n{TITLE}"


def test_a_class_without_images_has_an_empty_panel(tmp_path: Path) -> None:
    tables = {"val": make_table(0), "test": make_table(1, (0, 2))}
    figures = draw_figures(load_results(write_run(tmp_path, tables)))
    assert "decision_curve_test" not in figures  # there is nothing to detect
    titles = [axes.get_title().split("\n")[-1] for axes in figures["roc_test"].axes]
    assert [title.startswith("n = 60, AUC 0.") for title in titles] == [True, False] * 2
    assert titles[1] == titles[3] == "no images"
    assert all(to_png(figure).startswith(b"\x89PNG") for figure in figures.values())


def test_synthetic_images_are_named_in_every_title(tmp_path: Path) -> None:
    results = load_results(
        write_run(
            tmp_path, TABLES, info=make_info(datasets=(make_dataset(synthetic=True),))
        )
    )
    assert figure_title(results) == "SYNTHETIC images"
    title = figure_title(results, results.headline)
    assert title == "SYNTHETIC images, test split (fold 9)"
    datasets = make_dataset(), make_dataset("demo", synthetic=True)
    info = results.info.model_copy(update={"datasets": datasets})
    mixed = figure_title(dataclasses.replace(results, info=info))
    assert mixed == "isic2018 and synthetic demo images"


def test_boxes_of_the_flow_do_not_overlap() -> None:
    flow = ImageFlow(
        num_read=25400,
        excluded={"diagnosis not known (class UNK)": 40, "also in HAM10000": 10015},
        unused={f"{OTHER_FOLDS}, or {SAME_LESION}": 5, OFFICIAL: 1511},
        splits={"train": 10000, "val": 2000, "test": 1829},
    )
    boxes = ["validation split (fold 8)\n2,000 images\n1,900 lesions"] * 3
    figure = plots.plot_flow(flow, boxes, TITLE)
    FigureCanvasAgg(figure).draw()
    [axes] = figure.axes
    drawn = [
        text.get_bbox_patch().get_window_extent() for text in axes.texts if text.get_text()
    ]
    assert len(drawn) == 7
    for first, second in itertools.combinations(drawn, 2):
        assert not first.overlaps(second)
    edges = figure.bbox
    assert all(edges.contains(*box.p0) and edges.contains(*box.p1) for box in drawn)
    text = " ".join(text.get_text() for text in axes.texts)
    for count in ("25,400", "excluded: 10,055 images", "15,345", "not used: 1,516 images"):
        assert count in text


def test_classes_have_full_names_and_melanoma_is_bold() -> None:
    confusion = np.diag([1, 2, 3, 4])
    axes = plots.plot_confusion_matrix(confusion, NAMES, TITLE).axes[0]
    columns = axes.get_xticklabels()
    texts = [label.get_text().replace("\n", " ") for label in columns]
    assert texts == [
        NAMES[0],
        "melanoma (mel)",
        "melanocytic naevus (nv)",
        "basal cell carcinoma (bcc)",
    ]
    declared = {NAMES[0]: LesionClass(NAMES[0], "viral wart", False)}
    sample = Sample(*arrays(make_table(0), NAMES))
    for figure in (
        plots.plot_confusion_matrix(confusion, NAMES, TITLE, declared),
        plots.plot_roc_curves(sample, NAMES, TITLE, declared),
        plots.plot_precision_recall_curves(sample, NAMES, TITLE, declared),
        plot_mistakes(make_mistakes(), TITLE, "", {"mel": declared[NAMES[0]]}),
    ):
        words = [text.get_text() for text in figure.findobj(Text)]
        assert any("viral wart" in word.replace("\n", " ") for word in words)
    rows = axes.get_yticklabels()
    assert rows[1].get_text() == "melanoma (mel)\nn = 2"
    for labels in (columns, rows):
        weights = [label.get_fontweight() for label in labels]
        assert [weight == "bold" for weight in weights] == [False, True, False, False]
        assert not any(label.get_parse_math() for label in labels)


def test_titles_of_panels_do_not_overlap() -> None:
    names = ["akiec", "Melanoma", "bcc", "Squamous cell carcinoma"]
    sample = Sample(*arrays(make_table(0), NAMES))
    figure = plots.plot_roc_curves(sample, names, "title")
    to_png(figure)
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0
    assert max(box.y1 for box in boxes) < figure._suptitle.get_window_extent().y0
    weights = [axes.title.get_fontweight() for axes in figure.axes]
    assert [weight == "bold" for weight in weights] == [False, True, False, False]


def test_subgroups_without_an_interval_are_points() -> None:
    groups = [
        SubgroupScores(
            attribute=attribute,
            value=value,
            num_images=9,
            num_groups=9,
            class_names=("mel",),
            scores={"accuracy": score} if score else {},
            targets={},
        )
        for attribute, value, score in (
            ("sex", "female", Estimate(0.5, 0.4, 0.6)),
            ("site", "back", Estimate(0.7, None, None)),
            ("ground truth by", "histo", None),
        )
    ]
    figure = plots.plot_subgroups(groups, 0.6, TITLE)
    [axes] = figure.axes
    texts = [label.get_text() for label in axes.get_yticklabels()]
    assert texts == ["sex: female (n = 9)", "body site: back (n = 9)"]
    assert len(axes.lines) == 4  # an interval, two points, and the accuracy of all images
    assert to_png(figure).startswith(b"\x89PNG")


def test_heat_maps_show_every_score() -> None:
    figure = plots.plot_corruptions(CORRUPTIONS, TITLE)
    accuracy, sensitivity = figure.axes
    row = ["0.66", "0.61", "0.57", "0.53", "0.49", "0.45"]
    assert [text.get_text() for text in accuracy.texts] == row * 2
    assert len(sensitivity.texts) == len(row) * 2
    labels = [label.get_text() for label in accuracy.get_yticklabels()]
    assert labels == ["motion blur", "hairs"]
    assert to_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("sensitivity", [None, Estimate(None, None, None)])
def test_unknown_melanoma_sensitivity_has_no_heat_map(sensitivity: Estimate | None) -> None:
    clean = CORRUPTIONS.clean.model_copy(update={"melanoma_sensitivity": sensitivity})
    unknown = CORRUPTIONS.model_copy(update={"clean": clean})
    assert len(plots.plot_corruptions(unknown, TITLE).axes) == 1


def captions(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.get_axes()[::2]]


def test_errors_are_shown_beside_their_maps() -> None:
    mistakes = make_mistakes()
    figure = plot_mistakes(mistakes, TITLE, "a melanoma")
    axes = figure.get_axes()
    assert len(axes) == 6
    for number in range(3):
        left, right = (a.images[0].get_array() for a in axes[2 * number :][:2])
        image = mistakes.images[number]
        np.testing.assert_array_equal(left, image)
        np.testing.assert_array_equal(right, overlay(image, mistakes.maps[number]))
    assert "MISSED: a melanoma." in figure.get_suptitle()
    assert captions(figure) == [
        "True: melanoma\nPredicted: melanocytic naevus",
        "True: melanocytic naevus\nPredicted: melanoma",
        "True: basal cell carcinoma\nPredicted: melanoma",
    ]
    below = [a.get_xlabel() for a in axes[::2]]
    assert below[:2] == [
        "ISIC_1\nProbability: predicted 97 %, true 2 %",
        "$\\no$\nProbability: predicted over 99 %, true under 1 %",
    ]
    name, probabilities = below[2].split("\n")
    assert name.startswith("...")
    assert name.endswith("folder/lésion")
    assert len(name) == 45
    assert probabilities == "Probability: predicted 50 %, true 40 %"
    # A carcinoma that is predicted as melanoma is not missed.
    marks = [[text.get_text() for text in a.texts] for a in axes[::2]]
    assert marks == [["MISSED"], [], []]
    framed = [a.spines["top"].get_visible() for a in axes]
    assert framed == [True, True, False, False, False, False]
    assert TITLE in figure.get_suptitle()
    assert to_png(figure).startswith(b"\x89PNG")


def test_captions_of_errors_do_not_overlap() -> None:
    mistakes = make_mistakes()
    long = mistakes.table.assign(label="akiec", predicted="bkl")
    table = pd.concat([long, long], ignore_index=True)
    repeated = (np.concatenate([a, a]) for a in (mistakes.images, mistakes.maps))
    figure = plot_mistakes(Mistakes(table, *repeated), TITLE, "")
    to_png(figure)
    first, second = figure.get_axes()[0], figure.get_axes()[6]
    below, above = first.xaxis.label, second._left_title
    assert below.get_window_extent().y0 > above.get_window_extent().y1
    heading = figure._suptitle.get_window_extent()
    assert heading.y0 > first._left_title.get_window_extent().y1
    assert second.xaxis.label.get_window_extent().y0 > 0


def test_characters_without_a_glyph_are_noted_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(style, "_installed_fonts", lambda: ["DejaVu Sans"])
    style._note_missing_glyphs.cache_clear()
    for _ in range(2):
        figure = Figure()
        figure.suptitle("\u9ed1\u8272\u7d20\u7624")  # melanoma in Chinese
        to_png(figure)
    assert capsys.readouterr().err.count("note: the figures show boxes instead of") == 1


def test_learning_curves_mark_the_selected_epoch() -> None:
    history = pd.DataFrame(
        {
            "epoch": [1, 2],
            "loss": [1, 0.5],
            "val_macro_f1": [0.4, 0.5],
            "val_ece": [0.2, 0.1],
            "val_log_loss": [1.9, 1.2],
        }
    )
    texts = [
        [text.get_text() for text in axes.get_legend().get_texts()]
        for axes in plot_learning_curves(history, 2, "isic2018").axes
    ]
    assert texts == [
        ["training", "validation (log loss)"],
        ["macro F1", "ECE", "selected epoch"],
    ]


def test_metrics_above_1_are_visible_in_learning_curves() -> None:
    history = pd.DataFrame({"epoch": [1, 2], "loss": [1, 0.5], "val_cost": [7.0, 5.0]})
    _, metrics = plot_learning_curves(history, None, "isic2018").axes
    assert metrics.get_ylim()[1] > 7
    history["val_cost"] /= 10
    assert plot_learning_curves(history, None, "x").axes[1].get_ylim() == (0, 1)


def test_the_suggested_learning_rate_is_marked() -> None:
    losses = [1.0, 0.8, 0.6, np.inf]
    rates = [1e-4, 1e-3, 1e-2, 1e-1]
    test = pd.DataFrame({"learning_rate": rates, "loss": losses, "smoothed_loss": losses})
    [axes] = plot_learning_rates(test, 1e-3, "title").axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["loss of each step", "smoothed loss", "suggested rate: 1.0e-03"]
    assert axes.get_ylim()[1] == pytest.approx(1.4)
