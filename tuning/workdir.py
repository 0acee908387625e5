"""The directory of a search, and the fingerprint that identifies the search."""

from __future__ import annotations

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
from skincnn.parts import hash_modules, training_parts
from skincnn.training.checkpoints import describe_changes, versions
from skincnn.training.run import clear
from tuning.config import SearchConfig
from tuning.data import SearchData
from tuning.spaces import hash_source

FINGERPRINT = "fingerprint.json"
PRODUCTS = (
    *(FINGERPRINT, "trials", "keras_tuner"),
    *("leaderboard.csv", "best.json", "search.png"),
)
"""The files and subdirectories of a search; --overwrite removes only these."""


def make_fingerprint(
    config: Config,
    names: Sequence[str],
    hyperparameters: kt.HyperParameters,
    search: SearchConfig,
    data: SearchData,
) -> dict[str, Any]:
    """Returns everything that must be the same when a search is resumed, as JSON values.

    The limits are not included, so that a search can be resumed with higher limits.
    """
    parameters: dict[str, Any] = {}
    for number, parameter in enumerate(hyperparameters.space):
        content = parameter.get_config()
        name = content.pop("name")
        if name in parameters:  # the same name under another condition
            name = f"{name} ({number})"
        parameters[name] = content
    package_versions = {
        "keras-tuner": importlib.metadata.version("keras-tuner"),
        "skincnn": __version__,
    }
    fingerprint = {
        "config": config.to_dict(),
        "spaces": {name: hash_source(name) for name in names},
        "hyperparameters": parameters,
        "search": {
            name: getattr(search, name) for name in ("tuner", "objective", "executions")
        },
        "data": data.fingerprint(),
        "modules": hash_modules(training_parts(config)),
        "versions": versions() | package_versions,
    }
    values: dict[str, Any] = json.loads(json.dumps(fingerprint))
    return values


def open_workdir(workdir: Path, fingerprint: dict[str, Any], *, overwrite: bool) -> None:
    """Checks that a directory contains no other search, and writes the fingerprint.

    With `overwrite`, the files of an existing search are removed instead of checked.

    Raises:
        ConfigError: The directory contains another search, a run, or files of a search
            without a valid fingerprint.
    """
    existing = [name for name in PRODUCTS if (workdir / name).exists()]
    path = workdir / FINGERPRINT
    if overwrite:
        clear(workdir, PRODUCTS)
    elif path.exists():
        _compare(path, fingerprint)
        done = len(list(workdir.glob("trials/*/result.json")))
        print(f"Resuming {workdir}: {done} training runs are done")
    elif existing or (workdir / "config.json").exists():
        raise ConfigError(
            f"{workdir} contains {', '.join(existing) or 'a run'} but no {FINGERPRINT} of "
            "a search. Use another --workdir, or --overwrite to replace the files of a "
            "search."
        )
    write_json(path, fingerprint)


def _compare(path: Path, fingerprint: dict[str, Any]) -> None:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}), so that the search cannot be resumed. Use "
            "another --workdir, or --overwrite to replace the search."
        ) from error
    if changes := describe_changes(saved, fingerprint):
        raise ConfigError(
            f"{path.parent} contains another search: {changes}. Undo these changes to "
            "resume it, use another --workdir, or use --overwrite to replace that search."
        )
