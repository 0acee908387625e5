"""Checkpoints, which store the full state of a training run.

A checkpoint is a pair of files. `checkpoint-<epoch>-<step>.npz` contains all variables; a
`.json` file with the same stem contains the progress, the fingerprint, and SHA-256 hashes
that verify both files. The `.json` file is written last, and the last two checkpoints are
kept, so that an interruption damages at most the newest one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from skincnn.errors import DataError
from skincnn.files import json_sha256, open_npz, replacing, sha256, write_json
from skincnn.parts import KERAS_HUB

NUM_KEPT = 2
DAMAGED = "damaged-"
"""Prefix of the names of damaged checkpoints."""
Arrays = dict[str, list[npt.NDArray[Any]]]
"""Values of the variables by group: "model", "optimizer" and "metrics"."""


@dataclass
class Progress:
    """The state of a training run except the variables.

    Attributes:
        epoch: Number of completed epochs, over all stages.
        step: Number of completed steps of the current epoch.
        stage: Index of the stage to which the optimizer variables belong.
        seconds: Duration of the training steps of the current epoch so far, in seconds.
        history: One row per completed epoch, as in history.csv.
        best_epoch: The epoch whose weights are kept, counted from 1: the best epoch so far,
            or the last if `train.keep_epoch` is last; 0 if no epoch is completed.
        best_sha256: SHA-256 of the file with these weights; "" without such a file.
    """

    epoch: int = 0
    step: int = 0
    stage: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_sha256: str = ""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training run.

    Attributes:
        folder: The directory of the checkpoints and the best weights.
        fingerprint: Data, software and device settings that must be the same when the run
            is resumed, as JSON values.
    """

    folder: Path
    fingerprint: Mapping[str, Any]

    def save(
        self, progress: Progress, variables: Mapping[str, Sequence[keras.Variable]]
    ) -> None:
        """Writes a checkpoint of the progress and the variables, grouped as in `Arrays`.

        Keeps the last `NUM_KEPT` checkpoints, and the best weights at the time of each.

        Raises:
            OSError: See `skincnn.files.replacing`.
        """
        arrays = {
            f"{group}.{index}": np.asarray(variable)
            for group, members in variables.items()
            for index, variable in enumerate(members)
        }
        name = f"checkpoint-{progress.epoch:05d}-{progress.step:07d}.npz"
        path = self.folder / name
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        content = {
            "progress": dataclasses.asdict(progress),
            "fingerprint": dict(self.fingerprint),
            "sha256": sha256(path),
        }
        content["own_sha256"] = json_sha256(content)
        write_json(path.with_suffix(".json"), content)
        self._remove_old()

    def load(self) -> tuple[Progress, Arrays] | None:
        """Returns the newest undamaged checkpoint; None if no such checkpoint exists.

        Damaged checkpoints are skipped with a warning, and renamed: otherwise, they would
        count as the last ones, and `save` would remove the undamaged ones.

        Raises:
            DataError: The checkpoint was written with other data, software or devices, or
                is a Git LFS pointer.
            OSError: A damaged checkpoint cannot be renamed.
        """
        for path in self._newest_first():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                own = content.pop("own_sha256")
                hashes = sha256(path.with_suffix(".npz")), json_sha256(content)
                if hashes != (content["sha256"], own):
                    raise ValueError("the SHA-256 does not match")
                progress = Progress(**content["progress"])
            except DataError:  # a Git LFS pointer
                raise
            except (ValueError, OSError, KeyError, TypeError) as error:
                print(
                    f"warning: the checkpoint {path.with_suffix('')} is damaged ({error}). "
                    "Training resumes from the previous checkpoint, or from the start. The "
                    f"files were renamed to {DAMAGED}{path.stem}.",
                    file=sys.stderr,
                )
                for file in self.folder.glob(f"{path.stem}.*"):
                    file.replace(file.with_name(f"{DAMAGED}{file.name}"))
                continue
            if changes := describe_changes(content["fingerprint"], self.fingerprint):
                raise DataError(
                    f"The run in {self.folder.parent} was started with different data, "
                    f"software or devices: {changes}. Undo these changes, or start again "
                    "with --overwrite."
                )
            return progress, _read_arrays(path.with_suffix(".npz"))
        return None

    def remove(self, best_epoch: int) -> None:
        """Removes all checkpoints and weights, except the weights of the best epoch."""
        self._keep({weights_path(self.folder, best_epoch)}, f"{DAMAGED}checkpoint-*")

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.json"), reverse=True)

    def _remove_old(self) -> None:
        kept = set()
        for path in self._newest_first()[:NUM_KEPT]:
            kept |= {path, path.with_suffix(".npz")}
            with contextlib.suppress(ValueError, KeyError):
                content = json.loads(path.read_text(encoding="utf-8"))
                kept.add(weights_path(self.folder, content["progress"]["best_epoch"]))
        self._keep(kept)

    def _keep(self, kept: Set[Path], *more: str) -> None:
        for pattern in ("checkpoint-*", "best-*.weights.h5", *more):
            for path in self.folder.glob(pattern):
                if path not in kept:
                    path.unlink()


