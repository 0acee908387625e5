"""Confidence intervals by a bootstrap over groups of images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.metrics.classification import MetricFunction
from skincnn.metrics.sample import Flags, Floats, Labels, Sample, Scores

Counts = npt.NDArray[np.intp]
Resamples = npt.NDArray[np.uint8]
BLOCK_CELLS = 50_000
"""Approximate number of weights in a block of resamples, to fit the CPU cache."""
MIN_ROWS = 16
"""Minimum number of resamples in a block: metrics sort all images once for each block."""


@dataclass(frozen=True)
class Estimate:
    """A score with its confidence interval.

    `value` is None if the score is undefined, for example that of a class without images.
    `low` and `high` are None if the score is undefined on the full sample or in more than
    half of the resamples, or if it is estimated from fewer than two groups.
    """

    value: float | None
    low: float | None
    high: float | None


class Weights:
    """How often each image occurs in each resample, without large arrays of floats.

    Attributes:
        counts: The numbers, uint8 [num_resamples, num_images].
    """

    def __init__(self, counts: Resamples) -> None:
        self.counts = counts

    def __len__(self) -> int:
        return len(self.counts)

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> Any:
        """Returns the counts as an array."""
        return np.array(self.counts, dtype, copy=copy)

    def __matmul__(self, values: npt.NDArray[Any]) -> Scores:
        """Returns the sums of values [num_images, ...], [num_resamples, ...]."""
        return np.concatenate([block @ values for block in blocks(self.counts)])

    def sum(self, axis: int) -> Scores:
        """Returns the numbers of images of the resamples (`axis` 1), [num_resamples]."""
        return self.counts.sum(axis=axis, dtype=np.float64)


def bootstrap_weights(
    image_ids: npt.ArrayLike, group_ids: npt.ArrayLike, num_resamples: int, seed: int = 0
) -> Resamples:
    """Returns how often each image occurs in each resample, [num_resamples, num_images].

    Images of one group (a lesion with its near-duplicates) are not independent. Therefore,
    a resample draws as many groups as `group_ids` [num_images] contains, with replacement,
    and includes all images of each drawn group. The draws do not depend on the order of the
    images. The `image_ids` [num_images] must be unique.
    """
    order = np.argsort(np.asarray(image_ids, str))
    codes = pd.factorize(np.asarray(group_ids, str)[order])[0][np.argsort(order)]
    num_groups = codes.max() + 1
    rng = np.random.default_rng(seed)
    uniform = np.full(num_groups, 1 / num_groups)
    weights = np.empty((num_resamples, len(codes)), np.uint8)
    for rows in _split(*weights.shape):
        # More than 255 draws of one of many groups are as good as impossible.
        counts = rng.multinomial(num_groups, uniform, size=len(weights[rows]))
        weights[rows] = counts.astype(np.uint8)[:, codes]
    return weights


def blocks(weights: npt.ArrayLike) -> Iterator[Scores]:
    """Yields the rows of weights [num_resamples, num_images] in blocks of floats."""
    weights = np.asarray(weights)
    for rows in _split(*weights.shape):
        yield weights[rows].astype(np.float64)


def _split(num_resamples: int, num_images: int) -> Iterator[slice]:
    """Yields the rows of each block of resamples."""
    size = max(MIN_ROWS, BLOCK_CELLS // num_images)
    for start in range(0, num_resamples, size):
        yield slice(start, start + size)


def bootstrap(
    functions: Mapping[str, MetricFunction],
    y_true: Labels,
    y_prob: Floats,
    weights: npt.ArrayLike,
) -> dict[str, Scores]:
    """Returns the values of each metric, first on all images, then on each resample.

    The arrays, by name, are [1 + num_resamples] or [1 + num_resamples, num_classes].

    Args:
        functions: Metrics by name.
        y_true: Integer labels, [num_images].
        y_prob: Probabilities, [num_images, num_classes].
        weights: The resamples from `bootstrap_weights`, [num_resamples, num_images].
    """
    values: dict[str, list[Scores]] = {name: [] for name in functions}
    for block in itertools.chain([np.ones((1, len(y_true)))], blocks(weights)):
        sample = Sample(y_true, y_prob, block)
        for name, function in functions.items():
            values[name].append(function(sample))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def count_groups(group_ids: Sequence[str], masks: Flags) -> Counts:
    """Returns, for each mask, the number of groups with an image in the mask, [num_masks].

    The masks are [num_images, num_masks].
    """
    codes = pd.factorize(np.asarray(group_ids))[0]
    return np.array([np.count_nonzero(np.bincount(codes[mask])) for mask in masks.T])
