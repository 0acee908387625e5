"""The report as one self-contained HTML file."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Collection, Mapping

import jinja2

from skincnn import classes
from skincnn.inference.logit_adjustment import variant_flags
from skincnn.metrics import predictive_values
from skincnn.reporting import labels
from skincnn.reporting.load import RunResults
from skincnn.reporting.templates import data_uri, environment
from skincnn.reporting.text import (
    dataset_text,
    decision_text,
    external_text,
    identifier_text,
    report_text,
    training_text,
)

SECTIONS = {
    "melanoma": "Melanoma and malignant lesions",
    "classes": "Scores of all classes",
    "calibration": "Calibration",
    "subgroups": "Subgroups",
    "external": "External validation",
    "images": "Images and missing data",
    "members": "Individual models",
    "variants": "Test-time augmentation and logit adjustment",
    "corruptions": "Corrupted images",
    "ood": "Out-of-distribution images",
    "mistakes": "Most confident errors",
    "splits": "Results on other splits",
    "training": "Learning curves",
    "configuration": "Configuration",
}
"""Headings of the sections by HTML anchor, in the order of the report."""


def render_html(results: RunResults, figures: Mapping[str, bytes]) -> str:
    """Returns the report as HTML; `figures` contains PNG images by name."""
    return (
        report_environment(autoescape=True)
        .get_template("report.html.j2")
        .render(
            results=results,
            sections=find_sections(results, figures),
            classes=classes.describe(results.info.class_names, results.info.declared),
            title=training_text.model_label(results),
            config=json.dumps(results.config.to_dict(), indent=2),
            figures={name: data_uri(png) for name, png in figures.items()},
        )
    )


def find_sections(results: RunResults, figures: Collection[str]) -> dict[str, str]:
    """Returns the heading of each of `SECTIONS` that has results, by HTML anchor.

    `figures` contains the names of the figures.
    """
    exists = {
        "melanoma": results.headline.targets,
        "subgroups": results.headline.subgroups,
        "external": results.external,
        "members": results.members,
        "variants": results.variants,
        "corruptions": results.corruptions,
        "ood": results.ood,
        "mistakes": f"mistakes_{results.headline.split}" in figures,
        "training": "learning_curves" in figures,
    }
    sections = {name: title for name, title in SECTIONS.items() if exists.get(name, True)}
    if results.headline.targets:
        sections["melanoma"] = labels.targets_label(results.headline).capitalize()
    return sections


@functools.cache
def report_environment(*, autoescape: bool) -> jinja2.Environment:
    """Returns the Jinja environment for the report, the model card and the checklists."""
    templates = environment("skincnn.reporting", autoescape)
    templates.filters |= dict(inspect.getmembers(labels, inspect.isfunction))
    templates.filters["variant_flags"] = variant_flags
    templates.filters["class_label"] = _class_label
    templates.filters["counts"] = identifier_text.describe_counts
    templates.filters["cell"] = escape_cell
    modules = {
        "datasets": dataset_text,
        "decisions": decision_text,
        "external_text": external_text,
        "identifiers": identifier_text,
        "labels": labels,
        "predictive_values": predictive_values,
        "text": report_text,
        "training": training_text,
    }
    templates.globals |= {**modules, "zip": zip}
    return templates


@jinja2.pass_context
def _class_label(context: jinja2.runtime.Context, name: str) -> str:
    """Returns the label of a class.

    The classes that the datasets declare are those of the variable `results`, if any.
    """
    results = context.get("results")
    declared = results.info.declared if results else classes.NOTHING_DECLARED
    return labels.class_label(name, declared)


def escape_cell(text: str) -> str:
    """Returns a text that is escaped for a cell of a Markdown table."""
    return text.replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
