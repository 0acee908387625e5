"""Cross-validation, from the folds to the pooled report."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import run_here
from sklearn.metrics import balanced_accuracy_score

from skincnn.config import Config
from skincnn.errors import ConfigError
from skincnn.evaluation.cross_validation import cross_validation_configs, pool


@pytest.mark.parametrize("num_models", [2, 3, 5, 10])
def test_every_fold_is_tested_once_and_never_trained_on(num_models: int) -> None:
    configs = cross_validation_configs(Config(), num_models)
    assert len(configs) == num_models
    tested = [fold for config in configs for fold in config.data.test_folds]
    assert sorted(tested) == list(range(10))
    for config in configs:
        data = config.data
        folds = (*data.train_folds, *data.validation_folds, *data.test_folds)
        assert sorted(folds) == list(range(10))
    validated = [config.data.validation_folds for config in configs]
    assert len(set(validated)) == num_models


@pytest.mark.parametrize("num_models", [1, 11, -2])
def test_a_number_of_models_that_cannot_be_is_refused(num_models: int) -> None:
    with pytest.raises(ConfigError, match=r"in 2\.\.10"):
        cross_validation_configs(Config(), num_models)


FLAGS = (
    "--data.dataset demo_tiny --data.image-size 32 --model.backbone small_cnn "
    "--model.width-multiplier 0.25 --train.epochs 1 --evaluate.num-bootstrap 100 --folds 2"
).split()


def test_the_pooled_report_holds_every_picture_once(data_dir: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "cv"
    flags = ("--workdir", workdir, "--data-dir", data_dir, *FLAGS)
    stale = workdir / "predictions/val_d4.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("of an earlier evaluation")
    done = run_here("train.py", *flags)
    assert done.returncode == 0, done.stderr
    assert not stale.exists()
    table = pd.read_csv(workdir / "predictions/out_of_fold.csv")
    report = json.loads((workdir / "report.json").read_text())
    pooled = report["splits"]["out_of_fold"]
    names = report["class_names"]
    assert table["image_id"].is_unique
    assert sorted(table["fold"].unique()) == list(range(10))
    assert pooled["num_images"] == len(table)
    columns = [f"probability_{name}" for name in names]
    predicted = [names[i] for i in table[columns].to_numpy().argmax(axis=1)]
    assert pooled["metrics"]["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(table["label"], predicted), abs=1e-6
    )
    parts = [pd.read_csv(workdir / f"model_{i}/predictions/test.csv") for i in (1, 2)]
    assert sum(map(len, parts)) == len(table)
    assert [model["folds"]["test"] for model in report["models"]] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
    ]
    page = (workdir / "report.html").read_text()
    assert "Cross-validation: 2 models" in page
    card = (workdir / "README.md").read_text()
    for text in (page, card):
        assert "were chosen on folds that other models were tested on" in text
        assert "no choice of this run was made on it" not in text
    assert "out-of-fold predictions" in done.stdout
    with pytest.raises(ConfigError, match="in val of two of the runs"):
        pool(tmp_path / "twice", [workdir / "model_1"] * 2)
