"""What hides a part of the skin: erased rectangles, hairs, a ruler.

Each part takes and returns float32 pictures in 0..255, [batch, height, width, 3].
Lengths are in shares of the shorter side, so that pictures of all sizes look alike.
"""

from __future__ import annotations

import math

import numpy as np
from keras import ops

from skincnn.config import AugmentConfig
from skincnn.model.random_ops import Tensor, Uniform, coordinates, per_picture, rectangle


def erase(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Fills a rectangle of a share in [0, erase] of the area with the mean color.

    Zhong et al., Random Erasing Data Augmentation (2020), arXiv:1708.04896.
    """
    area = uniform(0.0, config.strength("erase"))
    aspect = ops.exp(uniform(-math.log(2), math.log(2)))
    inside, _ = rectangle(images, uniform, area, aspect)
    return ops.where(inside, ops.mean(images, axis=(1, 2), keepdims=True), images)


def hair(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Draws 0 to `hairs` dark, bent hairs that grow thinner towards their tips.

    The hairs of a picture have one color and lie in similar directions.
    """
    most = round(config.strength("hairs"))
    if most == 0:
        return images
    # Below, the last axis counts hairs: [batch, height, width, most].
    count = uniform(0.0, most + 1.0)
    angle = uniform(0.0, 2 * math.pi)[:, None] + uniform(-0.6, 0.6, most)
    middle_x, middle_y = (_of_hairs(uniform(-0.5, 0.5, most)) for _ in range(2))
    half_length = _of_hairs(uniform(0.15, 0.5, most))
    bend, wave = (_of_hairs(uniform(-x, x, most)) for x in (0.25, 0.15))
    half_width = _of_hairs(uniform(0.0025, 0.0065)[:, None] * uniform(0.7, 1.3, most))
    x, y, side = coordinates(images)
    right, down = x[..., None] - middle_x, y[..., None] - middle_y
    cos, sin = _of_hairs(ops.cos(angle)), _of_hairs(ops.sin(angle))
    # From -1 at the root to 1 at the tip; the course is the way off the chord.
    along = (cos * right + sin * down) / half_length
    course = half_length * (bend * along**2 + wave * along**3)
    width = half_width * (0.65 - 0.35 * along)
    cover = _stroke(cos * down - sin * right - course, width, side)
    numbers = np.arange(1, most + 1, dtype=np.float32)
    visible = (ops.abs(along) < 1) & _of_hairs(count[:, None] >= numbers)
    bare = ops.prod(1 - ops.where(visible, cover, 0.0), axis=-1)
    return _draw(images, 1 - bare, uniform)


def ruler(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Draws a ruler's scale near the border of a share `ruler_share` of the pictures.

    It may cut a corner, as the scales of dermatoscopes do; every fifth mark is longer.
    """
    shown = uniform(0.0, 1.0) < config.strength("ruler_share")
    direction = uniform(0.0, 2 * math.pi)[:, None, None]
    cos, sin = ops.cos(direction), ops.sin(direction)
    # The border is farther from the centre towards a corner.
    start = uniform(0.34, 0.45)[:, None, None] / ops.maximum(ops.abs(cos), ops.abs(sin))
    spacing = uniform(0.035, 0.08)[:, None, None]
    half_width = uniform(0.002, 0.0045)[:, None, None]
    x, y, side = coordinates(images)
    along, outward = cos * x + sin * y, cos * y - sin * x - start
    mark = ops.round(along / spacing)
    length = ops.where(ops.mod(mark, 5.0) == 0, 0.06, 0.035)
    cover = _stroke(along - mark * spacing, half_width, side)
    cover = ops.where((outward > 0) & (outward < length), cover, 0.0)
    return _draw(images, ops.where(shown[:, None, None], cover, 0.0), uniform)


def _of_hairs(values: Tensor) -> Tensor:
    """Returns a number for each hair, [batch, most], as [batch, 1, 1, most]."""
    return values[:, None, None, :]


def _stroke(distance: Tensor, half_width: Tensor, side: Tensor) -> Tensor:
    """Returns the share of a pixel that a line covers, in 0..1.

    Args:
        distance: From the pixel's centre to the line's middle, in shares of the side.
        half_width: Half the line's width, in shares of the side.
        side: Pixels of the side.
    """
    # A pixel is one wide: it is covered by no more than the line's width.
    most = ops.minimum(2 * half_width * side, 1.0)
    return ops.clip((half_width - ops.abs(distance)) * side + 0.5, 0.0, most)


def _draw(images: Tensor, cover: Tensor, uniform: Uniform) -> Tensor:
    """Returns pictures on which dark brown to black covers a share of each pixel.

    Args:
        images: [batch, height, width, 3].
        cover: Shares in 0..1, [batch, height, width].
        uniform: Draws the color and the opacity, for each picture.
    """
    red = uniform(10.0, 65.0)
    brown = ops.stack([red, red * uniform(0.7, 1.0), red * uniform(0.55, 0.9)], axis=-1)
    cover = per_picture(uniform(0.65, 1.0)) * cover[..., None]
    return images + cover * (brown[:, None, None, :] - images)
