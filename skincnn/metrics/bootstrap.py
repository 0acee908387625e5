"""Confidence intervals by a bootstrap over groups of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.metrics.classification import MetricFunction
from skincnn.metrics.sample import Flags, Floats, Labels, Sample, Scores

Counts = npt.NDArray[np.intp]
BLOCK_CELLS = 50_000
"""Approximate number of weights in a block of resamples, to fit the CPU cache."""


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


def bootstrap_weights(
    image_ids: npt.ArrayLike, group_ids: npt.ArrayLike, num_resamples: int, seed: int = 0
) -> Scores:
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
    counts = rng.multinomial(num_groups, uniform, size=num_resamples)
    return counts[:, codes].astype(float)


def bootstrap(
    functions: Mapping[str, MetricFunction], y_true: Labels, y_prob: Floats, weights: Floats
) -> dict[str, Scores]:
    """Returns the values of each metric, first on all images, then on each resample.

    The arrays, by name, are [1 + num_resamples] or [1 + num_resamples, num_classes].

    Args:
        functions: Metrics by name.
        y_true: Integer labels, [num_images].
        y_prob: Probabilities, [num_images, num_classes].
        weights: The resamples from `bootstrap_weights`, [num_resamples, num_images].
    """
    num_blocks = min(max(1, weights.size // BLOCK_CELLS), len(weights))
    blocks = [np.ones((1, len(y_true))), *np.array_split(weights, num_blocks)]
    values: dict[str, list[Scores]] = {name: [] for name in functions}
    for block in blocks:
        sample = Sample(y_true, y_prob, block)
        for name, function in functions.items():
            values[name].append(function(sample))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def count_groups(group_ids: Sequence[str], masks: Flags) -> Counts:
    """Returns, for each mask, the number of groups with an image in the mask, [num_masks].

    The masks are [num_images, num_masks].
    """
    groups = np.asarray(group_ids)
    return np.array([len(np.unique(groups[mask])) for mask in masks.T])
