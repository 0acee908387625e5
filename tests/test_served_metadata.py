"""Clinical metadata in the command predict.py."""

from __future__ import annotations

import subprocess
from collections.abc import Hashable
from pathlib import Path

import pytest
from conftest import run_here
from source_files import jpeg
from web_models import RULE, make_model

from skincnn.serving.decision import explain_rule


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[dict[Hashable, object]]:
    """The clinical metadata that predict.py passes to a model without a network."""
    rows: list[dict[Hashable, object]] = []
    model = make_model(
        lambda _, metadata: rows.extend(metadata.to_dict("records")), clinical_metadata=True
    )
    load = "skincnn.serving.predictor.load_predictor"
    monkeypatch.setattr(load, lambda path: model.predictor)
    return rows


def predict_images(folder: Path, table: str) -> subprocess.CompletedProcess[str]:
    """Runs predict.py on p0.jpg and p1.jpg, with a table of clinical metadata."""
    for number in range(2):
        (folder / f"p{number}.jpg").write_bytes(jpeg(number))
    (folder / "table.csv").write_text(f"image_id,age,sex,localization\n{table}")
    flags = ("--clinical-metadata", folder / "table.csv")
    return run_here("predict.py", folder, folder / "p0.jpg", folder / "p1.jpg", *flags)


def test_rows_are_found_and_images_without_a_row_are_counted(
    received: list[dict[Hashable, object]], tmp_path: Path
) -> None:
    done = predict_images(tmp_path, "P0.PNG,85,M,Torso\n")
    assert done.returncode == 0
    note, rule = done.stderr.splitlines()
    assert note.startswith("note: ")
    assert "has rows for 1 of 2 images." in note
    assert rule == f"refer        {explain_rule(RULE)}"
    assert received[0] == {"age": 85.0, "sex": "male", "localization": "trunk"}
    assert received[1]["sex"] == "unknown"


def test_a_table_without_rows_for_the_images_is_rejected_before_the_model_runs(
    received: list[dict[Hashable, object]], tmp_path: Path
) -> None:
    done = predict_images(tmp_path, "x0,85,M,back\nx1,20,F,back\n")
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert "has no row for any of the 2 image(s)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not received
    assert not done.stdout
