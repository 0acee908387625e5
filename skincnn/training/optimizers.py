"""Optimizers with selective weight decay and layer-wise learning-rate decay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import keras
from keras import ops

from skincnn.config import OptimizerConfig
from skincnn.lookup import look_up
from skincnn.parts import CustomPart, find_custom, is_custom
from skincnn.training.schedules import find_schedule

Optimizer: TypeAlias = keras.optimizers.Optimizer
OptimizerSpec: TypeAlias = tuple[type[Optimizer], dict[str, Any]]
"""A Keras optimizer class, and the arguments that are specific to this class."""
NO_WEIGHT_DECAY = r"(bias|gamma|beta|variable(_\d+)?)(:0)?$"
"""Pattern for the names of variables without weight decay: biases, scales and offsets of
normalization layers, and the layer scales of ConvNeXt, which Keras names `variable`. The
pattern matches names such as `bias` and `layer/bias:0`, but not `beta/kernel`."""


def sgd(config: OptimizerConfig) -> OptimizerSpec:
    """Stochastic gradient descent with momentum.

    With momentum m, a weight decay of x in the mode `l2` corresponds to a decoupled weight
    decay of about x / (1 - m).
    """
    arguments = {"momentum": float(config.momentum), "nesterov": config.nesterov}
    return keras.optimizers.SGD, arguments


def adam(config: OptimizerConfig) -> OptimizerSpec:
    """Adam; with a positive, decoupled `weight_decay`, the same as AdamW.

    References:
        Kingma and Ba, Adam: A Method for Stochastic Optimization (2015), arXiv:1412.6980.
    """
    return keras.optimizers.Adam, {}


def adamw(config: OptimizerConfig) -> OptimizerSpec:
    """Adam with decoupled weight decay.

    References:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019),
        arXiv:1711.05101.
    """
    return keras.optimizers.AdamW, {}


def lion(config: OptimizerConfig) -> OptimizerSpec:
    """Lion, in which each update is the sign of an average of gradients.

    Lion usually requires a learning rate that is 3 to 10 times lower than for AdamW, and a
    weight decay that is higher by the same factor.

    References:
        Chen et al., Symbolic Discovery of Optimization Algorithms (2023), arXiv:2302.06675.
    """
    return keras.optimizers.Lion, {}


OPTIMIZERS: dict[str, Callable[[OptimizerConfig], OptimizerSpec]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "lion": lion,
}


def find_optimizer(name: str) -> Callable[[OptimizerConfig], OptimizerSpec]:
    """Returns the optimizer with this name in `OPTIMIZERS`, or a custom optimizer.

    A custom optimizer can also be a Keras class, such as
    `keras.optimizers:Nadam(beta_1=0.8)`.

    Raises:
        ConfigError: See `skincnn.parts.find_part`; or a class is given positional
            arguments. The returned function raises a `ConfigError` if the custom part
            fails, or neither is an optimizer class nor returns an `OptimizerSpec`.
    """
    if not is_custom(name):
        return look_up(OPTIMIZERS, name, "`optimizer.name`")
    part = find_custom(name, "`optimizer.name`")
    if isinstance(part.function, type):
        if part.values:
            part.fail(
                "must have named arguments only, such as (beta_1=0.8). Received: "
                f"{part.values}."
            )
        return lambda config: _require_spec(part, (part.function, part.options))
    part.check(("config",), part.options)
    return lambda config: _require_spec(part, part(config))


def _require_spec(part: CustomPart, spec: Any) -> OptimizerSpec:
    if isinstance(spec, tuple) and len(spec) == 2:
        cls, arguments = spec
        if isinstance(cls, type) and issubclass(cls, keras.optimizers.Optimizer):
            return cls, dict(arguments)
    part.fail(
        "must be a Keras optimizer class, or return one and its arguments, such as "
        f"(keras.optimizers.Nadam, {{'beta_1': 0.8}}). Received: {spec!r}."
    )


def build_optimizer(
    config: OptimizerConfig,
    learning_rate: float,
    steps: int,
    warmup_steps: int,
    blocks: Mapping[str, int] | None = None,
) -> Optimizer:
    """Returns the optimizer of a stage.

    Decoupled weight decay subtracts learning_rate * weight_decay * weight in each step; see
    `L2Penalty` for the other mode. With mixed_float16, the caller wraps the optimizer in a
    `LossScaleOptimizer`, which does not support `use_ema`; the inner optimizer averages the
    weights.

    Args:
        config: Options of the optimizer. The arguments below replace `learning_rate`,
            `head_learning_rate` and `warmup_epochs`.
        learning_rate: Peak learning rate.
        steps: Number of steps of the stage, at least 1.
        warmup_steps: Number of steps of the warm-up.
        blocks: Block of each trainable variable, by variable path. The head is block 0, and
            the last block of the backbone is 1. Required if `layer_decay` is below 1.

    Raises:
        ConfigError: See `find_optimizer` and `find_schedule`; or a custom schedule fails,
            or the optimizer class does not accept an argument in `config.name`.
    """
    cls, arguments = find_optimizer(config.name)(config)
    schedule = find_schedule(config.schedule)
    clip = "clipnorm" if config.clip_by == "variable" else "global_clipnorm"
    if config.layer_decay < 1:
        if blocks is None:
            raise ValueError("`layer_decay` below 1 requires `blocks`. Received: None.")
        cls = _extend(LayerWise, cls)
        arguments |= {"layer_decay": config.layer_decay, "blocks": blocks}
    weight_decay = config.weight_decay
    if config.decay_mode == "l2" and weight_decay > 0:
        cls = _extend(L2Penalty, cls)
        arguments |= {"l2": weight_decay}
        weight_decay = 0.0
    if _is_replicated():
        cls = type(f"Summed{cls.__name__}", (ClipSummedGradients, cls), {})
    rates = schedule(config, learning_rate, steps, warmup_steps)
    with explained(config.name):
        optimizer = cls(
            learning_rate=rates,
            weight_decay=weight_decay,
            use_ema=config.ema_momentum > 0,
            ema_momentum=config.ema_momentum or 0.99,
            **{clip: config.clip_norm or None},
            **arguments,
        )
    if not config.decay_all:
        # Weight decay would shrink the scales of BatchNorm without any benefit.
        optimizer.exclude_from_weight_decay(var_names=[NO_WEIGHT_DECAY])
    return optimizer


def explained(name: str) -> contextlib.AbstractContextManager[None]:
    """Raises a `ConfigError` for an exception in the block if the optimizer is custom.

    The message contains the name of the optimizer and, if known, the file and the line.
    """
    if is_custom(name):
        return find_custom(name, "`optimizer.name`").explained()
    return contextlib.nullcontext()


class L2Penalty:
    """A mixin for Keras optimizers: adds l2 * weight to the gradient of each weight.

    This term is the gradient of the penalty l2 / 2 * weight ** 2, and corresponds to the
    `weight_decay` of `torch.optim.SGD` and `torch.optim.Adam`. It is added after clipping.
    Variables that are excluded from weight decay have no penalty.

    Args:
        l2: Coefficient, non-negative.
        **kwargs: Arguments of the Keras optimizer.
    """

    def __init__(self, *, l2: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.l2 = l2

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Applies the update with the gradient of the loss and of the penalty."""
        if self._use_weight_decay(variable):  # type: ignore[attr-defined]
            gradient = gradient + self.l2 * ops.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "l2": self.l2}  # type: ignore[misc]


