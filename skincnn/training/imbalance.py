"""What training does about unequal classes: a strategy returns a `Plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from skincnn.config import ImbalanceConfig

Counts = npt.NDArray[np.int64]
"""The number of training pictures of each class, all at least 1, [num_classes]."""


@dataclass(frozen=True)
class Plan:
    """What `training.fitting` applies; it knows no strategy's name.

    Of the sampling weights the mean over the training pictures is 1, and of the class
    weights the mean over the pictures of an epoch, so that learning rates keep their
    meaning.

    Attributes:
        class_weights: The weight of each class in the loss, [num_classes].
        sampling_weights: How often, on average, a picture of each class is drawn in an
            epoch, [num_classes]; None for each picture once.
        epoch_counts: How many pictures of each class an epoch holds, [num_classes], at
            least as many as there are; None for as many.
        logit_shift: What the loss adds to the logits, [num_classes]; None for nothing.
        loss: Name of `losses.LOSSES`.
        loss_arguments: What that loss takes besides weights, shift and label smoothing.
        deferred: Share of the epochs that train all layers after which the class weights
            begin to count; 0 from the start.
        doubled: Whether balancing by the loss and by sampling at once is meant.
    """

    class_weights: npt.NDArray[np.float32]
    sampling_weights: npt.NDArray[np.float64] | None = None
    epoch_counts: Counts | None = None
    logit_shift: npt.NDArray[np.float32] | None = None
    loss: str = "cross_entropy"
    loss_arguments: Mapping[str, Any] = field(default_factory=dict)
    drw_start: float = 0.0
    doubled: bool = False

    def __post_init__(self) -> None:
        """Checks that classes are balanced once.

        Raises:
            ValueError: They are balanced by the loss and by sampling, which overshoots,
                and `doubled` does not say that this is meant; or they are sampled twice.
        """
        by_loss = (self.class_weights != 1).any() or self.logit_shift is not None
        by_sampling = [
            name
            for name in ("sampling_weights", "epoch_counts")
            if getattr(self, name) is not None
        ]
        if len(by_sampling) > 1:
            raise ValueError(
                "A plan has `sampling_weights` or `epoch_counts`. Received: both."
            )
        if by_loss and by_sampling and not self.doubled:
            raise ValueError(
                "A plan balances the classes by the loss (`class_weights`, `logit_shift`) "
                f"or by sampling. Received: both, with `{by_sampling[0]}`. A strategy that "
                "means it has a name that says so, and sets `doubled`."
            )

    def reweighting_epoch(self, epochs: int) -> int:
        """Returns the first of `epochs`, counted from 0, in which class weights count."""
        return round(self.drw_start * epochs)


def none(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Every class weighs 1."""
    return Plan(_ones(counts))


def class_weights(counts: Counts, config: ImbalanceConfig) -> Plan:
    """A class with n pictures weighs in proportion to n ** -power.

    Power 1 gives each class the same total weight, 1/2 the square-root rule, 0 none.
    """
    return Plan(_power_weights(counts, counts, config))


def effective_number_weights(counts: Counts, config: ImbalanceConfig) -> Plan:
    """A class with n pictures weighs in proportion to (1 - beta) / (1 - beta ** n).

    Its inverse is the effective number of pictures: 1 for each class with beta 0, n as
    beta nears 1.

    References:
        Cui et al., Class-Balanced Loss Based on Effective Number of Samples (2019),
        arXiv:1901.05555.
    """
    return Plan(_effective_number_weights(counts, config))


def logit_adjusted(counts: Counts, config: ImbalanceConfig) -> Plan:
    """The loss adds power * log(share of the class) to the logits.

    The network then learns log-odds that are balanced by themselves: with power 1, the
    largest logit minimises the balanced error. Rare classes are not weighed more, which
    would follow single pictures.

    References:
        Menon et al., Long-tail Learning via Logit Adjustment (2021), arXiv:2007.07314.
    """
    shift = config.power * np.log(counts / counts.sum())
    return Plan(_ones(counts), logit_shift=shift.astype(np.float32))


def focal(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Pictures that are predicted well weigh less, whatever their class.

    References:
        Lin et al., Focal Loss for Dense Object Detection (2017), arXiv:1708.02002.
    """
    arguments = {"gamma": config.gamma}
    return Plan(_ones(counts), loss="focal", loss_arguments=arguments)


def class_balanced_focal(counts: Counts, config: ImbalanceConfig) -> Plan:
    """`focal` with the weights of `effective_number_weights`, as Cui et al. have it."""
    weights = _effective_number_weights(counts, config)
    return Plan(weights, loss="focal", loss_arguments={"gamma": config.gamma})


def ldam(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Rare classes must win by a wider margin, and weigh more towards the end.

    The margin of a class with n pictures is in proportion to n ** -1/4; the weights, those
    of `effective_number_weights`, count from the share `deferred` of the epochs on.

    The paper also makes the head's features and weights unit vectors and multiplies their
    products by 30. Here the head stays linear, and `margin` is in units of its logits.
    With such a head, s * cosine being its logits, the paper's loss is this one with s
    times the paper's margin.

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
    """A class with n pictures is drawn in proportion to the square root of n.

    References:
        Mahajan et al., Exploring the Limits of Weakly Supervised Pretraining (2018),
        arXiv:1805.00932.
    """
    return Plan(_ones(counts), _with_mean_one(counts**-0.5, counts))


def effective_number_sampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """A picture is drawn in proportion to the weight of `effective_number_weights`.

    So beta 0 draws all pictures alike, and beta near 1 all classes.
    """
    weights = (1 - config.beta) / (1 - config.beta**counts)
    return Plan(_ones(counts), _with_mean_one(weights, counts))


def oversampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """Pictures are replicated until each class has `ratio` of the largest class's.

    No picture is left out for it, so an epoch is longer by the replicas: what published
    recipes do who copy the rows of minority classes in their table. Unlike copies of files
    made before the split, these never leave the training set.
    """
    wanted = np.ceil(config.ratio * counts.max()).astype(np.int64)
    return Plan(_ones(counts), epoch_counts=np.maximum(counts, wanted))


def weights_and_sampling(counts: Counts, config: ImbalanceConfig) -> Plan:
    """`class_weights` and `balanced_sampling` at once: a mistake of published recipes.

    Here to repeat them. What is drawn is balanced already; the weights, of which the mean
    over what is drawn is 1, then turn the imbalance around.
    """
    sampling = _with_mean_one(1 / counts, counts)
    return Plan(
        _power_weights(counts, sampling * counts, config),
        sampling_weights=sampling,
        doubled=True,
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
"""Each takes the number of training pictures of each class, all at least 1."""


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
    """Returns `weights`, scaled so that their mean over the pictures is 1."""
    return np.asarray(weights * counts.sum() / (weights @ counts))
