"""Geometric augmentations as matrices, and the transform that applies their product.

Each augmentation returns one random matrix per image, float32 [batch, 3, 3], for
`transform`. `config.magnitude` scales limits such as `zoom`, and `orientation_share`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from keras import ops

from skincnn.config import AugmentConfig
from skincnn.model.random_ops import Tensor, Uniform, centered_pixels


def flip(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Returns matrices that flip horizontally, with probability orientation_share / 2."""
    probability = 0.5 * config.strength("orientation_share")
    sign = ops.where(uniform(0.0, 1.0) < probability, -1.0, 1.0)
    return _matrix(sign, 0.0, 0.0, 1.0)


def flip_vertical(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Returns matrices that flip vertically, with probability orientation_share / 2."""
    probability = 0.5 * config.strength("orientation_share")
    sign = ops.where(uniform(0.0, 1.0) < probability, -1.0, 1.0)
    return _matrix(ops.ones_like(sign), 0.0, 0.0, sign)


def transpose(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Returns matrices that swap rows and columns, with probability orientation_share / 2.

    The images must be square.
    """
    probability = 0.5 * config.strength("orientation_share")
    swapped = ops.where(uniform(0.0, 1.0) < probability, 1.0, 0.0)
    return _matrix(1 - swapped, swapped, swapped, 1 - swapped)


def quarter_turn(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Returns matrices that rotate by 0, 90, 180 or 270 degrees.

    With a probability of orientation_share, one of the four rotations is drawn; otherwise,
    the image is not rotated.
    """
    probability = config.strength("orientation_share")
    drawn = uniform(0.0, 4.0)
    turns = ops.floor(drawn / max(probability, 1e-6))
    turns = ops.where(drawn < 4 * probability, turns, 0.0)
    # Exact zeros and ones, unlike the sine and cosine of multiples of pi / 2.
    cos = ops.where(turns == 0, 1.0, ops.where(turns == 2, -1.0, 0.0))
    sin = ops.where(turns == 1, 1.0, ops.where(turns == 3, -1.0, 0.0))
    return _matrix(cos, -sin, sin, cos)


def rotate(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Returns matrices that rotate by angles in [-rotation_degrees, rotation_degrees]."""
    limit = math.radians(config.strength("rotation_degrees"))
    angle = uniform(-limit, limit)
    return _matrix(ops.cos(angle), -ops.sin(angle), ops.sin(angle), ops.cos(angle))


def zoom(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Returns matrices that scale by exp(u), where u is uniform in [-zoom, zoom]."""
    limit = config.strength("zoom")
    scale = ops.exp(uniform(-limit, limit))
    return _matrix(scale, 0.0, 0.0, scale)


def crop(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Returns matrices that crop each image at a random position and enlarge the crop.

    Height and width of the crop are the same random fraction, in [1 - crop, 1], of those of
    the image. The images must be square; otherwise, crops can reach beyond the border.
    """
    share = 1 - uniform(0.0, config.strength("crop"))
    right, down = ((1 - share) / 2 * uniform(-1.0, 1.0) for _ in range(2))
    return _matrix(share, 0.0, 0.0, share, right, down)


def shift(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Returns matrices that shift along both axes, by up to `shift` of the longer side."""
    limit = config.strength("shift")
    right, down = uniform(-limit, limit), uniform(-limit, limit)
    return _matrix(ops.ones_like(right), 0.0, 0.0, 1.0, right, down)


def shear(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Returns matrices that shear horizontally by up to `shear_degrees`, left or right.

    A shear preserves the area. Combined with rotations, shears have other directions, too.
    """
    limit = math.radians(config.strength("shear_degrees"))
    slope = ops.tan(uniform(-limit, limit))
    return _matrix(ops.ones_like(slope), slope, 0.0, 1.0)


GEOMETRIC: dict[str, Callable[[Uniform, AugmentConfig], Tensor]] = {
    "flip": flip,
    "flip_vertical": flip_vertical,
    "transpose": transpose,
    "quarter_turn": quarter_turn,
    "rotate": rotate,
    "zoom": zoom,
    "crop": crop,
    "shift": shift,
    "shear": shear,
}


def transform(images: Tensor, matrices: Tensor, *, reflect: bool = True) -> Tensor:
    """Applies an affine transform to each image.

    The output at position (x, y) is the input at `matrix @ (x, y, 1)`, with bilinear
    interpolation. Positions are relative to the center, in units of the longer side.

    Args:
        images: [batch, height, width, channels], any numeric dtype.
        matrices: float32 [batch, 3, 3]; the last row of each matrix is (0, 0, 1).
        reflect: Whether positions beyond the border of the image show its reflection
            instead of black.

    Returns:
        float32 [batch, height, width, channels].
    """
    batch, height, width, channels = ops.shape(images)
    x, y = centered_pixels(height, width)
    m = ops.reshape(matrices, (-1, 9, 1, 1))
    side = ops.cast(ops.maximum(height, width), "float32")
    column = m[:, 0] * x + m[:, 1] * y + m[:, 2] * side
    row = m[:, 3] * x + m[:, 4] * y + m[:, 5] * side
    left, right, across = _neighbors(column, width)
    above, below, down = _neighbors(row, height)
    first = ops.reshape(ops.arange(batch) * height * width, (-1, 1, 1))
    rows = (first + above * width, first + below * width)
    indices = ops.stack([first + second for first in rows for second in (left, right)])
    pixels = ops.take(ops.reshape(images, (-1, channels)), indices, axis=0)
    pixels = ops.cast(pixels, "float32")
    across, down = across[..., None], down[..., None]
    upper = pixels[0] + across * (pixels[1] - pixels[0])
    lower = pixels[2] + across * (pixels[3] - pixels[2])
    transformed = upper + down * (lower - upper)
    if reflect:
        return transformed
    inside = _is_inside(column, width) & _is_inside(row, height)
    return ops.where(inside[..., None], transformed, 0.0)


def _is_inside(centered: Tensor, size: Tensor) -> Tensor:
    """Returns whether positions along an axis of `size` pixels are inside the image.

    `centered` contains positions in pixels relative to the center. The border of the image
    is half a pixel beyond the centers of the outermost pixels. A tolerance for rounding
    errors makes the border count as inside.
    """
    return ops.abs(centered) <= ops.cast(size, "float32") / 2 + 1e-3


def _neighbors(centered: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the indices of the two nearest pixels, and the weight of the second pixel.

    `centered` contains positions along an axis of `size` pixels, in pixels relative to the
    center. The indices are in 0..size-1; positions outside are reflected at the border.
    """
    length = ops.cast(size, "float32")
    position = ops.mod(centered + length / 2, 2 * length)
    position = ops.minimum(position, 2 * length - position) - 0.5
    position = ops.clip(position, 0.0, length - 1)
    below = ops.floor(position)
    index = ops.cast(below, "int32")
    return index, ops.minimum(index + 1, size - 1), position - below


def _matrix(
    a: Tensor, b: Tensor, c: Tensor, d: Tensor, right: Tensor = 0.0, down: Tensor = 0.0
) -> Tensor:
    """Returns [[a, b, right], [c, d, down], [0, 0, 1]] for each image.

    `a` is [batch]; the others are [batch] or numbers.
    """
    zeros = ops.zeros_like(a)
    rows = [a, b, right, c, d, down, 0.0, 0.0, 1.0]
    return ops.reshape(ops.stack([zeros + value for value in rows], -1), (-1, 3, 3))
