"""The directory of a search, and the fingerprint that identifies the search."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_tuner as kt

from skincnn import __version__
from skincnn.config import Config
from skincnn.errors import ConfigError
from skincnn.files import write_json
from skincnn.inference.recognition import find_kind
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
"""The files and subdirectories of a search that --overwrite removes; others are kept."""


def make_fingerprint(
    config: Config,
    names: Sequence[str],
    hyperparameters: kt.HyperParameters,
    search: SearchConfig,
    data: SearchData,
) -> dict[str, Any]:
    """Returns everything that must be the same when a search is resumed, as JSON values.

    The limits are not included, so that a search can be resumed with higher limits.

    Raises:
        ConfigError: See `hash_source` and `skincnn.parts.hash_modules`.
    """
    parameters: dict[str, Any] = {}
    for number, parameter in enumerate(hyperparameters.space):
        content = parameter.get_config()
        name = content.pop("name")
        if name in parameters:  # the same name under another condition
            name = f"{name} ({number})"
        parameters[name] = content
    backbones = {config.model.backbone}
    for parameter in hyperparameters.space:
        if parameter.name == "model.backbone":
            backbones.update(parameter.values)
    package_versions = {
        "keras-tuner": kt.__version__,
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
        "versions": versions(*backbones) | package_versions,
    }
    values: dict[str, Any] = json.loads(json.dumps(fingerprint))
    return values


def open_workdir(workdir: Path, fingerprint: dict[str, Any], *, overwrite: bool) -> None:
    """Checks that a directory contains no other search, and writes the fingerprint.

    With `overwrite`, the files of an existing search are removed instead of checked.

    Raises:
        ConfigError: The directory contains another search, a run, a search without a valid
            fingerprint, or files with the names of those of a search but no search; or,
            with `overwrite`, a file cannot be removed.
        OSError: The fingerprint cannot be read or written, or the directory cannot be
            created.
    """
    existing = [name for name in PRODUCTS if (workdir / name).exists()]
    path = workdir / FINGERPRINT
    if find_kind(workdir) == "run":
        raise ConfigError(f"{workdir} contains a run. Use another --workdir.")
    if existing and not _is_search(workdir):
        raise ConfigError(
            f"{workdir} contains {', '.join(existing)} but no search of skincnn. Use "
            "another --workdir."
        )
    if overwrite:
        clear(workdir, PRODUCTS)
    elif existing:
        _compare(path, fingerprint)
        done = len(list(workdir.glob("trials/*/result.json")))
        print(f"Resuming {workdir}: {done} training runs are done")
    write_json(path, fingerprint)


def _is_search(workdir: Path) -> bool:
    """Returns whether a directory has a valid fingerprint, or a training run of a search.

    Files of other programs can have the same names.
    """
    with contextlib.suppress(OSError, ValueError):
        saved = json.loads((workdir / FINGERPRINT).read_bytes())
        if isinstance(saved, dict) and {"spaces", "hyperparameters"} <= saved.keys():
            return True
    return any(map(find_kind, workdir.glob("trials/*")))


def _compare(path: Path, fingerprint: dict[str, Any]) -> None:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is missing or damaged ({error}), so that the search cannot be "
            "resumed. Use another --workdir, or --overwrite to replace the search."
        ) from error
    if changes := describe_changes(saved, fingerprint):
        raise ConfigError(
            f"{path.parent} contains another search: {changes}. Undo these changes to "
            "resume it, use another --workdir, or use --overwrite to replace that search."
        )
