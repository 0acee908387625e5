from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import run_here
from scipy.special import softmax
from sklearn import metrics as reference

from skincnn.config import Config
from skincnn.evaluation.ensemble import _score_unknown, combine_runs
from skincnn.inference.logit_adjustment import ADJUSTED, adjust_tables
from skincnn.inference.predictions import (
    arrays,
    class_names_of,
    read_predictions,
    write_predictions,
)
from skincnn.reporting.report_text import way_name
from skincnn.serving.postprocessing import DecisionRule, answer


def vary(workdir: Path, seed: int) -> Path:
    """Changes what a run says, and the order in which it says so."""
    rng = np.random.default_rng(seed)
    for path in (workdir / "predictions").glob("*.csv"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        columns = [f"probability_{name}" for name in class_names_of(table)]
        logits = np.log(table[columns].to_numpy(float)) + rng.normal(0, 2, (len(table), 7))
        table[columns] = softmax(logits, axis=1)
        for column in ("energy", "distance"):
            table[column] = table[column].astype(float) + rng.normal(0, 1, len(table))
        table.sample(frac=1, random_state=seed).to_csv(path, index=False)
    return workdir


@pytest.fixture
def runs(run: tuple[Path, object], tmp_path: Path) -> list[Path]:
    """Three runs of the same folds whose answers differ."""
    folders = [tmp_path / name for name in "abc"]
    for seed, folder in enumerate(folders):
        shutil.copytree(run[0], folder)
        vary(folder, seed)
    return folders


def test_an_ensemble_is_the_mean_of_its_runs(runs: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "abc"
    done = run_here("evaluate.py", *runs, "--ensemble", target)
    assert done.returncode == 0, done.stderr
    report = json.loads((target / "report.json").read_text())
    for split in ("val", "test"):
        tables = [
            read_predictions(folder / f"predictions/{split}.csv").set_index("image_id")
            for folder in runs
        ]
        found = read_predictions(target / f"predictions/{split}.csv").set_index("image_id")
        names = class_names_of(found)
        for column in ("energy", "distance", *(f"probability_{name}" for name in names)):
            mean = sum(table[column] for table in tables) / 3
            np.testing.assert_allclose(found[column], mean[found.index], rtol=1e-9)
        score = report["splits"][split]["metrics"]["balanced_accuracy"]["value"]
        answers = np.array(names)[found.filter(like="probability_").to_numpy().argmax(1)]
        expected = reference.balanced_accuracy_score(found["label"], answers)
        assert score == pytest.approx(expected, abs=1e-6)
    assert [model["name"] for model in report["models"]] == ["a", "b", "c"]
    together = report["splits"]["test"]["metrics"]["accuracy"]["value"]
    for model, folder in zip(report["models"], runs, strict=True):
        table = read_predictions(folder / "predictions/test.csv")
        answers = np.array(names)[table.filter(like="probability_").to_numpy().argmax(1)]
        gained = model["differences"]["accuracy"]["value"]
        assert gained == pytest.approx(
            together - np.mean(answers == table["label"]), abs=2e-6
        )
    single = json.loads((runs[0] / "report.json").read_text())
    assert report["num_parameters"] == 3 * single["num_parameters"]
    assert report["provenance"] == single["provenance"]
    assert report["unknown"]["sets"]
    assert "a, b, c" in report["protocol"]
    page = (target / "report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in "abc")
    # It is ranked like any run.
    done = run_here(
        "compare.py", target, *runs, "--num-bootstrap", 100, "--output", tmp_path
    )
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "compare.csv")
    assert set(frame["run"]) == {"abc", "a", "b", "c"}
    assert frame["protocol"].nunique() == 1


def test_an_ensemble_tells_of_each_of_its_models(runs: list[Path], tmp_path: Path) -> None:
    config = json.loads((runs[1] / "config.json").read_text())
    config["model"]["backbone"] = "small_cnn"
    (runs[1] / "config.json").write_text(json.dumps(config))
    reports = [json.loads((run / "report.json").read_text()) for run in runs[:2]]
    reports[1] |= {"protocol": "Trained on other things.", "split_by": "image"}
    reports[1]["provenance"] |= {"code": "0123abc"}
    reports[1]["audit"] |= {"share_test_images": 0.25, "num_train_images": 7777}
    (runs[1] / "report.json").write_text(json.dumps(reports[1]))
    (runs[1] / "predictions/unknown.csv").unlink()  # one was not asked
    tables = tmp_path / "ab/predictions"
    tables.mkdir(parents=True)
    (tables / "test_adjusted.csv").write_text("of an earlier ensemble")
    combine_runs(tmp_path / "ab", runs[:2])
    left = {path.name for path in tables.iterdir()}
    assert left == {"val.csv", "test.csv"}
    found = json.loads((tmp_path / "ab" / "report.json").read_text())
    assert found["best_epoch"] is None
    assert found["split_by"] == "image"
    assert found["unknown"] is None
    assert [model["backbone"] for model in found["models"]] == ["mobilenet", "small_cnn"]
    page = (tmp_path / "ab" / "report.html").read_text()
    card = (tmp_path / "ab" / "README.md").read_text()
    for text in (page, card):
        assert "mobilenet + small_cnn on" in text
        assert reports[0]["provenance"]["code"] not in text
        for report in reports:
            assert report["protocol"] in text
        assert "SPLIT BY IMAGE" in text
    assert "train at most 7777" in card
    # An empty table is no table, either.
    (runs[2] / "predictions/unknown.csv").write_text("")
    assert _score_unknown([runs[0], runs[2]], {}, Config()) is None


def test_each_model_of_an_ensemble_is_adjusted_by_a_power_of_its_own(
    runs: list[Path], tmp_path: Path
) -> None:
    for run in runs[:2]:
        tables = {
            s: read_predictions(run / f"predictions/{s}.csv") for s in ("val", "test")
        }
        counts = json.loads((run / "metadata.json").read_text())["class_counts"]
        adjusted, strength = adjust_tables(tables, list(counts), counts)
        write_predictions(run, adjusted, f"_{ADJUSTED}")
        report = json.loads((run / "report.json").read_text())
        way = {"name": ADJUSTED, "num_views": 1, "strength": strength}
        report["variants"] = [{**way, "seconds_per_image": 0.1}]
        (run / "report.json").write_text(json.dumps(report))
    report = combine_runs(tmp_path / "ab", runs[:2])
    assert [way_name(variant) for variant in report["variants"]] == [ADJUSTED]
    page = html.unescape((tmp_path / "ab" / "report.html").read_text())
    card = (tmp_path / "ab" / "README.md").read_text()
    for text in (page, card):
        assert "adjusted: the mean of the adjusted answers of the models" in text
        assert "The power is the model's own" in text
        assert "in brackets" not in text


def test_what_an_ensemble_refers_is_told_of_the_means(
    runs: list[Path], tmp_path: Path
) -> None:
    report = combine_runs(tmp_path / "ab", runs[:2])
    table = read_predictions(tmp_path / "ab/predictions/test.csv")
    served = answer(
        [tf.constant(np.log(arrays(table, report["class_names"])[1]), tf.float32)],
        [tf.constant(table["distance"], tf.float32)],
        tf.ones(len(table), tf.bool),
        DecisionRule.of(report),
    )
    referred = report["splits"]["test"]["refer"]["referred"]["value"]
    assert referred == pytest.approx(served["refer"].numpy().mean(), abs=1e-6)
    assert 0 < served["unknown"].numpy().mean() < referred
    card = (tmp_path / "ab" / "README.md").read_text()
    assert "| malignant | as served: refer |" in card


def test_what_makes_no_ensemble_is_refused(runs: list[Path], tmp_path: Path) -> None:
    table = pd.read_csv(runs[1] / "predictions/test.csv", keep_default_na=False)
    table.iloc[1:].to_csv(runs[1] / "predictions/test.csv", index=False)
    for arguments, message in (
        ([runs[0], "--ensemble", tmp_path / "e"], "two or more different runs"),
        ([runs[0], runs[0], "--ensemble", tmp_path / "e"], "two or more different runs"),
        ([*runs[:2], "--ensemble", tmp_path / "e"], "tested on other pictures"),
        ([runs[0], runs[2], "--ensemble", runs[1]], "holds a run of its own"),
        ([*runs, "--ensemble", tmp_path / "e", "--tta", "augment"], "asks no model"),
        ([runs[0], tmp_path / "no", "--ensemble", tmp_path / "e"], "cannot be read"),
        ([], "Give the folder of a run"),
    ):
        done = run_here("evaluate.py", *arguments)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "e").exists()
