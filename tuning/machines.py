"""A search on many machines: a chief that knows what to try, and workers that train.

KerasTuner's own environment variables give each process its role; see `find_role`. The
search's folder is one that all of them see.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import grpc
import keras_tuner as kt
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.src.distribute.oracle_client import OracleClient
from keras_tuner.src.engine import conditions

from skincnn.errors import ConfigError

Role = Literal["alone", "chief", "worker"]

ID, IP, PORT = (f"KERASTUNER_{name}" for name in ("TUNER_ID", "ORACLE_IP", "ORACLE_PORT"))
DIGEST = "tuner/fingerprint"
"""The name under which the chief tells workers which search it serves."""
LOST_SECONDS = 600
"""A trial is lost once it takes so long and three times as long as any before; another
worker has it then, if it has nothing else to do. Should the first one live, the other waits
for what comes of it."""
PARTING_SECONDS = 20
"""How long a chief whose trials are done waits for workers that do not ask again."""
POLL_SECONDS = 0.5
GONE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
"""What gRPC says of a chief that has ended, or did not begin for an hour."""

# KerasTuner 1.4.8 prints a word for each condition of each answer that a chief gives.
conditions.print = lambda *_: None


def find_role() -> Role:
    """Returns what this process does in a search.

    Raises:
        ConfigError: The environment says it by halves.
    """
    given = [name for name in (ID, IP, PORT) if os.environ.get(name)]
    if not given or given == [ID]:
        return "alone"
    if len(given) < 3 or not os.environ[PORT].isdigit():
        raise ConfigError(
            f"A search on many machines needs {ID} (chief; tuner0, tuner1, ...), {IP} and "
            f"{PORT} (a number). Received: "
            f"{', '.join(f'{name}={os.environ[name]}' for name in given)}."
        )
    return "chief" if "chief" in os.environ[ID] else "worker"


def require_free_port() -> None:
    """Checks that no other chief answers: gRPC would let two share the port.

    Raises:
        ConfigError: One does.
    """
    address = os.environ[IP], int(os.environ[PORT])
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex(address) == 0:
            raise ConfigError(
                f"{address[0]}:{address[1]} is in use, perhaps by the chief of another "
                f"search. End that process, or give another {PORT}."
            )


def require_same_search(oracle: kt.Oracle, digest: str) -> None:
    """Waits for the chief, and checks that it serves this very search.

    Args:
        oracle: That of this worker, whose own trials are never asked for.
        digest: What `workdir.digest` returns for this search.

    Raises:
        ConfigError: It serves another one.
    """
    where = f"{os.environ[IP]}:{os.environ[PORT]}"
    print(f"{os.environ[ID]} waits for the chief at {where}", flush=True)
    space = OracleClient(oracle).get_space()
    if space.values.get(DIGEST) != digest:
        raise ConfigError(
            f"The chief at {where} serves another search: other flags, pictures, spaces or "
            "versions. Expected the chief's own command on every machine; end that chief "
            f"if it is an old one, or give another {PORT}."
        )


@contextlib.contextmanager
def chief_needed() -> Iterator[None]:
    """Says what to do where a worker's chief does not answer.

    KerasTuner's workers wait an hour for one: where it is started again, they just go on.

    Raises:
        ConfigError: The chief is gone, or never came.
    """
    try:
        yield
    except grpc.RpcError as error:
        if error.code() not in GONE:
            raise
        raise ConfigError(
            f"The chief at {os.environ[IP]}:{os.environ[PORT]} is gone "
            f"({error.code().name}). Start it and this command again: what is trained is "
            "not trained again."
        ) from error


class Watch:
    """Stands between a chief's oracle and the workers that ask it.

    No worker is sent away while another one's trial may be lost: KerasTuner's chief would
    wait for ever for a worker that was killed.

    Attributes:
        over: Whether every trial is done.
    """

    def __init__(self, oracle: kt.Oracle, is_spent: Callable[[], bool]):
        """Takes the oracle's place.

        Args:
            oracle: What knows what to try.
            is_spent: Whether the time of the search is over.
        """
        self.oracle: Any = oracle
        self.over = False
        self._is_spent = is_spent
        self._ask, self._end = oracle.create_trial, oracle.end_trial
        self._began: dict[str, float] = {}
        self._longest = 0.0
        self.oracle.create_trial, self.oracle.end_trial = self.create_trial, self.end_trial

    def create_trial(self, tuner_id: str) -> Trial:
        """Returns a worker's next trial, which may be one that another one lost."""
        if self._is_spent():
            self.oracle.max_trials = len(self.oracle.trials)
        trial = self._ask(tuner_id)
        # Hyperband and grid say IDLE, and for ever, where others say STOPPED.
        idle = trial.status in (TrialStatus.STOPPED, TrialStatus.IDLE)
        if idle and self.oracle.ongoing_trials:
            if self._give_up_lost():
                trial = self._ask(tuner_id)
            elif trial.status == TrialStatus.STOPPED:
                trial.status = TrialStatus.IDLE
                self.oracle.tuner_ids.add(tuner_id)
        if trial.status == TrialStatus.RUNNING:
            self._began[trial.trial_id] = time.monotonic()
            print(f"trial {trial.trial_id}  {tuner_id} begins", flush=True)
        self.over = trial.status == TrialStatus.STOPPED
        return trial

    def end_trial(self, trial: Trial) -> None:
        """Writes down what came of a trial, as the first who had it says."""
        if trial.trial_id in self.oracle.end_order:
            return
        if trial.trial_id in self.oracle._retry_queue:  # it was not lost
            self.oracle._retry_queue.remove(trial.trial_id)
        self._end(trial)
        began = self._began.get(trial.trial_id, time.monotonic())
        self._longest = max(self._longest, time.monotonic() - began)
        ended = self.oracle.trials[trial.trial_id]
        said = "failed" if ended.score is None else f"{ended.score:.4f}"
        print(f"trial {trial.trial_id}  {said}", flush=True)

    def _give_up_lost(self) -> bool:
        """Takes the lost trials from their workers, for others to do."""
        limit = max(LOST_SECONDS, 3 * self._longest)
        now = time.monotonic()
        lost = {
            tuner_id: trial.trial_id
            for tuner_id, trial in self.oracle.ongoing_trials.items()
            if now - self._began.get(trial.trial_id, now) > limit
        }
        for tuner_id, trial_id in lost.items():
            print(f"trial {trial_id}  was lost by {tuner_id}", flush=True)
            self.oracle.ongoing_trials.pop(tuner_id)
            self.oracle.tuner_ids.discard(tuner_id)
            self.oracle._retry_queue.append(trial_id)
        return bool(lost)


