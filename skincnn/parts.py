"""Parts of a training run that have names: functions in a table, or custom parts.

A custom part is a function or class, named `package.module:function`. The name can contain
further arguments, which are Python literals: `package.module:function(argument=2)`. A part
that takes the place of a function in a table has the same arguments and the same kind of
result; docs/guides/extending.md lists the arguments and results of all parts. The module is
installed, in the current working directory, or in a directory of PYTHONPATH.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar, cast

from skincnn.config import Config
from skincnn.errors import ConfigError
from skincnn.files import sha256
from skincnn.lookup import look_up, suggest

F = TypeVar("F", bound=Callable[..., Any])
NAME = re.compile(r"([\w.]+):(\w+)(\(.*\))?", re.DOTALL)
KERAS_HUB = "keras_hub:"
"""Prefix of the presets of KerasHub, which are not custom parts."""
MAX_LISTED = 30
"""An error lists the functions and classes of a module if there are at most this many."""


class PartError(ConfigError):
    """Raised if a custom part fails, or does not have the required arguments or result."""


def is_custom(name: str) -> bool:
    """Returns whether a name is that of a custom part, `package.module:function`."""
    return isinstance(name, str) and ":" in name and not name.startswith(KERAS_HUB)


def find_part(
    table: Mapping[str, F],
    name: str,
    what: str,
    arguments: Sequence[str] = (),
    returns: type = object,
) -> F:
    """Returns the function of a part: `table[name]`, or a `CustomPart`.

    Args:
        table: Functions by name.
        name: A key of the table, or the name of a custom part.
        what: The setting that contains the name, such as "`optimizer.schedule`".
        arguments: Names of the positional arguments of the functions in the table; () to
            skip the check of the arguments.
        returns: The class of the results of these functions.

    Raises:
        ConfigError: The name is unknown or not valid, or the custom part cannot be imported
            or does not accept the arguments.
    """
    if is_custom(name):
        return cast(F, find_custom(name, what, arguments, returns))
    return look_up(table, name, what)


def find_custom(
    name: str,
    what: str,
    arguments: Sequence[str] = (),
    returns: type = object,
) -> CustomPart:
    """Returns a custom part; see `find_part` for the arguments and the errors."""
    match = NAME.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"{what} must be package.module:function or package.module:function(argument="
            f"value). Received: {name!r}."
        )
    module = import_module(match[1], f"{what} {name}")
    function = getattr(module, match[2], None)
    if not callable(function):
        raise ConfigError(_describe_missing(module, match[2], f"{what} {name}"))
    _hash(module)  # before the file can change
    values, options = _read_arguments(match[3] or "()", f"{what} {name}")
    part = CustomPart(name, what, module, function, values, options, returns)
    if arguments:
        part.check(arguments, options)
    return part


@dataclass(frozen=True, eq=False)
class CustomPart:
    """A user's function or class, which is called like a function in a table.

    If the function raises an exception, does not accept an argument, or returns a result of
    another class, a call raises a `ConfigError` that states the file and the line, if they
    are known.

    Attributes:
        name, what, returns: See `find_part`.
        module: The module of the user.
        function: The function or class.
        values, options: The arguments in the name. `values` follow the arguments of a call.
    """

    name: str
    what: str
    module: ModuleType
    function: Callable[..., Any]
    values: tuple[Any, ...]
    options: dict[str, Any]
    returns: type

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Returns the result for arguments and those `options` that the part accepts.

        The options in the name of the part replace `options`.
        """
        options = {name: x for name, x in options.items() if self.accepts(name)}
        options |= self.options
        self.check(arguments, options)
        with self.explained():
            result = self.function(*arguments, *self.values, **options)
        if not isinstance(result, self.returns):
            self.fail(f"must return {_describe_class(self.returns)}. Received: {result!r}.")
        return result

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the function by name; {} if it has no signature."""
        try:
            return inspect.signature(self.function).parameters
        except ValueError:  # some functions in C have no signature
            return {}

    def accepts(self, option: str) -> bool:
        """Returns whether the function accepts an argument of this name."""
        kinds = [parameter.kind for parameter in self.parameters.values()]
        return option in self.parameters or inspect.Parameter.VAR_KEYWORD in kinds

    def check(self, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Raises a `ConfigError` if the part does not accept these arguments.

        `arguments` are the positional arguments, or names for them. A function without a
        signature, such as some functions in C, is not checked.
        """
        try:
            signature = inspect.signature(self.function)
        except ValueError:
            return
        try:
            signature.bind(*arguments, *self.values, **options)
        except TypeError as error:
            given = [*map(str, arguments), *map(repr, self.values), *options]
            # A `Metric` or a partial function has no name.
            function = getattr(self.function, "__name__", self.name)
            self.fail(
                f"cannot be called with the arguments ({', '.join(given)}): {error}. "
                f"Received: {function}{signature}."
            )

    def fail(self, problem: str) -> NoReturn:
        """Raises a `ConfigError` that states where the part is defined, if known."""
        raise PartError(f"{self.what} {self.name}{self._place()} {problem}")

    @contextlib.contextmanager
    def explained(self, doing: str = "") -> Iterator[None]:
        """Raises a `ConfigError` for an exception in the block, with file and line.

        They are those of the last line of the module of the part in the traceback or, if
        there is none, those of the definition of the part, if known. `doing` describes the
        block, such as "in the first step".
        """
        try:
            yield
        except PartError:  # of another part
            raise
        except Exception as error:  # the user's function may raise any exception
            doing = f" {doing}" if doing else ""
            place = locate(error, self.module) or self._place()
            raise PartError(
                f"{self.what} {self.name} failed{doing}{place}: {describe(error)}"
            ) from error

    def _place(self) -> str:
        try:
            line = inspect.getsourcelines(self.function)[1]
        except (OSError, TypeError):
            return ""
        return f" ({inspect.getfile(self.function)}, line {line})"


