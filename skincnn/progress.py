"""Progress of long steps: a bar on a terminal, and one line in a log file."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm


def is_terminal(stream: object) -> bool:
    """Returns whether a standard stream is a terminal.

    The stream may be None, as in a program without a console, or an object of the user
    that has only some methods of a file.
    """
    isatty = getattr(stream, "isatty", None)
    return isatty is not None and bool(isatty())


class ProgressBar(tqdm):  # type: ignore[type-arg]  # tqdm is not generic at run time
    """A tqdm progress bar if standard error is a terminal.

    Otherwise one line is written when the step ends, without escape codes or carriage
    returns, such as "Reading images: 2419 img in 12 s".
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._started = time.monotonic()
        self._as_line = not is_terminal(sys.stderr)
        if self._as_line:
            kwargs["file"] = io.StringIO()  # discards the bar
        super().__init__(*args, **kwargs)

    def close(self) -> None:
        """Completes the bar, or writes the line."""
        is_open = not self.disable
        super().close()
        if is_open and self._as_line:
            _write_line(f"{self.desc}: {self.n} {self.unit}", self._started)


@contextlib.contextmanager
def logged_step(description: str) -> Iterator[None]:
    """Writes one line after a step, unless standard error is a terminal.

    On a terminal, the step shows its own progress bars.
    """
    started = time.monotonic()
    yield
    if not is_terminal(sys.stderr):
        _write_line(description, started)


def _write_line(text: str, started: float) -> None:
    seconds = time.monotonic() - started
    print(f"{text} in {seconds:.0f} s", file=sys.stderr)
