"""What scripts share: the configuration that flags change, a quiet start, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro

from skincnn.config import read_config
from skincnn.errors import ConfigError, Terminated
from skincnn.lookup import look_up
from skincnn.presets import PRESETS

DEFAULT_PRESET = "quickstart"
Parsed = TypeVar("Parsed")

NOISE = re.compile(
    rb"All log messages before absl::InitializeLog"
    rb"|oneDNN custom operations are on"
    rb"|Could not find cuda drivers"
    rb"|failed call to cuInit"
    rb"|TensorFlow binary is optimized"
    rb"|To enable the following instructions"
    rb"|computation_placer already registered"
    rb"|Unable to register cu(FFT|DNN|BLAS) factory"
)
"""Lines that TensorFlow prints at each start and that ask nothing of the user."""


def main(command: Callable[[], None]) -> None:
    """Runs a script's command and ends the process with the exit code it earned.

    0 done, 2 usage or configuration, 3 invalid data, 4 training diverged, 130 and 143
    interrupted, 141 who read what is printed has gone (as of a program that SIGPIPE ends);
    any other exception keeps its traceback and exits with 1.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _flushed(command)
    except Terminated:
        print("terminated", file=sys.stderr)
        sys.exit(143)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        gone = isinstance(error, BrokenPipeError) and _reader_has_gone()
        _drop_unwritten()
        if gone:
            sys.exit(128 + signal.SIGPIPE)
        code = getattr(error, "exit_code", None)
        if not isinstance(code, int):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(code)


def _flushed(command: Callable[[], None]) -> None:
    """Runs it, and writes what it printed while a failure can still be told."""
    try:
        command()
    except SystemExit:  # of --help, which prints
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _drop_unwritten() -> None:
    """Keeps Python from failing once more, where it writes the rest at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_has_gone() -> bool:
    """Whether it was standard output's pipe that broke, and not another."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # errors alone
    return bool(poll.poll(0))


def parse(
    kind: type[Parsed],
    argv: Sequence[str],
    preset: str,
    *,
    prog: str,
    description: str,
) -> tuple[str, Parsed]:
    """Returns the preset's name (the file's, with --config) and the arguments.

    Exits with 2 where they cannot be used.

    Args:
        kind: A dataclass with the field `config`, a whole configuration whose values are
            flags; all other fields have defaults.
        argv: The arguments, of which --config may name a file instead of a preset.
        preset: The preset that was named; "" for none.
        prog: What --help calls the script.
        description: What --help says of it.

    Raises:
        ConfigError: There is no such preset or file, or both were given.
    """
    # It gives the defaults of all other flags, so it is looked for first.
    path = find_flag(argv, "--config")
    if not path:
        preset = preset or DEFAULT_PRESET
        config = look_up(PRESETS, preset, "PRESET")()
    elif preset:
        raise ConfigError(f"PRESET {preset} and --config exclude each other. Give one.")
    else:
        preset, config = Path(path).stem, read_config(Path(path))
    default: Parsed = cast(Any, kind)(config=config)
    arguments = tyro.cli(
        kind, prog=prog, description=description, args=argv, default=default
    )
    return preset, arguments


def find_flag(argv: Sequence[str], name: str) -> str:
    """Returns the value of a flag that must be known before the others; "" for none."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument(name, default="", dest="value")
    return str(first.parse_known_args(argv)[0].value)


def load_tensorflow() -> None:
    """Imports TensorFlow and finds its devices without the noise of a normal start.

    What it writes to standard error meanwhile is kept, and every line that is not known
    noise is written out afterwards.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    with _without_noise():
        import tensorflow as tf

        if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
            # It reads pictures then, and must not take the memory of the GPUs.
            tf.config.set_visible_devices([], "GPU")
        tf.config.list_logical_devices()
    tf.get_logger().addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    """Returns False for the advice to who wrote a graph that shapes and models differ."""
    return "triggered tf.function retracing" not in record.getMessage()


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    # The lines come from C++ and go past sys.stderr, to the file descriptor itself.
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            kept.seek(0)
            for line in kept:
                if not NOISE.search(line):
                    os.write(2, line)


def _terminate(signum: int, frame: object) -> None:
    raise Terminated


def show_report(workdir: Path, headline: str = "") -> None:
    """Renders the report of a run directory, and prints its scores and its place.

    Args:
        workdir: The directory, with its results.
        headline: The split to report first; see `reporting.load.load_results`.
    """
    from skincnn.reporting.load import load_results
    from skincnn.reporting.report import render_report, summary

    path = render_report(workdir, headline)
    print(f"\n{summary(load_results(workdir, headline))}\n\nreport  {path}")
