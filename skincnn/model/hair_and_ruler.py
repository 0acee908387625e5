"""Augmentations that occlude skin: an erased rectangle, hairs and a ruler.

Each function takes and returns float32 images in 0..255, [batch, height, width, 3]. Lengths
are fractions of the shorter side. `config.magnitude` scales limits such as `hairs`, and
`ruler_share`.
"""

from __future__ import annotations

import math

import numpy as np
from keras import ops

from skincnn.config import AugmentConfig
from skincnn.model.random_ops import Tensor, Uniform, coordinates, per_image, rectangle


def erase(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Fills a rectangle with the mean color of the image.

    The rectangle covers a random fraction in [0, erase] of the image.

    References:
        Zhong et al., Random Erasing Data Augmentation (2020), arXiv:1708.04896.
    """
    area = uniform(0.0, config.strength("erase"))
    aspect = ops.exp(uniform(-math.log(2), math.log(2)))
    inside, _ = rectangle(images, uniform, area, aspect)
    return ops.where(inside, ops.mean(images, axis=(1, 2), keepdims=True), images)


def hair(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Draws 0 to `hairs` dark, curved hairs that become thinner towards the tip.

    The hairs of an image have the same color and similar directions.
    """
    limit = round(config.strength("hairs"))
    if limit == 0:
        return images
    # The last axis of the tensors below enumerates hairs: [batch, height, width, limit].
    count = uniform(0.0, limit + 1.0)
    angle = uniform(0.0, 2 * math.pi)[:, None] + uniform(-0.6, 0.6, limit)
    center_x, center_y = (_per_hair(uniform(-0.5, 0.5, limit)) for _ in range(2))
    half_length = _per_hair(uniform(0.15, 0.5, limit))
    bend, wave = (_per_hair(uniform(-x, x, limit)) for x in (0.25, 0.15))
    half_width = _per_hair(uniform(0.0025, 0.0065)[:, None] * uniform(0.7, 1.3, limit))
    x, y, side = coordinates(images)
    right, down = x[..., None] - center_x, y[..., None] - center_y
    cos, sin = _per_hair(ops.cos(angle)), _per_hair(ops.sin(angle))
    # `along` is -1 at the root and 1 at the tip; `offset` is the deviation from a straight
    # line.
    along = (cos * right + sin * down) / half_length
    offset = half_length * (bend * along**2 + wave * along**3)
    width = half_width * (0.65 - 0.35 * along)
    opacity = _stroke(cos * down - sin * right - offset, width, side)
    numbers = np.arange(1, limit + 1, dtype=np.float32)
    visible = (ops.abs(along) < 1) & _per_hair(count[:, None] >= numbers)
    transparency = ops.prod(1 - ops.where(visible, opacity, 0.0), axis=-1)
    return _draw(images, 1 - transparency, uniform)


def ruler(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Draws a ruler near the border of each image with probability `ruler_share`.

    The ruler may cross a corner diagonally, like the scale of a dermatoscope. Every fifth
    mark is longer.
    """
    shown = uniform(0.0, 1.0) < config.strength("ruler_share")
    direction = uniform(0.0, 2 * math.pi)[:, None, None]
    cos, sin = ops.cos(direction), ops.sin(direction)
    # In the direction of a corner, the border is farther from the center.
    start = uniform(0.34, 0.45)[:, None, None] / ops.maximum(ops.abs(cos), ops.abs(sin))
    spacing = uniform(0.035, 0.08)[:, None, None]
    half_width = uniform(0.002, 0.0045)[:, None, None]
    x, y, side = coordinates(images)
    along, outward = cos * x + sin * y, cos * y - sin * x - start
    mark = ops.round(along / spacing)
    length = ops.where(ops.mod(mark, 5.0) == 0, 0.06, 0.035)
    opacity = _stroke(along - mark * spacing, half_width, side)
    opacity = ops.where((outward > 0) & (outward < length), opacity, 0.0)
    return _draw(images, ops.where(shown[:, None, None], opacity, 0.0), uniform)


def _per_hair(values: Tensor) -> Tensor:
    """Returns values [batch, num_hairs] as [batch, 1, 1, num_hairs]."""
    return values[:, None, None, :]


def _stroke(distance: Tensor, half_width: Tensor, side: Tensor) -> Tensor:
    """Returns the fraction of each pixel that is covered by a line, in 0..1.

    The `distance` of the pixel from the line and `half_width` are fractions of `side`, the
    shorter side of the image in pixels.
    """
    # A line that is narrower than a pixel covers at most its own width.
    limit = ops.minimum(2 * half_width * side, 1.0)
    return ops.clip((half_width - ops.abs(distance)) * side + 0.5, 0.0, limit)


def _draw(images: Tensor, opacity: Tensor, uniform: Uniform) -> Tensor:
    """Blends images with a random dark brown.

    `opacity` in 0..1, [batch, height, width], is multiplied by a random factor.
    """
    red = uniform(10.0, 65.0)
    brown = ops.stack([red, red * uniform(0.7, 1.0), red * uniform(0.55, 0.9)], axis=-1)
    opacity = per_image(uniform(0.65, 1.0)) * opacity[..., None]
    return images + opacity * (brown[:, None, None, :] - images)
