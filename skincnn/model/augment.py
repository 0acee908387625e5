"""Augmentation on the device: an affine transform, then photometric augmentations.

A geometric augmentation returns a matrix for each image; the product of an image's matrices
is applied with one bilinear interpolation. A photometric augmentation changes the pixel
values. With TensorFlow, all augmentations are compiled together, which fuses pointwise
operations.
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
from skincnn.model.color import blur, color, hue, jitter, light, sharpen
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
    "jitter": jitter,
    "erase": erase,
}
AUGMENTATIONS = {**GEOMETRIC, **PHOTOMETRIC}
AnyConfig = AugmentConfig | dict[str, Any]


class RandomLayer(keras.layers.Layer):
    """A float32 layer that draws random numbers for each image in training."""

    stream = 0
    """Added to the seed, so that `Augmentation` and `Mixing` draw different numbers."""

    def __init__(self, config: AnyConfig, seed: int = 0, **kwargs: Any):
        # Half precision would round the pixel values.
        super().__init__(**{**kwargs, "dtype": "float32"})
        if isinstance(config, dict):
            # Keras saves tuples as lists.
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in config.items()
            }
            config = AugmentConfig(**fields)
        self.config = config
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed + self.stream)
        # Keras warns about unbuilt layers when it saves a model; this layer has no weights.
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = {"config": dataclasses.asdict(self.config), "seed": self.seed}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("skincnn")
class Augmentation(RandomLayer):
    """Augments images in training, unless the magnitude is 0 or `config.parts` is empty.

    Input and output are [batch, height, width, 3] in 0..255; the output is float32.
    `config` may also be a dictionary of the fields of an `AugmentConfig`.

    Raises:
        ConfigError: A field is invalid, or a part is not a key of `AUGMENTATIONS`.
    """

    def __init__(self, config: AnyConfig, seed: int = 0, **kwargs: Any):
        super().__init__(config, seed, **kwargs)
        for part in self.config.parts:
            look_up(AUGMENTATIONS, part, "`augment.parts`")
        self._compiled = compile_augmentation(self.config)

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Returns the images as float32, augmented as described in `Augmentation`."""
        if not training or not self.config.parts or self.config.magnitude == 0:
            return ops.cast(images, "float32")
        if self._compiled is None:
            return self.augment(images)
        state = self.seed_generator.state
        augmented, next_state = self._compiled(images, ops.copy(state.value))
        state.assign(next_state)
        return augmented

    def augment(self, images: Tensor) -> Tensor:
        """Augments images without compilation. For a few images, this is faster."""
        return augment(images, self.config, self.seed_generator)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `input_shape`, because augmentation keeps the shape."""
        return input_shape


def augment(
    images: Tensor, config: AugmentConfig, generator: keras.random.SeedGenerator
) -> Tensor:
    """Returns the augmented images, float32 [batch, height, width, 3] in 0..255."""
    uniform = uniform_of(images, generator)
    parts = config.parts
    chosen = None
    if config.choose == "one":
        chosen = ops.floor(uniform(0.0, len(parts)))  # index of the part of each image

    def choose(part: str, changed: Tensor, unchanged: Tensor) -> Tensor:
        """Returns `changed` for the images to which the part applies."""
        if chosen is None:
            return changed
        applies = ops.reshape(chosen == parts.index(part), (-1, *[1] * (changed.ndim - 1)))
        return ops.where(applies, changed, unchanged)

    matrices = [
        choose(part, GEOMETRIC[part](uniform, config), ops.eye(3))
        for part in parts
        if part in GEOMETRIC
    ]
    if matrices:
        product = functools.reduce(ops.matmul, matrices)
        images = transform(images, product, reflect=config.border == "reflect")
    images = ops.cast(images, "float32")
    for part in parts:
        if part in PHOTOMETRIC:
            changed = PHOTOMETRIC[part](images, uniform, config)
            images = choose(part, changed, images)
    return images


@functools.cache
def compile_augmentation(
    config: AugmentConfig,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Returns `augment` compiled by XLA, or None if the backend is not TensorFlow.

    The compiled function maps images and the state of a `SeedGenerator` to augmented images
    and the next state. On a CPU, XLA makes augmentation four times as fast. It would slow
    down convolutions, but by default, Keras does not use XLA for models on a CPU. Layers
    with equal configurations share one function, because TensorFlow never frees compiled
    functions (20 MB each).
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    generator = keras.random.SeedGenerator(0)  # `step` replaces the state.

    def step(images: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        with keras.StatelessScope([(generator.state, state)]) as scope:
            augmented = augment(images, config, generator)
        return augmented, scope.get_current_value(generator.state)

    return tf.function(step, jit_compile=True, autograph=False)
