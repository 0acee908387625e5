"""The report of a run directory: figures, report.html, the model card and a summary."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from skincnn.classes import LesionClass
from skincnn.errors import ConfigError
from skincnn.evaluation.external.result import PREFIX
from skincnn.evaluation.mistakes import Mistakes, mistakes_path
from skincnn.evaluation.results import SplitResult
from skincnn.files import replacing, write_text
from skincnn.inference.predictions import arrays
from skincnn.inference.run_dir import read_history
from skincnn.metrics.calibration import reliability
from skincnn.metrics.classification import SUMMARY_METRICS
from skincnn.metrics.operating_points import HEADLINE_POINT, decision_curve
from skincnn.metrics.sample import Sample
from skincnn.reporting import evaluation_plots as plots
from skincnn.reporting.html import render_html
from skincnn.reporting.labels import (
    corruption_label,
    interval,
    metric_label,
    signed,
    split_label,
    variant_label,
)
from skincnn.reporting.load import RunResults, advise_report, load_results
from skincnn.reporting.model_card import render_card
from skincnn.reporting.plots import plot_learning_curves, plot_mistakes, to_png
from skincnn.reporting.text.dataset_text import (
    data_label,
    describe_datasets,
    describe_synthetic,
)
from skincnn.reporting.text.external_text import describe_images, describe_overlap
from skincnn.reporting.text.identifier_text import describe_counts, describe_identifiers
from skincnn.reporting.text.report_text import (
    describe_missed,
    describe_missing_classes,
    describe_split_boxes,
    variant_scores,
    worst_corruption,
)
from skincnn.reporting.text.training_text import (
    describe_leakage,
    describe_split_by_image,
)
from skincnn.write_errors import explain_write_errors


def render_report(workdir: Path, headline: str = "") -> Path:
    """Writes figures/*.png, report.html and README.md; returns the path of report.html.

    The same results give the same files. Other PNG files in figures/ are deleted.
    `headline` is the split to show first; see `load_results`.

    Raises:
        ConfigError: A file cannot be written; see also `load_results`,
            `RunResults.read_predictions` and `render_card`.
        DataError: See `RunResults.read_predictions` and `Mistakes.read`.
    """
    results = load_results(workdir, headline)
    figures = {name: to_png(figure) for name, figure in draw_figures(results).items()}
    path, folder = workdir / "report.html", workdir / "figures"
    report, card = render_html(results, figures), render_card(results)
    with explain_write_errors(f"The report in {workdir}", advise_report(workdir)):
        for name, png in figures.items():
            with replacing(folder / f"{name}.png") as temporary:
                temporary.write_bytes(png)
        for figure in folder.glob("*.png"):
            if figure.stem not in figures:
                figure.unlink()
        write_text(path, report)
        write_text(workdir / "README.md", card)
    return path


def draw_figures(results: RunResults) -> dict[str, Figure]:
    """Returns the figures of a report by name, such as "roc_test".

    Raises:
        ConfigError: See `RunResults.read_predictions`.
        DataError: See `RunResults.read_predictions` and `Mistakes.read`.
    """
    figures = {} if results.info.members else _draw_learning_curves(results)
    for result in (*results.splits.values(), *(e.scores for e in results.external)):
        drawn = _draw_split(results, result)
        figures |= {f"{name}_{result.split}": figure for name, figure in drawn.items()}
    if results.info.flow is not None:
        boxes = describe_split_boxes(results)
        figures["flow"] = plots.plot_flow(results.info.flow, boxes, figure_title(results))
    if results.corruptions is not None:
        split = results.headline.split
        figures[f"corruptions_{split}"] = plots.plot_corruptions(
            results.corruptions, figure_title(results, results.headline)
        )
    return figures


def _draw_learning_curves(results: RunResults) -> dict[str, Figure]:
    """Returns the learning curves of a run.

    If history.csv is missing or damaged, there are none, and a warning is printed: the
    scores do not depend on this file.
    """
    try:
        history = read_history(results.workdir)
    except ConfigError as error:
        print(f"warning: The report has no learning curves. {error}", file=sys.stderr)
        return {}
    best_epoch, title = results.info.best_epoch, figure_title(results)
    return {"learning_curves": plot_learning_curves(history, best_epoch, title)}


def figure_title(results: RunResults, result: SplitResult | None = None) -> str:
    """Returns the label of the run's data, followed by the split of `result`, if given.

    The label is from `data_label`, or "SYNTHETIC images". If `result` is that of an
    external dataset, the external dataset comes first.
    """
    images = "SYNTHETIC images" if results.info.synthetic else data_label(results.info)
    if result is None:
        return images
    if result.split.startswith(PREFIX):
        return f"{split_label(result)}, model trained on {images}"
    return f"{images}, {split_label(result)}"


def _draw_split(results: RunResults, result: SplitResult) -> dict[str, Figure]:
    """Returns the figures of a split; for validation, only the confusion matrix."""
    title = figure_title(results, result)
    counts = np.array(result.confusion_matrix)
    declared = results.info.declared
    matrix = plots.plot_confusion_matrix(counts, result.class_names, title, declared)
    figures = {"confusion_matrix": matrix}
    if result.split == "val":  # curves on validation images would be optimistic
        return figures
    figures |= _draw_curves(result, results.read_predictions(result), title, declared)
    if any(group.scores for group in result.subgroups):
        accuracy = result.metrics["accuracy"].value
        figures["subgroups"] = plots.plot_subgroups(result.subgroups, accuracy, title)
    mistakes = mistakes_path(results.workdir, result.split)
    if mistakes.is_file():
        missed = describe_missed(result)
        content = Mistakes.read(mistakes)
        figures["mistakes"] = plot_mistakes(content, title, missed, declared)
    return figures


def _draw_curves(
    result: SplitResult,
    table: pd.DataFrame,
    title: str,
    declared: Mapping[str, LesionClass],
) -> dict[str, Figure]:
    """Returns the figures that need the predictions of a split."""
    names = result.class_names
    y_true, y_prob = arrays(table, names)
    sample = Sample(y_true, y_prob)
    calibrated = result.calibration_map.apply(y_prob)
    figures = {
        "roc": plots.plot_roc_curves(sample, names, title, declared),
        "precision_recall": plots.plot_precision_recall_curves(
            sample, names, title, declared
        ),
        "reliability": plots.plot_reliability(
            pd.DataFrame(reliability(y_true, y_prob)),
            pd.DataFrame(reliability(y_true, calibrated)),
            title,
        ),
    }
    shown = {name: part for name, part in result.targets.items() if part.num_images}
    curves = {}
    for name, target in shown.items():
        is_target = np.isin(names, target.class_names)
        scores = calibrated[:, is_target].sum(axis=1)
        curves[name] = pd.DataFrame(decision_curve(is_target[y_true], scores))
    if curves:
        figures["decision_curve"] = plots.plot_decision_curves(curves, title)
        figures["calibration"] = plots.plot_target_calibration(shown, title)
    return figures


def summary(results: RunResults) -> str:
    """Returns the main scores as text for the terminal."""
    lines = [describe_synthetic(results.info), describe_split_by_image(results)]
    lines.append(describe_identifiers(results.info.identifiers))
    lines += describe_datasets(results.info)
    declared = results.info.declared
    for result in results.splits.values():
        lines += _summarize_split(result, declared)
    for variant in results.variants:
        views = variant.cost.num_views
        lines.append(
            f"{variant_label(variant)} on the {split_label(variant)}"
            f"{f', {views} views' if views > 1 else ''}; score and difference from the "
            "default"
        )
        lines += [
            f"  {name:<18} {interval(score)}, {signed(difference)}"
            for name, score, difference in variant_scores(variant)
        ]
    if results.corruptions is not None:
        clean = results.corruptions.clean.balanced_accuracy
        worst = worst_corruption(results.corruptions)
        lines.append(
            f"corrupted images: balanced accuracy {interval(clean)} drops to "
            f"{interval(worst.scores.balanced_accuracy)} in the worst case "
            f"({corruption_label(worst.name)}, severity {worst.severity})"
        )
    for external in results.external:
        lines += _summarize_split(external.scores, declared)
        lines += [f"  {describe_images(external)}", f"  {describe_overlap(external)}"]
    return "\n".join(line for line in lines if line)


def _summarize_split(result: SplitResult, declared: Mapping[str, LesionClass]) -> list[str]:
    """Returns the main scores of a split as lines of text."""
    lines = [f"{split_label(result)}: {describe_counts(result)}"]
    if describe_leakage(result):
        lines.append(f"  {describe_leakage(result)}")
    for name in SUMMARY_METRICS:
        lines.append(f"  {metric_label(name):<18} {interval(result.metrics[name])}")
    recalls = ", ".join(
        f"{name} {recall:.2f}"
        for name, part in result.classes.items()
        if (recall := part.scores["recall"].value) is not None
    )
    lines.append(f"  recall             {recalls}")
    for name, target in result.targets.items():
        rates = target.operating_points[HEADLINE_POINT.key].rates
        if rates:
            lines.append(
                f"  {name:<18} sensitivity {interval(rates['sensitivity'])} at the "
                f"validation threshold for {HEADLINE_POINT.text}"
            )
        ratio = target.calibration.scores["observed_expected"]
        if ratio.value is not None:
            lines.append(f"  {name:<18} observed/expected {interval(ratio)}")
    if triage := result.triage:
        lines.append(
            f"  referral rule      refers {interval(triage.referred)} of the images; "
            f"sensitivity {interval(triage.rates['sensitivity'])} for malignant lesions"
        )
    missing = describe_missing_classes(result, declared)
    return [*lines, f"  {missing}"] if missing else lines
