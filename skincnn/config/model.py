"""The network."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from skincnn.config.section import Fraction, section


@section("model")
class ModelConfig:
    """The classifier: a backbone, global pooling, dropout and a linear head."""

    backbone: str = "mobilenet_v2"
    """Name of `BACKBONES`, or `package.module:function` of your own; see
    `find_backbone`."""
    width_multiplier: PositiveFloat = 1.0
    """Width multiplier of the backbone (alpha of Keras Applications), if it has one."""
    weights: str = "imagenet"
    """Initial weights of the backbone. imagenet: pretrained; none: random; otherwise the
    path of a weights file."""
    dropout: Fraction = 0.2
    """Dropout rate of the pooled features."""
    batch_norm: Literal["train", "frozen", "frozen_statistics"] = "train"
    """BatchNorm in the trainable blocks of the backbone. train: uses the statistics of the
    batch; frozen: keeps its statistics and weights; frozen_statistics: trains only scale
    and shift. With both of the latter, MobileNet lost its ImageNet features at a learning
    rate of 4e-4; at 5e-5 `frozen` learned, but less than `train` (docs/results.md)."""
    batch_norm_momentum: Fraction = 0.99
    """Momentum of the moving statistics of BatchNorm."""
    clinical_metadata: bool = False
    """Whether age, sex and anatomical site are inputs of the model as well."""
