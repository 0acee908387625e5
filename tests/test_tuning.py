"""Hyperparameter searches; most tests replace training runs with synthetic scores."""

from __future__ import annotations

import dataclasses
import gc
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace

import grpc
import keras
import keras_tuner as kt
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import ROOT, run_here, run_script
from keras_tuner.src.distribute.oracle_client import OracleClient
from test_tensorboard import read_images

from skincnn.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
    read_config,
)
from skincnn.data import datasets, pipeline
from skincnn.errors import ConfigError, DataError, DivergedError, MemoryFullError
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.files import locked, write_json
from skincnn.inference.run_dir import DeviceInfo
from skincnn.model.classifier import build_classifier
from skincnn.parts import PartError
from skincnn.training.fitting import FitResult
from skincnn.training.run import train
from skincnn.training.setup import TrainingSetup
from skincnn.training.stages import make_stages
from tuning import data as tuning_data
from tuning import hypermodel, leaderboard, search
from tuning.config import SearchConfig
from tuning.data import SearchData
from tuning.explore import explore
from tuning.hypermodel import TrainingModel
from tuning.machines import ID, IP, PORT
from tuning.oracles import TUNERS
from tuning.search import SearchResult, run_search
from tuning.spaces import SPACES, find_space, with_values

TINY = Config(
    data=DataConfig(datasets=("demo_tiny",), image_size=32),
    model=ModelConfig(backbone="small_cnn", width_multiplier=0.1, weights="none"),
    train=TrainConfig(scenario="from_scratch", epochs=9),
)
FLAGS = (
    "--data.datasets demo_tiny --data.image-size 32 --model.backbone small_cnn "
    "--model.width-multiplier 0.1 --train.epochs 1 --optimizer.warmup-epochs 0.5"
).split()
CPU = DeviceInfo(devices=("cpu:0",), precision="float32", backend="tensorflow", jit=False)


