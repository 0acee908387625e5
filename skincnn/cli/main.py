"""The console command `skincnn`. Each of its `COMMANDS` is a module."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from skincnn import __version__
from skincnn.cli import process
from skincnn.preconditions import require_own

COMMANDS = {
    "prepare-data": "build a dataset from its published files or from your own images",
    "train": "train a classifier, evaluate it on held-out folds and export it",
    "evaluate": "evaluate a run again, for example with test-time augmentation",
    "report": "render the report, figures and model card of a run again from its results",
    "compare": "compare runs: scores with intervals and paired differences",
    "tune": "search for hyperparameters with KerasTuner",
    "export": "write a SavedModel, LiteRT or ONNX file and check its parity with the model",
    "predict": "predict the classes of image files",
    "batch-predict": "predict many images with Apache Beam",
    "serve": "serve a model over HTTP, with an API and a web page",
    "presets": "list the presets with their costs and scores",
    "datasets": "list the datasets and what has been built",
    "completion": "print a script that completes commands in bash and zsh",
    "make-folds": "reproduce the published folds of HAM10000",
}
"""Descriptions of the commands, by name. The names of modules have `_` instead of `-`."""
LISTS = ("presets", "datasets", "completion")
"""The commands whose modules are in `skincnn.cli.help`."""


def main() -> None:
    """Runs `skincnn COMMAND ...`; see `skincnn.errors` for the exit codes."""
    process.main(_dispatch)


def run(name: str) -> None:
    """Runs the command `name` with the arguments in `sys.argv`; see `main`."""
    process.main(lambda: _start(name, sys.argv[1:]))


def describe_commands() -> str:
    """Returns the usage of `skincnn`, with one line per command."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    return (
        f"usage: skincnn COMMAND [...]\n\n{lines}\n\n"
        "skincnn COMMAND --help shows the options of a command.\n"
        "skincnn --version shows the version."
    )


def _dispatch() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(describe_commands())
    elif name == "--version":
        print(f"skincnn {__version__}")
    else:
        from skincnn.lookup import look_up

        look_up(COMMANDS, name, "COMMAND")
        _start(name, arguments)


def _start(name: str, arguments: list[str]) -> None:
    sys.argv = [f"skincnn {name}", *arguments]
    command: Callable[[], None] = _import(name).command
    command()


def arguments_of(name: str) -> type[Any]:
    """Returns the dataclass of the arguments of a command."""
    arguments: type[Any] = _import(name).Arguments
    return arguments


def _import(name: str) -> ModuleType:
    require_own("tfds_ham10000")
    if name == "tune":
        require_own("tuning")
    package = "skincnn.cli.help" if name in LISTS else "skincnn.cli"
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")
