"""The eight orientations of a square image (the dihedral group D4)."""

from __future__ import annotations

import tensorflow as tf

D4 = (0, 5, 3, 6, 1, 4, 2, 7)
"""Numbers of `orient` in the order of test-time augmentation: rotations by 0, 90, 180 and
270 degrees counter-clockwise, and then the same rotations of the mirrored image."""


def orient(images: tf.Tensor, number: int) -> tf.Tensor:
    """Returns square images in one of the eight orientations.

    The first two, four and eight orientations are groups.

    Args:
        images: [batch, size, size, 3].
        number: 0..7; 0 is the identity. Bit 0 mirrors left and right, bit 1 mirrors top and
            bottom, and bit 2 then swaps rows and columns.
    """
    axes = [axis for axis, bit in ((2, 1), (1, 2)) if number & bit]
    images = tf.reverse(images, axes) if axes else images
    return tf.transpose(images, (0, 2, 1, 3)) if number & 4 else images
