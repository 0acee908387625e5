"""Strategies against class imbalance: each returns a `Plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from skincnn.config import ImbalanceConfig
from skincnn.errors import ConfigError
from skincnn.parts import find_part

Counts = npt.NDArray[np.int64]
"""Number of training images of each class, [num_classes], each at least 1."""


@dataclass(frozen=True)
class Plan:
    """The loss, the class weights and the sampling of an imbalance strategy.

    Sampling weights have a mean of 1 over the training images. Class weights have a mean of
    1 over the images of an epoch, and therefore do not change the scale of the loss.

    Attributes:
        class_weights: Weight of each class in the loss, [num_classes].
        sampling_weights: Expected number of times that a single image of each class is
            drawn in an epoch, [num_classes]; None for no weighted sampling.
        epoch_counts: Number of images of each class in an epoch, [num_classes], at least
            the number of training images of the class; None for no oversampling.
        logit_shift: Values added to the logits in the loss, [num_classes]; None for no
            shift.
        loss: Name of the loss in `skincnn.training.losses.LOSSES`, or of a custom loss.
        loss_arguments: Arguments that only this loss has, such as `gamma`.
        drw_start: Fraction of the epochs of the last stage after which class weights apply
            (deferred re-weighting, DRW); 0 to apply class weights from the start.
        allow_double: Whether the loss and the sampling may both balance the classes.

    Raises:
        ValueError: `sampling_weights` and `epoch_counts` are both given; or the loss and
            the sampling both balance the classes, but `allow_double` is False.
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
        """Checks that the classes are not balanced twice, which would overcompensate."""
        by_loss = (self.class_weights != 1).any() or self.logit_shift is not None
        by_sampling = [
            name
            for name in ("sampling_weights", "epoch_counts")
            if getattr(self, name) is not None
        ]
        if len(by_sampling) > 1:
            raise ValueError(
                "Set either `sampling_weights` or `epoch_counts`. Received: both."
            )
        if by_loss and by_sampling and not self.allow_double:
            raise ValueError(
                "A plan must balance the classes either by the loss (`class_weights`, "
                "`logit_shift`) or by sampling. Received: both, with "
                f"`{by_sampling[0]}`. Set `allow_double` to True if this is intended."
            )


def none(counts: Counts, config: ImbalanceConfig) -> Plan:
    """All classes have weight 1."""
    return Plan(_ones(counts))


def class_weights(counts: Counts, config: ImbalanceConfig) -> Plan:
    """The weight of a class with n images is proportional to n ** -power.

    Power 1 gives all classes the same total weight, power 1/2 is the square-root rule, and
    power 0 gives all images the same weight.
    """
    return Plan(_power_weights(counts, counts, config))


def effective_number_weights(counts: Counts, config: ImbalanceConfig) -> Plan:
    """The weight of a class with n images is proportional to (1 - beta) / (1 - beta ** n).

    This is the inverse of the effective number of images, which is 1 for beta 0 and
    approaches n as beta approaches 1.

    References:
        Cui et al., Class-Balanced Loss Based on Effective Number of Samples (2019),
        arXiv:1901.05555.
    """
    return Plan(_effective_number_weights(counts, config))


def logit_adjusted(counts: Counts, config: ImbalanceConfig) -> Plan:
    """The loss adds power * log(class frequency) to the logits.

    The logits of the model, without this shift, are then balanced: with power 1, their
    argmax minimizes the balanced error. The shift requires the logit of a rare class to
    exceed that of a common class by a larger margin than the other way round.

    References:
        Menon et al., Long-tail Learning via Logit Adjustment (2021), arXiv:2007.07314.
    """
    shift = config.power * np.log(counts / counts.sum())
    return Plan(_ones(counts), logit_shift=shift.astype(np.float32))


def focal(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Images with a high probability for the true class have a lower weight.

    References:
        Lin et al., Focal Loss for Dense Object Detection (2017), arXiv:1708.02002.
    """
    arguments = {"gamma": config.gamma}
    return Plan(_ones(counts), loss="focal", loss_arguments=arguments)


def class_balanced_focal(counts: Counts, config: ImbalanceConfig) -> Plan:
    """`focal` with the weights of `effective_number_weights`, as in Cui et al. (2019)."""
    weights = _effective_number_weights(counts, config)
    return Plan(weights, loss="focal", loss_arguments={"gamma": config.gamma})


def ldam(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Rare classes have a larger margin and, late in training, a higher weight (DRW).

    The margin of a class with n images is proportional to n ** (-1/4). The weights of
    `effective_number_weights` apply after a fraction `drw_start` of the epochs of the last
    stage.

    In the paper, the logits are s = 30 times the cosine between the features and the
    weights of the head. Here the head is linear, and `margin` is in units of the logits:
    a margin of m in the paper corresponds to a `margin` of s * m.

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
    """All classes are drawn equally often."""
    return Plan(_ones(counts), _with_mean_one(1 / counts, counts))


def square_root_sampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """A class with n images is drawn in proportion to the square root of n.

    References:
        Mahajan et al., Exploring the Limits of Weakly Supervised Pretraining (2018),
        arXiv:1805.00932.
    """
    return Plan(_ones(counts), _with_mean_one(counts**-0.5, counts))


def effective_number_sampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """An image is drawn in proportion to its weight in `effective_number_weights`.

    With beta 0, all images are drawn equally often. As beta approaches 1, all classes are
    drawn equally often.
    """
    weights = (1 - config.beta) / (1 - config.beta**counts)
    return Plan(_ones(counts), _with_mean_one(weights, counts))


def oversampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Images are repeated so that no class is smaller than `ratio` times the largest class.

    With `factors`, each image occurs as often as the factor of its class. No class is
    reduced, so that the repeated images make an epoch longer. Copying the table rows of
    minority classes, as in published recipes, has the same effect. Unlike copies made
    before the split, the repeated images never leave the training split.

    Raises:
        ConfigError: The number of `factors` is not the number of classes.
    """
    if config.factors:
        if len(config.factors) != len(counts):
            raise ConfigError(
                "`imbalance.factors` must have one factor for each of the "
                f"{len(counts)} classes. Received: {config.factors}."
            )
        return Plan(_ones(counts), epoch_counts=counts * np.array(config.factors))
    minimum = np.ceil(config.ratio * counts.max()).astype(np.int64)
    return Plan(_ones(counts), epoch_counts=np.maximum(counts, minimum))


def weights_and_sampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Combines `class_weights` with `balanced_sampling`, to reproduce published recipes.

    Do not use this strategy otherwise: the sampled images are already balanced, so that
    positive values of `power` reverse the imbalance. The class weights have a mean of 1
    over the sampled images.
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
"""Each strategy takes the number of training images of each class and the options."""


def find_strategy(name: str) -> Callable[[Counts, ImbalanceConfig], Plan]:
    """Returns the strategy with this name in `STRATEGIES`, or a custom strategy.

    Raises:
        ConfigError: See `skincnn.parts.find_part`.
    """
    return find_part(STRATEGIES, name, "`imbalance.strategy`", ("counts", "config"), Plan)


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
    """Returns `weights`, scaled to a mean of 1 over `counts` images of each class."""
    return np.asarray(weights * counts.sum() / (weights @ counts))
