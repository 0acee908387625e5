"""Commands in messages, which a user can paste into a shell."""

from __future__ import annotations

import shlex


def command_line(name: str, *arguments: object) -> str:
    """Returns a command of `skincnn.cli.main.COMMANDS` with quoted arguments.

    For example, `command_line("evaluate", "runs/a b")` is
    "skincnn evaluate 'runs/a b'".
    """
    return shlex.join(["skincnn", name, *map(str, arguments)])
