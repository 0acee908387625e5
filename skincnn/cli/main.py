"""The command `skincnn`: one subcommand for each module beside this one."""

from __future__ import annotations

import importlib
import sys

from skincnn.cli import common

COMMANDS = {
    "prepare-data": "build a dataset from its published files or from your own images",
    "train": "train a classifier, evaluate it on held-out folds and export it",
    "evaluate": "evaluate a run again, with test-time augmentation and more",
    "compare": "compare runs: scores with intervals and paired differences",
    "tune": "search hyperparameters with KerasTuner",
    "export": "write a SavedModel, LiteRT or ONNX file and check its parity with the model",
    "predict": "predict the classes of image files",
    "batch-predict": "predict many images with Apache Beam",
    "serve": "serve a web page on which a model can be tried",
    "make-folds": "make the published folds of HAM10000 again",
}
"""Name of a subcommand to what it does; its module is named the same, with `_` for `-`."""


def main() -> None:
    """Runs `skincnn SUBCOMMAND ...`."""
    given = sys.argv[1:2]
    if given in ([], ["-h"], ["--help"]):
        print(describe_commands())
    elif given[0] in COMMANDS:
        sys.argv = [f"skincnn {given[0]}", *sys.argv[2:]]
        run(given[0])
    else:
        print(f"error: unknown subcommand {given[0]!r}.\n", file=sys.stderr)
        print(describe_commands(), file=sys.stderr)
        sys.exit(2)


def run(name: str) -> None:
    """Runs a subcommand with the arguments in `sys.argv`, and exits with its code."""
    module = importlib.import_module(f"skincnn.cli.{name.replace('-', '_')}")
    common.main(module.command)


def describe_commands() -> str:
    """Returns how to call the command: a line for each subcommand."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: skincnn SUBCOMMAND [...]", "", *lines, "", "skincnn SUBCOMMAND --help"]
    )
