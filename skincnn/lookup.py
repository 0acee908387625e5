"""Looks up objects by name in a table."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from skincnn.errors import ConfigError

T = TypeVar("T")


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """Returns `table[name]`; raises a `ConfigError` if `name` is missing.

    `what` names the argument in the message, such as "`model.backbone`" or "PRESET".
    """
    if isinstance(name, str) and name in table:
        return table[name]
    raise ConfigError(
        f"{what} must be one of: {', '.join(table)}. Received: {name!r}."
        f"{suggest(table, name)}"
    )


def to_names(names: str | Iterable[str] | None, what: str) -> tuple[str, ...]:
    """Returns names as a tuple; a string is one name, and "" or None is no name.

    Raises:
        ConfigError: A name is not a string. The message begins with `what`.
    """
    if names is None or isinstance(names, str):
        return (names,) if names else ()
    is_list = isinstance(names, Iterable) and not isinstance(names, Mapping)
    values: tuple[object, ...] = tuple(names) if is_list else (names,)
    for value in values:
        if not isinstance(value, str):
            raise ConfigError(
                f"{what} must be a name or a list of names. Received: {names!r}."
            )
    return cast(tuple[str, ...], values)


def describe_functions(table: Mapping[str, Callable[..., Any]]) -> str:
    """Returns a line for each function: its key and the first line of its docstring.

    With PYTHONOPTIMIZE=2, no function has a docstring: the lines then consist of the keys.
    """
    width = max(map(len, table))
    lines = (
        (name, (function.__doc__ or "").partition("\n")[0])
        for name, function in table.items()
    )
    return "\n".join(f"  {name:{width}}  {line}".rstrip() for name, line in lines)


def suggest(valid: Iterable[str], name: str) -> str:
    """Returns " Did you mean ...?" for the valid name closest to `name`, or ""."""
    closest = difflib.get_close_matches(str(name), list(valid), n=1)
    return f" Did you mean {closest[0]!r}?" if closest else ""
