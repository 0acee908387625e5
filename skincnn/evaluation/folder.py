"""What the folder of a run says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skincnn.config import Config, read_config
from skincnn.errors import ConfigError


def read_run(workdir: Path) -> tuple[dict[str, Any], Config]:
    """Returns the metadata and the configuration of a finished run.

    Raises:
        ConfigError: A file is missing.
    """
    for name in ("config.json", "metadata.json", "model.keras", "history.csv"):
        if not (workdir / name).is_file():
            raise ConfigError(
                f"{workdir} holds no finished run: {name} is missing. Expected a "
                "--workdir of scripts/train.py."
            )
    metadata = json.loads((workdir / "metadata.json").read_text())
    return metadata, read_config(workdir / "config.json")


def read_report(workdir: Path) -> dict[str, Any]:
    """Returns the content of a run's report.json.

    Raises:
        ConfigError: It is missing, or no JSON.
    """
    path = workdir / "report.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}. Make it with scripts/evaluate.py {workdir}."
        ) from error
