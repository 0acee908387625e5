"""Progress bars of the builder."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class TerminalBar(tqdm):  # type: ignore[type-arg]  # tqdm is not generic at run time
    """A tqdm progress bar that is shown only if standard error is a terminal.

    A program without a console has no standard error, on which tqdm would fail.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs["disable"] = True if sys.stderr is None else None
        super().__init__(*args, **kwargs)
