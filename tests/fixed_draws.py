"""Fixed values in place of random draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Draw = Callable[..., np.ndarray]


def fixed_uniform(batch: int, *fractions: float) -> Draw:
    """Returns a `Uniform` whose draws are at fixed fractions between low (0) and high (1).

    Args:
        batch: Number of images.
        *fractions: One per draw; the last one is repeated.
    """
    remaining = list(fractions)

    def uniform(low: float, high: float, count: int | None = None) -> np.ndarray:
        fraction = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        shape = (batch,) if count is None else (batch, count)
        return np.full(shape, low + fraction * (high - low), np.float32)

    return uniform
