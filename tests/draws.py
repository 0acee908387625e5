"""Draws that a test chooses, in place of random ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Draw = Callable[..., np.ndarray]


def chosen(batch: int, *places: float) -> Draw:
    """Returns a `Uniform` whose draws lie at these places between low (0) and high (1).

    The last place serves for all further draws.
    """
    remaining = list(places)

    def uniform(low: float, high: float, count: int | None = None) -> np.ndarray:
        place = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        shape = (batch,) if count is None else (batch, count)
        return np.full(shape, low + place * (high - low), np.float32)

    return uniform
