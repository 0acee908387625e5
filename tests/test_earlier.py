"""What is kept of an earlier evaluation: only what is of the same model and headline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from skincnn.evaluation.earlier import find_earlier, remove_stale
from skincnn.inference.predictions import write_predictions
from skincnn.reporting.report import summary

SPOILT = {"split": "test", "rows": []}


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A folder that was evaluated with all extras; its tables hold no more than a name."""
    tables = {split: pd.DataFrame({"image_id": [split]}) for split in ("val", "test")}
    variants = [
        {"name": name, "sha256": write_predictions(tmp_path, tables, f"_{name}")}
        for name in ("d4", "augment")
    ]
    write_predictions(tmp_path, tables)
    unknown = pd.DataFrame({"set": ["cats", "noise", "dogs"], "distance": [1.0, 2.0, 3.0]})
    unknown.to_csv(tmp_path / "predictions/unknown.csv", index=False)
    for split in ("test", "test_official"):
        (tmp_path / "figures").mkdir(exist_ok=True)
        (tmp_path / f"figures/corruptions_{split}.png").write_text("png")
    report = {"model_sha256": "abc", "headline": "test", "corruptions": SPOILT}
    report |= {"variants": variants, "splits": dict.fromkeys(tables)}
    (tmp_path / "report.json").write_text(json.dumps(report))
    return tmp_path


def find(workdir: Path, *of: str, **asked: Any) -> Any:
    nothing = {"asked": (), "corruptions": False, "unknown": None}
    model, headline = of or ("abc", "test")
    return find_earlier(workdir, model, headline, **{**nothing, **asked})


def names(found: Any) -> list[str]:
    return [variant["name"] for variant in found.variants]


def test_what_is_not_asked_again_is_kept(workdir: Path) -> None:
    found = find(workdir)
    assert names(found) == ["d4", "augment"]
    assert found.corruptions == SPOILT
    assert found.unknown["set"].tolist() == ["cats", "dogs"]
    assert found.dropped == []
    asked = find(workdir, asked=["augment"], corruptions=True, unknown=Path("new/cats"))
    assert names(asked) == ["d4"]
    assert asked.corruptions is None
    assert asked.unknown["set"].tolist() == ["dogs"]
    assert asked.dropped == []


def test_what_is_of_another_model_or_split_is_dropped_and_said(workdir: Path) -> None:
    found = find(workdir, "abc", "test_official")
    assert (names(found), found.corruptions) == ([], None)
    assert found.unknown["set"].tolist() == ["cats", "dogs"]
    found = find(workdir, "other", "test")
    assert (names(found), found.corruptions, len(found.unknown)) == ([], None, 0)
    said = ["the test-time augmentation d4", "the test-time augmentation augment"]
    said += ["the corruptions", "the unknown pictures cats", "the unknown pictures dogs"]
    assert found.dropped == said
    printed = summary(
        {"synthetic": False, "split_by": "lesion", "splits": {}, "dropped": found.dropped}
    )
    assert printed.endswith(", ".join(said))


def test_a_table_that_was_changed_is_not_kept(workdir: Path) -> None:
    (workdir / "predictions/val_augment.csv").write_text("torn")
    assert names(find(workdir)) == ["d4"]


@pytest.mark.parametrize("content", ["", "[]", "null", "{}"])
def test_a_damaged_report_is_as_none(content: str, workdir: Path) -> None:
    (workdir / "report.json").write_text(content)
    (workdir / "predictions/unknown.csv").unlink()
    found = find(workdir)
    assert (names(found), found.corruptions, found.dropped) == ([], None, [])


def test_files_of_what_was_dropped_are_deleted(workdir: Path) -> None:
    report = json.loads((workdir / "report.json").read_text())
    report["variants"] = report["variants"][:1]
    remove_stale(workdir, report)
    left = {path.name for path in (workdir / "predictions").iterdir()}
    assert left == {
        *("val.csv", "test.csv", "unknown.csv"),
        *("val_d4.csv", "test_d4.csv"),
    }
    assert [path.name for path in (workdir / "figures").iterdir()] == [
        "corruptions_test.png"
    ]
    remove_stale(workdir, report | {"corruptions": None})
    assert not list((workdir / "figures").iterdir())
