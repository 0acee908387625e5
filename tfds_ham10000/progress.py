"""Progress bars of the builder."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class TerminalBar(tqdm):  # type: ignore[type-arg]  # tqdm is not generic at run time
    """A tqdm progress bar that is shown only if standard error is a terminal.

    tqdm would fail without a console, where standard error is None, and with a stream of
    the user that lacks `isatty`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        isatty = getattr(sys.stderr, "isatty", None)
        kwargs["disable"] = isatty is None or not isatty()
        super().__init__(*args, **kwargs)
