"""Confidence intervals by a bootstrap over lesions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.floating[Any]]


def lesion_weights(
    lesion_ids: Sequence[str], resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Returns how often each picture counts in each resample of the lesions.

    A resample draws as many lesions as there are, with replacement, and takes all
    pictures of each: pictures of a lesion are not independent of each other.

    Returns:
        [resamples, num_images], whole numbers.
    """
    codes, lesions = pd.factorize(np.asarray(lesion_ids))
    rng = np.random.default_rng(seed)
    chances = np.full(len(lesions), 1 / len(lesions))
    return rng.multinomial(len(lesions), chances, size=resamples)[:, codes].astype(float)


def bootstrap_interval(
    metric: Callable[..., Floats],
    y_true: npt.NDArray[np.integer[Any]],
    y_prob: Floats,
    weights: Floats,
    confidence: float = 0.95,
) -> tuple[Floats, Floats]:
    """Returns the lower and upper end of the percentile interval of a metric.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. A resample
    in which a class has no picture is left out of that class's interval; a mean over
    classes then is one over the others, which lifts its upper end if the class is weak.

    Args:
        metric: A function of `metrics`, called as `metric(y_true, y_prob, weights)`.
        y_true: Integer labels [num_images].
        y_prob: Probabilities [num_images, num_classes].
        weights: From `lesion_weights`, [resamples, num_images].
        confidence: Coverage, between 0 and 1.
    """
    values = metric(y_true, y_prob, weights)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, (tail, 1 - tail), axis=0)
    return low, high
