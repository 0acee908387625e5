"""Looking a user's name up in a table of parts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from skincnn.errors import ConfigError

T = TypeVar("T")


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """Returns `table[name]`.

    Args:
        table: The parts by name.
        name: The name that the user gave.
        what: What is looked up, for the message: "`model.backbone`", "preset".

    Raises:
        ConfigError: There is no such name; lists the valid ones and the nearest.
    """
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    valid = ", ".join(table)
    raise ConfigError(f"{what} must be one of: {valid}. Received: {name!r}.{hint}")
