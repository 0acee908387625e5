"""Augmentation on the device: one affine gather for all geometry, then the gray levels.

A geometric part returns a matrix for each picture, and the product of all matrices is
applied by a single bilinear gather. A photometric part changes gray levels where they
are. All is written with `keras.ops` and compiled as one function, so that parts that look
at one pixel at a time cost one pass over the pictures together.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from skincnn.config import AugmentConfig
from skincnn.lookup import look_up
from skincnn.model.color import blur, color, hue, light, sharpen
from skincnn.model.geometry import GEOMETRIC, transform
from skincnn.model.hair_and_ruler import erase, hair, ruler
from skincnn.model.random_ops import Tensor, Uniform, uniform_of

PHOTOMETRIC: dict[str, Callable[[Tensor, Uniform, AugmentConfig], Tensor]] = {
    "hair": hair,
    "ruler": ruler,
    "blur": blur,
    "sharpen": sharpen,
    "light": light,
    "color": color,
    "hue": hue,
    "erase": erase,
}
AUGMENTATIONS = {**GEOMETRIC, **PHOTOMETRIC}


class RandomLayer(keras.layers.Layer):
    """A layer that draws for each picture anew, in training alone, in float32."""

    stream = 0
    """Added to the seed: layers of different kinds draw different numbers from one."""

    def __init__(self, config: AugmentConfig | dict[str, Any], seed: int, **kwargs: Any):
        """Stores the configuration.

        Args:
            config: The parts and their strengths.
            seed: Seed of every draw.
            **kwargs: Passed to `keras.layers.Layer`.
        """
        kwargs["dtype"] = "float32"  # 256 gray levels do not fit a half precision.
        super().__init__(**kwargs)
        if isinstance(config, dict):
            config = AugmentConfig(**{**config, "parts": tuple(config["parts"])})
        self.config = config
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed + self.stream)
        self.built = (
            True  # it has no weights; Keras warns of a model that has not called it
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("skincnn")
class Augmentation(RandomLayer):
    """Varies training pictures; the identity outside training and at magnitude 0.

    Input and output: [batch, height, width, 3] in 0..255; the output is float32.
    """

    def __init__(
        self, config: AugmentConfig | dict[str, Any], seed: int = 0, **kwargs: Any
    ):
        """Stores the configuration; see `RandomLayer`.

        Raises:
            ConfigError: A part is not in `AUGMENTATIONS`.
        """
        super().__init__(config, seed, **kwargs)
        for part in self.config.parts:
            look_up(AUGMENTATIONS, part, "`augment.parts`")
        self._compiled = compiled(self.config)

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Returns varied pictures in training, else the pictures as float32."""
        if not training or not self.config.parts or self.config.magnitude == 0:
            return ops.cast(images, "float32")
        if self._compiled is None:
            return self.vary(images)
        state = self.seed_generator.state
        varied, drawn = self._compiled(images, ops.copy(state.value))
        state.assign(drawn)
        return varied

    def vary(self, images: Tensor) -> Tensor:
        """Returns varied pictures without compiling anything: for a few, once."""
        return vary(images, self.config, self.seed_generator)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape."""
        return input_shape


def vary(
    images: Tensor, config: AugmentConfig, generator: keras.random.SeedGenerator
) -> Tensor:
    """Returns varied pictures, float32 [batch, height, width, 3] in 0..255."""
    uniform = uniform_of(images, generator)
    matrices = [
        GEOMETRIC[part](uniform, config) for part in config.parts if part in GEOMETRIC
    ]
    if matrices:
        product = matrices[0]
        for matrix in matrices[1:]:
            product = ops.matmul(product, matrix)
        images = transform(images, product)
    images = ops.cast(images, "float32")
    for part in config.parts:
        if part in PHOTOMETRIC:
            images = PHOTOMETRIC[part](images, uniform, config)
    return images


@functools.cache
def compiled(
    config: AugmentConfig,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Returns `vary` compiled by XLA by itself, where TensorFlow would not do so.

    On a CPU Keras leaves XLA off for a whole model, rightly for convolutions; these
    elementwise operations and gathers take a quarter of the time when fused. TensorFlow
    keeps for ever what XLA compiled, 20 MB of it: all layers of a process that do the
    same share it, so that a search of many trainings does not grow.

    Returns:
        From pictures and the state of a `keras.random.SeedGenerator` to varied pictures
        and the next state; None on other backends.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    generator = keras.random.SeedGenerator(0)  # whose state is given each time

    def step(images: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        with keras.StatelessScope([(generator.state, state)]) as scope:
            varied = vary(images, config, generator)
        return varied, scope.get_current_value(generator.state)

    return tf.function(step, jit_compile=True, autograph=False)
