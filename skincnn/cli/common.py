"""Functions for several commands: flags, exit codes and settings of the environment."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from skincnn import presets, startup
from skincnn.cli.help.text import parse_arguments
from skincnn.config import Config, read_config
from skincnn.errors import ConfigError, Terminated
from skincnn.interruption import TERMINATION, leave_closed_terminal
from skincnn.parts import file_name
from skincnn.paths import to_path
from skincnn.write_errors import describe_cause

DEFAULT_PRESET = "quickstart"
BROKEN_PIPE = 141
"""Exit code if the reader of standard output ends: 128 + SIGPIPE, as in a shell."""


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """The location of the dataset, and the cache of the decoded images."""

    data_dir: Path | None = None
    """Directory of the built datasets; by default, that of TFDS."""
    cache: Literal["auto", "memory", "disk"] = "auto"
    """Where decoded images are kept. memory: in memory; disk: in a file beside the
    datasets; auto: in memory if the images fit, otherwise in a file."""


@dataclass(frozen=True, kw_only=True)
class ConfigArguments(DataArguments):
    """Arguments of commands that have a flag for each field of a configuration."""

    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """A YAML or JSON file to use instead of a preset. The config.json of a run is such a
    file."""
    overwrite: bool = False
    """Replace an existing run or search in --workdir."""
    config: Annotated[tyro.conf.FlagConversionOff[Config], tyro.conf.arg(name="")]


Parsed = TypeVar("Parsed", bound=ConfigArguments)


def main(command: Callable[[], None]) -> None:
    """Runs a command. After an error, exits with the exit code of the error.

    The exit codes are listed in `skincnn.errors`. A file system error, such as a full disk,
    is printed with its cause. Any other exception without an exit code is raised
    again, so that Python prints a traceback and exits with 1.
    """
    for number in TERMINATION:
        if signal.getsignal(number) != signal.SIG_IGN:  # as after `nohup`
            signal.signal(number, _terminate)
    startup.set_command_environment()
    _prepare_streams()
    try:
        _require_current_directory()
        with path_flags():
            _run_and_flush(command)
    except Terminated:
        _exit("terminated", 143)
    except KeyboardInterrupt:
        _exit("interrupted", 130)
    except Exception as error:
        closed = isinstance(error, BrokenPipeError) and _stdout_is_closed()
        _discard_unwritten()
        if closed:
            sys.exit(BROKEN_PIPE)
        code, text = getattr(error, "exit_code", None), str(error)
        if cause := describe_cause(error):
            code, text = ConfigError.exit_code, f"{error}. {cause}"
        if not isinstance(code, int):
            raise
        _exit(f"error: {text}", code)


def _prepare_streams() -> None:
    """Opens streams that are closed, and lets standard output print any character."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # otherwise, the next file gets its descriptor
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The locale may not contain all characters of a name.
        sys.stdout.reconfigure(errors="backslashreplace")


def _require_current_directory() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError(
            "The current directory was deleted. Change to another one, and run the command "
            "again."
        ) from error


def path_flags() -> ConstructorRegistry:
    """Returns a context in which each flag of the type `Path` is read by `to_path`."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
        if info.type is not Path:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda arguments: to_path(arguments[0]),
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda path: [str(path)],
        )

    return registry


def load_tensorflow() -> None:
    """Imports TensorFlow and Keras, and applies `startup.KERAS_SETTINGS`.

    Raises:
        ConfigError: See `skincnn.startup.load_tensorflow`.
    """
    startup.load_tensorflow()
    startup.set_keras(startup.KERAS_SETTINGS)


def _run_and_flush(command: Callable[[], None]) -> None:
    """Runs a command, and flushes its output while errors can still be handled."""
    try:
        command()
    except SystemExit:  # raised by --help after printing
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _exit(text: str, code: int) -> NoReturn:
    """Prints a message, also if standard error cannot be written, and exits."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)
    sys.exit(code)


def _discard_unwritten() -> None:
    """Prevents a second error when Python flushes standard output at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stdout_is_closed() -> bool:
    if sys.platform == "win32":
        return True  # the only pipe of a command that this process does not handle
    poll = select.poll()
    poll.register(sys.stdout, 0)  # errors only
    return bool(poll.poll(0))


def parse(cls: type[Parsed], argv: Sequence[str], preset: str) -> tuple[str, Parsed]:
    """Returns the name of the preset, or of the --config file, and the parsed arguments.

    The name is a valid directory name. `cls` is a dataclass in which all fields except
    `config` have defaults. `argv` does not contain a positional PRESET. `preset` is "" if
    --config is given or the default preset is used.

    Raises:
        ConfigError: The preset does not exist, the file is not a valid configuration, or
            both were given.
    """
    # The preset or the file provides the defaults of all flags and is therefore read first.
    path = find_flag(argv, "--config")
    if not path:
        preset = preset or DEFAULT_PRESET
        preset, config = file_name(preset), presets.preset(preset)
    elif preset:
        raise ConfigError(
            "PRESET and --config cannot be used together. "
            f"Received: {preset} and --config {path}."
        )
    else:
        preset, config = Path(path).stem, read_config(to_path(path))
    default = cls(config=config)
    return preset, parse_arguments(cls, argv, default)


def find_flag(argv: Sequence[str], name: str) -> str:
    """Returns the value of one flag in `argv`, or "" if the flag is missing."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, default="", dest="value")
    return str(parser.parse_known_args(argv)[0].value)


def _terminate(signum: int, frame: object) -> None:
    leave_closed_terminal()
    raise Terminated


def show_report(workdir: Path, headline: str = "", checklists: Sequence[str] = ()) -> None:
    """Renders the report of a run, and prints the scores and the paths of the files.

    `headline` is the split to report first; see `skincnn.reporting.load.load_results`.
    `checklists` are names of reporting standards.
    """
    from skincnn.api.run import Run

    run = Run(workdir)
    path = run.report(headline)
    paths = run.checklists(checklists)
    print(f"\n{run.summary(headline)}\n\nreport  {path}")
    for path in paths:
        print(f"checklist {path}")
