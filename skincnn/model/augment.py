"""Augmentation on the device: one affine gather for all geometry, then the light.

A geometric part returns a matrix for each picture, and the product of all matrices is
applied by a single bilinear gather. A photometric part changes grey levels. All is
written with `keras.ops`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from skincnn.config import AugmentConfig
from skincnn.lookup import look_up

Tensor = Any
Uniform = Callable[[float, float], Tensor]
"""`uniform(low, high)` draws a number for each picture: float32 [batch]."""


def flip(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Mirrors left and right with probability 1/2."""
    sign = ops.where(uniform(0.0, 1.0) < 0.5, -1.0, 1.0)
    return _matrix(sign, 0.0, 0.0, 1.0)


def quarter_turn(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Turns by 0, 90, 180 or 270 degrees."""
    turns = ops.floor(uniform(0.0, 4.0))
    # Exact zeros and ones, which sine and cosine of multiples of pi / 2 are not.
    cos = ops.where(turns == 0, 1.0, ops.where(turns == 2, -1.0, 0.0))
    sin = ops.where(turns == 1, 1.0, ops.where(turns == 3, -1.0, 0.0))
    return _matrix(cos, -sin, sin, cos)


def rotate(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Turns by an angle in [-rotation_degrees, rotation_degrees]."""
    most = math.radians(config.rotation_degrees)
    angle = uniform(-most, most)
    return _matrix(ops.cos(angle), -ops.sin(angle), ops.sin(angle), ops.cos(angle))


def zoom(uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Scales by exp(u), u in [-zoom, zoom]: as often larger as smaller."""
    scale = ops.exp(uniform(-config.zoom, config.zoom))
    return _matrix(scale, 0.0, 0.0, scale)


def light(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Scales the distance to the picture's mean, then adds a brightness; clips."""
    factor = _per_picture(uniform(1 - config.contrast, 1 + config.contrast))
    shift = _per_picture(uniform(-config.brightness, config.brightness)) * 255
    mean = ops.mean(images, axis=(1, 2), keepdims=True)
    return ops.clip((images - mean) * factor + mean + shift, 0.0, 255.0)


def colour(images: Tensor, uniform: Uniform, config: AugmentConfig) -> Tensor:
    """Scales the distance to grey, then each channel, as other cameras do; clips."""
    factor = _per_picture(uniform(1 - config.saturation, 1 + config.saturation))
    grey = ops.mean(images, axis=-1, keepdims=True)
    cast = ops.stack(
        [uniform(1 - config.colour_cast, 1 + config.colour_cast) for _ in range(3)], axis=-1
    )
    images = (grey + (images - grey) * factor) * cast[:, None, None, :]
    return ops.clip(images, 0.0, 255.0)


GEOMETRIC: dict[str, Callable[[Uniform, AugmentConfig], Tensor]] = {
    "flip": flip,
    "quarter_turn": quarter_turn,
    "rotate": rotate,
    "zoom": zoom,
}
PHOTOMETRIC: dict[str, Callable[[Tensor, Uniform, AugmentConfig], Tensor]] = {
    "light": light,
    "colour": colour,
}
AUGMENTATIONS = {**GEOMETRIC, **PHOTOMETRIC}


@keras.saving.register_keras_serializable("skincnn")
class Augmentation(keras.layers.Layer):
    """Varies training pictures; the identity outside training.

    Input and output: [batch, height, width, 3] in 0..255; the output is float32.
    """

    def __init__(
        self, config: AugmentConfig | dict[str, Any], seed: int = 0, **kwargs: Any
    ):
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
        for part in config.parts:
            look_up(AUGMENTATIONS, part, "`augment.parts`")
        self.config = config
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._vary_compiled = _compiled(self._vary)

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Returns varied pictures in training, else the pictures as float32."""
        if not training or not self.config.parts:
            return ops.cast(images, "float32")
        return self._vary_compiled(images)

    def _vary(self, images: Tensor) -> Tensor:
        batch = ops.shape(images)[0]

        def uniform(low: float, high: float) -> Tensor:
            return keras.random.uniform((batch,), low, high, seed=self.seed_generator)

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

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
        }


def _compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns `function` compiled by XLA by itself where TensorFlow would not do so.

    On a CPU Keras leaves XLA off for a whole model, rightly for convolutions; these
    elementwise operations and gathers take a quarter of the time when fused.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def transform(images: Tensor, matrices: Tensor) -> Tensor:
    """Returns each picture seen through a linear map about its centre.

    The pixel at p of the result is the picture's value at `matrix @ p`, both counted
    from the centre in pixels, interpolated bilinearly. Beyond its border a picture is
    continued by its mirror image.

    Args:
        images: [batch, height, width, channels], any numeric dtype.
        matrices: float32 [batch, 2, 2], acting on (x, y).

    Returns:
        float32 [batch, height, width, channels].
    """
    batch, height, width, channels = ops.shape(images)
    x = ops.cast(ops.arange(width), "float32") - (ops.cast(width, "float32") - 1) / 2
    y = ops.cast(ops.arange(height), "float32") - (ops.cast(height, "float32") - 1) / 2
    x, y = ops.reshape(x, (1, 1, -1)), ops.reshape(y, (1, -1, 1))
    m = ops.reshape(matrices, (-1, 4, 1, 1))
    left, right, across = _neighbours(m[:, 0] * x + m[:, 1] * y, width)
    above, below, down = _neighbours(m[:, 2] * x + m[:, 3] * y, height)
    first = ops.reshape(ops.arange(batch) * height * width, (-1, 1, 1))
    indices = ops.stack(
        [
            first + above * width + left,
            first + above * width + right,
            first + below * width + left,
            first + below * width + right,
        ]
    )
    pixels = ops.take(ops.reshape(images, (-1, channels)), indices, axis=0)
    pixels = ops.cast(pixels, "float32")
    across, down = across[..., None], down[..., None]
    upper = pixels[0] + across * (pixels[1] - pixels[0])
    lower = pixels[2] + across * (pixels[3] - pixels[2])
    return upper + down * (lower - upper)


def _neighbours(centred: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the two nearest indices in 0..size-1 and the share of the second."""
    length = ops.cast(size, "float32")
    position = ops.mod(centred + length / 2, 2 * length)
    position = ops.minimum(position, 2 * length - position) - 0.5
    position = ops.clip(position, 0.0, length - 1)
    below = ops.floor(position)
    index = ops.cast(below, "int32")
    return index, ops.minimum(index + 1, size - 1), position - below


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Returns [[a, b], [c, d]] for each picture, float32 [batch, 2, 2]."""
    zeros = ops.zeros_like(a)
    return ops.reshape(ops.stack([a, b + zeros, c + zeros, d + zeros], -1), (-1, 2, 2))


def _per_picture(values: Tensor) -> Tensor:
    return ops.reshape(values, (-1, 1, 1, 1))
