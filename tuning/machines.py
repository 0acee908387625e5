"""A search on several machines: a chief proposes trials, and workers train them.

The environment variables of KerasTuner determine the role of each process; see `find_role`.
All processes share the directory of the search.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
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
"""Name of a hyperparameter whose value is the hash of the search's fingerprint, which must
be the same in all processes."""
LOST_SECONDS = 600
"""A trial is considered lost if it takes longer than this time and longer than three times
the longest trial so far. An idle worker then takes over the trial. If the first worker is
still running the trial, the second worker waits for the result."""
GRACE_SECONDS = 20
"""Seconds that the chief waits at the end of a search for the last requests of workers."""
POLL_SECONDS = 0.5
MAX_PORT = 65535
LOST_CHIEF = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
"""gRPC status codes if the chief has ended, or has not started within an hour."""


@contextlib.contextmanager
def quiet_conditions() -> Iterator[None]:
    """Suppresses debug output of KerasTuner 1.4.8 about conditional hyperparameters."""
    conditions.print = lambda *_: None
    try:
        yield
    finally:
        del conditions.print


def find_role() -> Role:
    """Returns the role of this process in a search.

    The role is "alone" if neither the address nor the port of a chief is given.

    Raises:
        ConfigError: The environment variables are incomplete or invalid.
    """
    given = [name for name in (ID, IP, PORT) if os.environ.get(name)]
    if not given or given == [ID]:
        return "alone"
    port = os.environ.get(PORT, "")
    if len(given) < 3 or not port.isdecimal() or int(port) > MAX_PORT:
        raise ConfigError(
            f"A search on several machines requires {ID} (chief, or tuner0, tuner1, ...), "
            f"{IP} and {PORT} (at most {MAX_PORT}) in the environment. Received: "
            f"{', '.join(f'{name}={os.environ[name]}' for name in given)}."
        )
    return "chief" if "chief" in os.environ[ID] else "worker"


def bypass_proxy() -> None:
    """Lets gRPC connect to the chief directly, and not through the proxy for web pages."""
    own, general = "no_grpc_proxy", "no_proxy"  # gRPC reads these names in lower case
    others = os.environ.get(own) or os.environ.get(general)
    os.environ[own] = ",".join(filter(None, (others, os.environ[IP])))


def require_free_port() -> None:
    """Checks that the chief can listen at its address, and that no other process does.

    gRPC would let two chiefs share a port.

    Raises:
        ConfigError: The port is in use or not permitted, or the address is not one of this
            machine or cannot be resolved.
    """
    host, port = os.environ[IP], int(os.environ[PORT])
    try:
        socket.create_server((host, port)).close()
    except (OSError, UnicodeError) as error:  # a name that is too long is a UnicodeError
        # `create_server` adds the address to the text of the operating system.
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        raise ConfigError(
            f"The chief cannot listen at {host}:{port}: {reason}. {IP} must be an IPv4 "
            f"address or the name of this machine, and {PORT} a port that no other process "
            "uses, such as the chief of another search."
        ) from error


def require_same_search(oracle: kt.Oracle, digest: str) -> None:
    """Waits for the chief, and checks that it serves the search of this worker.

    `oracle` belongs to this worker. `digest` is the SHA-256 of this search's fingerprint.

    Raises:
        ConfigError: The chief serves another search.
        grpc.RpcError: The chief does not respond; see `explain_lost_chief`.
    """
    address = f"{os.environ[IP]}:{os.environ[PORT]}"
    print(f"{os.environ[ID]} is waiting for the chief at {address}", flush=True)
    space = OracleClient(oracle).get_space()
    if space.values.get(DIGEST) != digest:
        raise ConfigError(
            f"The chief at {address} serves another search, with other flags, images, "
            "spaces or versions. Run the same command on every machine. If an old chief is "
            f"still running, stop that process, or set {PORT} to another port."
        )


@contextlib.contextmanager
def explain_lost_chief() -> Iterator[None]:
    """Raises a `ConfigError` if the chief does not respond inside the block.

    Workers wait for the chief for an hour, and continue if the chief is restarted in this
    time.
    """
    try:
        yield
    except grpc.RpcError as error:
        if error.code() not in LOST_CHIEF:
            raise
        raise ConfigError(
            f"The chief at {os.environ[IP]}:{os.environ[PORT]} does not respond "
            f"({error.code().name}). Start the chief and this command again: completed "
            "trials are not trained again."
        ) from error


class Watch:
    """Wraps the oracle of a chief to recover the trials of lost workers.

    Idle workers keep running until all trials are done, so that an idle worker can take
    over a lost trial. Without this class, the chief would wait forever for a worker that
    was killed.

    Args:
        oracle: The oracle, whose methods `create_trial` and `end_trial` are replaced.
        is_exhausted: Function that returns whether no further trial may start.

    Attributes:
        over: Whether all trials are done.
    """

    def __init__(self, oracle: kt.Oracle, is_exhausted: Callable[[], bool]):
        self.oracle: Any = oracle
        self.over = False
        self._is_exhausted = is_exhausted
        self._create, self._end = oracle.create_trial, oracle.end_trial
        self._started: dict[str, float] = {}
        self._longest = 0.0
        self.oracle.create_trial, self.oracle.end_trial = self.create_trial, self.end_trial

    def create_trial(self, tuner_id: str) -> Trial:
        """Returns the next trial for a worker, possibly a lost trial of another worker."""
        if self._is_exhausted():
            self.oracle.max_trials = len(self.oracle.trials)
        trial = self._create(tuner_id)
        # Hyperband and grid keep returning IDLE where other oracles return STOPPED.
        idle = trial.status in (TrialStatus.STOPPED, TrialStatus.IDLE)
        if idle and self.oracle.ongoing_trials:
            if self._release_lost():
                trial = self._create(tuner_id)
            elif trial.status == TrialStatus.STOPPED:
                trial.status = TrialStatus.IDLE
                self.oracle.tuner_ids.add(tuner_id)
        if trial.status == TrialStatus.RUNNING:
            self._started[trial.trial_id] = time.monotonic()
            print(f"trial {trial.trial_id}  started by {tuner_id}", flush=True)
        self.over = trial.status == TrialStatus.STOPPED
        return trial

    def end_trial(self, trial: Trial) -> None:
        """Records the result of a trial, unless the trial already has a result."""
        if trial.trial_id in self.oracle.end_order:
            return
        if trial.trial_id in self.oracle._retry_queue:  # the worker was slow, but not lost
            self.oracle._retry_queue.remove(trial.trial_id)
        self._end(trial)
        started = self._started.get(trial.trial_id, time.monotonic())
        self._longest = max(self._longest, time.monotonic() - started)
        score = self.oracle.trials[trial.trial_id].score
        text = "failed" if score is None else f"{score:.4f}"
        print(f"trial {trial.trial_id}  {text}", flush=True)

    def _release_lost(self) -> bool:
        """Queues lost trials for other workers, and returns whether any trial was lost."""
        limit = max(LOST_SECONDS, 3 * self._longest)
        now = time.monotonic()
        lost = {
            tuner_id: trial.trial_id
            for tuner_id, trial in self.oracle.ongoing_trials.items()
            if now - self._started.get(trial.trial_id, now) > limit
        }
        for tuner_id, trial_id in lost.items():
            print(f"trial {trial_id}  lost by {tuner_id}", flush=True)
            self.oracle.ongoing_trials.pop(tuner_id)
            self.oracle.tuner_ids.discard(tuner_id)
            self.oracle._retry_queue.append(trial_id)
        return bool(lost)


def serve(tuner: BaseTuner, watch: Watch) -> None:
    """Serves workers until all trials are done.

    The server of KerasTuner runs in a thread, because the server does not stop if a worker
    is lost.

    Raises:
        BaseException: The error that ended the server, such as that of a full disk.
    """
    errors: list[BaseException] = []

    def target() -> None:
        try:
            tuner.search()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    done_at: float | None = None
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if not watch.over:
            done_at = None
            continue
        done_at = done_at or time.monotonic()
        if not watch.oracle.tuner_ids or time.monotonic() - done_at > GRACE_SECONDS:
            thread.join(2 * POLL_SECONDS)  # so that the last response arrives
            break
    if errors:
        raise errors[0]


def rename_if_damaged(folder: Path) -> None:
    """Renames the directory of KerasTuner with a warning if a JSON file in it is damaged.

    KerasTuner then proposes the same trials again. Completed trials are not trained again.

    Raises:
        OSError: A file cannot be read, or the directory cannot be renamed.
    """
    for path in [*folder.glob("*.json"), *folder.glob("*/trial.json")]:
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            renamed = Path(tempfile.mkdtemp(prefix=f"{folder}.damaged-"))
            renamed.rmdir()  # Windows does not rename a directory to one that exists.
            folder.rename(renamed)
            print(
                f"warning: {path} is damaged ({error}). The directory was renamed to "
                f"{renamed.name}. The search proposes the same trials again; completed "
                "trials are not trained again.",
                file=sys.stderr,
            )
            return
