"""Strategies against class imbalance: each returns a `Plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from skincnn.config import ImbalanceConfig

Counts = npt.NDArray[np.int64]
"""Number of training images of each class, at least 1, [num_classes]."""


@dataclass(frozen=True)
class Plan:
    """How training handles class imbalance, independent of the strategy's name.

    Sampling weights have a mean of 1 over the training images, and class weights over the
    images of an epoch, so that the scale of the loss does not depend on the strategy.

    Attributes:
        class_weights: Weight of each class in the loss, [num_classes].
        sampling_weights: Expected number of draws of an image of each class in an epoch,
            [num_classes]; None: each image is used once.
        epoch_counts: Number of images of each class in an epoch, [num_classes], at least
            the number of training images; None: exactly that number.
        logit_shift: Added to the logits in the loss, [num_classes]; None for nothing.
        loss: Name of `losses.LOSSES`.
        loss_arguments: Arguments of the loss besides weights, shift and label smoothing.
        drw_start: Share of the last stage's epochs before class weights apply (deferred
            re-weighting); 0 if they apply from the start.
        allow_double: Whether the loss and the sampling may both balance the classes.
    """

    class_weights: npt.NDArray[np.float32]
    sampling_weights: npt.NDArray[np.float64] | None = None
    epoch_counts: Counts | None = None
    logit_shift: npt.NDArray[np.float32] | None = None
    loss: str = "cross_entropy"
    loss_arguments: Mapping[str, Any] = field(default_factory=dict)
    drw_start: float = 0.0
    allow_double: bool = False

    def __post_init__(self) -> None:
        """Checks that classes are not balanced twice, which would overcompensate.

        Raises:
            ValueError: The loss and the sampling balance the classes without
                `allow_double`, or there are two kinds of sampling.
        """
        by_loss = (self.class_weights != 1).any() or self.logit_shift is not None
        by_sampling = [
            name
            for name in ("sampling_weights", "epoch_counts")
            if getattr(self, name) is not None
        ]
        if len(by_sampling) > 1:
            raise ValueError(
                "A plan has either `sampling_weights` or `epoch_counts`. Received: both."
            )
        if by_loss and by_sampling and not self.allow_double:
            raise ValueError(
                "A plan balances the classes either by the loss (`class_weights`, "
                "`logit_shift`) or by sampling. Received: both, with "
                f"`{by_sampling[0]}`. Set `allow_double` in a strategy that does both on "
                "purpose."
            )


def none(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Every class has weight 1."""
    return Plan(_ones(counts))


def class_weights(counts: Counts, config: ImbalanceConfig) -> Plan:
    """The weight of a class with n images is proportional to n ** -power.

    With power 1 all classes have the same total weight, with 1/2 the square-root rule
    applies, and with 0 all images have the same weight.
    """
    return Plan(_power_weights(counts, counts, config))


def effective_number_weights(counts: Counts, config: ImbalanceConfig) -> Plan:
    """The weight of a class with n images is proportional to (1 - beta) / (1 - beta ** n).

    This is the inverse of the effective number of images: 1 for each class with beta 0,
    and n as beta approaches 1.

    References:
        Cui et al., Class-Balanced Loss Based on Effective Number of Samples (2019),
        arXiv:1901.05555.
    """
    return Plan(_effective_number_weights(counts, config))


def logit_adjusted(counts: Counts, config: ImbalanceConfig) -> Plan:
    """The loss adds power * log(class frequency) to the logits.

    The model's own logits are then balanced: with power 1 their argmax minimizes the
    balanced error. Unlike class weights this does not overfit single images of rare
    classes.

    References:
        Menon et al., Long-tail Learning via Logit Adjustment (2021), arXiv:2007.07314.
    """
    shift = config.power * np.log(counts / counts.sum())
    return Plan(_ones(counts), logit_shift=shift.astype(np.float32))


