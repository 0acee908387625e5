"""The console command `skincnn`. Each subcommand is a module of this package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from skincnn import __version__
from skincnn.cli import common
from skincnn.lookup import look_up

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
"""Descriptions by subcommand. The names of modules have `_` instead of `-`."""
LISTS = ("presets", "datasets", "completion")
"""The subcommands whose modules are in `skincnn.cli.help`."""


def main() -> None:
    """Runs `skincnn SUBCOMMAND ...`; see `skincnn.errors` for the exit codes."""
    common.main(_dispatch)


def run(name: str) -> None:
    """Runs a subcommand with the arguments in `sys.argv`; see `main`."""
    common.main(lambda: _load(name)())


def describe_commands() -> str:
    """Returns the usage of `skincnn`, with one line per subcommand."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    return (
        f"usage: skincnn SUBCOMMAND [...]\n\n{lines}\n\n"
        "skincnn SUBCOMMAND --help shows the options of a subcommand.\n"
        "skincnn --version shows the version."
    )


def _dispatch() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(describe_commands())
    elif name == "--version":
        print(f"skincnn {__version__}")
    else:
        look_up(COMMANDS, name, "SUBCOMMAND")
        sys.argv = [f"skincnn {name}", *arguments]
        _load(name)()


def arguments_of(name: str) -> type[Any]:
    """Returns the dataclass of the arguments of a subcommand."""
    arguments: type[Any] = _import(name).Arguments
    return arguments


def _load(name: str) -> Callable[[], None]:
    command: Callable[[], None] = _import(name).command
    return command


def _import(name: str) -> ModuleType:
    package = "skincnn.cli.help" if name in LISTS else "skincnn.cli"
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")
