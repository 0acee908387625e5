"""Handling of signals and limits of CPU time: training stops between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

from skincnn.errors import Terminated

TERMINATION: tuple[signal.Signals, ...] = (signal.SIGTERM,)
"""Signals that end a command, in addition to that of Ctrl-C: the signal of `kill` and,
except on Windows, those of a closed terminal or network connection and of a limit of CPU
time."""
if sys.platform != "win32":
    import resource

    TERMINATION = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
STREAMS = ("stdout", "stderr")
CPU_LIMIT = "the limit of CPU time (`ulimit -t`) is reached. Use a higher limit."
SECONDS_TO_SAVE = 60
"""Seconds of CPU time per core that are reserved for saving before the hard limit; at
most a tenth of the limit, but at least one second."""
in_command = False
"""Whether a command is being executed: the process then ends after a signal."""


def stop_error(number: int | None) -> KeyboardInterrupt:
    """Returns `KeyboardInterrupt` for the signal of Ctrl-C, `Terminated` for others."""
    if number == signal.SIGINT:
        return KeyboardInterrupt()
    if sys.platform != "win32" and number == signal.SIGXCPU:
        return Terminated(CPU_LIMIT)
    return Terminated()


def reserve_cpu_time() -> None:
    """Lowers the soft limit of CPU time, at which SIGXCPU is sent, below the hard limit.

    `ulimit -t` sets both limits to one value. At the hard limit, the process is killed. A
    soft limit that leaves the time of `SECONDS_TO_SAVE` does not change. Without a hard
    limit, and on Windows, nothing changes.
    """
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
        if hard == resource.RLIM_INFINITY:
            return
        reserve = min(max(1, hard // 10), SECONDS_TO_SAVE * (os.cpu_count() or 1))
        if soft == resource.RLIM_INFINITY or soft > hard - reserve:
            resource.setrlimit(resource.RLIMIT_CPU, (max(1, hard - reserve), hard))


class StopRequest:
    """Records Ctrl-C and `TERMINATION` in a `with` block instead of raising an exception.

    The caller checks `requested` and calls `exit`. A second signal takes effect at once.
    Signals that are ignored, such as SIGHUP after `nohup`, remain ignored. In a thread
    other than the main thread, no signals are recorded, because Python handles signals only
    in the main thread. After the block, unless `in_command`, the standard streams are those
    of before: a notebook continues after Ctrl-C.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._immediate = False
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.signal is not None

    def exit(self) -> None:
        """Raises the exception of the signal; see `stop_error`."""
        raise stop_error(self.signal)

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """Lets signals take effect at once inside a block that runs no training step."""
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (*TERMINATION, signal.SIGINT):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        for name in STREAMS if self.requested and not in_command else ():
            stream = getattr(sys, name)
            if isinstance(stream, LenientStream):
                setattr(sys, name, stream.wrapped)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None or self._immediate:
            self.signal = number
            prepare_to_stop()
            # `exit` of a subclass would wait for other processes.
            StopRequest.exit(self)
        self.signal = number
        prepare_to_stop()
        print("\nfinishing the step, then saving ...", file=sys.stderr)


def prepare_to_stop() -> None:
    """Makes sure that a process that has received a signal can print and save files.

    From now on, output that cannot be written is discarded: the terminal may be closed, and
    Ctrl-C also ends the program that reads the output, such as `tee`. The process may use
    the CPU time up to the hard limit. Otherwise, SIGXCPU would be repeated every second.
    """
    for name in STREAMS:
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, LenientStream):
            setattr(sys, name, LenientStream(stream))
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


class LenientStream:
    """A standard stream that discards what it cannot write instead of raising an error.

    The wrapped stream may be closed, or an object that only has the method `write`.
    """

    def __init__(self, stream: TextIO):
        self.wrapped = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def write(self, text: str) -> int:
        """Writes the text, or discards it."""
        # Python raises a RuntimeError if the signal has interrupted another output.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self.wrapped.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream if it can be flushed."""
        with contextlib.suppress(OSError, RuntimeError, ValueError, AttributeError):
            self.wrapped.flush()

    def isatty(self) -> bool:
        """Returns whether the stream is an open terminal."""
        with contextlib.suppress(ValueError, AttributeError):
            return self.wrapped.isatty()
        return False
