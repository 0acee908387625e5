"""Cross-validation, from the folds to the pooled results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_here
from run_dirs import CONFIG, NAMES, make_info, make_tables, write_run
from sklearn.metrics import balanced_accuracy_score

from skincnn.config import FINAL_TEST_FOLD, Config
from skincnn.errors import ConfigError
from skincnn.evaluation.aggregate import (
    MembersResult,
    cross_validation_configs,
    pool,
    write_aggregate,
)
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.inference.predictions import read_predictions, table_path
from skincnn.inference.run_dir import read_run_info
from skincnn.records import write_record


@pytest.mark.parametrize("num_models", [2, 3, 5, 9])
def test_each_fold_is_tested_once_and_by_a_model_that_did_not_train_on_it(
    num_models: int,
) -> None:
    configs = cross_validation_configs(Config(), num_models)
    assert len(configs) == num_models
    test_folds = [fold for config in configs for fold in config.data.test_folds]
    assert sorted(test_folds) == list(range(1, 10))
    for config in configs:
        data = config.data
        folds = (*data.train_folds, *data.validation_folds, *data.test_folds)
        assert sorted(folds) == list(range(10))
        assert FINAL_TEST_FOLD in data.train_folds
    validation_folds = [config.data.validation_folds for config in configs]
    assert len(set(validation_folds)) == num_models


@pytest.mark.parametrize("num_models", [1, 10, -2])
def test_an_impossible_number_of_models_is_rejected(num_models: int) -> None:
    with pytest.raises(ConfigError, match=r"in 2\.\.9"):
        cross_validation_configs(Config(), num_models)


@pytest.fixture
def workdirs(tmp_path: Path) -> list[Path]:
    """Returns two evaluated models with different images."""
    workdirs = []
    for number, config in enumerate(cross_validation_configs(CONFIG, 2)):
        tables = {
            split: table.assign(image_id=f"{number}-" + table["image_id"])
            for split, table in make_tables(0.7, seed=number).items()
        }
        info = make_info(num_parameters=50, best_epoch=number, training_seconds=30.0)
        workdir = tmp_path / "cv" / f"model_{number + 1}"
        workdirs.append(write_run(workdir, tables, config=config, info=info))
    return workdirs


def test_the_pooled_results_are_those_of_all_predictions(workdirs: list[Path]) -> None:
    workdir = workdirs[0].parent
    write_aggregate(workdir, pool(workdirs))
    for name, split in (("out_of_fold", "test"), ("val", "val")):
        table = read_predictions(table_path(workdir, name))
        parts = [read_predictions(table_path(part, split)) for part in workdirs]
        pd.testing.assert_frame_equal(table, pd.concat(parts, ignore_index=True))
        result = read_result(workdir, name, SplitResult)
        y_prob = table.filter(like="probability_").to_numpy()
        expected = balanced_accuracy_score(
            table["label"], np.array(NAMES)[y_prob.argmax(1)]
        )
        balanced = result.metrics["balanced_accuracy"].value
        assert balanced == pytest.approx(expected, abs=1e-6)
        assert result.num_images == len(table) == 240
        assert result.leakage is None
    members = read_result(workdir, "members", MembersResult)
    for member, part in zip(members.members, workdirs, strict=True):
        alone = read_result(part, "test", SplitResult)
        assert (member.name, member.metrics) == (part.name, alone.metrics)
        assert member.differences == {}


def test_the_run_file_describes_all_models(workdirs: list[Path]) -> None:
    info = pool(workdirs).info
    assert (info.kind, info.num_parameters) == ("cross_validation", 50)
    assert (info.training_seconds, info.best_epoch) == (60.0, None)
    configs = cross_validation_configs(CONFIG, 2)
    assert [member.config for member in info.members] == configs
    assert [member.best_epoch for member in info.members] == [0, 1]


def test_stale_files_are_removed_and_models_are_kept(workdirs: list[Path]) -> None:
    workdir = workdirs[0].parent
    write_aggregate(workdir, pool(workdirs))
    result = read_result(workdir, "val", SplitResult)
    write_record(workdir / "results/val.d4.json", result)
    (workdir / "predictions/val.d4.csv").write_text("of an earlier cross-validation")
    models = {path: path.read_bytes() for path in workdir.glob("model_*/*.*")}
    write_aggregate(workdir, pool(workdirs))
    assert not list(workdir.glob("*/val.d4.*"))
    assert {path: path.read_bytes() for path in workdir.glob("model_*/*.*")} == models


def test_an_image_that_is_tested_twice_is_rejected(workdirs: list[Path]) -> None:
    with pytest.raises(ConfigError, match="is in the val split of several of the"):
        pool([workdirs[0]] * 2)


FLAGS = (
    "--data.datasets demo_tiny --data.image-size 32 --model.backbone small_cnn "
    "--model.width-multiplier 0.25 --train.epochs 1 --evaluate.num-bootstrap 100 --folds 2"
).split()


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_the_command_tests_each_image_once(data_dir: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "cv"
    done = run_here("train.py", "--workdir", workdir, "--data-dir", data_dir, *FLAGS)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(workdir / "predictions/out_of_fold.csv")
    assert table["image_id"].is_unique
    assert sorted(table["fold"].unique()) == list(range(1, 10))
    info = read_run_info(workdir)
    pooled = read_result(workdir, "out_of_fold", SplitResult)
    assert pooled.num_images == len(table)
    columns = [f"probability_{name}" for name in info.class_names]
    predicted = [info.class_names[i] for i in table[columns].to_numpy().argmax(axis=1)]
    assert pooled.metrics["balanced_accuracy"].value == pytest.approx(
        balanced_accuracy_score(table["label"], predicted), abs=1e-6
    )
    parts = [pd.read_csv(workdir / f"model_{i}/predictions/test.csv") for i in (1, 2)]
    assert sum(map(len, parts)) == len(table)
    data = [member.config.data for member in info.members]
    assert [part.test_folds for part in data] == [(1, 2, 3, 4, 5), (6, 7, 8, 9)]
    assert dataclasses.replace(data[1], **_folds(data[0])) == data[0]


def _folds(data: object) -> dict[str, object]:
    names = ("train_folds", "validation_folds", "test_folds")
    return {name: getattr(data, name) for name in names}
