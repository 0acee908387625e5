"""Bootstrap resamples of groups of images, and the values of metrics on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.metrics.classification import MetricFunction
from skincnn.metrics.sample import Flags, Floats, Labels, Sample, Scores

Counts = npt.NDArray[np.intp]
Resamples = npt.NDArray[np.uint8]
Returned = TypeVar("Returned")
BLOCK_CELLS = 50_000
"""Approximate number of weights in a block of resamples, so that it fits the CPU cache."""
UNDEFINED = "not defined"
"""Shown for an undefined score, such as the recall of a class without images."""
NO_INTERVAL = "no interval"
"""Shown instead of an interval that cannot be computed."""
MIN_ROWS = 16
"""Minimum number of resamples in a block. Metrics sort all images once per block."""


@dataclass(frozen=True)
class Estimate:
    """A score with its confidence interval.

    `value` is None if the score is undefined, for example that of a class without images.
    `low` and `high` are None if the score is undefined on the full sample or in more than
    half of the resamples, if it is estimated from too few groups, or if no valid interval
    is known (`Metric.has_interval`). See also `skincnn.metrics.intervals.estimate`.

    >>> print(Estimate(0.6366, 0.5481, 0.7272))
    0.637 [0.548, 0.727]
    >>> f"{Estimate(0.0431, 0.012, 0.0713):+.2f}"
    '+0.04 [+0.01, +0.07]'
    """

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        """Returns the score with its interval, or `UNDEFINED`.

        `spec` is the format of each number, ".3f" by default.
        """
        if self.value is None:
            return UNDEFINED
        return f"{self.value:{spec or '.3f'}} [{self.ends(spec)}]"

    def ends(self, spec: str = "") -> str:
        """Returns the ends of the interval, such as "0.548, 0.727", or `NO_INTERVAL`."""
        if self.low is None or self.high is None:
            return NO_INTERVAL
        return f"{self.low:{spec or '.3f'}}, {self.high:{spec or '.3f'}}"


class Weights:
    """The number of times each image occurs in each resample.

    `weights @ values` is computed block by block, so that the whole array is never
    converted to floats.

    Attributes:
        counts: The numbers, uint8 [num_resamples, num_images].
    """

    def __init__(self, counts: Resamples) -> None:
        self.counts = counts

    def __len__(self) -> int:
        return len(self.counts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Returns the counts as an array."""
        return np.array(self.counts, dtype, copy=copy)

    def __matmul__(self, values: npt.NDArray[Any]) -> Scores:
        """Returns `counts @ values`, [num_resamples] or [num_resamples, num_columns].

        `values` are [num_images] or [num_images, num_columns].
        """
        return np.concatenate(map_blocks(lambda _, block: block @ values, self))

    def sum(self, axis: int) -> Scores:
        """Returns, for `axis` 1, the number of images in each resample, [num_resamples]."""
        return self.counts.sum(axis=axis, dtype=np.float64)


def bootstrap_weights(
    image_ids: npt.ArrayLike, group_ids: npt.ArrayLike, num_resamples: int, seed: int = 0
) -> Resamples:
    """Returns the number of times each image occurs in each resample.

    Images of one group (a patient, or a lesion with its near-duplicates) are not
    independent. Therefore, groups are drawn instead of images: n of the n groups, with
    replacement. A resample contains all images of each drawn group. The draws do not depend
    on the order of the images.

    Args:
        image_ids: ID of each image, [num_images], without duplicates.
        group_ids: ID of the group of each image, [num_images].
        num_resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        uint8 [num_resamples, num_images].
    """
    order = np.argsort(np.asarray(image_ids, str))
    codes = pd.factorize(np.asarray(group_ids, str)[order])[0][np.argsort(order)]
    num_groups = codes.max() + 1
    rng = np.random.default_rng(seed)
    uniform = np.full(num_groups, 1 / num_groups)
    weights = np.empty((num_resamples, len(codes)), np.uint8)
    for rows in _split(*weights.shape):
        # It is practically impossible to draw one group more than 255 times.
        counts = rng.multinomial(num_groups, uniform, size=len(weights[rows]))
        weights[rows] = counts.astype(np.uint8)[:, codes]
    return weights


def map_blocks(
    function: Callable[[slice, Scores], Returned], weights: npt.ArrayLike
) -> list[Returned]:
    """Calls a function for each block of resamples, and returns the results in order.

    The blocks are processed in parallel on all CPU cores. The arguments of the function are
    a slice of the rows of `weights` [num_resamples, num_images], and these rows as floats.
    """
    weights = np.asarray(weights)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [
            *pool.map(
                lambda rows: function(rows, weights[rows].astype(np.float64)),
                _split(*weights.shape),
            )
        ]


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
    """Returns, by name, the values of each metric: on all images, then on each resample.

    Each array is [1 + num_resamples], or [1 + num_resamples, num_values] for a metric with
    several values, such as one for each class.

    Args:
        functions: Metrics by name.
        y_true: Integer labels, [num_images].
        y_prob: Probabilities, [num_images, num_classes].
        weights: The resamples from `bootstrap_weights`, [num_resamples, num_images].

    Raises:
        ConfigError: A custom metric fails or returns a wrong shape; see
            `skincnn.metrics.classification.find_metric`.
    """

    def score(_: slice, block: Scores) -> list[Scores]:
        sample = Sample(y_true, y_prob, block)
        return [function(sample) for function in functions.values()]

    on_all = score(slice(1), np.ones((1, len(y_true))))
    parts = zip(on_all, *map_blocks(score, weights), strict=True)
    return dict(zip(functions, map(np.concatenate, parts), strict=True))


def count_groups(group_ids: Sequence[str], masks: Flags) -> Counts:
    """Returns, for each mask, the number of groups with an image in the mask, [num_masks].

    The masks are [num_images, num_masks].
    """
    codes = pd.factorize(np.asarray(group_ids))[0]
    return np.array([np.count_nonzero(np.bincount(codes[mask])) for mask in masks.T])
