"""The eight orientations of a square image (the dihedral group D4)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

ORIENTATIONS: dict[str, tuple[int, ...]] = {"": (0,), "d4": (0, 5, 3, 6, 1, 4, 2, 7)}
"""Orientations (see `orient`) whose predictions are averaged, by the name of the test-time
augmentation. "": the original orientation only. "d4": counterclockwise rotations by 0, 90,
180 and 270 degrees, then the same rotations of the mirrored image."""


def orient(images: Any, number: int) -> Any:
    """Returns images in one of the eight orientations.

    The sets of orientations 0..1, 0..3 and 0..7 are each closed under composition.

    Args:
        images: A tensor or NumPy array [batch, height, width, channels], or the symbolic
            tensor of a Keras model.
        number: 0..7. Bit 0 flips horizontally, bit 1 flips vertically, and then bit 2 swaps
            rows and columns. 0 is the identity.

    Returns:
        A tensor, which is symbolic if `images` is; for number 0, `images` itself.
    """
    symbolic = isinstance(images, keras.KerasTensor)
    axes = [axis for axis, bit in ((2, 1), (1, 2)) if number & bit]
    if axes:
        images = (ops.flip if symbolic else tf.reverse)(images, axes)
    if not number & 4:
        return images
    if symbolic:
        return ops.transpose(images, (0, 2, 1, 3))
    # In float32, because oneDNN logs an error when it transposes integers.
    transposed = tf.transpose(tf.cast(images, tf.float32), (0, 2, 1, 3))
    return tf.cast(transposed, images.dtype)