def focal(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Well-classified images have a lower weight, whatever their class.

    References:
        Lin et al., Focal Loss for Dense Object Detection (2017), arXiv:1708.02002.
    """
    arguments = {"gamma": config.gamma}
    return Plan(_ones(counts), loss="focal", loss_arguments=arguments)


def class_balanced_focal(counts: Counts, config: ImbalanceConfig) -> Plan:
    """`focal` with the weights of `effective_number_weights`, as in Cui et al."""
    weights = _effective_number_weights(counts, config)
    return Plan(weights, loss="focal", loss_arguments={"gamma": config.gamma})


def ldam(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Rare classes have a larger margin, and a higher weight towards the end (DRW).

    The margin of a class with n images is proportional to n ** -1/4. The weights of
    `effective_number_weights` apply after the share `drw_start` of the epochs.

    The paper also normalizes the features and weights of the head and multiplies their
    products by s = 30. Here the head stays linear, and `margin` is in units of its logits.
    For logits of s * cosine the paper's loss is this one with s times the paper's margin.

    References:
        Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss
        (2019), arXiv:1906.07413.
    """
    margins = config.margin * (counts / counts.min()) ** -0.25
    return Plan(
        _effective_number_weights(counts, config),
        loss="ldam",
        loss_arguments={"margins": margins.tolist()},
        drw_start=config.drw_start,
    )


def balanced_sampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Every class is drawn equally often."""
    return Plan(_ones(counts), _with_mean_one(1 / counts, counts))


def square_root_sampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """A class with n images is drawn in proportion to the square root of n.

    References:
        Mahajan et al., Exploring the Limits of Weakly Supervised Pretraining (2018),
        arXiv:1805.00932.
    """
    return Plan(_ones(counts), _with_mean_one(counts**-0.5, counts))


def effective_number_sampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """An image is drawn in proportion to the weight of `effective_number_weights`.

    With beta 0 all images are drawn equally often, and all classes as beta approaches 1.
    """
    weights = (1 - config.beta) / (1 - config.beta**counts)
    return Plan(_ones(counts), _with_mean_one(weights, counts))


def oversampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Images are repeated until each class has `ratio` of the images of the largest class.

    No image is left out, so that the repeated images make an epoch longer. Published
    recipes copy the table rows of minority classes instead, with the same effect. Unlike
    files that are copied before the split, repeated images never leave the training split.
    """
    minimum = np.ceil(config.ratio * counts.max()).astype(np.int64)
    return Plan(_ones(counts), epoch_counts=np.maximum(counts, minimum))


def weights_and_sampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Combines `class_weights` with `balanced_sampling`, to reproduce published recipes.

    Do not use it otherwise: the sampled images are already balanced, so that the class
    weights, with a mean of 1 over the sampled images, reverse the imbalance.
    """
    sampling = _with_mean_one(1 / counts, counts)
    return Plan(
        _power_weights(counts, sampling * counts, config),
        sampling_weights=sampling,
        allow_double=True,
    )


STRATEGIES: dict[str, Callable[[Counts, ImbalanceConfig], Plan]] = {
    "none": none,
    "class_weights": class_weights,
    "effective_number_weights": effective_number_weights,
    "logit_adjusted": logit_adjusted,
    "focal": focal,
    "class_balanced_focal": class_balanced_focal,
    "ldam": ldam,
    "balanced_sampling": balanced_sampling,
    "square_root_sampling": square_root_sampling,
    "effective_number_sampling": effective_number_sampling,
    "oversampling": oversampling,
    "weights_and_sampling": weights_and_sampling,
}
"""Each takes the number of training images of each class and its options."""


def _ones(counts: Counts) -> npt.NDArray[np.float32]:
    return np.ones(len(counts), np.float32)


def _power_weights(
    counts: Counts, drawn: npt.NDArray[Any], config: ImbalanceConfig
) -> npt.NDArray[np.float32]:
    weights = counts.astype(np.float64) ** -config.power
    return _with_mean_one(weights, drawn).astype(np.float32)


def _effective_number_weights(
    counts: Counts, config: ImbalanceConfig
) -> npt.NDArray[np.float32]:
    weights = (1 - config.beta) / (1 - config.beta**counts)
    return _with_mean_one(weights, counts).astype(np.float32)


def _with_mean_one(
    weights: npt.NDArray[np.floating[Any]], counts: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Returns `weights`, scaled to a mean of 1 over the images."""
    return np.asarray(weights * counts.sum() / (weights @ counts))
