"""MixUp and CutMix, which mix each training image with a random image of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
from keras import ops

from skincnn.model.augment import RandomLayer
from skincnn.model.random_ops import Tensor, Uniform, per_image, rectangle, uniform_of


def mixup(
    images: Tensor, partners: Tensor, share: Tensor, uniform: Uniform
) -> tuple[Tensor, Tensor]:
    """Returns `share * images + (1 - share) * partners`, and `share` unchanged.

    Zhang et al., mixup: Beyond Empirical Risk Minimization (2018), arXiv:1710.09412.
    """
    weight = per_image(share)
    return weight * images + (1 - weight) * partners, share


def cutmix(
    images: Tensor, partners: Tensor, share: Tensor, uniform: Uniform
) -> tuple[Tensor, Tensor]:
    """Returns images with a rectangle from their partners, and the actual shares [batch].

    The share is the fraction of an image outside the rectangle. Yun et al., CutMix (2019),
    arXiv:1905.04899; unlike in the paper, the whole rectangle is inside the image.
    """
    inside, area = rectangle(images, uniform, 1 - share)
    return ops.where(inside, partners, images), 1 - area


Mix = Callable[[Tensor, Tensor, Tensor, Uniform], tuple[Tensor, Tensor]]
MIXES: dict[str, Mix | None] = {"none": None, "mixup": mixup, "cutmix": cutmix}
"""Mixing functions by name; None for no mixing. Each function maps images, their partners,
target shares [batch] and a `Uniform` to mixed images and their actual shares [batch]."""


@keras.saving.register_keras_serializable("skincnn")
class Mixing(RandomLayer):
    """In training, mixes each image with a random partner of the batch.

    The partners are a permutation of the batch. The target share of each image is
    max(x, 1 - x) with x from Beta(a, a), where a is `mix_alpha` scaled by the magnitude.
    If `mix` is none or a is 0, images are not mixed. See `RandomLayer` for the arguments.
    """

    stream = 1

    def call(
        self, images: Tensor, training: bool | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the images, mixed in training, with the partner and share of each image.

        The images are float32 [batch, height, width, 3]; `partner` is int32 [batch];
        `share` is float32 [batch]: about 0.5..1, or 1 without mixing. Mixed image i
        consists of `share[i]` of image i and 1 - `share[i]` of image `partner[i]`.
        """
        images = ops.cast(images, "float32")
        alpha, mix = self.config.strength("mix_alpha"), MIXES[self.config.mix]
        if not training or mix is None or alpha == 0:
            batch = ops.shape(images)[0]
            return images, ops.arange(batch, dtype="int32"), ops.ones((batch,), "float32")
        uniform = uniform_of(images, self.seed_generator)
        partner = ops.cast(ops.argsort(uniform(0.0, 1.0)), "int32")
        partners = ops.take(images, partner, axis=0)
        images, share = mix(images, partners, larger_share(uniform, alpha), uniform)
        return images, partner, share


def larger_share(uniform: Uniform, alpha: float) -> Tensor:
    """Returns max(x, 1 - x) for x from Beta(alpha, alpha), float32 [batch].

    Keras samples the beta distribution by rejection, which XLA cannot compile with the
    TensorFlow backend. This function uses the method of Devroye, Random Variate Generation
    in One Line of Code (1996), section 4.
    """
    first, second = 1 - uniform(0.0, 1.0), uniform(0.0, 2 * math.pi)
    spread = (first ** (-1 / alpha) - 1) * ops.cos(second) ** 2
    return 0.5 + 0.5 / ops.sqrt(1 + 1 / spread)
