"""Looks up objects by name, in a table or in a user's module."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from skincnn.errors import ConfigError

T = TypeVar("T")


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """Returns `table[name]`; raises a `ConfigError` if `name` is missing.

    `what` names the argument in the message, such as "`model.backbone`" or "PRESET".
    """
    if name in table:
        return table[name]
    raise ConfigError(
        f"{what} must be one of: {', '.join(table)}. Received: {name!r}."
        f"{suggest(table, name)}"
    )


def describe_functions(table: Mapping[str, Callable[..., Any]]) -> str:
    """Returns a line for each function: its key and the first line of its docstring."""
    width = max(map(len, table))
    return "\n".join(
        f"  {name:{width}}  {(function.__doc__ or '').splitlines()[0]}"
        for name, function in table.items()
    )


def suggest(valid: Iterable[str], name: str) -> str:
    """Returns " Did you mean ...?" for the valid name closest to `name`, or ""."""
    closest = difflib.get_close_matches(name, list(valid), n=1)
    return f" Did you mean {closest[0]!r}?" if closest else ""


def import_function(name: str, what: str) -> Callable[..., Any]:
    """Returns the user's function with the name `package.module:function`.

    The module must be installed or in the current working directory, which is added to
    `sys.path`. See `look_up` for `what`.

    Raises:
        ConfigError: The module cannot be imported or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    # The user's module may raise any exception.
    except Exception as error:
        raise ConfigError(
            f"{what} {name}: cannot import the module {module_name!r}: "
            f"{type(error).__name__}: {error}. Expected package.module:function, where the "
            "module is installed or in the current working directory."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(
            f"{what} {name}: the module {module_name!r} has no function {function_name!r}."
        )
    return function
