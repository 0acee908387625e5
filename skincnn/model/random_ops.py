"""Random numbers, coordinates and rectangles for augmentation."""

from __future__ import annotations

from typing import Any, Protocol

import keras
from keras import ops

Tensor = Any


class Uniform(Protocol):
    """Draws new uniform random numbers for each image at every call."""

    def __call__(self, low: float, high: float, count: int | None = None) -> Tensor:
        """Returns numbers from [low, high), float32 [batch] or [batch, count]."""
        ...


def uniform_of(images: Tensor, generator: keras.random.SeedGenerator) -> Uniform:
    """Returns a function that draws random numbers for each of `images` [batch, ...]."""
    batch = ops.shape(images)[0]

    def uniform(low: float, high: float, count: int | None = None) -> Tensor:
        shape = (batch,) if count is None else (batch, count)
        return keras.random.uniform(shape, low, high, seed=generator)

    return uniform


def per_image(values: Tensor) -> Tensor:
    """Reshapes values [batch] to [batch, 1, 1, 1], to broadcast over images."""
    return ops.reshape(values, (-1, 1, 1, 1))


def coordinates(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns x [1, 1, width], y [1, height, 1], and the shorter side in pixels.

    x and y are relative to the center, as fractions of the shorter side.
    """
    _, height, width, _ = ops.shape(images)
    x, y = centered_pixels(height, width)
    side = ops.cast(ops.minimum(height, width), "float32")
    return x / side, y / side, side


def centered_pixels(height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x [1, 1, width] and y [1, height, 1], in pixels relative to the center."""
    x, y = (
        ops.cast(ops.arange(size), "float32") - (ops.cast(size, "float32") - 1) / 2
        for size in (width, height)
    )
    return ops.reshape(x, (1, 1, -1)), ops.reshape(y, (1, -1, 1))


def rectangle(
    images: Tensor, uniform: Uniform, area: Tensor, aspect: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Returns a random rectangle of whole pixels inside each image.

    Args:
        images: [batch, height, width, channels].
        uniform: Draws the position.
        area: Fraction of the image to cover, [batch], before the sides are rounded.
        aspect: Height-to-width ratio of the rectangle divided by that of the image, [batch]
            or a number. `area * aspect` and `area / aspect` must not exceed 1.

    Returns:
        A mask, bool [batch, height, width, 1], and the fraction of the pixels that the
        rectangle covers, float32 [batch].
    """
    _, height, width, _ = ops.shape(images)

    def extent(size: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
        size_float = ops.cast(size, "float32")
        length = ops.round(size_float * fraction)
        free = size_float - length
        first = ops.minimum(ops.floor(uniform(0.0, 1.0) * (free + 1)), free)[:, None]
        pixels = ops.cast(ops.arange(size), "float32")[None]
        return (pixels >= first) & (pixels < first + length[:, None]), length / size_float

    rows, relative_height = extent(height, ops.sqrt(area * aspect))
    columns, relative_width = extent(width, ops.sqrt(area / aspect))
    mask = rows[:, :, None, None] & columns[:, None, :, None]
    return mask, relative_height * relative_width
