"""The report: figures, report.json, and the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from skincnn.config import Config
from skincnn.files import replacing, write_json, write_text
from skincnn.inference.predictions import arrays
from skincnn.metrics.calibration import apply_temperature, reliability
from skincnn.metrics.operating_points import decision_curve, find_targets
from skincnn.reporting import plots
from skincnn.reporting.html import render_page
from skincnn.reporting.model_card import render_card
from skincnn.reporting.report_text import (
    SUMMARY_METRICS,
    SUMMARY_POINT,
    interval,
    leak,
    way_name,
    way_scores,
)


def draw_figures(
    report: dict[str, Any],
    predictions: Mapping[str, pd.DataFrame],
    history: pd.DataFrame | None,
) -> dict[str, Figure]:
    """Returns every figure of a report by its name, `<what>_<split>` where it is of one.

    Args:
        report: All of report.json.
        predictions: Split to its table.
        history: The rows of history.csv, for the learning curves.
    """
    names = report["class_names"]
    figures = {}
    if history is not None:
        figures["learning_curves"] = plots.plot_learning_curves(
            history, report["best_epoch"], figure_title(report)
        )
    for split, table in predictions.items():
        content = report["splits"][split]
        title = figure_title(report, split)
        drawn = {
            "confusion_matrix": plots.plot_confusion_matrix(
                np.array(content["confusion_matrix"]), names, title
            )
        }
        if split != "val":  # whose curves would flatter
            drawn |= _draw_curves(report, content, table, title)
        figures |= {f"{name}_{split}": figure for name, figure in drawn.items()}
    spoilt = report.get("corruptions")
    if spoilt:
        split = spoilt["split"]
        title = f"Spoilt pictures. {figure_title(report, split)}"
        figures[f"corruptions_{split}"] = plots.plot_corruptions(spoilt, title)
    return figures


def figure_title(report: dict[str, Any], split: str = "") -> str:
    """Returns which pictures a figure is about: all, or those of a split."""
    pictures = "SYNTHETIC pictures" if report["synthetic"] else report["dataset"]
    return f"{pictures}, {split}: {report['splits'][split]['fold']}" if split else pictures


def _draw_curves(
    report: dict[str, Any], content: dict[str, Any], table: pd.DataFrame, title: str
) -> dict[str, Figure]:
    """Returns the figures of a split that is more than a table of counts."""
    names = report["class_names"]
    y_true, y_prob = arrays(table, names)
    calibrated = apply_temperature(y_prob, report["temperature"])
    drawn = {
        "roc": plots.plot_roc_curves(y_true, y_prob, names, title),
        "precision_recall": plots.plot_precision_recall_curves(
            y_true, y_prob, names, title
        ),
        "reliability": plots.plot_reliability(
            pd.DataFrame(reliability(y_true, y_prob)),
            pd.DataFrame(reliability(y_true, calibrated)),
            report["temperature"],
            title,
        ),
    }
    curves = {
        target.name: pd.DataFrame(
            decision_curve(target.positive(y_true), target.score(calibrated))
        )
        for target in find_targets(names).values()
        if target.positive(y_true).any()
    }
    if curves:
        drawn["decision_curve"] = plots.plot_decision_curves(curves, title)
    if any(group["scores"] for group in content["subgroups"]):
        accuracy = content["metrics"]["accuracy"]["value"]
        drawn["subgroups"] = plots.plot_subgroups(content["subgroups"], accuracy, title)
    return drawn


def summary(report: dict[str, Any]) -> str:
    """Returns the scores of a report as lines for the terminal."""
    lines = []
    if report["synthetic"]:
        lines.append("SYNTHETIC pictures: these scores say nothing about skin lesions.")
    if report["split_by"] == "image":
        lines.append(
            "SPLIT BY IMAGE: "
            f"{report['audit']['share_test_images']:.0%} of the test pictures show a "
            "lesion that the model was trained on; these scores are inflated."
        )
    for split, content in report["splits"].items():
        lines.append(
            f"{split} ({content['fold']}, {content['num_images']} pictures of "
            f"{content['num_lesions']} lesions)"
        )
        if leak(content):
            lines.append(f"  {leak(content)}")
        for name in SUMMARY_METRICS:
            value = content["metrics"][name]
            lines.append(f"  {name.replace('_', ' '):<18} {interval(value)}")
        recalls = ", ".join(
            f"{name} {of['recall']['value']:.2f}"
            for name, of in content["classes"].items()
            if of["num_images"]
        )
        lines.append(f"  recall             {recalls}")
        for target, of in content["targets"].items():
            rates = of["operating_points"][SUMMARY_POINT]
            if "sensitivity" in rates:
                lines.append(
                    f"  {target:<18} sensitivity {interval(rates['sensitivity'])} at the "
                    f"threshold of {SUMMARY_POINT} on validation"
                )
        if of := content.get("refer"):
            lines.append(
                f"  refer, as served   {interval(of['referred'])} of the pictures; "
                f"sensitivity {interval(of['sensitivity'])} for malignant"
            )
        if content["missing_classes"]:
            lines.append(
                f"  no picture of      {', '.join(content['missing_classes'])}: means are "
                "over the other classes"
            )
    for variant in report.get("variants", ()):
        views = variant["num_views"]
        seen = f"{views} views, " if views > 1 else ""
        lines.append(
            f"{seen}{way_name(variant)} ({variant['split']}), {variant['cost']:.1f} times "
            "the time; behind each score what it gains over the plain answer"
        )
        for name, score, gained in way_scores(variant):
            lines.append(f"  {name:<18} {score}, {gained}")
    if report.get("corruptions"):
        clean = report["corruptions"]["clean"]["balanced_accuracy"]["value"]
        worst = min(
            report["corruptions"]["rows"], key=lambda row: row["difference"]["value"]
        )
        lines.append(
            f"spoilt pictures: balanced accuracy {clean:.3f} falls at worst to "
            f"{interval(worst['balanced_accuracy'])} ({worst['name'].replace('_', ' ')}, "
            f"severity {worst['severity']})"
        )
    if report.get("dropped"):
        lines.append(
            "no longer in the report, being of another model or headline: "
            f"{', '.join(report['dropped'])}"
        )
    return "\n".join(lines)


def write_report(
    workdir: Path, report: dict[str, Any], config: Config, figures: dict[str, Figure]
) -> None:
    """Writes figures/*.png, report.json, report.html and README.md, the model card.

    Args:
        workdir: The folder to write to.
        report: The content of report.json.
        config: The configuration, which the page shows.
        figures: From `draw_figures`.
    """
    pictures = {name: plots.to_png(figure) for name, figure in figures.items()}
    for name, png in pictures.items():
        with replacing(workdir / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(png)
    write_json(workdir / "report.json", report)
    write_text(workdir / "report.html", render_page(report, config, pictures))
    write_text(workdir / "README.md", render_card(report, config))
