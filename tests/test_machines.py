"""Searches on several machines: roles, lost workers, and a chief with two workers."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import keras_tuner as kt
import pandas as pd
import pytest
from conftest import ROOT
from keras_tuner.engine.trial import Trial, TrialStatus

from skincnn.errors import ConfigError
from tuning import machines
from tuning.config import SearchConfig
from tuning.machines import ID, IP, PORT, Watch, find_role, rename_if_damaged
from tuning.oracles import TUNERS

DEAD_PROXY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("tuner_id", "ip", "port", "role"),
    [
        ("", "", "", "alone"),
        ("tuner0", "", "", "alone"),
        ("chief", "127.0.0.1", "8000", "chief"),
        ("tuner1", "127.0.0.1", "8000", "worker"),
        ("", "127.0.0.1", "8000", None),
        ("chief", "127.0.0.1", "", None),
        ("chief", "127.0.0.1", "http", None),
        ("chief", "127.0.0.1", "65536", None),
    ],
)
def test_the_environment_determines_the_role(
    tuner_id: str, ip: str, port: str, role: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ((ID, tuner_id), (IP, ip), (PORT, port)):
        monkeypatch.setenv(name, value)
    if role is None:
        with pytest.raises(ConfigError, match=f"requires {ID}"):
            find_role()
    else:
        assert find_role() == role


def test_the_chief_is_not_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("http_proxy", DEAD_PROXY)
    monkeypatch.setenv("no_proxy", "10.0.0.1")
    monkeypatch.setenv("no_grpc_proxy", "")
    monkeypatch.setenv(IP, "127.0.0.1")
    machines.bypass_proxy()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
    server.stop(None).wait()


def test_a_port_in_use_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    monkeypatch.setenv(IP, "127.0.0.1")
    monkeypatch.setenv(PORT, str(server.add_insecure_port("127.0.0.1:0")))
    server.start()
    with pytest.raises(ConfigError, match=r"in use\. .* such as the chief of another"):
        machines.require_free_port()
    server.stop(None).wait()
    machines.require_free_port()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "::1", "a" * 64])
def test_an_address_of_no_interface_is_rejected(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IP, host)
    monkeypatch.setenv(PORT, "0")
    message = rf"cannot listen at {host}:0: .*\. {IP} must be an IPv4 address or the name"
    with pytest.raises(ConfigError, match=message):
        machines.require_free_port()


class Clock:
    """A replacement for the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def rates() -> kt.HyperParameters:
    space = kt.HyperParameters()
    space.Float("optimizer.learning_rate", 1e-4, 1e-2)
    return space


Watched = tuple[Any, Watch, Clock]
WatchTuner = Callable[[str, int], Watched]


@pytest.fixture
def watch_tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WatchTuner:
    """Returns a function that makes the watched oracle of a tuner, and its clock."""

    def make(tuner: str, max_trials: int) -> Watched:
        oracle: Any = TUNERS[tuner](
            SearchConfig(tuner=tuner, max_trials=max_trials),  # type: ignore[arg-type]
            3,
            objective=kt.Objective("macro_f1", "max"),
            hyperparameters=rates(),
            seed=1,
        )
        oracle.verbose = 0
        oracle._set_project_dir(str(tmp_path), "keras_tuner")
        clock = Clock()
        monkeypatch.setattr(machines, "time", clock)
        return oracle, Watch(oracle, lambda: False), clock

    return make


@pytest.fixture
def watched(watch_tuner: WatchTuner) -> Watched:
    return watch_tuner("random", 2)


def end(oracle: Any, trial: Trial, score: float) -> None:
    oracle.update_trial(trial.trial_id, {"macro_f1": score})
    trial.status = TrialStatus.COMPLETED
    oracle.end_trial(trial)


def test_an_idle_worker_gets_the_trial_of_a_lost_one(watched: Watched) -> None:
    oracle, watch, clock = watched
    first, second = oracle.create_trial("tuner0"), oracle.create_trial("tuner1")
    assert first.trial_id != second.trial_id
    clock.now = 100
    end(oracle, second, 0.5)
    # tuner0 may be slow or lost, so that no worker may stop.
    assert oracle.create_trial("tuner1").status == TrialStatus.IDLE
    assert not watch.over
    clock.now = machines.LOST_SECONDS + 1
    again = oracle.create_trial("tuner1")
    assert again.trial_id == first.trial_id
    assert again.hyperparameters.values == first.hyperparameters.values
    end(oracle, again, 0.6)
    assert oracle.create_trial("tuner1").status == TrialStatus.STOPPED
    assert watch.over
    assert not oracle.tuner_ids
    scores = {trial.trial_id: trial.score for trial in oracle.trials.values()}
    assert scores == {first.trial_id: 0.6, second.trial_id: 0.5}


@pytest.mark.parametrize("tuner", TUNERS)
def test_a_search_ends_without_a_lost_worker(tuner: str, watch_tuner: WatchTuner) -> None:
    limit = 3 if tuner in ("random", "bayesian") else 0
    oracle, watch, clock = watch_tuner(tuner, limit)
    lost = oracle.create_trial("tuner1")
    while not watch.over:
        clock.now += 10
        assert clock.now < 2 * machines.LOST_SECONDS
        trial = oracle.create_trial("tuner0")
        if trial.status == TrialStatus.RUNNING:
            end(oracle, trial, 0.5)
    assert oracle.trials[lost.trial_id].score == 0.5
    assert len(oracle.trials) >= 3
    assert {trial.status for trial in oracle.trials.values()} == {TrialStatus.COMPLETED}


