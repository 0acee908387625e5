"""Orientations of pictures in the graph, for test-time augmentation that is served."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Turn = Callable[[tf.Tensor], tf.Tensor]
"""From square pictures [batch, size, size, 3] to as many of the same size."""


def _orientation(number: int) -> Turn:
    """Returns the orientation of the same number of `evaluation.views.orientations`."""
    quarters = number % 4

    def turn(images: tf.Tensor) -> tf.Tensor:
        if number >= 4:
            images = tf.reverse(images, [2])
        if quarters == 2:
            return tf.reverse(images, [1, 2])
        if quarters:  # against the clock, or, three times, with it
            turned = tf.transpose(images, (0, 2, 1, 3))
            return tf.reverse(turned, [1 if quarters == 1 else 2])
        return images

    return turn


TURNS: dict[str, tuple[Turn, ...]] = {
    "": (_orientation(0),),
    "d4": tuple(_orientation(number) for number in range(8)),
}
"""Kinds of test-time augmentation that always give the same answer; "" is none. The first
turn of each is the identity."""
