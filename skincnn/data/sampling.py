"""Selection and order of the images in each epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
"""Number of images of each class, [num_classes]."""


def steps_per_epoch(
    num_images: int, batch_size: int, epoch_counts: Counts | None = None
) -> int:
    """Returns the number of batches per epoch; see `epoch_batches`."""
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
    """Returns the image indices of one epoch.

    The result does not depend on earlier epochs, so training can resume at any epoch.

    By default, an epoch is a random permutation of all images. With `sampling_weights`,
    each index is drawn independently with replacement. With `epoch_counts`, each class has
    the given number of images, in random order; its images occur equally often, up to a
    difference of one. Of these images, those that do not fill the last batch are then
    dropped (with `sampling_weights`, they are not drawn), so that an epoch consists of full
    batches. The dropped images differ between epochs.

    Args:
        labels: The class of each image, [num_images].
        batch_size: Number of images in a batch, at most the number of images in an epoch.
        seed: The seed of the run.
        epoch: The epoch number, counted from 0 over the whole run.
        sampling_weights: The relative probability of drawing an image, by its class,
            [num_classes]; see `skincnn.training.imbalance.Plan`.
        epoch_counts: The number of images of each class in an epoch, [num_classes]; see
            `skincnn.training.imbalance.Plan`. It must be 0 for a class without images, and
            cannot be combined with `sampling_weights`.

    Returns:
        int64 [steps_per_epoch, batch_size], indices in 0..num_images - 1.
    """
    rng = np.random.default_rng([seed, epoch])
    steps = steps_per_epoch(len(labels), batch_size, epoch_counts)
    count = steps * batch_size
    if epoch_counts is not None:
        indices = rng.permutation(_replicate(labels, epoch_counts, rng))[:count]
    elif sampling_weights is None:
        indices = rng.permutation(len(labels))[:count]
    else:
        weights = sampling_weights[labels]
        indices = rng.choice(len(labels), count, p=weights / weights.sum())
    return indices.reshape(steps, batch_size)


def _replicate(
    labels: npt.NDArray[np.int64], epoch_counts: Counts, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Returns image indices: `epoch_counts[label]` indices for each class."""
    indices = []
    for label, count in enumerate(epoch_counts):
        class_indices = rng.permutation(np.flatnonzero(labels == label))
        indices.append(np.resize(class_indices, count))
    return np.concatenate(indices)
