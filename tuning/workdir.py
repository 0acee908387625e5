"""A search's folder: what it holds, and whether it belongs to this very search."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_tuner as kt

from skincnn import __version__
from skincnn.config import Config
from skincnn.errors import ConfigError
from skincnn.files import write_json
from skincnn.training.state import versions
from skincnn.training.workdir import clear, differences
from tuning.config import SearchConfig
from tuning.data import SearchData
from tuning.spaces import source

FINGERPRINT = "fingerprint.json"
PRODUCTS = (
    *(FINGERPRINT, "trials", "keras_tuner"),
    *("leaderboard.csv", "best.json", "search.png"),
)
"""What a search's folder holds; overwriting a search removes these and nothing else."""


def fingerprint(
    config: Config,
    names: Sequence[str],
    hyperparameters: kt.HyperParameters,
    search: SearchConfig,
    data: SearchData,
) -> dict[str, Any]:
    """Returns what must be equal where a search goes on, as JSON gives it back.

    Its limits are not part of it: a search may go on for longer.
    """
    found: dict[str, Any] = {
        "config": config.to_dict(),
        "spaces": {name: source(name) for name in names},
        "hyperparameters": {},
        "search": {
            name: getattr(search, name) for name in ("tuner", "objective", "executions")
        },
        "data": data.fingerprint(),
        "versions": versions()
        | {
            "keras-tuner": importlib.metadata.version("keras-tuner"),
            "skincnn": __version__,
        },
    }
    for number, parameter in enumerate(hyperparameters.space):
        content = parameter.get_config()
        name = content.pop("name")
        if name in found["hyperparameters"]:  # once more, under another condition
            name = f"{name} ({number})"
        found["hyperparameters"][name] = content
    result: dict[str, Any] = json.loads(json.dumps(found))
    return result


def digest(made_by: dict[str, Any]) -> str:
    """Returns the SHA-256 of a fingerprint."""
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()


def open_workdir(workdir: Path, made_by: dict[str, Any], *, overwrite: bool) -> None:
    """Makes sure that what is in the folder belongs to this very search.

    Args:
        workdir: The folder.
        made_by: What `fingerprint` returns.
        overwrite: Whether to remove another search.

    Raises:
        ConfigError: There is another search, a run, or the remains of one; says what
            differs.
    """
    found = [name for name in PRODUCTS if (workdir / name).exists()]
    path = workdir / FINGERPRINT
    if overwrite:
        clear(workdir, PRODUCTS)
    elif path.exists():
        _compare(path, made_by)
        done = len(list(workdir.glob("trials/*/result.json")))
        print(f"Going on with {workdir}: {done} trainings are done")
    elif found or (workdir / "config.json").exists():
        raise ConfigError(
            f"{workdir} holds {', '.join(found) or 'a run'}, but no {FINGERPRINT} of a "
            "search. Give another --workdir, or --overwrite to replace what a search made."
        )
    write_json(path, made_by)


def _compare(path: Path, made_by: dict[str, Any]) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}): whether its trials belong to this search cannot "
            "be told. Give --overwrite, or another --workdir."
        ) from error
    changed = [
        f"{name} {old!r} (now {new!r})" for name, old, new in differences(before, made_by)
    ]
    if changed:
        raise ConfigError(
            f"{path.parent} holds another search: {', '.join(changed)}. Give the same "
            "command to go on with it, another --workdir, or --overwrite to replace it."
        )
