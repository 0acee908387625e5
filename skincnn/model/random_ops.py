"""What the parts of augmentation share: random draws, coordinates and rectangles."""

from __future__ import annotations

from typing import Any, Protocol

import keras
from keras import ops

Tensor = Any


class Uniform(Protocol):
    """Draws numbers anew for each picture and each step."""

    def __call__(self, low: float, high: float, count: int | None = None) -> Tensor:
        """Returns float32 [batch], or [batch, count], from [low, high)."""
        ...


def uniform_of(images: Tensor, generator: keras.random.SeedGenerator) -> Uniform:
    """Returns the function that draws for a batch of pictures, [batch, ...]."""
    batch = ops.shape(images)[0]

    def uniform(low: float, high: float, count: int | None = None) -> Tensor:
        shape = (batch,) if count is None else (batch, count)
        return keras.random.uniform(shape, low, high, seed=generator)

    return uniform


def per_picture(values: Tensor) -> Tensor:
    """Returns a number for each picture, [batch], as [batch, 1, 1, 1]."""
    return ops.reshape(values, (-1, 1, 1, 1))


def coordinates(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns where pixels lie from the centre, in shares of the shorter side.

    Args:
        images: [batch, height, width, channels].

    Returns:
        x [1, 1, width], y [1, height, 1], and the shorter side in pixels.
    """
    _, height, width, _ = ops.shape(images)
    x = ops.cast(ops.arange(width), "float32") - (ops.cast(width, "float32") - 1) / 2
    y = ops.cast(ops.arange(height), "float32") - (ops.cast(height, "float32") - 1) / 2
    side = ops.cast(ops.minimum(height, width), "float32")
    return ops.reshape(x / side, (1, 1, -1)), ops.reshape(y / side, (1, -1, 1)), side


def rectangle(
    images: Tensor, uniform: Uniform, area: Tensor, aspect: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Returns a rectangle of whole pixels, anywhere inside each picture.

    Args:
        images: [batch, height, width, channels].
        uniform: Draws the place.
        area: The share of the picture that it covers, [batch], before its sides are
            rounded.
        aspect: Its height over its width, as multiples of the picture's own: [batch] or
            a number. `area * aspect` and `area / aspect` must be at most 1.

    Returns:
        Where it lies, bool [batch, height, width, 1], and the share of the pixels that
        it covers, float32 [batch].
    """
    _, height, width, _ = ops.shape(images)

    def extent(size: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        size_float = ops.cast(size, "float32")
        length = ops.round(size_float * share)
        free = size_float - length
        first = ops.minimum(ops.floor(uniform(0.0, 1.0) * (free + 1)), free)[:, None]
        pixels = ops.cast(ops.arange(size), "float32")[None]
        return (pixels >= first) & (pixels < first + length[:, None]), length / size_float

    rows, tall = extent(height, ops.sqrt(area * aspect))
    columns, wide = extent(width, ops.sqrt(area / aspect))
    return rows[:, :, None, None] & columns[:, None, :, None], tall * wide
