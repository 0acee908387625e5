"""A run's folder: what it holds, and whether a run may be written there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from skincnn.config import Config, read_config
from skincnn.errors import ConfigError
from skincnn.files import require_writable_folder

PRODUCTS = (
    "config.json",
    "run.json",
    "history.csv",
    "logs",
    "checkpoints",
    "model.keras",
    "predictions",
    "results",
    "ood.npz",
    "report.html",
    "README.md",
    "figures",
    "export",
)
"""What a run's folder holds; overwriting a run removes these and nothing else."""


def check_workdir(
    workdir: Path, config: Config, *, overwrite: bool = False, resume: bool = False
) -> None:
    """Checks that a run can be written to `workdir`, without touching it.

    Raises:
        ConfigError: It is a file, cannot be written to, holds a run and neither
            `overwrite` nor `resume` is set, holds a run of another configuration that is
            to be resumed, or holds files that look like a run's and are not.
    """
    require_writable_folder(workdir, "--workdir")
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume exclude each other. Give one of them.")
    found = [name for name in PRODUCTS if (workdir / name).exists()]
    if "config.json" not in found:
        if found:
            raise ConfigError(
                f"{workdir} holds {', '.join(found)}, but no config.json: these are not a "
                "run's. Expected an empty folder or a run's; give another --workdir."
            )
    elif resume:
        _check_config(workdir / "config.json", config)
    elif not overwrite:
        raise ConfigError(
            f"{workdir} holds a run already. Give another --workdir, --resume to go on "
            "with it, or --overwrite to replace it."
        )


def clear(workdir: Path, products: Sequence[str] = PRODUCTS) -> None:
    """Removes the run that is in the folder, and no file of others.

    Args:
        workdir: The folder.
        products: What may be in it; the first one goes last: by it a folder that was
            cleared half way is still known.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    for name in reversed(products):
        path = workdir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _check_config(path: Path, config: Config) -> None:
    """Checks that the run to be resumed has this configuration."""
    begun = read_config(path).to_dict()
    different = [
        f"{name} {old!r} (now {new!r})"
        for name, old, new in differences(begun, config.to_dict())
    ]
    if different:
        raise ConfigError(
            f"The run in {path.parent} was begun with another configuration: "
            f"{', '.join(different)}. Expected the same preset and flags with --resume; "
            f"--config {path} gives them."
        )


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields what differs between two trees of dictionaries: path, old and new value.

    Args:
        old: Any value, or a dictionary of such trees.
        new: The same.
        where: The path of both, with a dot before it.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            yield from differences(old.get(name), new.get(name), f"{where}.{name}")
    elif old != new:
        yield where.removeprefix("."), old, new
