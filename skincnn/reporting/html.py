"""The report as one page: the verdict first, then what there is to show."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Collection, Mapping
from typing import Any

import jinja2

from skincnn import classes
from skincnn.config import Config
from skincnn.reporting import report_text

SECTIONS = {
    "melanoma": "Melanoma and malignant",
    "classes": "Classes",
    "calibration": "Calibration",
    "subgroups": "Subgroups",
    "models": "Each model",
    "variants": "The same model asked in other ways",
    "robustness": "Robustness",
    "unknown": "Unknown pictures",
    "mistakes": "Mistakes",
    "splits": "Other splits",
    "training": "Training",
    "configuration": "Configuration",
}
"""The part of the address after # to the heading, in the order of the page."""


def render_page(
    report: Mapping[str, Any], config: Config, pictures: Mapping[str, bytes]
) -> str:
    """Returns the page as HTML that loads nothing from elsewhere.

    Args:
        report: The content of report.json.
        config: The configuration.
        pictures: Name of a figure to its PNG.
    """
    return (
        environment(autoescape=True)
        .get_template("report.html.j2")
        .render(
            report=report,
            content=report["splits"][report["headline"]],
            sections=find_sections(report, pictures),
            classes=classes.describe(report["class_names"]),
            title=f"{report_text.backbone_name(report, config.model.backbone)} on "
            f"{report_text.data_name(report)}",
            config=json.dumps(config.to_dict(), indent=2),
            figures={name: _data_uri(png) for name, png in pictures.items()},
        )
    )


def find_sections(report: Mapping[str, Any], figures: Collection[str]) -> dict[str, str]:
    """Returns those of `SECTIONS` that a report has anything for."""
    headline = report["headline"]
    content = report["splits"][headline]
    there = {
        "melanoma": content["targets"],
        "subgroups": content["subgroups"],
        "models": report.get("models"),
        "variants": report.get("variants"),
        "robustness": report.get("corruptions"),
        "unknown": report.get("unknown"),
        "mistakes": f"mistakes_{headline}" in figures,
        "splits": len(report["splits"]) > 1,
        "training": "learning_curves" in figures,
    }
    return {name: title for name, title in SECTIONS.items() if there.get(name, True)}


@functools.cache
def environment(*, autoescape: bool) -> jinja2.Environment:
    """Returns what renders the templates beside this file."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("skincnn.reporting", "."),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = ("interval", "percent", "percent_ends", "label", "role")
    made.filters |= {name: getattr(report_text, name) for name in words}
    made.filters["signed"] = lambda found: report_text.interval(found, "+.3f")
    made.filters["cell"] = _cell
    made.globals["report_text"] = report_text
    return made


def _cell(text: str) -> str:
    """Returns a text that is nothing but text in a Markdown table."""
    return text.replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
