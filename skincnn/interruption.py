"""Stopping a training between two steps instead of in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

from skincnn.errors import Terminated

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Remembers SIGTERM and Ctrl-C while it is entered, for `obey` to act on.

    A second signal interrupts at once. Outside of the main thread, where Python has no
    signals, it never asks for anything.
    """

    def __init__(self) -> None:
        """Begins without a request."""
        self.signal: int | None = None
        self._at_once = False
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether the user asked to stop."""
        return self.signal is not None

    def obey(self) -> None:
        """Ends the process as the signal would have.

        Raises:
            Terminated: It was SIGTERM.
            KeyboardInterrupt: It was Ctrl-C.
        """
        raise Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Acts on signals as they come, where there is nothing to finish."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> StopRequest:
        """Takes the signals over."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None or self._at_once:
            self.signal = number
            StopRequest.obey(self)  # whatever others do
        self.signal = number
        print("\nfinishing the step, then saving ...", file=sys.stderr)
