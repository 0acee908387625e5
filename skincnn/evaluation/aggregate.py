"""Reports of several runs together: cross-validation and ensembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skincnn.config import Config
from skincnn.errors import ConfigError
from skincnn.evaluation.earlier import remove_stale
from skincnn.evaluation.scoring import assess
from skincnn.inference.predictions import write_predictions
from skincnn.inference.run_dir import read_run
from skincnn.reporting.report import draw_figures, write_report

KEYS = (
    "splits",
    "variants",
    "class_names",
    "headline",
    "seconds_per_image",
    "num_parameters",
    "training_seconds",
    "folds",
    "audit",
    "best_epoch",
    "protocol",
    "split_by",
    "synthetic",
)
"""Of each run's report.json, what a common one is made from."""


def write_combined(
    workdir: Path,
    config: Config,
    reports: Sequence[dict[str, Any]],
    tables: Mapping[str, pd.DataFrame],
    stored: Mapping[str, str],
    **said: Any,
) -> dict[str, Any]:
    """Writes the predictions, figures and report that several runs have in common.

    Args:
        workdir: The folder to write to.
        config: Of the first run.
        reports: The content of each run's report.json.
        tables: Split to predictions table, "val" among them.
        stored: Split to where its pictures come from, in words.
        **said: What else report.json says, in the place of what the first run's does.

    Returns:
        The content of report.json: as of a run, and what is said of all.
    """
    written = write_predictions(workdir, tables)
    names = reports[0]["class_names"]
    assessed = assess(tables, names, config.evaluate)
    for name, content in assessed["splits"].items():
        content["fold"] = stored[name]
        content["sha256"] = written[name]
        parts = [report["splits"].get(name, {}).get("audit") for report in reports]
        if found := [part for part in parts if part]:
            content["audit"] = _worst_of_each(found)
    audits = [report["audit"] for report in reports]
    report = {
        **{
            key: value
            for key, value in reports[0].items()
            if key not in ("folds", "model_sha256")
        },
        "best_epoch": None,
        "split_by": "image" if any(r["split_by"] == "image" for r in reports) else "lesion",
        "synthetic": any(report["synthetic"] for report in reports),
        "audit": _worst_of_each(audits),
        "training_seconds": sum(report["training_seconds"] for report in reports),
        "provenance": _same([report.get("provenance") for report in reports]),
        "variants": [],
        "unknown": None,
        "corruptions": None,
        "exports": {},
        "dropped": [],
        **assessed,
        **said,
    }
    write_report(workdir, report, config, draw_figures(report, tables, None))
    remove_stale(workdir, report)
    return report


def describe_models(
    runs: Sequence[Path], reports: Sequence[dict[str, Any]], split: str
) -> list[dict[str, Any]]:
    """Returns the name, backbone, folds, epoch, protocol and metrics of each run."""
    return [
        {
            "name": run.resolve().name,
            "backbone": read_run(run)[1].model.backbone,
            "folds": report["folds"],
            "best_epoch": report["best_epoch"],
            "protocol": report["protocol"],
            "metrics": report["splits"][split]["metrics"],
        }
        for run, report in zip(runs, reports, strict=True)
    ]


def check_folder(workdir: Path) -> None:
    """Checks that nothing else would be lost where a common report is written.

    Raises:
        ConfigError: The folder holds a run, or a README.md that no report came with.
    """
    if (workdir / "config.json").exists():
        raise ConfigError(f"{workdir} holds a run of its own. Give another folder.")
    if (workdir / "README.md").exists() and not (workdir / "report.json").exists():
        raise ConfigError(
            f"{workdir} holds a README.md, in whose place the model card would be written. "
            "Give another folder."
        )


def _same(values: Sequence[Any]) -> Any:
    """Returns what all have in common; None where they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def _worst_of_each(audits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: _worst([audit[key] for audit in audits]) for key in audits[0]}


def _worst(values: Sequence[Any]) -> Any:
    """Returns the largest number, None where there is none."""
    return max((value for value in values if value is not None), default=None)
