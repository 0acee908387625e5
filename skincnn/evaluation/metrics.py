"""Scores from labels and probabilities, one function each.

Every function takes

- `y_true`: integer labels [num_images], in 0..num_classes-1,
- `y_prob`: probabilities [num_images, num_classes]; the prediction is the largest (the
  first of equal ones),
- `weights`: how often each picture counts, [num_images] or [resamples, num_images]; once
  by default,

and returns values in 0..1 of shape [] or [resamples]. The bootstrap of `intervals` needs
nothing else than the second form of `weights`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]


def confusion_matrix(
    y_true: Labels, y_prob: Floats, weights: Floats | None = None
) -> npt.NDArray[np.float64]:
    """Returns how often class i (row) was predicted as class j (column).

    Returns:
        [num_classes, num_classes], or [resamples, num_classes, num_classes].
    """
    num_images, num_classes = y_prob.shape
    if weights is None:
        weights = np.ones(num_images)
    cells = np.asarray(y_true) * num_classes + y_prob.argmax(axis=1)
    indicator = cells[:, None] == np.arange(num_classes**2)
    counts = weights @ indicator.astype(np.float64)
    return counts.reshape(*weights.shape[:-1], num_classes, num_classes)


def recall_per_class(
    y_true: Labels, y_prob: Floats, weights: Floats | None = None
) -> npt.NDArray[np.float64]:
    """Returns the share of each class that is found (its sensitivity).

    Returns:
        [..., num_classes]; NaN for a class without a picture.
    """
    confusion = confusion_matrix(y_true, y_prob, weights)
    return _divide(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1))


def balanced_accuracy(
    y_true: Labels, y_prob: Floats, weights: Floats | None = None
) -> npt.NDArray[np.float64]:
    """Returns the mean recall of the classes that have pictures, the ISIC 2018 score.

    As `sklearn.metrics.balanced_accuracy_score`.
    """
    return np.asarray(np.nanmean(recall_per_class(y_true, y_prob, weights), axis=-1))


def macro_f1(
    y_true: Labels, y_prob: Floats, weights: Floats | None = None
) -> npt.NDArray[np.float64]:
    """Returns the mean F1 = 2 TP / (2 TP + FP + FN) of the classes.

    The mean is over the classes that have pictures or are predicted, as in
    `sklearn.metrics.f1_score(average="macro")`.
    """
    confusion = confusion_matrix(y_true, y_prob, weights)
    found = np.diagonal(confusion, axis1=-2, axis2=-1)
    f1 = _divide(2 * found, confusion.sum(axis=-1) + confusion.sum(axis=-2))
    return np.asarray(np.nanmean(f1, axis=-1))


def accuracy(
    y_true: Labels, y_prob: Floats, weights: Floats | None = None
) -> npt.NDArray[np.float64]:
    """Returns the share of pictures that are classified correctly."""
    confusion = confusion_matrix(y_true, y_prob, weights)
    found = np.trace(confusion, axis1=-2, axis2=-1)
    return np.asarray(_divide(found, confusion.sum(axis=(-2, -1))))


METRICS: dict[str, Callable[..., npt.NDArray[np.float64]]] = {
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "accuracy": accuracy,
}
"""Larger is better for all."""


def _divide(numerator: Floats, denominator: Floats) -> npt.NDArray[np.float64]:
    """Returns the quotient, NaN where the denominator is 0."""
    quotient = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator > 0)
