"""The labels, probabilities and weights from which every metric is computed."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

Labels = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]
Scores = npt.NDArray[np.float64]


class Sample:
    """Labels, probabilities and weights of a set of images.

    Properties that several metrics use are computed once and cached. In the shapes of the
    results, `...` stands for num_resamples if `weights` has this dimension, and for no
    dimension otherwise.

    Attributes:
        y_true: Integer labels [num_images], in 0..num_classes-1.
        y_prob: Probabilities [num_images, num_classes]. The predicted class is the most
            probable class, or the first of several equally probable classes.
        weights: Number of times each image occurs, [num_images] or
            [num_resamples, num_images]; 1 by default.
    """

    def __init__(self, y_true: Labels, y_prob: Floats, weights: Floats | None = None):
        self.y_true, self.y_prob = np.asarray(y_true), np.asarray(y_prob)
        ones = np.ones(len(self.y_true))
        self.weights = ones if weights is None else np.asarray(weights, np.float64)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.y_prob.shape[1]

    @functools.cached_property
    def y_pred(self) -> npt.NDArray[np.intp]:
        """Predicted labels, [num_images]."""
        return self.y_prob.argmax(axis=1)

    @functools.cached_property
    def counts(self) -> Scores:
        """Number of images of each class, [..., num_classes]."""
        return self.sums(self.y_true, self.num_classes)

    @functools.cached_property
    def confusion(self) -> Scores:
        """Number of images of class i (row) predicted as class j (column), [..., i, j]."""
        cells = self.y_true * self.num_classes + self.y_pred
        counts = self.sums(cells, self.num_classes**2)
        return counts.reshape(*counts.shape[:-1], self.num_classes, self.num_classes)

    @functools.cached_property
    def curves(self) -> list[tuple[Scores, Scores]]:
        """Numbers of true and false positives of each class; see `roc_points`."""
        return [
            roc_points(self.y_true == index, self.y_prob[:, index], self.weights)[1:]
            for index in range(self.num_classes)
        ]

    def sums(self, bins: Labels, num_bins: int, values: Any = 1) -> Scores:
        """Returns the weighted sum of `values` in each bin, [..., num_bins].

        Args:
            bins: Index of the bin of each image, [num_images] in 0..num_bins-1.
            num_bins: Number of bins.
            values: Value of each image, [num_images], or one number for all images.
        """
        values = np.broadcast_to(np.asarray(values, np.float64), len(bins))
        row_starts = np.arange(len(bins) + 1)  # one nonzero element per row
        shape = len(bins), num_bins
        one_hot = scipy.sparse.csr_array((values, bins, row_starts), shape=shape)
        return np.asarray(self.weights @ one_hot)

    def mean(self, values: npt.NDArray[Any]) -> Scores:
        """Returns the weighted mean, [] or [num_resamples], of `values` [num_images]."""
        total = self.weights @ values.astype(np.float64)
        return np.asarray(total / self.weights.sum(axis=-1))


def roc_points(
    positive: Flags, score: Floats, weights: Floats
) -> tuple[Scores, Scores, Scores]:
    """Returns the points of an ROC curve: thresholds, true positives, false positives.

    Images with scores at or above a threshold are predicted as positive. The thresholds are
    infinity and each distinct score.

    Args:
        positive: Whether each image is positive, [num_images].
        score: Score of the positive class, [num_images].
        weights: Number of times each image occurs, [num_images] or
            [num_resamples, num_images].

    Returns:
        The thresholds in decreasing order, [num_points]. The numbers of true and of false
        positives at each threshold, both [..., num_points].
    """
    order = np.argsort(-score, kind="stable")
    score, positive, weights = score[order], positive[order], weights[..., order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    true = np.cumsum(weights * positive, axis=-1)[..., last]
    false = np.cumsum(weights * ~positive, axis=-1)[..., last]
    return np.append(np.inf, score[last]), _prepend_zero(true), _prepend_zero(false)


def divide(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Scores:
    """Returns the elementwise quotient; NaN where the denominator is not positive."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator > 0)


def _prepend_zero(counts: Floats) -> Scores:
    return np.concatenate([np.zeros_like(counts[..., :1]), counts], axis=-1)
