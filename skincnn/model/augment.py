"""Augmentation on the device: one affine gather for all geometry, then the pixel values.

A geometric augmentation returns a matrix per image; a single bilinear gather applies the
product of the matrices. A photometric augmentation changes pixel values. All of them use
`keras.ops` only and are compiled together, so that pointwise operations are fused.
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
AnyConfig = AugmentConfig | dict[str, Any]


class RandomLayer(keras.layers.Layer):
    """A layer that draws random numbers per image, in training only and in float32."""

    stream = 0
    """Added to the seed, so that different layers draw different numbers from one seed."""

    def __init__(self, config: AnyConfig, seed: int = 0, **kwargs: Any):
        # Half precision cannot represent 256 gray levels.
        super().__init__(**{**kwargs, "dtype": "float32"})
        if isinstance(config, dict):
            config = AugmentConfig(**{**config, "parts": tuple(config["parts"])})
        self.config = config
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed + self.stream)
        # It has no weights. Keras warns about unbuilt layers when it saves a model.
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = {"config": dataclasses.asdict(self.config), "seed": self.seed}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("skincnn")
class Augmentation(RandomLayer):
    """Augments training images; the identity outside training and at magnitude 0.

    Input and output: [batch, height, width, 3] in 0..255; the output is float32.
    """

    def __init__(self, config: AnyConfig, seed: int = 0, **kwargs: Any):
        super().__init__(config, seed, **kwargs)
        for part in self.config.parts:
            look_up(AUGMENTATIONS, part, "`augment.parts`")
        self._compiled = compile_augmentation(self.config)

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Returns augmented images in training, otherwise the images as float32."""
        if not training or not self.config.parts or self.config.magnitude == 0:
            return ops.cast(images, "float32")
        if self._compiled is None:
            return self.augment(images)
        state = self.seed_generator.state
        augmented, next_state = self._compiled(images, ops.copy(state.value))
        state.assign(next_state)
        return augmented

    def augment(self, images: Tensor) -> Tensor:
        """Returns augmented images without compilation: faster for a few images."""
        return augment(images, self.config, self.seed_generator)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape


def augment(
    images: Tensor, config: AugmentConfig, generator: keras.random.SeedGenerator
) -> Tensor:
    """Returns augmented images, float32 [batch, height, width, 3] in 0..255."""
    uniform = uniform_of(images, generator)
    parts = config.parts
    matrices = [GEOMETRIC[part](uniform, config) for part in parts if part in GEOMETRIC]
    if matrices:
        images = transform(images, functools.reduce(ops.matmul, matrices))
    images = ops.cast(images, "float32")
    for part in parts:
        if part in PHOTOMETRIC:
            images = PHOTOMETRIC[part](images, uniform, config)
    return images


@functools.cache
def compile_augmentation(
    config: AugmentConfig,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Returns `augment` compiled by XLA; None on other backends than TensorFlow.

    On a CPU Keras does not compile models with XLA, which would slow down convolutions. But
    these pointwise operations and gathers take a quarter of the time when they are fused.
    TensorFlow never frees a compiled function (20 MB each). Therefore the function is
    cached: all layers with the same configuration share it, and a hyperparameter search
    does not run out of memory.

    The function maps images and the state of a `SeedGenerator` to augmented images and the
    next state.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    generator = keras.random.SeedGenerator(0)  # Each call provides the state.

    def step(images: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        with keras.StatelessScope([(generator.state, state)]) as scope:
            augmented = augment(images, config, generator)
        return augmented, scope.get_current_value(generator.state)

    return tf.function(step, jit_compile=True, autograph=False)
