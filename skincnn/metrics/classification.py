"""Scores from labels and probabilities, one function each.

Every function takes a `Sample` and returns values of shape [] or, where its weights have
resamples, [resamples]; those that end in `_per_class` return [..., num_classes], with NaN
for a class that has no picture.

A mean over classes is over those that have a picture in `y_true`. It is NaN in a resample
that has lost one of them: a mean over the others would be the score of another task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

Labels = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]
Scores = npt.NDArray[np.float64]
Curve = tuple[Scores, Scores]
"""The counts of true and of false positives at each corner, [..., num_corners]."""
NUM_BINS = 15
"""Of the calibration error: Guo et al., On Calibration of Modern Neural Networks (2017)."""
HIGH_SENSITIVITY = 0.8
"""From which on ISIC 2018 measures its partial area under the ROC curve."""


class Sample:
    """Pictures with their labels and probabilities, and how often each counts.

    What several metrics need is computed once.

    Attributes:
        y_true: Integer labels [num_images], in 0..num_classes-1.
        y_prob: Probabilities [num_images, num_classes]. The prediction is the largest, the
            first of equal ones.
        weights: How often each picture counts, [num_images] or [resamples, num_images];
            once by default.
    """

    def __init__(self, y_true: Labels, y_prob: Floats, weights: Floats | None = None):
        """Stores them."""
        self.y_true = np.asarray(y_true)
        self.y_prob = np.asarray(y_prob)
        once = np.ones(len(self.y_true))
        self.weights = once if weights is None else np.asarray(weights, np.float64)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return self.y_prob.shape[1]

    @functools.cached_property
    def y_pred(self) -> npt.NDArray[np.intp]:
        """The predicted labels, [num_images]."""
        return self.y_prob.argmax(axis=1)

    @functools.cached_property
    def counts(self) -> Scores:
        """The pictures of each class, [..., num_classes]."""
        return self.sums(self.y_true, self.num_classes)

    @functools.cached_property
    def confusion(self) -> Scores:
        """How often class i (row) was predicted as class j (column), [..., i, j]."""
        cells = self.y_true * self.num_classes + self.y_pred
        counts = self.sums(cells, self.num_classes**2)
        return counts.reshape(*counts.shape[:-1], self.num_classes, self.num_classes)

    @functools.cached_property
    def curves(self) -> list[Curve]:
        """The ROC curve of each class against all others."""
        return [
            roc_points(self.y_true == index, self.y_prob[:, index], self.weights)[1:]
            for index in range(self.num_classes)
        ]

    def sums(
        self, groups: npt.NDArray[np.integer[Any]], num_groups: int, values: Any = 1
    ) -> Scores:
        """Returns the weighted sums of values [num_images] in each group, [..., groups]."""
        values = np.broadcast_to(np.asarray(values, np.float64), len(groups))
        rows = np.arange(len(groups) + 1)  # one entry in each
        spread = scipy.sparse.csr_array(
            (values, groups, rows), shape=(len(groups), num_groups)
        )
        return np.asarray(self.weights @ spread)

    def mean(self, values: npt.NDArray[Any]) -> Scores:
        """Returns the weighted mean of values [num_images]."""
        total = self.weights @ values.astype(np.float64)
        return np.asarray(total / self.weights.sum(axis=-1))


def recall_per_class(sample: Sample) -> Scores:
    """Returns the share of each class's pictures that is found (its sensitivity)."""
    return _divide(_diagonal(sample.confusion), sample.counts)


def precision_per_class(sample: Sample) -> Scores:
    """Returns the share of the pictures predicted as each class that belong to it.

    0 for a class that has pictures and is never predicted.
    """
    confusion = sample.confusion
    return _zero_or_gap(_diagonal(confusion), confusion.sum(axis=-2), sample)


def known_precision_per_class(sample: Sample) -> Scores:
    """Returns `precision_per_class`, NaN in a resample that has lost all so predicted.

    The share of nothing is not known; as 0 it would draw an interval down. Of a class that
    is never predicted it stays 0.
    """
    called = sample.confusion.sum(axis=-2)
    ever = np.isin(np.arange(sample.num_classes), sample.y_pred)
    return np.where(ever & (called == 0), np.nan, precision_per_class(sample))


def f1_per_class(sample: Sample) -> Scores:
    """Returns F1 = 2 TP / (2 TP + FP + FN) of each class."""
    confusion = sample.confusion
    counted = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return _zero_or_gap(2 * _diagonal(confusion), counted, sample)


def specificity_per_class(sample: Sample) -> Scores:
    """Returns the share of the pictures of other classes that are not called this one."""
    confusion = sample.confusion
    others = sample.counts.sum(axis=-1)[..., None] - sample.counts
    called = confusion.sum(axis=-2) - _diagonal(confusion)
    return np.where(sample.counts > 0, 1 - _divide(called, others), np.nan)


def auc_per_class(sample: Sample) -> Scores:
    """Returns the area under each class's ROC curve, the class against all others."""
    return _per_curve(_area, sample)


def average_precision_per_class(sample: Sample) -> Scores:
    """Returns the mean precision over the steps of recall, each class against all others.

    As `sklearn.metrics.average_precision_score`: without interpolation.
    """
    return _per_curve(_average_precision, sample)


