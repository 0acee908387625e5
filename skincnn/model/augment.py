"""Augmentation on the device: an affine transform, then photometric augmentations.

A geometric augmentation returns a matrix for each image; the product of an image's matrices
is applied with one bilinear interpolation. A photometric augmentation changes the pixel
values. With TensorFlow, XLA compiles both kinds together, which fuses pointwise operations.
Custom augmentations follow; they are not part of the compiled function.
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
from skincnn.parts import CustomPart, find_custom, is_custom

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
    """A float32 layer that draws random numbers for each image in training.

    Args:
        config: The options, or a dictionary of the fields of an `AugmentConfig`.
        seed: Seed of the random numbers.

    Raises:
        ConfigError: A field of `config` is unknown or invalid.
    """

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

    Input and output are [batch, height, width, 3] in 0..255; the output is float32. See
    `RandomLayer` for the arguments.

    Raises:
        ConfigError: A field of `config` is invalid, a part is neither a key of
            `AUGMENTATIONS` nor a custom augmentation (see `find_augmentation`), or a custom
            augmentation fails or changes the shape of the images.
    """

    def __init__(self, config: AnyConfig, seed: int = 0, **kwargs: Any):
        super().__init__(config, seed, **kwargs)
        custom = [part for part in self.config.parts if is_custom(part)]
        # In an attribute, so that checkpoints contain the random states of custom layers.
        # `Mixing` has the seed + 1.
        self.custom = {part: _build(part, seed + 2 + i) for i, part in enumerate(custom)}
        for part in self.config.parts:
            find_augmentation(part)
        self._compiled = compile_augmentation(self.config)

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Returns the images as float32, augmented as described in `Augmentation`."""
        if not training or self._is_identity:
            return ops.cast(images, "float32")
        if self._compiled is None:
            return self.augment(images)
        state = self.seed_generator.state
        (augmented, chosen), next_state = self._compiled(images, ops.copy(state.value))
        state.assign(next_state)
        return self._apply_custom(augmented, chosen)

    def augment(self, images: Tensor) -> Tensor:
        """Returns images as `call` does in training, but without compilation.

        For a few images, this is faster.
        """
        if self._is_identity:
            return ops.cast(images, "float32")
        return self._apply_custom(*augment(images, self.config, self.seed_generator))

    @property
    def _is_identity(self) -> bool:
        return not self.config.parts or self.config.magnitude == 0

    def _apply_custom(self, images: Tensor, chosen: Tensor | None) -> Tensor:
        uniform = uniform_of(images, self.seed_generator)
        for name, apply in self.custom.items():
            part = find_augmentation(name)
            with part.explained():
                if isinstance(apply, keras.layers.Layer):
                    changed = apply(images, training=True)
                else:
                    changed = apply(images, uniform, self.config)
                changed = ops.clip(ops.cast(changed, "float32"), 0.0, 255.0)
            _require_same_shape(part, changed, images)
            images = _choose(chosen, self.config.parts.index(name), changed, images)
        return images

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `input_shape`, because augmentation keeps the shape."""
        return input_shape


def find_augmentation(name: str) -> Any:
    """Returns the function of `AUGMENTATIONS` with this name, or a `CustomPart`.

    A custom augmentation is a function (images, uniform, config) like those in
    `PHOTOMETRIC`, or a layer class, such as `keras.layers:RandomZoom(0.2)`. `Augmentation`
    clips its result to 0..255.

    Raises:
        ConfigError: See `skincnn.parts.find_part`.
    """
    if not is_custom(name):
        return look_up(AUGMENTATIONS, name, "`augment.parts`")
    part = find_custom(name, "`augment.parts`")
    if not isinstance(part.function, type):
        part.check(("images", "uniform", "config"), part.options)
    return part


def augment(
    images: Tensor, config: AugmentConfig, generator: keras.random.SeedGenerator
) -> tuple[Tensor, Tensor | None]:
    """Applies those of `config.parts` that are in `AUGMENTATIONS`, geometric ones first.

    `images` are [batch, height, width, 3] in 0..255.

    Returns:
        The images as float32; and the index in `config.parts` of the part that applies to
        each image, float32 [batch], or None if all parts apply to all images.
    """
    uniform = uniform_of(images, generator)
    parts = config.parts
    chosen = ops.floor(uniform(0.0, len(parts))) if config.choose == "one" else None
    matrices = [
        _choose(chosen, index, GEOMETRIC[part](uniform, config), ops.eye(3))
        for index, part in enumerate(parts)
        if part in GEOMETRIC
    ]
    if matrices:
        product = functools.reduce(ops.matmul, matrices)
        images = transform(images, product, reflect=config.border == "reflect")
    images = ops.cast(images, "float32")
    for index, part in enumerate(parts):
        if part in PHOTOMETRIC:
            changed = PHOTOMETRIC[part](images, uniform, config)
            images = _choose(chosen, index, changed, images)
    return images, chosen


def _choose(
    chosen: Tensor | None, index: int, changed: Tensor, unchanged: Tensor
) -> Tensor:
    """Returns `changed` where the part with this index applies, otherwise `unchanged`.

    If `chosen` is None, all parts apply to all images.
    """
    if chosen is None:
        return changed
    applies = ops.reshape(chosen == index, (-1, *[1] * (changed.ndim - 1)))
    return ops.where(applies, changed, unchanged)


def _build(name: str, seed: int) -> keras.layers.Layer | CustomPart:
    """Returns a custom part, or the layer if the part is a layer class."""
    part: CustomPart = find_augmentation(name)
    if not isinstance(part.function, type):
        return part
    options = {"seed": seed} if "seed" in part.parameters else {}
    # Half precision would round the pixel values.
    layer = part(dtype="float32", **options)
    if not isinstance(layer, keras.layers.Layer):
        part.fail(f"must be a function or a layer class. Received: {layer!r}.")
    return layer


def _require_same_shape(part: CustomPart, changed: Tensor, images: Tensor) -> None:
    """Raises a `ConfigError` if the shapes, as far as they are known, differ."""
    shapes = tuple(changed.shape), tuple(images.shape)
    if len(shapes[0]) != 4 or any(
        None not in sizes and len(set(sizes)) > 1 for sizes in zip(*shapes, strict=True)
    ):
        part.fail(
            "must return images of the same shape [batch, height, width, 3]: "
            f"{shapes[1]}. Received: {shapes[0]}."
        )


@functools.cache
def compile_augmentation(
    config: AugmentConfig,
) -> Callable[[Tensor, Tensor], tuple[Any, Tensor]] | None:
    """Returns `augment` compiled by XLA, or None if the backend is not TensorFlow.

    The compiled function maps images and the state of a `SeedGenerator` to the result of
    `augment` and the next state. On a CPU, XLA makes augmentation several times as fast. It
    would slow down the convolutions of the network, which by default is not compiled on a
    CPU. Layers with equal configurations share one function, because TensorFlow never frees
    compiled functions (20 MB each).
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    generator = keras.random.SeedGenerator(0)  # `step` replaces the state.

    def step(images: Tensor, state: Tensor) -> tuple[Any, Tensor]:
        with keras.StatelessScope([(generator.state, state)]) as scope:
            augmented = augment(images, config, generator)
        return augmented, scope.get_current_value(generator.state)

    return tf.function(step, jit_compile=True, autograph=False)
