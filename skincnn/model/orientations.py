"""The eight orientations of a square image (the dihedral group D4)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

ORIENTATIONS: dict[str, tuple[int, ...]] = {"": (0,), "d4": (0, 5, 3, 6, 1, 4, 2, 7)}
"""The numbers of `orient` that each deterministic test-time augmentation averages; "" is
none. "d4" has the rotations by 0, 90, 180 and 270 degrees counterclockwise, then those of
the mirrored image. The first of each is the identity."""


def orient(images: Any, number: int) -> Any:
    """Returns square images in one of their eight orientations.

    The first two, four and eight orientations form groups: the orientations of an oriented
    image are again those of the image. Runs eagerly and in TensorFlow graphs.

    Args:
        images: A tensor or NumPy array [batch, size, size, channels].
        number: 0..7. Bit 0 mirrors left and right, bit 1 mirrors top and bottom; then bit 2
            swaps rows and columns. 0 is the identity.
    """
    axes = [axis for axis, bit in ((2, 1), (1, 2)) if number & bit]
    images = tf.reverse(images, axes) if axes else images
    return tf.transpose(images, (0, 2, 1, 3)) if number & 4 else images
