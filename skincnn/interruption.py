"""Stops a training run between two steps instead of during a step."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from skincnn.errors import Terminated

TERMINATION: tuple[signal.Signals, ...] = (signal.SIGTERM,)
"""Signals that end a command: those of `kill` and, except on Windows, of a terminal or a
network connection that is closed."""
if sys.platform != "win32":
    TERMINATION = (signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Records Ctrl-C and `TERMINATION` in a `with` block instead of raising an exception.

    The caller checks `requested` and calls `exit`. A second signal takes effect at once.
    Signals that are ignored, such as SIGHUP after `nohup`, remain ignored. In a thread
    other than the main thread, no signals are recorded, because Python handles signals only
    in the main thread.
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
        """Raises `KeyboardInterrupt` after Ctrl-C, and otherwise `Terminated`."""
        raise KeyboardInterrupt if self.signal == signal.SIGINT else Terminated

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

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None or self._immediate:
            self.signal = number
            # `exit` of a subclass would wait for other processes.
            StopRequest.exit(self)
        self.signal = number
        leave_closed_terminal()
        print("\nfinishing the step, then saving ...", file=sys.stderr)


def leave_closed_terminal() -> None:
    """Redirects the output to the null device if it went to a terminal that was closed.

    Otherwise, the next output would be an error.
    """
    for number in (1, 2):
        with contextlib.suppress(OSError):  # a closed stream
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
