"""Losses with class weights, for logits and integer or soft labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from skincnn.config import LossConfig
from skincnn.errors import ConfigError
from skincnn.parts import find_custom, find_part, is_custom
from skincnn.training.imbalance import Plan


def build_loss(plan: Plan, config: LossConfig, *, reweighted: bool) -> keras.losses.Loss:
    """Returns the Keras loss of a plan, with weight 1 for all classes unless `reweighted`.

    `reweighted` is False for the epochs before `Plan.drw_start`. A custom loss receives
    only the arguments that it accepts.

    Raises:
        ConfigError: The loss does not exist, or the custom loss cannot be imported, fails,
            lacks an argument that a setting requires, or would replace a loss other than
            the cross-entropy.
    """
    weights = plan.class_weights
    arguments = {
        "class_weights": weights if reweighted else [1.0] * len(weights),
        "logit_shift": plan.logit_shift,
        "label_smoothing": config.label_smoothing,
        "weighted_mean": config.weighted_mean,
        **plan.loss_arguments,
    }
    name = config.name or plan.loss
    if is_custom(name):
        _require_arguments(name, plan, config)
    return find_loss(name)(**arguments)


class WeightedLoss(keras.losses.Loss):
    """Base class of losses with soft labels, class weights and a logit shift.

    Let l(c, z) be the loss of an image of class c with logits z, which a subclass defines
    in `class_losses`. With soft labels y and label smoothing s:

        cost[c]    = (1 - s) * l(c, z + shift) + s * mean over k of l(k, z + shift)
        loss(y, z) = sum over c of y[c] * weights[c] * cost[c]

    The loss for a soft label (MixUp, CutMix) is therefore the weighted sum of the losses of
    the mixed classes. The fraction of a label that smoothing distributes over other classes
    has the weight of the true class. If it had the weights of the other classes, rare
    classes with large weights could contribute half of the loss of an image of a common
    class. The sum of the losses of a batch is divided by the number of images or, with
    `weighted_mean`, by the sum of their weights. The loss is computed in float32.

    Args:
        class_weights: Weight of each class, [num_classes], non-negative.
        logit_shift: Values added to the logits, [num_classes]; None for no shift.
        label_smoothing: Fraction of each label that is distributed uniformly over all
            classes, in [0, 1).
        weighted_mean: Whether the losses of the images are divided by the mean weight of
            the images in the batch, as in `torch.nn.CrossEntropyLoss`.
        name, reduction: See `keras.losses.Loss`.
    """

    def __init__(
        self,
        class_weights: Iterable[float],
        logit_shift: Iterable[float] | None = None,
        label_smoothing: float = 0.0,
        weighted_mean: bool = False,
        name: str = "loss",
        reduction: str = "sum_over_batch_size",
    ):
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.class_weights = [float(weight) for weight in class_weights]
        self.logit_shift = None if logit_shift is None else [float(x) for x in logit_shift]
        self.label_smoothing = float(label_smoothing)
        self.weighted_mean = bool(weighted_mean)

    def class_losses(self, logits: Any) -> Any:
        """Returns l(c, logits) of each class c for shifted logits, [batch, num_classes]."""
        raise NotImplementedError

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each image, [batch].

        Args:
            y_true: Integer labels [batch] or [batch, 1], or soft labels [batch,
                num_classes] that sum to 1.
            y_pred: Logits [batch, num_classes].
        """
        logits = ops.cast(y_pred, "float32")
        if self.logit_shift is not None:
            logits = logits + ops.convert_to_tensor(self.logit_shift, dtype="float32")
        weights = ops.convert_to_tensor(self.class_weights, dtype="float32")
        costs = self.class_losses(logits)
        smoothed = ops.mean(costs, axis=-1, keepdims=True)
        costs = (1 - self.label_smoothing) * costs + self.label_smoothing * smoothed
        shares = self._soft(y_true) * weights
        losses = ops.sum(shares * costs, axis=-1)
        if self.weighted_mean:
            losses = losses / ops.mean(ops.sum(shares, axis=-1))
        return losses

    def _soft(self, y_true: Any) -> Any:
        """Returns soft labels, float32 [batch, num_classes]."""
        num_classes = len(self.class_weights)
        if len(y_true.shape) == 1 or y_true.shape[-1] == 1:
            integers = ops.reshape(ops.cast(y_true, "int32"), (-1,))
            return ops.one_hot(integers, num_classes, dtype="float32")
        return ops.cast(y_true, "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "class_weights": self.class_weights,
            "logit_shift": self.logit_shift,
            "label_smoothing": self.label_smoothing,
            "weighted_mean": self.weighted_mean,
        }


@keras.saving.register_keras_serializable("skincnn")
class WeightedCrossEntropy(WeightedLoss):
    """Softmax cross-entropy: l(c, z) = -log p[c], p = softmax(z).

    With weights of 1, no shift and no smoothing, this loss equals
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`.
    """

    def class_losses(self, logits: Any) -> Any:
        """Returns -log p, [batch, num_classes]."""
        return -ops.log_softmax(logits, axis=-1)


