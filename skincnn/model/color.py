"""Photometric augmentations: brightness, contrast, color and sharpness.

Each function takes and returns float32 images in 0..255, [batch, height, width, 3].
`config.magnitude` scales limits such as `blur`.
"""

from __future__ import annotations

import math

import numpy as np
from keras import ops

from skincnn.config import AugmentConfig
from skincnn.model.random_ops import Tensor, Uniform, per_image


def light(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Scales contrast about the mean color, shifts brightness, and clips to 0..255."""
    contrast, brightness = config.strength("contrast"), config.strength("brightness")
    factor = per_image(uniform(1 - contrast, 1 + contrast))
    shift = per_image(uniform(-brightness, brightness)) * 255
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    return ops.clip((images - mean) * factor + mean + shift, 0.0, 255.0)


def color(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Scales the saturation and each color channel; clips to 0..255.

    The factors of the channels simulate different cameras.
    """
    saturation, cast = config.strength("saturation"), config.strength("color_cast")
    factor = per_image(uniform(1 - saturation, 1 + saturation))
    gray = ops.mean(images, axis=-1, keepdims=True)
    gains = ops.stack([uniform(1 - cast, 1 + cast) for _ in range(3)], axis=-1)
    images = (gray + (images - gray) * factor) * gains[:, None, None, :]
    return ops.clip(images, 0.0, 255.0)


def hue(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Rotates colors about the gray axis by an angle in [-hue_degrees, hue_degrees].

    The rotation preserves gray and the mean of red, green and blue. Values are clipped to
    0..255.
    """
    limit = math.radians(config.strength("hue_degrees"))
    angle = uniform(-limit, limit)[:, None, None]
    # Rodrigues' rotation about (1, 1, 1). A matrix product would take five times as long.
    base, across = (1 - ops.cos(angle)) / 3, ops.sin(angle) / math.sqrt(3)
    own, following, previous = ops.cos(angle) + base, base - across, base + across
    channels = [images[..., i] for i in range(3)]
    rotated = [
        own * channels[i]
        + following * channels[(i + 1) % 3]
        + previous * channels[(i + 2) % 3]
        for i in range(3)
    ]
    return ops.clip(ops.stack(rotated, axis=-1), 0.0, 255.0)


def jitter(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Scales brightness, contrast and saturation, and rotates the hue, in this order.

    The changes are those of `ColorJitter` of torchvision, which however draws their order
    at random. First the image is multiplied by a factor, then its difference from its mean
    luma, and then the difference of each pixel from its luma. Values are clipped to 0..255
    after each of these changes. Last, the hue of the HSV color space is rotated.
    """
    brightness, contrast, saturation = (
        per_image(uniform(1 - limit, 1 + limit))
        for limit in map(config.strength, ("brightness", "contrast", "saturation"))
    )
    turns = config.strength("hue_degrees") / 360
    images = ops.clip(images * brightness, 0.0, 255.0)
    mean = ops.mean(_luma(images), axis=(1, 2), keepdims=True)
    images = ops.clip(mean + contrast * (images - mean), 0.0, 255.0)
    luma = _luma(images)
    images = ops.clip(luma + saturation * (images - luma), 0.0, 255.0)
    return _rotate_hue(images, uniform(-turns, turns)[:, None, None])


def _luma(images: Tensor) -> Tensor:
    """Returns the luma of ITU-R BT.601, [batch, height, width, 1] in 0..255."""
    red, green, blue = (images[..., i : i + 1] for i in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _rotate_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Returns images whose HSV hue is rotated by `turns` full turns, [batch, 1, 1].

    References:
        Smith, Color gamut transform pairs (1978), SIGGRAPH.
    """
    red, green, blue = (images[..., i] for i in range(3))
    value = ops.max(images, axis=-1)
    chroma = value - ops.min(images, axis=-1)
    divisor = ops.maximum(chroma, 1e-6)  # a gray pixel keeps its color at any hue
    sixths = ops.where(
        value == red,
        (green - blue) / divisor,
        ops.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sixths = sixths + 6 * turns
    channels = []
    for start in (5, 3, 1):
        position = ops.mod(sixths + start, 6.0)
        share = ops.clip(ops.minimum(position, 4 - position), 0.0, 1.0)
        channels.append(value - chroma * share)
    return ops.stack(channels, axis=-1)


def blur(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Blurs with a Gaussian whose standard deviation is in [0, blur] pixels.

    The Gaussian is truncated to `blur_kernel` pixels, if given.
    """
    limit = config.strength("blur")
    sigma = uniform(0.0, limit)[:, None]
    kernels = []
    for size in config.blur_kernel:
        radius = size // 2 if size else math.ceil(3 * limit)
        offsets = np.arange(-radius, radius + 1, dtype=np.float32)[None]
        weights = ops.exp(-(offsets**2) / (2 * sigma**2 + 1e-6))
        kernels.append(weights / ops.sum(weights, axis=1, keepdims=True))
    return _filter(images, *kernels)


def sharpen(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Sharpens by unsharp masking with an amount in [0, sharpness]; clips to 0..255."""
    amount = per_image(uniform(0.0, config.strength("sharpness")))
    kernel = np.array([[0.25, 0.5, 0.25]], np.float32)
    blurred = _filter(images, kernel, kernel)
    return ops.clip(images + amount * (images - blurred), 0.0, 255.0)


def _filter(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Returns images filtered along height and width, with reflection at the border.

    The weights of each axis, [batch or 1, 2 * radius + 1], are symmetric and sum to 1,
    which preserves the mean.
    """
    # The condition always holds, but XLA does not fuse a branch with preceding operations.
    # Without the branch, XLA would recompute them for each weight (160 px, all
    # augmentations, two cores: 32 ms per image instead of 2 ms).
    return ops.cond(
        images[0, 0, 0, 0] >= 0,
        lambda: _filter_along(_filter_along(images, vertical, 1), horizontal, 2),
        lambda: images,
    )


def _filter_along(images: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Returns images filtered along the height (axis=1) or the width (axis=2)."""
    count = weights.shape[1]
    margins = [(0, 0)] * 4
    margins[axis] = (count // 2, count // 2)
    padded = ops.pad(images, margins, mode="symmetric")
    filtered = 0.0
    for k in range(count):
        # The end is counted from the right because the size may be unknown in a graph.
        window = slice(k, k + 1 - count or None)
        part = padded[:, window] if axis == 1 else padded[:, :, window]
        filtered = filtered + per_image(weights[:, k]) * part
    return filtered
