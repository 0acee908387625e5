"""The model card: README.md with metadata for the Hugging Face Hub."""

from __future__ import annotations

import json

from skincnn import classes
from skincnn.evaluation.results import SplitResult
from skincnn.reporting.checklist import complete_checklist
from skincnn.reporting.html import report_environment
from skincnn.reporting.labels import metric_label
from skincnn.reporting.load import RunResults
from skincnn.reporting.text.dataset_text import data_label, describe_synthetic
from skincnn.reporting.text.report_text import find_melanoma
from skincnn.reporting.text.training_text import model_label

NON_COMMERCIAL = "CC BY-NC 4.0"
TAGS = ("keras", "dermatology", "dermoscopy", "skin-lesion", "not-a-medical-device")
HUB_METRICS = {
    "balanced_accuracy": "balanced_accuracy",
    "macro_f1": "f1",
    "accuracy": "accuracy",
    "macro_auc": "roc_auc",
}
"""Identifiers of metrics on the Hugging Face Hub."""


def render_card(results: RunResults) -> str:
    """Returns the model card as Markdown, with the checklist CLEAR Derm.

    The format follows Mitchell et al., Model Cards for Model Reporting (2019),
    arXiv:1810.03993.

    Raises:
        ConfigError: See `skincnn.reporting.checklist.complete_checklist`.
    """
    return (
        report_environment(autoescape=False)
        .get_template("model_card.md.j2")
        .render(
            results=results,
            metadata=render_metadata(results),
            non_commercial=NON_COMMERCIAL in results.info.attribution,
            classes=classes.describe(results.info.class_names, results.info.declared),
            checklist=complete_checklist(results, "clear-derm"),
        )
    )


def render_metadata(results: RunResults) -> str:
    """Returns the metadata as a YAML block, enclosed by lines of dashes.

    Each value is one line of JSON, which is valid YAML. See
    https://huggingface.co/docs/hub/model-cards.
    """
    info = results.info
    non_commercial = NON_COMMERCIAL in info.attribution
    scores = [
        _result(results, split) for name, split in results.splits.items() if name != "val"
    ]
    entries = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "license": "cc-by-nc-4.0" if non_commercial and info.source_is_known else "unknown",
        **({"datasets": [d.name for d in info.datasets]} if info.published else {}),
        "metrics": list(HUB_METRICS.values()),
        "tags": [*TAGS, "synthetic-data"] if describe_synthetic(info) else list(TAGS),
        "model-index": [{"name": model_label(results), "results": scores}],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in entries.items()]
    return "\n".join(["---", *lines, "---"])


def _result(results: RunResults, result: SplitResult) -> dict[str, object]:
    """Returns an entry of the model index: task, dataset and scores."""
    scores = [
        (hub_name, metric_label(name), result.metrics[name])
        for name, hub_name in HUB_METRICS.items()
    ]
    melanoma = find_melanoma(result)
    if melanoma is not None:
        scores.append(("recall", "melanoma recall", melanoma.recall))
    dataset = {
        "name": data_label(results.info),
        "type": "+".join(
            "synthetic" if d.synthetic else d.name for d in results.info.datasets
        ),
        "split": result.split,
    }
    return {
        "task": {"type": "image-classification", "name": "Image Classification"},
        "dataset": dataset,
        "metrics": [
            {
                "type": hub_name,
                "name": f"{label} [{score.ends()}]",
                "value": score.value,
            }
            for hub_name, label, score in scores
            if score.value is not None
        ],
    }
