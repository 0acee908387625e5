"""Which pictures an epoch is made of, and in which order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def epoch_batches(
    labels: npt.NDArray[np.int64],
    batch_size: int,
    seed: int,
    epoch: int,
    sampling_weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.int64]:
    """Returns the positions of the pictures of an epoch: [num_images // batch_size, batch].

    They depend on the arguments alone, so that a training can begin at any epoch. Without
    weights an epoch is a shuffle of the whole set, and the pictures that do not fill a last
    batch are left out, others in each epoch. With weights each position is drawn
    by itself, with replacement.

    Args:
        labels: The class of each picture, [num_images].
        batch_size: At most `num_images`.
        seed: The seed of the run.
        epoch: Counted from 0 over the whole run.
        sampling_weights: How likely a picture of each class is drawn, relative to those
            of the other classes, [num_classes]; see `imbalance.Plan`.
    """
    rng = np.random.default_rng([seed, epoch])
    count = len(labels) // batch_size * batch_size
    if sampling_weights is None:
        positions = rng.permutation(len(labels))[:count]
    else:
        weights = sampling_weights[labels]
        positions = rng.choice(len(labels), count, p=weights / weights.sum())
    return positions.reshape(-1, batch_size)
