"""Which pictures an epoch is made of, and in which order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def steps_per_epoch(
    num_images: int, batch_size: int, epoch_counts: Counts | None = None
) -> int:
    """Returns the number of batches that `epoch_batches` makes, the same in each epoch."""
    size = num_images if epoch_counts is None else int(epoch_counts.sum())
    return size // batch_size


def epoch_batches(
    labels: npt.NDArray[np.int64],
    batch_size: int,
    seed: int,
    epoch: int,
    sampling_weights: npt.NDArray[np.float64] | None = None,
    epoch_counts: Counts | None = None,
) -> npt.NDArray[np.int64]:
    """Returns the positions of the pictures of an epoch: [steps_per_epoch, batch].

    They depend on the arguments alone, so that a training can begin at any epoch. Without
    weights and counts an epoch is a shuffle of the whole set, and the pictures that do not
    fill a last batch are left out, others in each epoch. With weights each position is
    drawn by itself, with replacement. With counts an epoch is a shuffle of the whole set
    and of replicas: of a class, each picture stands in it equally often, or once more.

    Args:
        labels: The class of each picture, [num_images].
        batch_size: At most `num_images`.
        seed: The seed of the run.
        epoch: Counted from 0 over the whole run.
        sampling_weights: How likely a picture of each class is drawn, relative to those
            of the other classes, [num_classes]; see `imbalance.Plan`.
        epoch_counts: How many pictures of each class an epoch holds, [num_classes], 0 only
            for a class without pictures; see `imbalance.Plan`. Not with weights.
    """
    rng = np.random.default_rng([seed, epoch])
    steps = steps_per_epoch(len(labels), batch_size, epoch_counts)
    count = steps * batch_size
    if epoch_counts is not None:
        positions = rng.permutation(_replicated(labels, epoch_counts, rng))[:count]
    elif sampling_weights is None:
        positions = rng.permutation(len(labels))[:count]
    else:
        weights = sampling_weights[labels]
        positions = rng.choice(len(labels), count, p=weights / weights.sum())
    return positions.reshape(steps, batch_size)


def _replicated(
    labels: npt.NDArray[np.int64], epoch_counts: Counts, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Returns positions of which each class has as many as `epoch_counts` says."""
    positions = []
    for label, wanted in enumerate(epoch_counts):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        positions.append(np.resize(of_class, wanted))
    return np.concatenate(positions)
