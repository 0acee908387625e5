"""Stops a training run between two steps instead of during a step."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from skincnn.errors import Terminated

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Records SIGTERM and Ctrl-C inside a `with` block instead of raising an exception.

    The caller checks `requested` and calls `exit`. A second signal takes effect at once.
    In a thread other than the main thread, no signals are recorded, because Python handles
    signals only in the main thread.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._immediate = False
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether SIGTERM or Ctrl-C was received."""
        return self.signal is not None

    def exit(self) -> None:
        """Raises `Terminated` after SIGTERM, and `KeyboardInterrupt` after Ctrl-C."""
        raise Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt

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
            for number in SIGNALS:
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
        print("\nfinishing the step, then saving ...", file=sys.stderr)
