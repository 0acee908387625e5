"""Commands in messages, which a user can paste into a shell."""

from __future__ import annotations

import shlex


def command_line(name: str, *arguments: object) -> str:
    """Returns the command that runs a script, with quoted arguments.

    For example, `command_line("evaluate", "runs/a b")` is
    "python scripts/evaluate.py 'runs/a b'".
    """
    return shlex.join(["python", f"scripts/{name}.py", *map(str, arguments)])
