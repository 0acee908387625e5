"""Sections of the configuration: frozen dataclasses that pydantic validates."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Annotated, Any, TypeVar, cast

import pydantic.dataclasses
from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import ArgsKwargs

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
    "Field required": "is required",
}
"""Phrases in the messages of pydantic, and their replacements."""


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
def section(name: str) -> Callable[[type[T]], type[T]]:
    """Returns a decorator that makes a class a section of the configuration.

    The class becomes a frozen dataclass. The constructor raises a `ConfigError` if a value
    is invalid, or a field is unknown or missing; values of NumPy and lists are valid, too.
    `name` is the dotted name of the section for error messages, or "" for the root of the
    tree.
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
                validate(self, **{key: _plain(value) for key, value in values.items()})
            except ValidationError as error:
                raise ConfigError(describe_error(error, validated, name)) from error

        validated.__init__ = init
        return typing.cast(type[T], validated)

    return decorate


def _plain(value: object) -> object:
    """Returns numbers and arrays of NumPy as values of Python, and lists as tuples."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def require(condition: bool, name: str, expected: str, value: object) -> None:
    """Raises a `ConfigError` if the condition is False.

    The message is "`{name}` must be {expected}. Received: {value!r}."
    """
    if not condition:
        raise ConfigError(f"`{name}` must be {expected}. Received: {value!r}.")


def require_count(name: str, value: object, minimum: int = 1) -> None:
    """Raises a `ConfigError` if a value is not an integer, or is less than `minimum`."""
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    expected = f"an integer, {minimum} or more"
    require(is_integer and cast(int, value) >= minimum, name, expected, value)


def require_text(name: str, value: object) -> None:
    """Raises a `ConfigError` if a value is not a string."""
    require(isinstance(value, str), name, "a string", value)


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
    message, received = first["msg"], first["input"]
    if isinstance(received, ArgsKwargs):  # a missing argument of a constructor
        received = received.kwargs
    for phrase, shorter in SHORTER.items():
        message = message.replace(phrase, shorter)
    return f"`{field}` {message}. Received: {received!r}."


def _field_names(cls: type[Any], path: Sequence[int | str]) -> list[str]:
    """Returns the field names of the section at a path below `cls`."""
    for name in path:
        if isinstance(name, str):  # an integer is the index of a training stage
            annotation = typing.get_type_hints(cls)[name]
            cls = next(iter(typing.get_args(annotation)), annotation)
    return list(typing.get_type_hints(cls))
