"""Preprocessing in the TensorFlow graph: from the bytes of an image file to pixels.

Training, evaluation and the SavedModel call the same functions with the same fields of
`DataConfig` (see `skincnn.data.preprocessing_spec.FIELDS`). The order is: decode,
`crop_border`, resize mode, resize, central crop, `shades_of_gray`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from skincnn.config import DataConfig

DARK = 32
"""A pixel is bright if its largest channel, in 0..255, exceeds this; see `crop_border`."""
MIN_BRIGHT_SHARE = 0.05
"""Minimum share of bright pixels in a bright row or column; see `crop_border`."""


def read_image(content: tf.Tensor, config: DataConfig) -> tf.Tensor:
    """Returns a decoded and preprocessed image.

    Args:
        content: A string scalar, the bytes of a JPEG, PNG, GIF, BMP or WebP file.
        config: The fields in `skincnn.data.preprocessing_spec.FIELDS` are used.

    Returns:
        uint8 [image_size, image_size, 3] in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: See `decode`.
    """
    return preprocess(decode(content), config)


def decode(content: tf.Tensor) -> tf.Tensor:
    """Returns the pixels of an image file, uint8 [height, width, 3].

    JPEG files are decoded with the accurate inverse DCT, as Pillow does. Of an animation,
    only the first frame is decoded.

    Raises:
        tf.errors.InvalidArgumentError: The file is damaged, or has another format than
            those that `read_image` lists.
    """
    image = tf.cond(
        tf.equal(tf.strings.substr(content, 0, 3), b"\xff\xd8\xff"),
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
        # `decode_image` also reads JPEG, but does not offer the accurate inverse DCT.
        lambda: tf.io.decode_image(content, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(image, (None, None, 3))


def preprocess(image: tf.Tensor, config: DataConfig) -> tf.Tensor:
    """Returns a preprocessed image, uint8 [image_size, image_size, 3] in 0..255.

    Values are rounded once, at the end.

    Args:
        image: uint8 [height, width, 3].
        config: See `read_image`.
    """
    if config.crop_border:
        image = crop_border(image)
    image = RESIZE_MODES[config.resize_mode](image)
    size = config.image_size
    height, width = round(size / config.crop_height), round(size / config.crop_width)
    image = _resize(image, height, width, config.resize_method)
    if (height, width) != (size, size):
        image = tf.image.resize_with_crop_or_pad(image, size, size)
    if config.color_constancy:
        # After resizing, fewer pixels have to be raised to a power.
        image = tf.minimum(shades_of_gray(image), 255.0)
    # Resizing weights are non-negative and sum to 1, so values stay in 0..255.
    return tf.cast(tf.round(image), tf.uint8)


def crop_border(image: tf.Tensor) -> tf.Tensor:
    """Returns the image without the dark border around it.

    A pixel is bright if its largest channel exceeds `DARK`; a row or column is bright if
    at least `MIN_BRIGHT_SHARE` of its pixels are bright. The image is cropped to the range
    from the first to the last bright row and column; all rows (columns) are kept if none is
    bright. If less than a third of the height or the width would remain, nothing is
    cropped.

    Args:
        image: uint8 [height, width, 3].
    """
    bright = tf.cast(tf.reduce_max(image, axis=-1) > DARK, tf.float32)
    top, bottom = _bright_range(tf.reduce_mean(bright, axis=1))
    left, right = _bright_range(tf.reduce_mean(bright, axis=0))
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    large_enough = (3 * (bottom - top) >= height) & (3 * (right - left) >= width)
    return tf.cond(large_enough, lambda: image[top:bottom, left:right], lambda: image)


def center_crop(image: tf.Tensor) -> tf.Tensor:
    """Returns the largest centered square of an image [height, width, 3]."""
    side = tf.reduce_min(tf.shape(image)[:2])
    return tf.image.resize_with_crop_or_pad(image, side, side)


def pad(image: tf.Tensor) -> tf.Tensor:
    """Returns an image [height, width, 3], padded with black to a square.

    Black resembles the dark border of dermatoscopic images, and does not affect the color
    of the illuminant that `shades_of_gray` estimates.
    """
    side = tf.reduce_max(tf.shape(image)[:2])
    return tf.image.resize_with_crop_or_pad(image, side, side)


RESIZE_MODES: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "stretch": lambda image: image,
    "crop": center_crop,
    "pad": pad,
}
"""Functions that prepare an image for resizing to a square. "stretch" does nothing, so that
resizing changes the aspect ratio."""


def shades_of_gray(image: tf.Tensor) -> tf.Tensor:
    """Returns the image corrected for the color of the illuminant.

    With the values I of a channel, the illuminant of the channel is estimated as
    e = mean(I ** p) ** (1 / p) with p = 6, and I becomes I * |e| / (sqrt(3) * e), where |e|
    is the norm over the channels. A gray illuminant leaves the image unchanged. The image
    is float [height, width, 3] in 0..255; the result may exceed 255.

    References:
        Finlayson, Trezzi, Shades of Gray and Color Constancy (2004), CIC 12.
    """
    # Multiplication instead of tf.pow: 0.3 ms instead of 1.1 ms for 160x160 pixels.
    square = tf.square(image / 255.0)
    light = tf.reduce_mean(square * square * square, axis=(0, 1)) ** (1 / 6)
    # `divide_no_nan` keeps a channel that is 0 everywhere at 0.
    return image * tf.math.divide_no_nan(tf.norm(light), light * math.sqrt(3))


def _resize(image: tf.Tensor, height: int, width: int, method: str) -> tf.Tensor:
    """Returns the image as float32 [height, width, 3], resized if its size differs."""

    def resize() -> tf.Tensor:
        resized = tf.image.resize(image, (height, width), method, antialias=True)
        return tf.cast(resized, tf.float32)  # `nearest` keeps the data type

    resized = tf.cond(
        tf.reduce_all(tf.equal(tf.shape(image)[:2], (height, width))),
        lambda: tf.cast(image, tf.float32),
        resize,
    )
    # The shape is set outside the branches, because TensorFlow 2.21 optimizes a graph as if
    # a shape that is ensured in one branch held in both.
    return tf.ensure_shape(resized, (height, width, 3))


def _bright_range(shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the start and exclusive end of the bright range, or of all if all is dark."""
    bright = tf.cast(shares >= MIN_BRIGHT_SHARE, tf.int32)
    start = tf.argmax(bright, output_type=tf.int32)
    num_dark_at_end = tf.argmax(tf.reverse(bright, [0]), output_type=tf.int32)
    return start, tf.size(bright) - num_dark_at_end