class FakeRuns:
    """Replaces training runs with synthetic scores, and records their configurations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.score: Callable[[Config], float] = by_rate
        self.clock = 0.0
        self.configs: list[Config] = []

        def build(
            model: TrainingModel, hp: kt.HyperParameters, execution: int = 0
        ) -> object:
            config = model.config(hp, execution)
            return SimpleNamespace(
                config=config,
                stages=make_stages(config),
                checkpoints=lambda folder: SimpleNamespace(load=lambda: None),
            )

        monkeypatch.setattr(TrainingModel, "build", build)
        monkeypatch.setattr(hypermodel, "fit", self.fit)
        monkeypatch.setattr(
            hypermodel, "time", SimpleNamespace(perf_counter=lambda: self.clock)
        )

    def fit(self, setup: TrainingSetup, workdir: Path, **_: object) -> FitResult:
        config = setup.config
        self.configs.append(config)
        self.clock += 40
        row = {f"val_{config.train.monitor}": self.score(config), "seconds": 0}
        return FitResult(1, (row,) * config.train.epochs, 30, CPU)


def by_rate(config: Config) -> float:
    """Returns a score that is highest for a learning rate of 1e-3 and many epochs."""
    distance = abs(math.log10(config.optimizer.learning_rate) + 3)
    return 0.8 - 0.2 * distance - 0.1 / config.train.epochs - config.model.dropout / 100


def only_the_rate(hp: kt.HyperParameters, config: Config) -> Config:
    rate = hp.Float("optimizer.learning_rate", 1e-4, 1e-2, sampling="log")
    return with_values(config, {"optimizer.learning_rate": rate})


def two(hp: kt.HyperParameters, config: Config) -> Config:
    dropout = hp.Float("model.dropout", 0.0, 0.6, default=0.2)
    return with_values(only_the_rate(hp, config), {"model.dropout": dropout})


@pytest.fixture(scope="module")
def shared(data_dir: Path) -> SearchData:
    return SearchData(TINY.data, data_dir, "memory")


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch, shared: SearchData) -> FakeRuns:
    monkeypatch.setattr(search, "SearchData", lambda *_: shared)
    # These take longer than the rest of a test.
    monkeypatch.setattr(keras.utils, "clear_session", lambda: None)
    monkeypatch.setattr(gc, "collect", lambda: 0)
    return FakeRuns(monkeypatch)


def run(
    workdir: Path, *, overwrite: bool = False, config: Config = TINY, **options: object
) -> SearchResult:
    settings = SearchConfig(**{"tuner": "random", "max_trials": 6, **options})  # type: ignore[arg-type]
    return run_search(config, ["learning"], settings, workdir, overwrite=overwrite)


def read_leaderboard(workdir: Path) -> pd.DataFrame:
    return pd.read_csv(workdir / "leaderboard.csv").drop(columns="seconds")


@pytest.mark.slow
def test_a_search_trains_like_train_py_and_reads_no_test_fold(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds: set[int] = set()
    sizes: list[int] = []
    read_records, load_images = datasets.read_records, pipeline.load_images

    def records(builder: object, splits: list[str]) -> object:
        folds.update(int(split.removeprefix("fold_")) for split in splits)
        return read_records(builder, splits)

    def load(dataset: object, table: pd.DataFrame, *options: object) -> object:
        sizes.append(len(table))
        return load_images(dataset, table, *options)

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "read_records", records)
        patch.setattr(pipeline, "load_images", load)
        limits = "--tuner random --max-trials 2 --objective macro_f1".split()
        done = run_here(
            *("tune.py", "learning", *FLAGS, *limits),
            *("--workdir", tmp_path / "search", "--data-dir", data_dir),
        )
    assert done.returncode == 0, done.stderr
    assert folds == set(range(9))  # fold 9 is the test split
    assert len(sizes) == 2  # training and validation, once for both trials
    table = pd.read_csv(tmp_path / "search/leaderboard.csv")
    assert table["rank"].tolist() == [1, 2]
    assert table["score"].is_monotonic_decreasing
    assert "skincnn train --config" in done.stdout
    best = read_config(tmp_path / "search/best.json")
    assert best.train.monitor == "macro_f1"
    assert best.optimizer.learning_rate == pytest.approx(
        table["optimizer.learning_rate"][0], rel=1e-5
    )
    folder = tmp_path / "search" / table["folder"][0]
    assert read_config(folder / "config.json") == best
    assert not (folder / "checkpoints").exists()
    assert list((folder / "logs/hparams").iterdir())
    assert read_images(folder / "logs/images")
    train(best, tmp_path / "run", data_dir)
    history = pd.read_csv(tmp_path / "run/history.csv")
    assert history["val_macro_f1"].max() == pytest.approx(table["score"][0], abs=1e-6)


@pytest.mark.parametrize("tuner", TUNERS)
def test_an_interrupted_search_equals_an_uninterrupted_one(
    tuner: str, fake_runs: FakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With more hyperparameters, the Gaussian process takes seconds per trial.
    if tuner == "bayesian":
        monkeypatch.setitem(SPACES, "learning", only_the_rate)
    limit = 0 if tuner == "hyperband" else 6
    whole = run(tmp_path / "whole", tuner=tuner, max_trials=limit)
    count = len(fake_runs.configs)
    assert count >= 6

    def stop(config: Config) -> float:
        if len(fake_runs.configs) in stops:
            raise KeyboardInterrupt
        return by_rate(config)

    fake_runs.configs.clear()
    fake_runs.score = stop
    stops = {1, count // 2, count}
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", tuner=tuner, max_trials=limit)
    stopped = run(tmp_path / "stopped", tuner=tuner, max_trials=limit)
    pd.testing.assert_frame_equal(
        read_leaderboard(tmp_path / "stopped"), read_leaderboard(tmp_path / "whole")
    )
    pd.testing.assert_frame_equal(stopped.leaderboard, whole.leaderboard)
    assert len(fake_runs.configs) == count + len(
        stops
    )  # only interrupted trials are repeated
    # The same command again trains nothing.
    run(tmp_path / "stopped", tuner=tuner, max_trials=limit)
    assert len(fake_runs.configs) == count + len(stops)


def test_hyperband_trains_the_best_again_for_longer_with_a_full_schedule(
    fake_runs: FakeRuns, tmp_path: Path
) -> None:
    run(tmp_path, tuner="hyperband", max_trials=0)
    lengths = [config.train.epochs for config in fake_runs.configs]
    assert set(lengths) == {1, 3, 9}
    for config in fake_runs.configs:
        assert config.optimizer.warmup_epochs <= 2 / 9 * config.train.epochs + 1e-6
    rates = [
        {c.optimizer.learning_rate for c in fake_runs.configs if c.train.epochs == epochs}
        for epochs in (1, 3)
    ]
    again = rates[0] & rates[1]
    best = sorted(rates[0], key=lambda rate: abs(math.log10(rate) + 3))
    assert best[0] in again
    assert best[-1] not in again


@pytest.mark.parametrize("staged", [False, True])
def test_hyperband_rejects_a_space_that_changes_the_epochs(
    staged: bool, fake_runs: FakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_epochs(config: Config, epochs: int) -> Config:
        if not staged:
            return with_values(config, {"train.epochs": epochs})
        stages = (StageConfig(trainable_blocks=-1, epochs=epochs),)
        train = TrainConfig(scenario="staged", stages=stages)
        model = ModelConfig(weights="imagenet")
        return dataclasses.replace(config, model=model, train=train)

    def lengths(hp: kt.HyperParameters, config: Config) -> Config:
        name = "train.stages.epochs" if staged else "train.epochs"
        return with_epochs(config, hp.Int(name, 2, 4, default=3))

    config = with_epochs(TINY, 3)
    monkeypatch.setitem(SPACES, "learning", lengths)
    with pytest.raises(ConfigError, match=r"hyperband.*Expected 3 epochs. Received: 2\."):
        run(tmp_path, config=config, tuner="hyperband", max_trials=0)
    assert not fake_runs.configs
    assert len(run(tmp_path, config=config, max_trials=2).leaderboard) == 2


def test_an_objective_can_be_minimized(fake_runs: FakeRuns, tmp_path: Path) -> None:
    fake_runs.score = lambda config: -by_rate(config)
    result = run(tmp_path, objective="log_loss")
    assert result.leaderboard["score"].is_monotonic_increasing
    rates = [abs(math.log10(c.optimizer.learning_rate) + 3) for c in fake_runs.configs]
    best = read_config(tmp_path / "best.json").optimizer.learning_rate
    assert abs(math.log10(best) + 3) == pytest.approx(min(rates), abs=0.1)


def test_executions_have_different_seeds_and_their_mean_counts(
    fake_runs: FakeRuns, tmp_path: Path
) -> None:
    fake_runs.score = lambda config: 0.5 + 0.1 * config.seed
    result = run(tmp_path, executions=3, max_trials=2)
    assert [config.seed for config in fake_runs.configs] == [0, 1, 2] * 2
    assert result.leaderboard["score"].tolist() == pytest.approx([0.6, 0.6])
    assert result.leaderboard["seconds"].tolist() == pytest.approx([120, 120])
    assert read_config(tmp_path / "best.json").seed == 0


def test_no_trial_starts_after_the_time_limit(fake_runs: FakeRuns, tmp_path: Path) -> None:
    for _ in range(2):  # the trials of the first search count in the second one
        result = run(tmp_path, max_trials=0, max_minutes=1)
        assert len(result.leaderboard) == len(fake_runs.configs) == 2  # 40 s each
    assert len(run(tmp_path, max_trials=0, max_minutes=3).leaderboard) == 5


def test_a_search_ends_if_all_trials_fail_immediately(
    fake_runs: FakeRuns, tmp_path: Path
) -> None:
    def fail(config: Config) -> float:
        fake_runs.clock -= 40
        raise MemoryFullError("full")

    fake_runs.score = fail
    with pytest.raises(DivergedError, match=r"None of 20 trials was completed.*full"):
        run(tmp_path, max_trials=0, max_minutes=1)


def test_failed_trials_are_reported_and_not_ranked(
    fake_runs: FakeRuns, tmp_path: Path
) -> None:
    def fail(config: Config) -> float:
        number = len(fake_runs.configs)
        if number <= 3:
            errors = {1: DivergedError("too high"), 2: MemoryFullError("full")}
            raise errors.get(number, RuntimeError("broken"))
        return 1e-3 * number

    fake_runs.score = fail
    result = run(tmp_path, max_trials=5)
    assert list(result.failures.items()) == [
        ("0", "DivergedError: too high"),
        ("1", "MemoryFullError: full"),
        ("2", "RuntimeError: broken"),
    ]
    assert result.leaderboard["trial"].tolist() == ["4", "3"]
    # A diverged run is not repeated; other failures are.
    result = run(tmp_path, max_trials=5)
    assert list(result.failures) == ["0"]
    assert len(fake_runs.configs) == 7


@pytest.mark.parametrize("tuner", TUNERS)
def test_a_longer_search_keeps_every_trial_of_the_shorter_one(
    tuner: str, fake_runs: FakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPACES, "learning", two)

    def minimize(fun: Callable[..., float], x0: object, **_: object) -> object:
        return SimpleNamespace(x=x0, fun=fun(x0))

    # Without the local optimization, which is slow.
    fast_scipy = SimpleNamespace(optimize=SimpleNamespace(minimize=minimize))
    monkeypatch.setattr("keras_tuner.src.tuners.bayesian.scipy", fast_scipy)
    short = run(tmp_path, tuner=tuner, max_trials=9).leaderboard
    assert len(fake_runs.configs) == len(short) == 9
    long = run(tmp_path, tuner=tuner, max_trials=13).leaderboard
    assert len(fake_runs.configs) == len(long) == 13
    assert set(short["folder"]) < set(long["folder"])
    # Without a limit Hyperband stops after one pass, which has more trials.
    if tuner == "hyperband":
        whole = run(tmp_path, tuner=tuner, max_trials=0).leaderboard
        assert set(long["folder"]) < set(whole["folder"])


@pytest.mark.parametrize("limits", [{}, {"max_minutes": 100, "max_trials": 6}])
def test_an_error_in_the_space_fails_one_trial(
    limits: dict[str, int],
    fake_runs: FakeRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run(tmp_path / "whole", **limits)
    invalid = fake_runs.configs[2].optimizer.learning_rate
    space = SPACES["learning"]

    def picky(hp: kt.HyperParameters, config: Config) -> Config:
        result = space(hp, config)
        if result.optimizer.learning_rate == invalid:
            raise ConfigError("this rate is invalid")
        return result

    monkeypatch.setitem(SPACES, "learning", picky)
    for _ in range(2):  # also when the search is resumed
        result = run(tmp_path / "picky", **limits)
        assert result.failures == {"2": "this rate is invalid"}
        expected = whole.leaderboard[whole.leaderboard["trial"] != "2"]
        assert result.leaderboard["score"].tolist() == expected["score"].tolist()


def test_a_search_without_a_completed_trial_reports_the_first_cause(
    data_dir: Path, fake_runs: FakeRuns, tmp_path: Path
) -> None:
    def fail(config: Config) -> float:
        raise RuntimeError(f"broken {len(fake_runs.configs)}")

    fake_runs.score = fail
    done = run_here(
        *("tune.py", *FLAGS, "--tuner", "random", "--max-trials", 5),
        *("--workdir", tmp_path, "--data-dir", data_dir),
    )
    assert done.returncode == 4
    assert "None of 5 trials was completed" in done.stderr
    assert "Trial 0 failed: RuntimeError: broken 1" in done.stderr
    assert not (tmp_path / "best.json").exists()


@pytest.mark.parametrize("all_fail", [False, True])
def test_an_error_in_the_network_of_one_trial_fails_this_trial(
    all_fail: bool, fake_runs: FakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    invalid = fake_runs.configs[2].optimizer.learning_rate
    build, count = TrainingModel.build, len(fake_runs.configs)

    def picky(
        model: TrainingModel, hp: kt.HyperParameters, execution: int = 0
    ) -> TrainingSetup:
        setup = build(model, hp, execution)
        if all_fail or setup.config.optimizer.learning_rate == invalid:
            raise ConfigError("too many blocks")
        return setup

    monkeypatch.setattr(TrainingModel, "build", picky)
    if all_fail:
        with pytest.raises(ConfigError, match="too many blocks"):
            run(tmp_path / "picky")
        assert len(fake_runs.configs) == count
        return
    for _ in range(2):  # also when the search is resumed
        result = run(tmp_path / "picky")
        assert result.failures == {"2": "too many blocks"}
        expected = whole.leaderboard[whole.leaderboard["trial"] != "2"]
        assert result.leaderboard["score"].tolist() == expected["score"].tolist()
    monkeypatch.setattr(TrainingModel, "build", build)
    assert not run(tmp_path / "picky").failures  # the trial is repeated


@pytest.mark.parametrize("first", [1, 3])
def test_a_custom_part_that_fails_after_completed_trials_fails_one_trial(
    first: int, fake_runs: FakeRuns, tmp_path: Path
) -> None:
    def fail(config: Config) -> float:
        if len(fake_runs.configs) == first:
            raise PartError("`loss.name` my:loss failed: no positive temperature")
        return by_rate(config)

    fake_runs.score = fail
    if first == 1:
        with pytest.raises(PartError, match="no positive temperature"):
            run(tmp_path)
        return
    result = run(tmp_path)
    assert list(result.failures) == ["2"]
    assert "my:loss failed: no positive temperature" in result.failures["2"]


def test_a_search_may_contain_invalid_combinations_but_not_only_these(
    fake_runs: FakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 0.3

    def space(hp: kt.HyperParameters, config: Config) -> Config:
        config = two(hp, config)
        dropout, rate = config.model.dropout, config.optimizer.learning_rate
        if dropout > limit and rate > 2e-4 and dropout != 0.6:
            raise ConfigError("rate too high for this dropout")
        return config

    monkeypatch.setitem(SPACES, "learning", space)
    result = run(tmp_path)
    causes = list(result.failures.values())
    assert 0 < len(causes) < 6
    assert set(causes) == {"rate too high for this dropout"}
    assert len(fake_runs.configs) == 6 - len(causes)

    def none(hp: kt.HyperParameters, config: Config) -> Config:
        result = two(hp, config)
        if result.model.dropout not in (0.0, 0.2, 0.6):
            raise ConfigError("no dropout is valid")
        return result

    monkeypatch.setitem(SPACES, "learning", none)
    with pytest.raises(ConfigError, match="no dropout is valid"):
        run(tmp_path, overwrite=True)


def test_an_error_that_affects_all_trials_ends_the_search(
    fake_runs: FakeRuns, tmp_path: Path
) -> None:
    def fail(config: Config) -> float:
        raise ConfigError("the disk is full")

    fake_runs.score = fail
    with pytest.raises(ConfigError, match="the disk is full"):
        run(tmp_path)
    assert len(fake_runs.configs) == 1


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("raise KeyError('rate')", "own_space.py, line 3): KeyError: 'rate'"),
        (
            "return replace(config, data=replace(config.data, train_folds=(1, 2)))",
            "must not change data.train_folds",
        ),
        (
            "return replace(config, train=replace(config.train, monitor='accuracy'))",
            "must not change train.monitor",
        ),
        ("return replace(config, seed=hp.Int('seed', 0, 9))", "must not change `seed`"),
    ],
)
def test_errors_in_a_space_have_exit_code_2(
    code: str,
    cause: str,
    data_dir: Path,
    fake_runs: FakeRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own_space.py").write_text(
        f"from dataclasses import replace\ndef space(hp, config):\n    {code}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_space", raising=False)
    done = run_here(
        *("tune.py", "own_space:space", *FLAGS, "--workdir", tmp_path / "search"),
        *("--data-dir", data_dir),
    )
    assert done.returncode == 2
    assert cause in done.stderr
    assert not fake_runs.configs


def test_a_too_large_batch_is_found_before_training(
    fake_runs: FakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.spaces.BATCH_SIZES", (16, 512))
    with pytest.raises(DataError, match=r"do not fill a batch of 512 images"):
        run(tmp_path)
    assert not fake_runs.configs
    assert not list(tmp_path.iterdir())


def test_resuming_a_changed_search_reports_the_difference(
    fake_runs: FakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, max_trials=2)
    other = dataclasses.replace(TINY, optimizer=OptimizerConfig(learning_rate=2e-3))
    with pytest.raises(ConfigError, match=r"learning_rate 0.001 \(now 0.002\)"):
        run(tmp_path, config=other)
    with pytest.raises(ConfigError, match=r"search.tuner 'random' \(now 'grid'\)"):
        run(tmp_path, tuner="grid")
    with monkeypatch.context() as patch:
        patch.setattr("tuning.spaces.BATCH_SIZES", (16, 32))
        with pytest.raises(ConfigError, match=r"data.batch_size.values \[16, 32, 64\]"):
            run(tmp_path)
    assert len(fake_runs.configs) == 2
    run(tmp_path, config=other, overwrite=True, max_trials=2)
    assert len(fake_runs.configs) == 4
    assert len(list((tmp_path / "trials").iterdir())) == 2


def test_a_directory_without_a_search_is_not_changed(
    fake_runs: FakeRuns, tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", TINY.to_dict())
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"contains a run\. Use another"):
            run(tmp_path, overwrite=overwrite)
    run(tmp_path / "search", max_trials=1)
    (tmp_path / "search/fingerprint.json").write_text("{")
    with pytest.raises(ConfigError, match=r"fingerprint.json is missing or damaged"):
        run(tmp_path / "search")


def test_a_search_with_damaged_files_is_resumed(
    fake_runs: FakeRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run(tmp_path).leaderboard
    damaged = tmp_path / before["folder"][0] / "result.json"
    damaged.write_text(damaged.read_text()[:20])
    for name in ("oracle.json", "tuner0.json", "trial_0/trial.json"):
        path = tmp_path / "keras_tuner" / name
        path.write_text(path.read_text()[:3])
    fake_runs.configs.clear()
    after = run(tmp_path).leaderboard
    pd.testing.assert_frame_equal(after, before)
    assert len(fake_runs.configs) == 1
    assert damaged.with_name("result.json.damaged").exists()
    assert "renamed to result.json.damaged" in capsys.readouterr().err


def test_a_second_search_in_the_same_directory_is_rejected(
    fake_runs: FakeRuns, tmp_path: Path
) -> None:
    with locked(tmp_path / "search"), pytest.raises(ConfigError, match="in use by another"):
        run(tmp_path / "search")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes this process a worker, and returns the address of its chief."""
    for name, value in zip((ID, IP, PORT), ("tuner0", "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)
    return "127.0.0.1:1"


def test_a_worker_writes_nothing_before_its_chief(
    worker: str, fake_runs: FakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Path] = []

    def get_space(client: OracleClient) -> kt.HyperParameters:
        files.extend(tmp_path.iterdir())
        return kt.HyperParameters()

    monkeypatch.setattr(OracleClient, "get_space", get_space)
    with pytest.raises(ConfigError, match=f"chief at {worker} serves another search"):
        run(tmp_path)
    assert not files
    assert not list(tmp_path.iterdir())


class Broken(grpc.RpcError):
    """The error of a failed gRPC call."""

    def __init__(self, code: grpc.StatusCode):
        super().__init__(code)
        self.code = lambda: code


@pytest.mark.parametrize("call", ["get_space", "create_trial"])
def test_a_worker_reports_a_lost_chief(
    call: str,
    worker: str,
    fake_runs: FakeRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if call == "create_trial":
        monkeypatch.setattr(search, "require_same_search", lambda *_: None)

    def fail(code: grpc.StatusCode) -> None:
        def failing(*_: object) -> None:
            raise Broken(code)

        monkeypatch.setattr(OracleClient, call, failing)

    fail(grpc.StatusCode.UNAVAILABLE)
    message = f"chief at {worker} does not respond .UNAVAILABLE.. Start"
    with pytest.raises(ConfigError, match=message):
        run(tmp_path)
    fail(grpc.StatusCode.UNKNOWN)  # an error in the chief, which is still running
    with pytest.raises(Broken):
        run(tmp_path)


def test_two_workers_with_one_trial_train_it_once(
    fake_runs: FakeRuns, shared: SearchData, tmp_path: Path
) -> None:
    proceed = threading.Event()

    def slow(config: Config) -> float:
        assert proceed.wait(20)
        return by_rate(config)

    fake_runs.score = slow
    space = find_space(["learning"])
    hp = explore(space, TINY)
    model = TrainingModel(space, TINY, shared, tmp_path)
    with futures.ThreadPoolExecutor(2) as workers:
        results = [workers.submit(model.result, hp) for _ in range(2)]
        time.sleep(0.5)  # for both to start
        proceed.set()
        assert results[0].result() == results[1].result()
    assert len(fake_runs.configs) == 1


def test_the_precision_of_a_trial_does_not_depend_on_previous_ones(
    shared: SearchData, tmp_path: Path
) -> None:
    """`keras.utils.clear_session` before each trial resets the dtype policy."""
    config = dataclasses.replace(
        TINY, train=dataclasses.replace(TINY.train, precision="mixed_bfloat16")
    )
    space = find_space(["learning"])
    model = TrainingModel(space, config, shared, tmp_path)
    for _ in range(2):
        keras.utils.clear_session()
        setup = model.build(explore(space, config))
        assert setup.classifier.get_layer("backbone").compute_dtype == "bfloat16"


def test_features_are_computed_once_for_the_same_weights(
    shared: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []

    def compute(classifier: keras.Model, images: object, num_views: int) -> object:
        computed.append(num_views)
        return np.zeros(3)

    monkeypatch.setattr(tuning_data, "compute_features", compute)
    images = shared.load_images(shared.tables["val"], TINY.data)
    assert shared.load_images(shared.tables["val"], TINY.data) is images
    first, again, other = (
        build_classifier(TINY.model, 7, seed=seed, fused=True) for seed in (1, 1, 2)
    )
    assert shared.compute_features(first, images, 2) is shared.compute_features(
        again, images, 2
    )
    assert computed == [2]
    shared.compute_features(again, images, 4)
    shared.compute_features(other, images, 2)
    shared.compute_features(other, images[:2], 2)
    assert computed == [2, 4, 2, 2]
    darker = dataclasses.replace(TINY.model, channel_mean=(0.1, 0.2, 0.3))
    shared.compute_features(build_classifier(darker, 7, seed=1, fused=True), images, 2)
    assert computed == [2, 4, 2, 2, 2]


def test_axis_positions_of_numbers_words_and_missing_values() -> None:
    heights, ticks = leaderboard.axis_positions(pd.Series(["b", None, "a", "b"]))
    assert heights.tolist() == [1, leaderboard.INACTIVE, 0, 1]
    assert ticks == [(leaderboard.INACTIVE, "not used"), (0, "a"), (1, "b")]
    heights, ticks = leaderboard.axis_positions(pd.Series(np.linspace(2.0, 4.0, 9)))
    np.testing.assert_allclose(heights, np.linspace(0, 1, 9))
    assert ticks == [(0, "2"), (1, "4")]
    heights, _ = leaderboard.axis_positions(pd.Series(np.geomspace(1e-5, 1e-1, 9)))
    np.testing.assert_allclose(heights, np.linspace(0, 1, 9))
    assert leaderboard.axis_positions(pd.Series([32, 32]))[0].tolist() == [0.5, 0.5]


def test_importance_finds_the_relevant_hyperparameter() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(size=40) for name in "abc"}
    shares = leaderboard.importance(values, 3 * values["b"] + 0.01 * values["c"])
    assert shares["b"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    assert leaderboard.importance(values, values["b"][:9]) == {}


@pytest.mark.slow
def test_a_killed_search_has_the_same_leaderboard_after_resuming(
    data_dir: Path, tmp_path: Path
) -> None:
    command = (
        *("tune.py", "learning", "imbalance", *FLAGS, "--tuner", "hyperband"),
        *("--train.epochs", "3", "--train.deterministic", "True"),
        *("--data-dir", data_dir, "--workdir"),
    )
    done = run_script(*command, tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    killed = tmp_path / "killed"
    for trial in (0, 2, 3):  # 3 trains the best of the first round again
        process = subprocess.Popen(
            [sys.executable, ROOT / "scripts" / command[0], *map(str, command[1:]), killed],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert any(line.startswith(f"trial {trial:04d}") for line in process.stdout or ())
        while len(list(killed.glob("trials/*/history.csv"))) <= trial:
            time.sleep(0.05)  # until the trial has completed an epoch
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = run_script(*command, killed)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(
        read_leaderboard(killed), read_leaderboard(tmp_path / "whole")
    )
    best = [(folder / "best.json").read_text() for folder in (killed, tmp_path / "whole")]
    assert best[0] == best[1]
    trained = run_script(
        *("train.py", "--config", killed / "best.json", "--data-dir", data_dir),
        *("--workdir", tmp_path / "run"),
    )
    assert trained.returncode == 0, trained.stderr
    validation = read_result(tmp_path / "run", "val", SplitResult)
    score = validation.metrics["balanced_accuracy"].value
    assert score == pytest.approx(read_leaderboard(killed)["score"][0], abs=1e-6)


@pytest.mark.slow
def test_twenty_trials_take_no_more_memory_than_two(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    end = search.Tuner.on_trial_end

    def on_trial_end(tuner: search.Tuner, trial: object) -> None:
        used.append(psutil.Process().memory_info().rss)
        end(tuner, trial)

    monkeypatch.setattr(search.Tuner, "on_trial_end", on_trial_end)
    short = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, epochs=1))
    limits = SearchConfig(tuner="random", max_trials=20)
    run_search(short, ["learning", "imbalance"], limits, tmp_path, data_dir)
    assert len(used) == 20
    assert used[-1] <= 1.1 * used[1]
