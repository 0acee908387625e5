"""Losses of logits with integer or soft labels, and with class weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from skincnn.config import LossConfig
from skincnn.training.imbalance import Plan


def build_loss(plan: Plan, config: LossConfig, *, reweighted: bool) -> keras.losses.Loss:
    """Returns the loss of a plan.

    Args:
        plan: The plan of an imbalance strategy.
        config: Label smoothing.
        reweighted: Whether the plan's class weights apply, or every class has weight 1;
            see `Plan.drw_start`.
    """
    weights = plan.class_weights
    return LOSSES[plan.loss](
        class_weights=weights if reweighted else [1.0] * len(weights),
        logit_shift=plan.logit_shift,
        label_smoothing=config.label_smoothing,
        **plan.loss_arguments,
    )


class WeightedLoss(keras.losses.Loss):
    """Base class of all losses: soft labels, class weights and a shift of the logits.

    Let l(c, z) be the loss of an image of class c with logits z, which a subclass defines
    in `class_losses`. With soft labels y and label smoothing s:

        cost[c]    = (1 - s) * l(c, z + shift) + s * mean over k of l(k, z + shift)
        loss(y, z) = sum over c of y[c] * weights[c] * cost[c]

    A soft label (MixUp, CutMix) therefore costs the same mixture of the losses of its
    classes. The share of a label that smoothing gives to other classes keeps the weight of
    the label's own class. With the weights of the other classes, six of which may be ten
    times as large, a smoothing of 0.1 would move nearly half of the loss of a common class
    to rare ones. The mean is over images, not over their weights. The loss is computed in
    float32, whatever the dtype of the logits.

    Args:
        class_weights: Weight of each class, [num_classes], not negative.
        logit_shift: Added to the logits, [num_classes]; None for nothing.
        label_smoothing: Share of each label that is distributed uniformly over all
            classes, in [0, 1).
        name: Name of the loss.
        reduction: See `keras.losses.Loss`.
    """

    def __init__(
        self,
        class_weights: Iterable[float],
        logit_shift: Iterable[float] | None = None,
        label_smoothing: float = 0.0,
        name: str = "loss",
        reduction: str = "sum_over_batch_size",
    ):
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.class_weights = [float(weight) for weight in class_weights]
        self.logit_shift = None if logit_shift is None else [float(x) for x in logit_shift]
        self.label_smoothing = float(label_smoothing)

    def class_losses(self, logits: Any) -> Any:
        """Returns the loss for each class as if it were the label, [batch, num_classes]."""
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
        losses = self.class_losses(logits)
        smoothed = ops.mean(losses, axis=-1, keepdims=True)
        costs = (1 - self.label_smoothing) * losses + self.label_smoothing * smoothed
        return ops.sum(self._soft(y_true) * weights * costs, axis=-1)

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
        }


@keras.saving.register_keras_serializable("skincnn")
class WeightedCrossEntropy(WeightedLoss):
    """Softmax cross-entropy: l(c, z) = -log p[c], p = softmax(z).

    With weights of 1, no shift and no smoothing it equals
    `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`.
    """

    def class_losses(self, logits: Any) -> Any:
        """Returns -log p, [batch, num_classes]."""
        return -ops.log_softmax(logits, axis=-1)


@keras.saving.register_keras_serializable("skincnn")
class WeightedFocal(WeightedLoss):
    """Focal loss: l(c, z) = -(1 - p[c]) ** gamma * log p[c], p = softmax(z).

    With gamma 0 it equals `WeightedCrossEntropy`. With soft labels each class is modulated
    by its own probability, not by the distance to the soft label.

    References:
        Lin et al., Focal Loss for Dense Object Detection (2017), arXiv:1708.02002.
    """

    def __init__(self, class_weights: Iterable[float], gamma: float = 2.0, **kwargs: Any):
        """Stores `gamma`, not negative; see `WeightedLoss` for the other arguments."""
        super().__init__(class_weights, **kwargs)
        self.gamma = float(gamma)

    def class_losses(self, logits: Any) -> Any:
        """Returns -(1 - p) ** gamma * log p, [batch, num_classes]."""
        odds = _log_odds(logits)
        # For p near 1, 1 - p would round to 0, whose power has no finite gradient.
        return ops.exp(-self.gamma * ops.softplus(odds)) * ops.softplus(-odds)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "gamma": self.gamma}


@keras.saving.register_keras_serializable("skincnn")
class WeightedMargin(WeightedLoss):
    """Cross-entropy with a margin: l(c, z) = -log softmax(z - margins[c] * e[c])[c].

    Only the logit of the label is lowered, by the margin of its class. With margins of 0
    it equals `WeightedCrossEntropy`.

    References:
        Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss
        (2019), arXiv:1906.07413.
    """

    def __init__(
        self, class_weights: Iterable[float], margins: Iterable[float], **kwargs: Any
    ):
        """Stores `margins`, [num_classes]; see `WeightedLoss` for the other arguments."""
        super().__init__(class_weights, **kwargs)
        self.margins = [float(margin) for margin in margins]

    def class_losses(self, logits: Any) -> Any:
        """Returns -log p with each class's logit lowered in turn, [batch, num_classes]."""
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
"""Each takes `class_weights`, `logit_shift`, `label_smoothing` and the `loss_arguments` of
a plan."""


def _log_odds(logits: Any) -> Any:
    """Returns log(p / (1 - p)) of p = softmax(logits), also accurate for p near 1.

    It is z[c] - log(sum of exp(z[j]) over j != c), finite for all finite logits.
    """
    own = ops.eye(logits.shape[-1], dtype="bool")
    others = ops.where(own, -float("inf"), ops.expand_dims(logits, axis=-2))
    return logits - ops.logsumexp(others, axis=-1)