def auc_above_80_sensitivity_per_class(sample: Sample) -> Scores:
    """Returns the area under the part of each ROC curve where sensitivity is 0.8 or more.

    From the false positive rate at which the curve, drawn in straight lines, reaches 0.8,
    to 1; 1 at best. A secondary metric of ISIC 2018, task 3.
    """
    return _per_curve(_area_above, sample)


def balanced_accuracy(sample: Sample) -> Scores:
    """Returns the mean recall of the classes, as scikit-learn does."""
    return _mean_of_classes(recall_per_class(sample), sample)


def macro_f1(sample: Sample) -> Scores:
    """Returns the mean F1 of the classes."""
    return _mean_of_classes(f1_per_class(sample), sample)


def macro_precision(sample: Sample) -> Scores:
    """Returns the mean precision of the classes."""
    return _mean_of_classes(precision_per_class(sample), sample)


def macro_auc(sample: Sample) -> Scores:
    """Returns the mean area under the classes' ROC curves, each against all others."""
    return _mean_of_classes(auc_per_class(sample), sample)


def macro_average_precision(sample: Sample) -> Scores:
    """Returns the mean average precision of the classes."""
    return _mean_of_classes(average_precision_per_class(sample), sample)


def macro_auc_above_80_sensitivity(sample: Sample) -> Scores:
    """Returns the mean of the classes' partial areas."""
    return _mean_of_classes(auc_above_80_sensitivity_per_class(sample), sample)


def weighted_f1(sample: Sample) -> Scores:
    """Returns the mean F1 of the classes, weighted by their pictures."""
    return _mean_of_pictures(f1_per_class(sample), sample)


def weighted_precision(sample: Sample) -> Scores:
    """Returns the mean precision of the classes, weighted by their pictures."""
    return _mean_of_pictures(precision_per_class(sample), sample)


def accuracy(sample: Sample) -> Scores:
    """Returns the share of pictures that are classified correctly.

    The mean of recall, weighted by the classes' pictures, is the same number.
    """
    return sample.mean(sample.y_pred == sample.y_true)


def isic_score(sample: Sample) -> Scores:
    """Returns the balanced accuracy as the official scorer of ISIC 2018 counts it.

    A picture whose largest probability is shared by two classes is undecided: it counts as
    wrong, whichever comes first.
    """
    largest = sample.y_prob.max(axis=1, keepdims=True)
    decided = (sample.y_prob == largest).sum(axis=1) == 1
    found = decided & (sample.y_pred == sample.y_true)
    recall = _divide(
        sample.sums(sample.y_true, sample.num_classes, values=found), sample.counts
    )
    return _mean_of_classes(recall, sample)


def log_loss(sample: Sample) -> Scores:
    """Returns the mean of -log of the true class's probability, in nats; 0 at best.

    A probability counts as at least 2.2e-16, as in `sklearn.metrics.log_loss`.
    """
    chosen = sample.y_prob[np.arange(len(sample.y_true)), sample.y_true]
    return sample.mean(-np.log(np.maximum(chosen, np.finfo(np.float64).eps)))


def brier(sample: Sample) -> Scores:
    """Returns the mean squared distance to the true class's corner, 0 (best) to 2.

    The sum over classes, as in Brier, Verification of forecasts expressed in terms of
    probability, Monthly Weather Review 78 (1950).
    """
    errors = sample.y_prob - np.eye(sample.num_classes)[sample.y_true]
    return sample.mean(np.square(errors).sum(axis=1))


def ece(sample: Sample) -> Scores:
    """Returns the expected calibration error of the largest probability; 0 at best.

    The mean distance between confidence and accuracy over 15 bins of equal width: Guo et
    al., On Calibration of Modern Neural Networks (2017).
    """
    confidence = sample.y_prob.max(axis=1)
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    return _calibration_error(bins, sample)