def import_module(name: str, what: str) -> ModuleType:
    """Returns a module of the user; the current working directory is added to `sys.path`.

    `what` is the setting and its value, for the error message.

    Raises:
        ConfigError: The module does not exist, or its import raises an exception.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's module may raise any exception
        missing = getattr(error, "name", None) if isinstance(error, ImportError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            path = missing.replace(".", "/") + (".py" if missing == name else "/")
            raise ConfigError(
                f"{what}: there is no module {missing!r}. Start the command in the "
                f"directory that contains {path}, or add this directory to PYTHONPATH "
                f"(export PYTHONPATH=DIR). Current directory: {os.getcwd()}."
            ) from error
        raise ConfigError(
            f"{what}: the module {name!r} cannot be imported{locate(error, name)}: "
            f"{describe(error)}"
        ) from error


def locate(error: BaseException, module: ModuleType | str) -> str:
    """Returns the file and the last line of a module in a traceback: " (a.py, line 3)".

    `module` is a module or its name. Returns "" if the traceback has no line of the module.
    For a SyntaxError, the place of the invalid syntax is returned.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    file = getattr(module, "__file__", None)
    if isinstance(module, str):
        with contextlib.suppress(Exception):  # a parent package may raise any exception
            file = getattr(importlib.util.find_spec(module), "origin", None)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return f" ({file}, line {lines[-1]})" if lines else ""


def describe(error: BaseException) -> str:
    """Returns the class and the message of an exception on one line.

    For a `ConfigError`, only the message is returned. The call arguments and the object
    configurations that Keras adds to messages are left out.
    """
    text = re.split(r"Exception encountered(?:: | when calling .*\n)", str(error))[-1]
    text = text.partition("Full object config:")[0].partition("Arguments received by")[0]
    text = " ".join(re.sub(r"\x1b\[\d*m", "", text).split())
    return text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}"


def file_name(name: str) -> str:
    """Returns the name of a part as a file name: "my_parts.tiny" for "my_parts:tiny"."""
    return re.sub(r"[^\w-]+", ".", name).strip(".")


def training_parts(config: Config) -> tuple[str, ...]:
    """Returns the names of the custom parts that define the training of a model."""
    names = (
        config.model.backbone,
        *config.augment.parts,
        *(config.imbalance.strategy, config.loss.name),
        *(config.optimizer.name, config.optimizer.schedule, config.train.monitor),
    )
    return tuple(filter(is_custom, names))


def custom_parts(config: Config) -> tuple[str, ...]:
    """Returns the names of all custom parts: `training_parts`, callbacks and metrics."""
    others = (*config.train.callbacks, *config.evaluate.metrics)
    return (*training_parts(config), *filter(is_custom, others))


def hash_modules(names: Sequence[str]) -> dict[str, str]:
    """Returns the SHA-256 of the module of each custom part, by name of the module.

    The hash is that of the file when the module was first used, even if the file has
    changed since. Modules of Keras are left out, because its version is recorded, and so
    are modules without a file.

    Raises:
        ConfigError: See `import_module`.
    """
    modules = {
        name: import_module(name, f"The custom part {name}")
        for name in sorted({name.partition(":")[0] for name in names})
        if name.partition(".")[0] != "keras"
    }
    hashes = {name: _hash(module) for name, module in modules.items()}
    return {name: digest for name, digest in hashes.items() if digest}


@functools.cache
def _hash(module: ModuleType) -> str:
    """Returns the SHA-256 of the file of a module; "" if it has none."""
    file = getattr(module, "__file__", None)
    return sha256(Path(file)) if file else ""


def warn_of_changes(recorded: Mapping[str, str], names: Sequence[str], run: Path) -> None:
    """Prints a warning for each module of custom parts that has changed since training.

    `recorded` are the hashes in run.json, and `names` the parts that are used now. A module
    that is not in `recorded` causes no warning.

    Raises:
        ConfigError: See `hash_modules`.
    """
    for module, digest in hash_modules(names).items():
        if recorded.get(module, digest) != digest:
            print(
                f"warning: {sys.modules[module].__file__} has changed since {run} was "
                f"trained (SHA-256 {recorded[module][:12]}..., now {digest[:12]}...).",
                file=sys.stderr,
            )


def _describe_missing(module: ModuleType, name: str, what: str) -> str:
    names = [
        key
        for key, value in vars(module).items()
        if callable(value) and not key.startswith("_")
    ]
    own = [key for key in names if _is_defined_in(module, vars(module)[key])]
    listed = ", ".join(own) if 0 < len(own) <= MAX_LISTED else ""
    functions = f" Its functions and classes: {listed}." if listed else ""
    # A built-in module has no file, and that of a directory without __init__.py is None.
    place = getattr(module, "__file__", None) or f"the module {module.__name__}"
    return f"{what}: {place} has no function {name!r}.{functions}{suggest(names, name)}"


def _is_defined_in(module: ModuleType, value: Any) -> bool:
    return getattr(value, "__module__", module.__name__) == module.__name__


def _read_arguments(text: str, what: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the positional and the named literals in "(0.2, seed=3)"."""
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        values = tuple(map(ast.literal_eval, call.args))
        return values, {str(x.arg): ast.literal_eval(x.value) for x in call.keywords}
    except (SyntaxError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"{what}: the arguments must be Python literals, such as (0.2, mode='a'). "
            f"Received: {text}."
        ) from error


def _describe_class(returns: type) -> str:
    """Returns the name of a class with an article, such as "a Keras Loss"."""
    keras = "Keras " if returns.__module__.startswith("keras") else ""
    return f"a {keras}{returns.__name__}"
