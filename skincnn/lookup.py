"""From a name that a user gave to a part: of a table, or of a module of theirs."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

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


def import_function(name: str, what: str) -> Callable[..., Any]:
    """Returns the function that `package.module:function` names.

    The module may lie in the current folder.

    Args:
        name: The name that the user gave.
        what: What is named, for the message: "`model.backbone`", "SPACE".

    Raises:
        ConfigError: There is no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    # Whatever a module of the user's may raise.
    except Exception as error:
        raise ConfigError(
            f"{what} {name}: the module {module_name!r} could not be imported: "
            f"{type(error).__name__}: {error}. Expected package.module:function, installed "
            "or in the current folder."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(
            f"{what} {name}: the module {module_name!r} has no function {function_name!r}."
        )
    return function
