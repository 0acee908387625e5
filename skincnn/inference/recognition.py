"""Recognizes the directories of this package, whose files may be replaced."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from skincnn.config import read_config
from skincnn.errors import ConfigError
from skincnn.inference.run_dir import CONFIG_FILE, RUN_FILE


def find_kind(folder: Path) -> str:
    """Returns what a directory contains: `RunInfo.kind`, or "" for any other directory.

    Files of other programs can have the same names, so the content decides. A run is also
    recognized if it is unfinished, damaged or of another version of skincnn, provided that
    it has a readable run.json, a checkpoint, or config.json exactly as it was written.
    """
    info = _read(folder / RUN_FILE)
    if isinstance(info, dict) and "skincnn" in info:
        return str(info.get("kind", ""))
    checkpoints = (folder / "checkpoints").glob("checkpoint-*.json")
    if any(path.with_suffix(".npz").is_file() for path in checkpoints):
        return "run"
    with contextlib.suppress(ConfigError):
        config = read_config(folder / CONFIG_FILE).to_dict()
        # A configuration that the user has written usually lacks some fields.
        if json.loads(json.dumps(config)) == _read(folder / CONFIG_FILE):
            return "run"
    return ""


def _read(path: Path) -> Any:
    """Returns the content of a JSON file; None if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
