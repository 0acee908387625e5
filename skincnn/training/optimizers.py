"""The optimizer and its schedule."""

from __future__ import annotations

import keras

from skincnn.config import OptimizerConfig


def build_optimizer(
    config: OptimizerConfig, learning_rate: float, steps: int, warmup_steps: int
) -> keras.optimizers.Optimizer:
    """Returns AdamW with a linear warm-up and a cosine to a hundredth.

    Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019), arXiv:1711.05101.

    Args:
        config: Weight decay, clipping and the average of the weights.
        learning_rate: The highest learning rate.
        steps: Steps in all, at least 1.
        warmup_steps: Steps of these in which the rate rises.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=learning_rate / 10 if warmup_steps else learning_rate,
        decay_steps=max(1, steps - warmup_steps),
        alpha=0.01,
        warmup_target=learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    optimizer = keras.optimizers.AdamW(
        schedule,
        weight_decay=config.weight_decay,
        clipnorm=config.clip_norm or None,
        use_ema=config.ema > 0,
        ema_momentum=config.ema or 0.99,
    )
    # Decaying these pulls BatchNorm's scale to zero and helps nothing.
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
