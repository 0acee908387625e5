"""The state of a training on disk: enough to go on as if nothing had happened.

A state is a pair of files, `state-<epoch>-<step>.npz` with all variables and a `.json` of
the same name with the rest and the SHA-256 of the first. The `.json` is written last, and
the state before stays until the next one is whole: whatever is cut, one can be read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from skincnn.errors import DataError
from skincnn.files import replacing, sha256, write_json

KEPT_STATES = 2
Arrays = dict[str, list[npt.NDArray[Any]]]
"""The values of groups of variables, each group in its own order."""


@dataclass
class Progress:
    """How far a training is, apart from its variables.

    Attributes:
        epoch: Epochs done, over all stages.
        step: Steps done of the epoch that is not done.
        stage: The stage whose optimizer the state holds, counted from 0.
        seconds: Time spent in the epoch that is not done.
        history: A row for each epoch done, as in history.csv.
        best_epoch: The epoch of the best weights, counted from 1; 0 before the first.
        best_sha256: The hash of their file.
    """

    epoch: int = 0
    step: int = 0
    stage: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_sha256: str = ""


def save_state(
    folder: Path,
    progress: Progress,
    variables: Mapping[str, Sequence[keras.Variable]],
    made_by: Mapping[str, Any],
) -> None:
    """Writes a state, then removes all but the last two and the weights they name.

    Args:
        folder: The run's checkpoints.
        progress: How far the training is.
        variables: Groups of variables by name.
        made_by: What must be equal where the state is read again.
    """
    arrays = {
        f"{group}.{index}": np.asarray(variable)
        for group, members in variables.items()
        for index, variable in enumerate(members)
    }
    path = folder / f"state-{progress.epoch:05d}-{progress.step:07d}.npz"
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    content = {
        "progress": dataclasses.asdict(progress),
        "made_by": dict(made_by),
        "sha256": sha256(path),
    }
    write_json(path.with_suffix(".json"), {**content, "own_sha256": _own_hash(content)})
    _remove_old(folder)


def load_state(folder: Path, made_by: Mapping[str, Any]) -> tuple[Progress, Arrays] | None:
    """Returns the newest state that is whole, or None where there is none.

    Of a damaged one it says so on standard error, and takes the one before.

    Raises:
        DataError: The state was made by something else than `made_by`.
    """
    for path in _newest_first(folder):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            own = content.pop("own_sha256")
            if (sha256(path.with_suffix(".npz")), _own_hash(content)) != (
                content["sha256"],
                own,
            ):
                raise ValueError("its SHA-256 is not the one that was written down")
            progress = Progress(**content["progress"])
        except (ValueError, OSError, KeyError, TypeError) as error:
            print(
                f"warning: {path.with_suffix('')} is damaged ({error}); "
                "the state before it is used, or else the beginning.",
                file=sys.stderr,
            )
            continue
        _check_maker(content["made_by"], made_by, path)
        return progress, _read_arrays(path.with_suffix(".npz"))
    return None


def assign(variables: Sequence[keras.Variable], values: Sequence[npt.NDArray[Any]]) -> None:
    """Gives each variable its value.

    Raises:
        DataError: Their number or shapes differ.
    """
    expected = [tuple(variable.shape) for variable in variables]
    found = [value.shape for value in values]
    if expected != found:
        raise DataError(
            f"The state holds {len(found)} variables whose shapes are not those of this "
            f"training's {len(expected)}. Expected a state of the same code; train anew "
            "with --overwrite."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def weights_path(folder: Path, epoch: int) -> Path:
    """Returns the file of the weights that were best after `epoch`, counted from 1."""
    return folder / f"best-{epoch:05d}.weights.h5"


def remove_states(folder: Path, best_epoch: int) -> None:
    """Removes all states, and all weights but those of the best epoch."""
    for path in _newest_first(folder):
        path.unlink()
        path.with_suffix(".npz").unlink(missing_ok=True)
    _keep_weights(folder, {weights_path(folder, best_epoch)})


def versions() -> dict[str, str]:
    """Returns the versions of Python and of what trains."""
    packages = ["tensorflow", "keras", "tensorflow-datasets", "numpy", "scikit-learn"]
    if keras.backend.backend() != "tensorflow":
        packages.append(keras.backend.backend())
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def _own_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.json"), reverse=True)


def _read_arrays(path: Path) -> Arrays:
    arrays: Arrays = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:  # in the order in which they were written
            arrays.setdefault(name.partition(".")[0], []).append(file[name])
    return arrays


def _check_maker(found: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    different = sorted(
        name for name in {*found, *expected} if found.get(name) != expected.get(name)
    )
    if different:
        raise DataError(
            f"{path.parent} was begun with another {', '.join(different)}: "
            f"{ {name: found.get(name) for name in different} }. Expected "
            f"{ {name: expected.get(name) for name in different} }. Train anew with "
            "--overwrite, or bring back what it was begun with."
        )


def _remove_old(folder: Path) -> None:
    states = _newest_first(folder)
    named = set()
    for path in states[:KEPT_STATES]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            named.add(weights_path(folder, content["progress"]["best_epoch"]))
        except (ValueError, KeyError):
            continue
    for path in states[KEPT_STATES:]:
        path.unlink()
    whole = {path.stem for path in states[:KEPT_STATES]}
    for path in folder.glob("state-*.npz"):
        if path.stem not in whole:
            path.unlink()
    _keep_weights(folder, named)


def _keep_weights(folder: Path, kept: Set[Path]) -> None:
    for path in folder.glob("best-*.weights.h5"):
        if path not in kept:
            path.unlink()
