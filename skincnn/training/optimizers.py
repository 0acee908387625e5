"""Optimizers, with weight decay that spares some weights and a rate for each block."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import keras
from keras import ops

from skincnn.config import OptimizerConfig
from skincnn.lookup import look_up
from skincnn.training.schedules import SCHEDULES

Optimizer: TypeAlias = keras.optimizers.Optimizer
Kind: TypeAlias = tuple[type[Optimizer], dict[str, Any]]
"""A class of Keras, and the arguments that are its alone."""
SPARED = r"(bias|gamma|beta|variable(_\d+)?)(:0)?$"
"""Names of the weights that do not decay: biases, the scales and offsets of norms, and
layer scales, which ConvNeXt gives no name. To Keras, a name is `kernel` on one backend and
`layer/kernel:0` on another: a layer called `beta` is not meant."""


def sgd(config: OptimizerConfig) -> Kind:
    """Stochastic gradient descent with momentum.

    Weight decay is decoupled here as well. A recipe with an L2 penalty of x and momentum m
    shrinks weights about as a decoupled decay of x / (1 - m) does.
    """
    arguments = {"momentum": float(config.momentum), "nesterov": config.nesterov}
    return keras.optimizers.SGD, arguments


def adam(config: OptimizerConfig) -> Kind:
    """Kingma and Ba, Adam (2015), arXiv:1412.6980, where `weight_decay` is 0."""
    return keras.optimizers.Adam, {}


def adamw(config: OptimizerConfig) -> Kind:
    """Loshchilov and Hutter, Decoupled Weight Decay (2019), arXiv:1711.05101."""
    return keras.optimizers.AdamW, {}


def lion(config: OptimizerConfig) -> Kind:
    """Chen et al., Symbolic Discovery of Optimization Algorithms (2023), arXiv:2302.06675.

    Wants a rate 3 to 10 times smaller than AdamW's, and as much more weight decay.
    """
    return keras.optimizers.Lion, {}


OPTIMIZERS: dict[str, Callable[[OptimizerConfig], Kind]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "lion": lion,
}


def build_optimizer(
    config: OptimizerConfig,
    learning_rate: float,
    steps: int,
    warmup_steps: int,
    blocks: Mapping[str, int] | None = None,
) -> Optimizer:
    """Returns the optimizer of a phase: one of Keras, or with `layer_decay` a subclass.

    Weight decay, in every one of them, takes rate * weight_decay * weight off a weight in
    each step. In mixed precision `compile` wraps what is returned into a
    `LossScaleOptimizer`, which refuses `use_ema`; the average stays in here.

    Args:
        config: All but the learning rates and the warm-up, which depend on the phase.
        learning_rate: The highest learning rate.
        steps: Steps in all, at least 1.
        warmup_steps: Steps of these in which the rate rises.
        blocks: From the path of each variable that trains to its block, counted from the
            head, which is 0; needed where `layer_decay` is below 1.

    Raises:
        ConfigError: There is no such optimizer or schedule.
        ValueError: `layer_decay` is below 1 and `blocks` is missing.
    """
    kind, arguments = look_up(OPTIMIZERS, config.name, "`optimizer.name`")(config)
    schedule = look_up(SCHEDULES, config.schedule, "`optimizer.schedule`")
    clip = "clipnorm" if config.clip_by == "variable" else "global_clipnorm"
    if config.layer_decay < 1:
        if blocks is None:
            raise ValueError("`layer_decay` below 1 needs `blocks`. Received: None.")
        kind = LAYER_WISE[config.name]
        arguments |= {"layer_decay": config.layer_decay, "blocks": blocks}
    if _is_replicated():
        kind = type(f"Summed{kind.__name__}", (SumsFirst, kind), {})
    optimizer = kind(
        learning_rate=schedule(config, learning_rate, steps, warmup_steps),
        weight_decay=config.weight_decay,
        use_ema=config.ema_momentum > 0,
        ema_momentum=config.ema_momentum or 0.99,
        **{clip: config.clip_norm or None},
        **arguments,
    )
    # Decaying these pulls BatchNorm's scale to zero and helps nothing.
    optimizer.exclude_from_weight_decay(var_names=[SPARED])
    return optimizer


class LayerWise:
    """Before an optimizer of Keras: each block's rate is layer_decay ** block of the rate.

    Weight decay takes the same rate and is scaled with it, as it would be with an optimizer
    for each block. Clipping comes before, the average of the weights after, as in Keras.

    References:
        Bao et al., BEiT (2022), arXiv:2106.08254; Clark et al., ELECTRA (2020),
        arXiv:2003.10555.
    """

    def __init__(
        self,
        *,
        layer_decay: float,
        blocks: Mapping[str, int],
        weight_decay: float | None = None,
        **kwargs: Any,
    ):
        """Stores the blocks.

        Args:
            layer_decay: Factor of the rate from each block to the next, in (0, 1].
            blocks: From the path of each variable that trains to its block, from 0.
            weight_decay: See `build_optimizer`.
            **kwargs: Passed to the optimizer of Keras.
        """
        super().__init__(weight_decay=0.0, **kwargs)  # type: ignore[call-arg]
        # Keras would decay all weights by the same rate; `update_step` does it here.
        self.weight_decay: float | None = None
        self.layer_weight_decay = weight_decay or 0.0
        self.layer_decay = layer_decay
        self.blocks = dict(blocks)

    def build(self, variables: Iterable[Any]) -> None:
        """Fixes the factor of each variable's rate.

        Raises:
            ValueError: `blocks` does not hold a variable.
        """
        variables = list(variables)
        missing = [v.path for v in variables if v.path not in self.blocks]
        if missing:
            raise ValueError(
                "`blocks` must hold the path of each variable that trains. "
                f"Missing: {', '.join(missing)}."
            )
        factors = [self.layer_decay ** self.blocks[v.path] for v in variables]
        spared = [re.search(SPARED, v.name) is not None for v in variables]
        self._scales = [
            (factor, 0.0 if spares else self.layer_weight_decay)
            for factor, spares in zip(factors, spared, strict=True)
        ]
        super().build(variables)  # type: ignore[misc]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Decays a variable and updates it, both by the rate of its block."""
        factor, decay = self._scales[self._get_variable_index(variable)]  # type: ignore[attr-defined]
        rate = ops.cast(learning_rate, variable.dtype) * factor
        if decay > 0:
            self.assign_sub(variable, variable * (rate * decay))  # type: ignore[attr-defined]
        super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),  # type: ignore[misc]
            "weight_decay": self.layer_weight_decay,
            "layer_decay": self.layer_decay,
            "blocks": dict(self.blocks),
        }


class SumsFirst:
    """Before an optimizer of Keras under `tf.distribute`: sums, then clips.

    Keras clips the gradient of each replica, and sums what is left. Here the sum over the
    replicas, the gradient of the whole batch, is clipped, as on one device.
    """

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        summed = super()._all_reduce_sum_gradients([(grad, None) for grad in grads])  # type: ignore[misc]
        return super()._clip_gradients([grad for grad, _ in summed])  # type: ignore[misc]

    def _all_reduce_sum_gradients(self, grads_and_vars: Iterable[Any]) -> list[Any]:
        return list(grads_and_vars)


def _is_replicated() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return bool(tf.distribute.has_strategy())


def _layer_wise(kind: type[Optimizer]) -> type[Optimizer]:
    subclass = type(f"LayerWise{kind.__name__}", (LayerWise, kind), {})
    return keras.saving.register_keras_serializable("skincnn")(subclass)


LAYER_WISE: dict[str, type[Optimizer]] = {
    name: _layer_wise(part(OptimizerConfig())[0]) for name, part in OPTIMIZERS.items()
}
"""Of each optimizer the subclass that begins with `LayerWise`."""
