"""Photometric augmentation: light, color and sharpness.

Each part takes and returns float32 pictures in 0..255, [batch, height, width, 3].
"""

from __future__ import annotations

import math

import numpy as np
from keras import ops

from skincnn.config import AugmentConfig
from skincnn.model.random_ops import Tensor, Uniform, per_picture


def light(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Scales the distance to the picture's mean, then adds a brightness; clips."""
    contrast, brightness = config.strength("contrast"), config.strength("brightness")
    factor = per_picture(uniform(1 - contrast, 1 + contrast))
    shift = per_picture(uniform(-brightness, brightness)) * 255
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    return ops.clip((images - mean) * factor + mean + shift, 0.0, 255.0)


def color(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Scales the distance to gray, then each channel, as other cameras do; clips."""
    saturation, cast = config.strength("saturation"), config.strength("color_cast")
    factor = per_picture(uniform(1 - saturation, 1 + saturation))
    grey = ops.mean(images, axis=-1, keepdims=True)
    gains = ops.stack([uniform(1 - cast, 1 + cast) for _ in range(3)], axis=-1)
    images = (grey + (images - grey) * factor) * gains[:, None, None, :]
    return ops.clip(images, 0.0, 255.0)


def hue(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Turns colors about the axis of greys by [-hue_degrees, hue_degrees]; clips.

    The mean of red, green and blue stays the same, and so do greys.
    """
    most = math.radians(config.strength("hue_degrees"))
    angle = uniform(-most, most)[:, None, None]
    # Rodrigues' rotation about (1, 1, 1). One channel at a time: a product with the matrix
    # takes five times as long.
    rest, across = (1 - ops.cos(angle)) / 3, ops.sin(angle) / math.sqrt(3)
    own, next_one, last_one = ops.cos(angle) + rest, rest - across, rest + across
    channels = [images[..., i] for i in range(3)]
    turned = [
        own * channels[i]
        + next_one * channels[(i + 1) % 3]
        + last_one * channels[(i + 2) % 3]
        for i in range(3)
    ]
    return ops.clip(ops.stack(turned, axis=-1), 0.0, 255.0)


def blur(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Blurs by a Gaussian of a standard deviation in [0, blur] pixels."""
    most = config.strength("blur")
    sigma = uniform(0.0, most)[:, None]
    radius = math.ceil(3 * most)
    offsets = np.arange(-radius, radius + 1, dtype=np.float32)[None]
    weights = ops.exp(-(offsets**2) / (2 * sigma**2 + 1e-6))
    return _filter(images, weights / ops.sum(weights, axis=1, keepdims=True))


def sharpen(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Adds a share in [0, sharpness] of what a slight blur takes away; clips."""
    share = per_picture(uniform(0.0, config.strength("sharpness")))
    blurred = _filter(images, np.array([[0.25, 0.5, 0.25]], np.float32))
    return ops.clip(images + share * (images - blurred), 0.0, 255.0)


def _filter(images: Tensor, weights: Tensor) -> Tensor:
    """Returns pictures filtered along both axes, mirrored beyond their border.

    With weights that are symmetric and add up to 1 the mean of a picture stays the same.

    Args:
        images: [batch, height, width, channels].
        weights: [batch or 1, 2 * radius + 1].
    """
    # What stands in a branch is not fused with what comes before: without it XLA draws the
    # hairs and gathers the pixels anew for each weight (measured on two cores: 32 ms for a
    # picture of 160 px and all parts, 2 ms with it). XLA cannot know that it always holds.
    return ops.cond(
        images[0, 0, 0, 0] >= 0,
        lambda: _filter_along(_filter_along(images, weights, 1), weights, 2),
        lambda: images,
    )


def _filter_along(images: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Returns pictures filtered along axis 1, the height, or 2, the width."""
    count = weights.shape[1]
    margins = [(0, 0)] * 4
    margins[axis] = (count // 2, count // 2)
    padded = ops.pad(images, margins, mode="symmetric")
    filtered = 0.0
    for k in range(count):
        # The end counts from the back, for the size may be unknown in the graph.
        window = slice(k, k + 1 - count or None)
        part = padded[:, window] if axis == 1 else padded[:, :, window]
        filtered = filtered + per_picture(weights[:, k]) * part
    return filtered
