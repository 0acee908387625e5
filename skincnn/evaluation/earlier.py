"""What an earlier evaluation of the same model found and the next does not ask again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skincnn.files import sha256
from skincnn.inference.logit_adjustment import ADJUSTED, unadjusted_name
from skincnn.inference.ood import SET, UNKNOWN_SETS, UNKNOWN_TABLE
from skincnn.inference.predictions import DISTANCE
from skincnn.inference.tta import VIEWS


@dataclass(frozen=True)
class Earlier:
    """What is kept of an earlier report, and what is not.

    Attributes:
        variants: Of its other ways to predict, those that are not asked again.
        corruptions: What became of spoilt pictures; None where it is not known.
        unknown: The predictions table of the user's own unknown pictures; it may be empty.
        exports: How exports agree with the model.
        dropped: What was found and is kept no more, in words.
    """

    variants: list[dict[str, Any]]
    corruptions: dict[str, Any] | None
    unknown: pd.DataFrame
    exports: dict[str, Any]
    dropped: list[str]


def find_earlier(
    workdir: Path,
    model_sha256: str,
    headline: str,
    *,
    asked: Collection[str],
    corruptions: bool,
    unknown: Path | None,
) -> Earlier:
    """Returns what an earlier evaluation of a folder found and is not asked again.

    It is kept where it was found with the same model file and is of the same split. The
    predictions that it was compared with are then the same.

    Args:
        workdir: The folder of a run; there need not be a report in it.
        model_sha256: Of the model that is evaluated.
        headline: The split that is the headline now.
        asked: The other ways to predict that are asked for now.
        corruptions: Whether spoilt pictures are asked about now.
        unknown: The folder of unknown pictures that is asked about now.
    """
    report = _read(workdir / "report.json")
    same_model = report.get("model_sha256") == model_sha256
    same = same_model and report.get("headline") == headline
    variants, corrupted, dropped = [], None, []
    for variant in report.get("variants") or []:
        name = variant["name"]
        if name in asked:
            continue
        # What was adjusted goes with the views that it was made from.
        if same and _is_there(workdir, variant) and unadjusted_name(name) not in asked:
            variants.append(variant)
        else:
            kind = "predictions" if name.endswith(ADJUSTED) else "test-time augmentation"
            dropped.append(f"the {kind} {name}")
    if report.get("corruptions") and not corruptions:
        if same:
            corrupted = report["corruptions"]
        else:
            dropped.append("the corruptions")
    strange = _read_strange(workdir)
    if len(strange) and unknown is not None:
        strange = strange[strange[SET] != unknown.resolve().name]
    if len(strange) and not (same_model and DISTANCE in strange):
        dropped.extend(f"the unknown pictures {name}" for name in strange[SET].unique())
        strange = strange.iloc[:0]
    exports = report.get("exports", {}) if same_model else {}
    return Earlier(variants, corrupted, strange, exports, dropped)


def table_paths(workdir: Path, variant: Mapping[str, Any]) -> dict[str, Path]:
    """Returns split to the predictions table of a way to predict that is in a report."""
    folder = workdir / "predictions"
    return {split: folder / f"{split}_{variant['name']}.csv" for split in variant["sha256"]}


def remove_stale(workdir: Path, report: dict[str, Any]) -> None:
    """Deletes the tables and figures of extras that a report does not hold.

    Args:
        workdir: The folder of a run.
        report: The content of its report.json.
    """
    splits = report["splits"]
    kept = {
        f"{split}_{variant['name']}.csv"
        for variant in report["variants"]
        for split in variant["sha256"]
    }
    for name in (*VIEWS, ADJUSTED):
        for path in (workdir / "predictions").glob(f"*_{name}.csv"):
            if path.name not in kept and path.stem not in splits:
                path.unlink()
    spoilt = report["corruptions"]
    for path in (workdir / "figures").glob("corruptions_*.png"):
        if not spoilt or path.stem != f"corruptions_{spoilt['split']}":
            path.unlink()


def _read(path: Path) -> dict[str, Any]:
    """Returns an earlier report; nothing where there is none that can be read."""
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _read_strange(workdir: Path) -> pd.DataFrame:
    """Returns the rows of unknown pictures that were not made here."""
    try:
        table = pd.read_csv(workdir / "predictions" / UNKNOWN_TABLE)
    except (OSError, ValueError):
        return pd.DataFrame()
    return table[~table[SET].isin(UNKNOWN_SETS)] if SET in table else pd.DataFrame()


def _is_there(workdir: Path, variant: dict[str, Any]) -> bool:
    """Returns whether the tables of a variant are those that it was scored on."""
    return all(
        path.is_file() and sha256(path) == variant["sha256"][split]
        for split, path in table_paths(workdir, variant).items()
    )