def assign(variables: Sequence[keras.Variable], values: Sequence[npt.NDArray[Any]]) -> None:
    """Assigns a value to each variable.

    Raises:
        DataError: The number or the shapes of the values do not match the variables.
    """
    expected = [tuple(variable.shape) for variable in variables]
    received = [value.shape for value in values]
    if expected != received:
        difference = f"Expected {len(expected)} variables, received {len(received)}."
        if len(expected) == len(received):
            index = [a != b for a, b in zip(expected, received, strict=True)].index(True)
            difference = (
                f"Variable {variables[index].path}: expected shape {expected[index]}, "
                f"received {received[index]}."
            )
        raise DataError(
            f"The checkpoint does not match the model. {difference} A different version of "
            "the code probably wrote the checkpoint. Start again with --overwrite."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def describe_changes(old: Any, new: Any) -> str:
    """Returns the name, the old and the new value of each change as text; "" if none.

    `old` and `new` are JSON values. The name of a nested value is dotted, such as
    "data.image_size".
    """
    return ", ".join(f"{path} {a!r} (now {b!r})" for path, a, b in _differences(old, new))


def weights_path(folder: Path, epoch: int) -> Path:
    """Returns the path at which the weights of `epoch`, counted from 1, are kept."""
    return folder / f"best-{epoch:05d}.weights.h5"


def num_bytes(model: keras.Model) -> int:
    """Returns the size of a model's variables in a file, in bytes."""
    return sum(value.nbytes for value in model.get_weights())


def versions(*backbones: str) -> dict[str, str]:
    """Returns the versions of Python and of the main packages for training, by name.

    KerasHub is one of them if one of the `backbones` is a network of KerasHub.
    """
    packages = ["tensorflow", "keras", "tensorflow-datasets", "numpy", "scikit-learn"]
    if keras.backend.backend() != "tensorflow":
        packages.append(keras.backend.backend())
    if any(name.startswith(KERAS_HUB) for name in backbones):
        packages.append("keras-hub")
    result = {"python": platform.python_version()}
    for name in packages:
        # Metadata of distributions can be damaged, and tensorflow-cpu has another name.
        module = name.replace("scikit-learn", "sklearn").replace("-", "_")
        result[name] = import_module(module).__version__
    return result


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            yield from _differences(old.get(name), new.get(name), f"{path}.{name}")
    elif old != new:
        yield path.removeprefix("."), old, new


def _read_arrays(path: Path) -> Arrays:
    arrays: Arrays = {}
    with open_npz(path, "Start again with --overwrite.") as file:
        for name in file:  # in the order in which they were written
            arrays.setdefault(name.partition(".")[0], []).append(file[name])
    return arrays