def adaptive_ece(sample: Sample) -> Scores:
    """Returns the calibration error over 15 bins that hold equally many pictures.

    Nguyen and O'Connor, Posterior calibration and exploratory analysis for natural language
    processing models (2015). The bins are those of all pictures in every resample.
    """
    ranks = sample.y_prob.max(axis=1).argsort(kind="stable").argsort(kind="stable")
    return _calibration_error(ranks * NUM_BINS // len(ranks), sample)


@dataclass(frozen=True)
class Metric:
    """A score of all classes together.

    Attributes:
        function: From a sample to the score.
        higher_is_better: Whether the best value is the highest.
    """

    function: Callable[[Sample], Scores]
    higher_is_better: bool = True

    def is_better(self, value: float, than: float) -> bool:
        """Returns whether a value is strictly better than another."""
        return value > than if self.higher_is_better else value < than


METRICS: dict[str, Metric] = {
    "balanced_accuracy": Metric(balanced_accuracy),
    "macro_f1": Metric(macro_f1),
    "accuracy": Metric(accuracy),
    "macro_auc": Metric(macro_auc),
    "macro_average_precision": Metric(macro_average_precision),
    "macro_auc_above_80_sensitivity": Metric(macro_auc_above_80_sensitivity),
    "macro_precision": Metric(macro_precision),
    "weighted_precision": Metric(weighted_precision),
    "weighted_f1": Metric(weighted_f1),
    "isic_score": Metric(isic_score),
    "log_loss": Metric(log_loss, higher_is_better=False),
    "brier": Metric(brier, higher_is_better=False),
    "ece": Metric(ece, higher_is_better=False),
    "adaptive_ece": Metric(adaptive_ece, higher_is_better=False),
}

PER_CLASS_METRICS: dict[str, Callable[[Sample], Scores]] = {
    "recall": recall_per_class,
    "specificity": specificity_per_class,
    "precision": known_precision_per_class,
    "f1": f1_per_class,
    "auc": auc_per_class,
    "average_precision": average_precision_per_class,
    "auc_above_80_sensitivity": auc_above_80_sensitivity_per_class,
}
"""Higher is better for all."""


def roc_points(
    positive: npt.NDArray[np.bool_], score: Floats, weights: Floats
) -> tuple[Scores, Scores, Scores]:
    """Returns the corners of a ROC curve, one for each different score.

    Args:
        positive: Whether each picture is to be found, [num_images].
        score: Higher for those that are, [num_images].
        weights: How often each counts, [num_images] or [resamples, num_images].

    Returns:
        thresholds [num_corners], falling from infinity: a picture is called positive where
        its score is at least that; the counts of true and of false positives there,
        [..., num_corners].
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    corners = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    in_order = weights[..., order]
    true = np.cumsum(in_order * positive[order], axis=-1)[..., corners]
    false = np.cumsum(in_order * ~positive[order], axis=-1)[..., corners]
    thresholds = np.append(np.inf, ordered[corners])
    return thresholds, _from_zero(true), _from_zero(false)


def _per_curve(summary: Callable[[Scores, Scores], Scores], sample: Sample) -> Scores:
    """Returns a number of each class's curve, NaN where it has no two sides."""
    values = [
        np.where((true[..., -1] > 0) & (false[..., -1] > 0), summary(true, false), np.nan)
        for true, false in sample.curves
    ]
    return np.stack(values, axis=-1)


def _area(true: Scores, false: Scores) -> Scores:
    area = np.asarray(np.trapezoid(true, false, axis=-1))
    return _divide(area, true[..., -1] * false[..., -1])


def _area_above(true: Scores, false: Scores) -> Scores:
    """Returns the area from where the curve first reaches 0.8 of its height."""
    floor = HIGH_SENSITIVITY * true[..., -1:]
    first = (true < floor).sum(axis=-1, keepdims=True)  # the first corner at the floor
    ends = np.concatenate([first - 1, first], axis=-1)
    below, above = np.moveaxis(np.take_along_axis(true, ends, axis=-1), -1, 0)
    left, right = np.moveaxis(np.take_along_axis(false, ends, axis=-1), -1, 0)
    # Where the straight line to that corner crosses the floor.
    share = np.nan_to_num(_divide(above - floor[..., 0], above - below))
    width = (right - left) * share
    kept = np.arange(true.shape[-1] - 1) >= first
    heights = (true[..., 1:] + true[..., :-1]) / 2
    area = (np.diff(false, axis=-1) * heights * kept).sum(axis=-1)
    area = area + width * (above + floor[..., 0]) / 2
    return _divide(area, true[..., -1] * false[..., -1])


def _average_precision(true: Scores, false: Scores) -> Scores:
    called = (true + false)[..., 1:]
    precision = true[..., 1:] / np.maximum(called, np.finfo(np.float64).tiny)
    return _divide((np.diff(true, axis=-1) * precision).sum(axis=-1), true[..., -1])


def _calibration_error(bins: npt.NDArray[np.integer[Any]], sample: Sample) -> Scores:
    gaps = sample.y_prob.max(axis=1) - (sample.y_pred == sample.y_true)
    error = np.abs(sample.sums(bins, NUM_BINS, values=gaps)).sum(axis=-1)
    return np.asarray(error / sample.weights.sum(axis=-1))


def _mean_of_classes(values: Scores, sample: Sample) -> Scores:
    present = np.bincount(sample.y_true, minlength=sample.num_classes) > 0
    return np.asarray(values[..., present].mean(axis=-1))


def _mean_of_pictures(values: Scores, sample: Sample) -> Scores:
    total = (sample.counts * np.nan_to_num(values)).sum(axis=-1)
    return np.asarray(total / sample.counts.sum(axis=-1))


def _diagonal(confusion: Scores) -> Scores:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _from_zero(counts: Floats) -> Scores:
    return np.concatenate([np.zeros_like(counts[..., :1]), counts], axis=-1)


def _zero_or_gap(numerator: Floats, denominator: Floats, sample: Sample) -> Scores:
    """Returns the quotient, 0 where the denominator is; NaN for a class not there."""
    quotient = np.nan_to_num(_divide(numerator, denominator))
    return np.where(sample.counts > 0, quotient, np.nan)


def _divide(numerator: Floats, denominator: Floats) -> Scores:
    """Returns the quotient, NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator > 0)
