"""Lists the presets with their costs and scores."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import tyro

from skincnn.cli.help.text import name_commands, parse_arguments, program_name
from skincnn.lookup import look_up
from skincnn.presets import ENSEMBLES, PRESETS


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Lists the presets and ensembles of `skincnn train` with their costs and scores.

    Each score names the folds on which it was measured, and the version of the code. A
    published score is that of the report on which the preset is based.

    For example:
      skincnn presets
      skincnn presets mobilenet_160
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Presets whose whole description is shown, such as the sources of their settings."""


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
        lines = name_commands(text, program_name()).splitlines()
        print("\n".join([name, *(f"  {line}".rstrip() for line in lines), ""]))
