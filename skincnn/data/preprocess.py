"""From the bytes of a picture's file to the pixels that a model sees, in the graph.

Training, evaluation and the exported model call the same functions with the same fields
of `DataConfig` (`reading.preprocessing_fields`). Their order: decode, `crop_border`,
resize mode, resize, `shades_of_gray`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from skincnn.config import DataConfig

DARK = 32
"""Gray level up to which a pixel may belong to a dermatoscope's frame."""
MIN_BRIGHT_SHARE = 0.05
"""Share of brighter pixels from which a row or a column belongs to the picture."""


def read_image(content: tf.Tensor, config: DataConfig) -> tf.Tensor:
    """Returns the picture in a file as the model sees it.

    Args:
        content: The bytes of a JPEG, PNG, GIF (first frame), BMP or WebP file, a scalar.
        config: `image_size`, `resize_mode`, `crop_border` and `color_constancy` are used.

    Returns:
        uint8 [image_size, image_size, 3] in 0..255.
    """
    return preprocess(decode(content), config)


def decode(content: tf.Tensor) -> tf.Tensor:
    """Returns the pixels of a picture file: uint8 [height, width, 3].

    JPEG is decoded with the accurate inverse transform, which equals Pillow's.
    """
    image = tf.cond(
        tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff",
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
        # It reads JPEG as well, and has no switch for the accurate transform.
        lambda: tf.io.decode_image(content, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(image, (None, None, 3))


def preprocess(image: tf.Tensor, config: DataConfig) -> tf.Tensor:
    """Returns `image`, uint8 [height, width, 3], as the model sees it.

    Resizing is bilinear with antialiasing; gray levels are rounded once, at the end.

    Args:
        image: The pixels of a file.
        config: See `read_image`.

    Returns:
        uint8 [image_size, image_size, 3].
    """
    if config.crop_border:
        image = crop_border(image)
    image = RESIZE_MODES[config.resize_mode](image)
    image = _resize(image, config.image_size)
    if config.color_constancy:
        # After resizing, where there are fewer pixels to raise to a power.
        image = tf.minimum(shades_of_gray(image), 255.0)
    # Resizing averages with weights that are not negative: nothing leaves 0..255.
    return tf.cast(tf.round(image), tf.uint8)


def crop_border(image: tf.Tensor) -> tf.Tensor:
    """Returns `image`, uint8 [height, width, 3], without a dark frame around it.

    A pixel is bright when its largest channel exceeds `DARK`. The picture is cut to the
    rows and columns between the first and the last of which at least `MIN_BRIGHT_SHARE`
    is bright. A box of less than a third of the height or the width is not believed: the
    whole picture is returned, and so is one that is dark all over.
    """
    bright = tf.cast(tf.reduce_max(image, axis=-1) > DARK, tf.float32)
    top, bottom = _first_and_last(tf.reduce_mean(bright, axis=1))
    left, right = _first_and_last(tf.reduce_mean(bright, axis=0))
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    believed = (3 * (bottom - top) >= height) & (3 * (right - left) >= width)
    return tf.cond(believed, lambda: image[top:bottom, left:right], lambda: image)


def squash(image: tf.Tensor) -> tf.Tensor:
    """Returns `image` as it is: resizing to a square changes its proportions."""
    return image


def centre_crop(image: tf.Tensor) -> tf.Tensor:
    """Returns the largest square in the middle of `image` [height, width, 3]."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def pad(image: tf.Tensor) -> tf.Tensor:
    """Returns `image` [height, width, 3] in the middle of the smallest black square.

    Black is what a dermatoscope's frame looks like, and it does not move the estimate of
    `shades_of_gray`.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.maximum(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return tf.pad(
        image,
        [[top, side - height - top], [left, side - width - left], [0, 0]],
    )


RESIZE_MODES: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "stretch": squash,
    "crop": centre_crop,
    "pad": pad,
}
"""What is done to pictures that are not square before they are resized to a square."""


def shades_of_gray(image: tf.Tensor) -> tf.Tensor:
    """Returns `image` with the color of its light taken out.

    The light is estimated for each channel as e = mean(I ** p) ** (1 / p) over the
    picture, p = 6, and I becomes I * |e| / (sqrt(3) * e): a gray light changes nothing.

    Args:
        image: [height, width, 3] in 0..255, float.

    Returns:
        The same shape; values above 255 are possible.

    References:
        Finlayson, Trezzi, Shades of Gray and Color Constancy (2004), CIC 12.
    """
    # Products of squares: tf.pow took 1.1 ms for a picture of 160 px, this takes 0.3.
    square = tf.square(image / 255.0)
    light = tf.reduce_mean(square * square * square, axis=(0, 1)) ** (1 / 6)
    # A channel that is 0 all over stays 0.
    return image * tf.math.divide_no_nan(tf.norm(light), light * math.sqrt(3))


def _resize(image: tf.Tensor, side: int) -> tf.Tensor:
    """Returns `image` as float32 [side, side, 3]; one that has the size is not changed.

    Resizing it would not change it either, but take as long as any other.
    """
    resized = tf.cond(
        tf.reduce_all(tf.equal(tf.shape(image)[:2], side)),
        lambda: tf.cast(image, tf.float32),
        lambda: tf.image.resize(image, (side, side), antialias=True),
    )
    # Not in the branch: TensorFlow 2.21 optimises a graph as if a shape that is ensured
    # in one branch held in both.
    return tf.ensure_shape(resized, (side, side, 3))


def _first_and_last(shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where bright rows begin and end (exclusive); all rows if none is bright."""
    bright = tf.cast(shares >= MIN_BRIGHT_SHARE, tf.int32)
    first = tf.argmax(bright, output_type=tf.int32)
    behind = tf.argmax(tf.reverse(bright, [0]), output_type=tf.int32)
    return first, tf.size(bright) - behind