def test_a_restarted_worker_gets_its_trial_again(watched: Watched) -> None:
    oracle, _, clock = watched
    trial = oracle.create_trial("tuner0")
    clock.now = 10 * machines.LOST_SECONDS
    assert oracle.create_trial("tuner0").trial_id == trial.trial_id


def test_a_trial_of_two_workers_counts_once(watched: Watched) -> None:
    oracle, watch, clock = watched
    first, second = oracle.create_trial("tuner0"), oracle.create_trial("tuner1")
    clock.now = machines.LOST_SECONDS + 1
    again = oracle.create_trial("tuner2")
    end(oracle, first, 0.5)
    end(oracle, second, 0.6)
    assert oracle.create_trial("tuner0").status == TrialStatus.STOPPED
    assert watch.over
    late = Trial(again.hyperparameters, again.trial_id, TrialStatus.INVALID)
    oracle.end_trial(late)
    assert sorted(oracle.end_order) == [first.trial_id, second.trial_id]
    scores = {trial.trial_id: trial.score for trial in oracle.trials.values()}
    assert scores == {first.trial_id: 0.5, second.trial_id: 0.6}
    assert {trial.status for trial in oracle.trials.values()} == {TrialStatus.COMPLETED}


def test_a_trial_is_not_lost_if_others_take_as_long(watched: Watched) -> None:
    oracle, _, clock = watched
    slow = oracle.create_trial("tuner0")
    trial = oracle.create_trial("tuner1")
    clock.now = 5 * machines.LOST_SECONDS
    end(oracle, trial, 0.5)
    clock.now = 14 * machines.LOST_SECONDS
    assert oracle.create_trial("tuner1").status == TrialStatus.IDLE
    clock.now = 16 * machines.LOST_SECONDS
    assert oracle.create_trial("tuner1").trial_id == slow.trial_id


def test_damaged_files_of_a_chief_are_renamed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "keras_tuner"
    for damaged in ("oracle.json", "trial_1/trial.json"):
        for name in ("oracle.json", "trial_0/trial.json", "trial_1/trial.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
        rename_if_damaged(folder)
        assert folder.exists()
        (folder / damaged).write_text('{"trials": ')
        rename_if_damaged(folder)
        assert not folder.exists()
        assert "is damaged" in capsys.readouterr().err
    assert len(list(tmp_path.glob("keras_tuner.damaged*"))) == 2


def test_conditional_hyperparameters_print_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    space = rates()
    with space.conditional_scope("optimizer.learning_rate", [1e-4]):
        space.Float("optimizer.warmup_epochs", 0, 1)
    with machines.quiet_conditions():
        response = space.to_proto()
        assert len(kt.HyperParameters.from_proto(response).space) == 2
    assert capsys.readouterr().out == ""


def start(tuner_id: str, port: int, *arguments: object) -> subprocess.Popen[str]:
    env = {ID: tuner_id, IP: "127.0.0.1", PORT: str(port), "http_proxy": DEAD_PROXY}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/tune.py"), *map(str, arguments)],
        env={**os.environ, **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_a_chief_and_two_workers_one_of_which_is_killed(
    data_dir: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = (
        *"learning imbalance --tuner hyperband --data.datasets demo_tiny".split(),
        *"--data.image-size 32 --model.backbone small_cnn".split(),
        *"--model.width-multiplier 0.1".split(),
        *"--train.epochs 3 --optimizer.warmup-epochs 0.5".split(),
        *("--workdir", tmp_path / "search", "--data-dir", data_dir),
    )
    processes = {name: start(name, port, *command) for name in ("tuner0", "chief")}
    try:
        other = start("tuner9", port, *command, "--train.patience", "1")
        output, _ = other.communicate(timeout=300)
        assert other.returncode == 2, output
        assert "serves another search" in output
        processes["tuner1"] = start("tuner1", port, *command)
        lines = iter(processes["tuner1"].stdout or ())
        assert any(line.startswith("trial ") for line in lines)
        processes["tuner1"].send_signal(signal.SIGKILL)
        processes["tuner1"].communicate()
        processes["tuner1"] = start("tuner1", port, *command)
        outputs = {name: p.communicate(timeout=600)[0] for name, p in processes.items()}
        assert {name: p.returncode for name, p in processes.items()} == dict.fromkeys(
            processes, 0
        ), outputs
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    table = pd.read_csv(tmp_path / "search/leaderboard.csv")
    trials = list((tmp_path / "search/keras_tuner").glob("trial_*/trial.json"))
    states = [json.loads(path.read_text()) for path in trials]
    assert {state["status"] for state in states} == {"COMPLETED"}
    assert sorted(state["trial_id"] for state in states) == sorted(
        table["trial"].astype(str).str.zfill(4)
    )
    assert table["score"].is_monotonic_decreasing
    assert "started by" in outputs["chief"]
    assert "The chief process writes the leaderboard" in outputs["tuner0"]
