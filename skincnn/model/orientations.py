"""The eight orientations of a square image (the dihedral group D4)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

ORIENTATIONS: dict[str, tuple[int, ...]] = {"": (0,), "d4": (0, 5, 3, 6, 1, 4, 2, 7)}
"""The orientations (see `orient`) that each test-time augmentation averages. "" is none.
"d4" consists of counterclockwise rotations by 0, 90, 180 and 270 degrees, and of the same
rotations of the mirrored image. The identity is always first."""


def orient(images: Any, number: int) -> Any:
    """Returns images in one of their eight orientations.

    The first two, four and eight orientations are closed under composition. This function
    runs eagerly and in TensorFlow graphs.

    Args:
        images: A tensor or NumPy array [batch, height, width, channels].
        number: 0..7. Bit 0 flips horizontally, bit 1 flips vertically, and then bit 2 swaps
            rows and columns. 0 is the identity.
    """
    axes = [axis for axis, bit in ((2, 1), (1, 2)) if number & bit]
    images = tf.reverse(images, axes) if axes else images
    return tf.transpose(images, (0, 2, 1, 3)) if number & 4 else images
