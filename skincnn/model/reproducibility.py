"""Context managers for random seeds and deterministic operations."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import config as framework_config


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the random generators of Python, NumPy, Keras and TensorFlow inside the block.

    Layers and initializers of Keras that are created without a seed draw one from the
    generator of Python. The generator of Keras is not restored after the block.
    """
    states = random.getstate(), np.random.get_state(), context.global_seed()
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        tf.random.set_seed(states[2])


@contextlib.contextmanager
def deterministic_ops(enabled: bool = True) -> Iterator[None]:
    """Makes TensorFlow operations deterministic inside the block, if `enabled`."""
    if not enabled or framework_config.is_op_determinism_enabled():
        yield
        return
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        framework_config.disable_op_determinism()