class LayerWise:
    """A mixin for Keras optimizers: multiplies learning rates by layer_decay ** block.

    Weight decay is multiplied by the same factor. As in Keras, gradients are clipped before
    the update, and weights are averaged after the update.

    Args:
        layer_decay: Base of the factor, in (0, 1]; see `OptimizerConfig`.
        blocks: Block of each trainable variable, by variable path; see `build_optimizer`.
        weight_decay, **kwargs: Arguments of the Keras optimizer.

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
        super().__init__(weight_decay=0.0, **kwargs)  # type: ignore[call-arg]
        # None disables the weight decay of Keras, which uses one learning rate for all
        # weights; see `update_step`.
        self.weight_decay: float | None = None
        self.layer_weight_decay = weight_decay or 0.0
        self.layer_decay = layer_decay
        self.blocks = dict(blocks)

    def build(self, variables: Iterable[Any]) -> None:
        """Computes the learning-rate factor and the weight decay of each variable."""
        variables = list(variables)
        missing = [v.path for v in variables if v.path not in self.blocks]
        if missing:
            raise ValueError(
                "`blocks` must contain the path of each trainable variable. "
                f"Missing: {', '.join(missing)}."
            )
        factors = [self.layer_decay ** self.blocks[v.path] for v in variables]
        decays = [self.layer_weight_decay * self._use_weight_decay(v) for v in variables]  # type: ignore[attr-defined]
        self._scales = list(zip(factors, decays, strict=True))
        super().build(variables)  # type: ignore[misc]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Applies weight decay and the update with the learning rate of the block."""
        factor, decay = self._scales[self._get_variable_index(variable)]  # type: ignore[attr-defined]
        rate = ops.cast(learning_rate, variable.dtype) * factor
        if decay > 0:
            self.assign_sub(variable, variable * (rate * decay))  # type: ignore[attr-defined]
        super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),  # type: ignore[misc]
            "weight_decay": self.layer_weight_decay,
            "layer_decay": self.layer_decay,
            "blocks": dict(self.blocks),
        }


class ClipSummedGradients:
    """A mixin for Keras optimizers under `tf.distribute`: clips the sum of the gradients.

    Keras clips the gradient of each replica and sums the results. This mixin first sums the
    gradients of all replicas, and then clips the sum, as on one device.
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


def _extend(mixin: type[Any], cls: type[Optimizer]) -> type[Optimizer]:
    subclass = type(f"{mixin.__name__}{cls.__name__}", (mixin, cls), {})
    return keras.saving.register_keras_serializable("skincnn")(subclass)
