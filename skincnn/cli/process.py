"""The process of a command: signals, exit codes and standard streams.

Little is imported here, so that Ctrl-C takes effect early, even while the modules of the
command are imported.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from skincnn import interruption
from skincnn.errors import ConfigError, Terminated, describe_import_error
from skincnn.interruption import (
    TERMINATION,
    prepare_to_stop,
    reserve_cpu_time,
    stop_error,
)

BROKEN_PIPE = 141
"""Exit code if the program that reads the output has ended: 128 + SIGPIPE, as in a
shell."""


def main(command: Callable[[], None]) -> None:
    """Runs a command. After an error, exits with the exit code of the error.

    The exit codes are listed in `skincnn.errors`. A system error whose cause is known, such
    as a full disk, is printed with the cause, and so is the failed import of a package. Any
    other exception without an exit code is raised again, so that Python prints a traceback
    and exits with 1.
    """
    reserve_cpu_time()
    with _signals_as_exceptions() as received:
        try:
            _run(command)
        except KeyboardInterrupt as error:
            _exit_after_signal(error)
        except Exception as error:
            if received:  # a module in C has replaced the exception during its import
                _exit_after_signal(received[-1])
            _exit_after_error(error)
            raise


def _run(command: Callable[[], None]) -> None:
    _prepare_streams()
    _require_current_directory()  # some packages cannot be imported without it
    from skincnn.cli.common import path_flags
    from skincnn.startup import set_command_environment

    set_command_environment()
    with path_flags():
        _run_and_flush(command)


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[list[KeyboardInterrupt]]:
    """Lets signals raise exceptions, which are also appended to the list that is yielded.

    After the block, signals end the process without a traceback while Python exits. In an
    interactive session, such as after %run in IPython, they have their previous effect.
    """
    received = []

    def stop(number: int, frame: FrameType | None) -> None:
        prepare_to_stop()
        received.append(stop_error(number))
        raise received[-1]

    numbers = [
        number
        for number in (signal.SIGINT, *TERMINATION)
        if signal.getsignal(number) != signal.SIG_IGN  # as after `nohup`
    ]
    previous = {number: signal.signal(number, stop) for number in numbers}
    is_interactive = hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__")
    interruption.in_command = True
    try:
        yield received
    finally:
        interruption.in_command = False
        for number, handler in previous.items():
            signal.signal(number, (is_interactive and handler) or signal.SIG_DFL)


def _prepare_streams() -> None:
    """Opens streams that are closed, and lets standard output print any character."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # otherwise, the next file gets its descriptor
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    if sys.platform != "win32":
        for descriptor in (1, 2):  # a parent process can have made them non-blocking
            with contextlib.suppress(OSError):
                os.set_blocking(descriptor, True)
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


def _run_and_flush(command: Callable[[], None]) -> None:
    """Runs a command, and flushes its output while errors can still be handled."""
    try:
        command()
    except SystemExit:  # for example, by --help after printing
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _exit_after_signal(error: KeyboardInterrupt) -> NoReturn:
    is_termination = isinstance(error, Terminated)
    name, code = ("terminated", 143) if is_termination else ("interrupted", 130)
    _exit(": ".join(filter(None, (name, str(error)))), code)


def _exit_after_error(error: Exception) -> None:
    """Exits if the error has an exit code or a known cause, or if the output is closed."""
    from skincnn.write_errors import describe_cause

    closed = isinstance(error, BrokenPipeError) and _output_is_closed()
    is_system_error = isinstance(error, OSError) and not error.filename
    is_unwritable = is_system_error and _stdout_is_unwritable()
    _discard_unwritten()
    if closed:
        sys.exit(BROKEN_PIPE)
    code, text = getattr(error, "exit_code", None), str(error)
    if is_unwritable:
        code, text = ConfigError.exit_code, f"Standard output cannot be written: {error}."
        text += " Write it to another file, and repeat the command (training: --resume)."
    elif cause := describe_cause(error):
        code, text = ConfigError.exit_code, f"{error}. {cause}"
    elif code is None and (cause := describe_import_error(error)):
        code, text = ConfigError.exit_code, cause
    if isinstance(code, int):
        _exit(f"error: {text}", code)


def _exit(text: str, code: int) -> NoReturn:
    """Prints a message, unless standard error cannot be written, and exits."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)
    sys.exit(code)


def _discard_unwritten() -> None:
    """Prevents a second error when Python flushes standard output at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stdout_is_unwritable() -> bool:
    """Returns whether writing a line break fails, because the disk of a log is full."""
    try:
        os.write(1, b"\n")
    except OSError:
        return True
    return False


def _output_is_closed() -> bool:
    if sys.platform == "win32":
        return True  # errors of other pipes are handled where they occur
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)  # errors only
    return bool(poll.poll(0))
