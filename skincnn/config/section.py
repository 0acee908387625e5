"""Sections of the configuration: frozen dataclasses that pydantic validates."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import pydantic.dataclasses
from pydantic import ConfigDict, Field, ValidationError

from skincnn.errors import ConfigError
from skincnn.lookup import suggest

T = TypeVar("T")

Fraction = Annotated[float, Field(ge=0, lt=1)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
OpenInterval = Annotated[float, Field(gt=0, lt=1)]

SHORTER = {
    "Input should be": "must be",
    "greater than or equal to": ">=",
    "less than or equal to": "<=",
    "greater than": ">",
    "less than": "<",
}
"""Phrases in the messages of pydantic, and their replacements."""


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
def section(name: str) -> Callable[[type[T]], type[T]]:
    """Returns a decorator that makes a class a section of the configuration.

    The class becomes a frozen dataclass. The constructor raises a `ConfigError` if a value
    is invalid, or a field is unknown or missing. `name` is the dotted name of the section
    for error messages, or "" for the root of the tree.
    """

    def decorate(cls: type[T]) -> type[T]:
        validated: Any = pydantic.dataclasses.dataclass(
            frozen=True,
            kw_only=True,
            config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False),
        )(cls)
        validate = validated.__init__

        @functools.wraps(validate)
        def init(self: Any, **values: Any) -> None:
            try:
                validate(self, **values)
            except ValidationError as error:
                raise ConfigError(describe_error(error, validated, name)) from error

        validated.__init__ = init
        return typing.cast(type[T], validated)

    return decorate


def require(condition: bool, name: str, expected: str, value: object) -> None:
    """Raises a `ConfigError` if the condition is False.

    The message is "`{name}` must be {expected}. Received: {value}."
    """
    if not condition:
        raise ConfigError(f"`{name}` must be {expected}. Received: {value!r}.")


def describe_error(error: ValidationError, cls: type[Any], name: str) -> str:
    """Returns a message for the first error: the field, what is expected, and the value.

    `name` is the dotted name of the section `cls`, or "" for the root of the tree.
    """
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # raised by `__post_init__`
        return str(cause)
    path = first["loc"]
    field = ".".join(map(str, [name, *path] if name else path)) or "config"
    if first["type"] == "unexpected_keyword_argument":
        names = _field_names(cls, path[:-1])
        hint = suggest(names, str(path[-1]))
        return f"`{field}` is not a field. Expected one of: {', '.join(names)}.{hint}"
    message = first["msg"]
    for phrase, shorter in SHORTER.items():
        message = message.replace(phrase, shorter)
    return f"`{field}` {message}. Received: {first['input']!r}."


def _field_names(cls: type[Any], path: Sequence[int | str]) -> list[str]:
    """Returns the field names of the section at a path below `cls`."""
    for name in path:
        if isinstance(name, str):  # an integer is the index of a training stage
            annotation = typing.get_type_hints(cls)[name]
            cls = next(iter(typing.get_args(annotation)), annotation)
    return list(typing.get_type_hints(cls))
