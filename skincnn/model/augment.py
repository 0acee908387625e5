"""Augmentation on the device: one affine gather for all geometry, then the grey levels.

A geometric part returns a matrix for each picture, and the product of all matrices is
applied by a single bilinear gather. A photometric part changes grey levels where they
are. All is written with `keras.ops` and compiled as one function, so that parts that look
at one pixel at a time cost one pass over the pictures together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from skincnn.config import AugmentConfig
from skincnn.lookup import look_up
from skincnn.model.artefacts import erase, hair, ruler
from skincnn.model.draws import Tensor, Uniform
from skincnn.model.geometry import GEOMETRIC, transform
from skincnn.model.photometry import blur, colour, hue, light, sharpen

PHOTOMETRIC: dict[str, Callable[[Tensor, Uniform, AugmentConfig], Tensor]] = {
    "hair": hair,
    "ruler": ruler,
    "blur": blur,
    "sharpen": sharpen,
    "light": light,
    "colour": colour,
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
        kwargs["dtype"] = "float32"  # 256 grey levels do not fit a half precision.
        super().__init__(**kwargs)
        if isinstance(config, dict):
            config = AugmentConfig(**{**config, "parts": tuple(config["parts"])})
        self.config = config
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed + self.stream)
        self.built = (
            True  # it has no weights; Keras warns of a model that has not called it
        )

    def uniform_of(self, images: Tensor) -> Uniform:
        """Returns the function that draws for a batch of pictures."""
        batch = ops.shape(images)[0]

        def uniform(low: float, high: float, count: int | None = None) -> Tensor:
            shape = (batch,) if count is None else (batch, count)
            return keras.random.uniform(shape, low, high, seed=self.seed_generator)

        return uniform

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
        self._vary_compiled = compiled(self.vary)

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Returns varied pictures in training, else the pictures as float32."""
        if not training or not self.config.parts or self.config.magnitude == 0:
            return ops.cast(images, "float32")
        return self._vary_compiled(images)

    def vary(self, images: Tensor) -> Tensor:
        """Returns varied pictures without compiling anything: for a few, once."""
        uniform = self.uniform_of(images)
        matrices = [
            GEOMETRIC[part](uniform, self.config)
            for part in self.config.parts
            if part in GEOMETRIC
        ]
        if matrices:
            product = matrices[0]
            for matrix in matrices[1:]:
                product = ops.matmul(product, matrix)
            images = transform(images, product)
        images = ops.cast(images, "float32")
        for part in self.config.parts:
            if part in PHOTOMETRIC:
                images = PHOTOMETRIC[part](images, uniform, self.config)
        return images

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input's shape."""
        return input_shape


def compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns `function` compiled by XLA by itself where TensorFlow would not do so.

    On a CPU Keras leaves XLA off for a whole model, rightly for convolutions; these
    elementwise operations and gathers take a quarter of the time when fused.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)
