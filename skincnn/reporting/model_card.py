"""The model card: README.md with a head that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from skincnn import classes
from skincnn.config import Config
from skincnn.reporting import report_text
from skincnn.reporting.checklist import fill_checklist
from skincnn.reporting.html import environment

NON_COMMERCIAL = "CC BY-NC 4.0"
HUB_METRICS = {
    "balanced_accuracy": "balanced_accuracy",
    "macro_f1": "f1",
    "accuracy": "accuracy",
    "macro_auc": "roc_auc",
}
"""Name in report.json to what the Hub calls it."""


def render_card(report: Mapping[str, Any], config: Config) -> str:
    """Returns the model card as Markdown.

    After Mitchell et al., Model Cards for Model Reporting (2019).

    Args:
        report: The content of report.json.
        config: The configuration.
    """
    return (
        environment(autoescape=False)
        .get_template("model_card.md.j2")
        .render(
            report=report,
            config=config,
            content=report["splits"][report["headline"]],
            head=head(report, config),
            data=report_text.data_name(report),
            non_commercial=NON_COMMERCIAL in report["attribution"],
            classes=classes.describe(report["class_names"]),
            checklist=fill_checklist(report, config),
        )
    )


def head(report: Mapping[str, Any], config: Config) -> str:
    """Returns the YAML head between its lines of dashes.

    Every value is JSON on one line, which YAML holds to be its own.
    See https://huggingface.co/docs/hub/model-cards.
    """
    tags = ["keras", "dermatology", "dermatoscopy", "skin-lesion", "not-a-medical-device"]
    published = bool(report["attribution"]) and not report["synthetic"]
    entries = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "license": "cc-by-nc-4.0" if NON_COMMERCIAL in report["attribution"] else "unknown",
        **({"datasets": [report_text.data_id(report)]} if published else {}),
        "metrics": list(HUB_METRICS.values()),
        "tags": [*tags, "synthetic-data"] if report["synthetic"] else tags,
        "model-index": [
            {
                "name": "skincnn "
                f"{report_text.backbone_name(report, config.model.backbone)} "
                f"on {report_text.data_name(report)}",
                "results": [
                    _result(report, split) for split in report["splits"] if split != "val"
                ],
            }
        ],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in entries.items()]
    return "\n".join(["---", *lines, "---"])


def _result(report: Mapping[str, Any], split: str) -> dict[str, Any]:
    """Returns an entry of the model index: what was scored on what, and the scores."""
    content = report["splits"][split]
    named = [
        (kind, report_text.label(name), content["metrics"][name])
        for name, kind in HUB_METRICS.items()
    ]
    melanomas = report_text.find_melanomas(content)
    if melanomas is not None:
        named.append(("recall", "melanoma recall", melanomas.recall))
    kind = "synthetic" if report["synthetic"] else report_text.data_id(report)
    return {
        "task": {"type": "image-classification", "name": "Image Classification"},
        "dataset": {"name": report_text.data_name(report), "type": kind, "split": split},
        "metrics": [
            {
                "type": kind,
                "name": f"{name} [{report_text.interval_ends(found)}]",
                "value": found["value"],
            }
            for kind, name, found in named
            if found["value"] is not None
        ],
    }