@keras.saving.register_keras_serializable("skincnn")
class WeightedFocal(WeightedLoss):
    """Focal loss: l(c, z) = -(1 - p[c]) ** gamma * log p[c], p = softmax(z).

    With gamma 0, this loss equals `WeightedCrossEntropy`. With soft labels, the factor of a
    class depends on the probability p[c], not on the difference from the soft label.

    Args:
        class_weights, **kwargs: See `WeightedLoss`.
        gamma: Focusing parameter, non-negative.

    References:
        Lin et al., Focal Loss for Dense Object Detection (2017), arXiv:1708.02002.
    """

    def __init__(self, class_weights: Iterable[float], gamma: float = 2.0, **kwargs: Any):
        super().__init__(class_weights, **kwargs)
        self.gamma = float(gamma)

    def class_losses(self, logits: Any) -> Any:
        """Returns -(1 - p) ** gamma * log p, [batch, num_classes]."""
        odds = _log_odds(logits)
        # For p near 1, 1 - p would round to 0, where the gradient of the power is infinite
        # if gamma is between 0 and 1.
        return ops.exp(-self.gamma * ops.softplus(odds)) * ops.softplus(-odds)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "gamma": self.gamma}


@keras.saving.register_keras_serializable("skincnn")
class WeightedMargin(WeightedLoss):
    """Cross-entropy with a margin: l(c, z) = -log softmax(z - margins[c] * e[c])[c].

    e[c] is the unit vector of class c: the margin is subtracted only from the logit of the
    true class. With margins of 0, this loss equals `WeightedCrossEntropy`.

    Args:
        class_weights, **kwargs: See `WeightedLoss`.
        margins: Margin of each class, [num_classes], in units of the logits.

    References:
        Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss
        (2019), arXiv:1906.07413.
    """

    def __init__(
        self, class_weights: Iterable[float], margins: Iterable[float], **kwargs: Any
    ):
        super().__init__(class_weights, **kwargs)
        self.margins = [float(margin) for margin in margins]

    def class_losses(self, logits: Any) -> Any:
        """Returns l(c, logits) for each class c, [batch, num_classes]."""
        margins = ops.convert_to_tensor(self.margins, dtype="float32")
        return ops.softplus(margins - _log_odds(logits))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "margins": self.margins}


LOSSES: dict[str, Callable[..., keras.losses.Loss]] = {
    "cross_entropy": WeightedCrossEntropy,
    "focal": WeightedFocal,
    "ldam": WeightedMargin,
}
"""Each loss takes `class_weights`, `logit_shift`, `label_smoothing`, `weighted_mean` and
the `loss_arguments` of a plan."""


def find_loss(name: str) -> Callable[..., keras.losses.Loss]:
    """Returns the loss with this name in `LOSSES`, or a custom loss.

    Raises:
        ConfigError: See `skincnn.parts.find_part`.
    """
    return find_part(LOSSES, name, "`loss.name`", returns=keras.losses.Loss)


def _require_arguments(name: str, plan: Plan, config: LossConfig) -> None:
    """Checks that a custom loss accepts all settings and replaces only the cross-entropy.

    Raises:
        ConfigError: The loss would ignore a setting, or replace another loss.
    """
    if config.name and plan.loss != "cross_entropy":
        raise ConfigError(
            f"`loss.name` {name} cannot replace the loss {plan.loss} of "
            "`imbalance.strategy`. Use a strategy with the cross-entropy, such as none, "
            "class_weights or balanced_sampling."
        )
    part = find_custom(name, "`loss.name`")
    settings = {
        "class_weights": ("imbalance.strategy", (plan.class_weights != 1).any()),
        "logit_shift": ("imbalance.strategy", plan.logit_shift is not None),
        "label_smoothing": ("loss.label_smoothing", config.label_smoothing > 0),
        "weighted_mean": ("loss.weighted_mean", config.weighted_mean),
        **dict.fromkeys(plan.loss_arguments, ("imbalance.strategy", True)),
    }
    for argument, (setting, is_used) in settings.items():
        if is_used and not part.accepts(argument):
            part.fail(
                f"must have the argument {argument!r}, which `{setting}` sets. Derive the "
                "loss from skincnn.training.losses.WeightedLoss, or use "
                "--imbalance.strategy none and the defaults of --loss.label-smoothing and "
                "--loss.weighted-mean."
            )


def _log_odds(logits: Any) -> Any:
    """Returns log(p / (1 - p)) for p = softmax(logits), accurate even for p near 1.

    The value for class c is z[c] - log(sum of exp(z[j]) over j != c), which is finite for
    all finite logits z.
    """
    own = ops.eye(logits.shape[-1], dtype="bool")
    others = ops.where(own, -float("inf"), ops.expand_dims(logits, axis=-2))
    return logits - ops.logsumexp(others, axis=-1)