def serve(tuner: BaseTuner, watch: Watch) -> None:
    """Answers workers until every trial is done.

    KerasTuner's server runs in a thread, because it would not end by itself where a worker
    never came back.
    """
    errors: list[BaseException] = []

    def answer() -> None:
        try:
            tuner.search()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    done_at: float | None = None
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if not watch.over:
            done_at = None
            continue
        done_at = done_at or time.monotonic()
        if not watch.oracle.tuner_ids or time.monotonic() - done_at > PARTING_SECONDS:
            thread.join(2 * POLL_SECONDS)  # for the last answer to arrive
            break
    if errors:
        raise errors[0]


def put_aside_if_damaged(folder: Path) -> None:
    """Renames KerasTuner's folder where a file of it cannot be read, and says so.

    Then the same trials are asked for again; what is trained is not trained again.
    """
    for path in [*folder.glob("*.json"), *folder.glob("*/trial.json")]:
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            aside = folder.with_name(f"{folder.name}.damaged")
            number = 1
            while aside.exists():
                number += 1
                aside = folder.with_name(f"{folder.name}.damaged{number}")
            folder.rename(aside)
            print(
                f"warning: {path} is damaged ({error}); its folder is now {aside.name}, "
                "and its trials are asked for again. What is trained stays.",
                file=sys.stderr,
            )
            return
