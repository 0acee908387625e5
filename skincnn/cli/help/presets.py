"""Lists the presets with their costs and scores."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import tyro

from skincnn.cli.help.text import parse_arguments
from skincnn.lookup import look_up
from skincnn.presets import ENSEMBLES, PRESETS


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Lists the presets and ensembles of `skincnn train` with their costs and scores.

    Each measured score names the images, and states if the code was an earlier version. A
    published score is that of the report on which the preset is based.

    For example:
      skincnn presets
      skincnn presets mobilenet_160
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Presets whose whole description is shown, with the sources of their settings."""


def command() -> None:
    """Prints the summary, cost and score of all presets, or the given ones in detail."""
    arguments = parse_arguments(Arguments)
    table = {**PRESETS, **ENSEMBLES}
    for name in arguments.names:
        look_up(table, name, "PRESET")
    for name in arguments.names or table:
        text = inspect.getdoc(table[name]) or ""
        if not arguments.names:
            summary, _, details = text.partition("\n")
            text = f"{summary}\n{details[max(0, details.find('Command:')) :]}"
        lines = [f"  {line}".rstrip() for line in text.splitlines()]
        print("\n".join([name, *lines, ""]))
