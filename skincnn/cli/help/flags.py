"""The flags of a command, read from the dataclass of its arguments."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

METAVARS: dict[Any, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
BOOL = "{True,False}"
"""Metavar of a flag that takes True or False."""


@dataclass(frozen=True)
class Flag:
    """A flag or a positional argument.

    Attributes:
        name: The flag without dashes, such as "model.backbone".
        metavar: Placeholder of the value; "" for a flag without a value.
        default: The default value as text; "" if there is nothing to show.
        text: The description.
        positional: Whether the argument is not a flag.
    """

    name: str
    metavar: str
    default: str
    text: str
    positional: bool

    @property
    def spellings(self) -> tuple[str, ...]:
        """The flag with dashes; a switch that is on by default can also be negated."""
        negated = (f"--no-{self.name}",) if not self.metavar and self.default else ()
        return (f"--{self.name}", *negated)

    @property
    def usage(self) -> str:
        """The placeholder of a positional argument."""
        return self.name.upper() + (" ..." if self.metavar.endswith("...") else "")

    @property
    def group(self) -> str:
        """The group of the flag, such as "model"; "" for an option of the command."""
        return self.name.rpartition(".")[0].partition(".")[0]


def list_groups(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Yields the name and the description of each group of flags."""
    for name, hint in _hints(cls).items():
        if dataclasses.is_dataclass(hint.type):
            if hint.name:
                yield name, (inspect.getdoc(hint.type) or "").partition("\n")[0]
            else:
                yield from list_groups(typing.cast(type[Any], hint.type))


@dataclass(frozen=True)
class Hint:
    """The type of a field, and the settings of its flag."""

    type: Any
    name: str
    positional: bool


def _hints(cls: type[Any]) -> dict[str, Hint]:
    hints = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        metadata = getattr(hint, "__metadata__", ())
        names = [x.name for x in metadata if getattr(x, "name", None) is not None]
        inner = typing.get_args(hint)[0] if metadata else hint
        flag = name.replace("_", "-")
        positional = tyro.conf.Positional in metadata
        hints[name] = Hint(inner, names[0] if names else flag, positional)
    return hints


def list_flags(cls: type[Any], default: Any = None, prefix: str = "") -> Iterator[Flag]:
    """Yields the flags and arguments of a dataclass, with the values in `default`.

    `default` is None for the defaults of the fields. The flags begin with `prefix`.
    """
    hints, docs = _hints(cls), _docs(cls)
    for field in dataclasses.fields(cls):
        hint, value = hints[field.name], getattr(default, field.name, field.default)
        if field.default_factory is not dataclasses.MISSING and default is None:
            value = field.default_factory()
        name = prefix + hint.name
        if dataclasses.is_dataclass(hint.type):
            yield from list_flags(
                typing.cast(type[Any], hint.type), value, f"{name}." if name else ""
            )
        elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
            for index, part in enumerate(value):
                yield from list_flags(type(part), part, f"{name}.{index}.")
        else:
            is_switch = hint.type is bool and not prefix
            metavar = "" if is_switch else _metavar(hint.type)
            shown = "" if is_switch and value is False else _to_text(value)
            text = docs.get(field.name, "")
            yield Flag(name, metavar, shown, text, hint.positional)


def _metavar(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if hint is bool:
        return BOOL
    if not arguments:
        return METAVARS.get(hint, "VALUE")
    if typing.get_origin(hint) is typing.Literal:
        return f"{{{','.join(map(str, arguments))}}}"
    if typing.get_origin(hint) is tuple:
        parts = [_metavar(x) for x in arguments if x is not Ellipsis]
        return " ".join([*parts, *(["..."] if Ellipsis in arguments else [])])
    if hasattr(hint, "__metadata__"):
        return _metavar(arguments[0])
    parts = [_metavar(x) for x in arguments if x is not type(None)]
    return ",".join(parts).replace("},{", ",")


def _to_text(value: Any) -> str:
    if value is None or value is dataclasses.MISSING:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _docs(cls: type[Any]) -> dict[str, str]:
    """Returns the docstring of each field, which follows it in the source.

    Without the source, in an installation with only .pyc files, there are no docstrings.
    """
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            source = inspect.getsource(base)
        except OSError:
            continue
        [tree] = ast.parse(textwrap.dedent(source)).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                docs[ast.unparse(field.target)] = str(ast.literal_eval(text.value))
    return docs
