"""Classification metrics, one function each.

Each metric takes a `Sample` and returns an array of shape [], or [num_resamples] if the
weights of the sample are [num_resamples, num_images]. Metrics whose names end in
`_per_class` return [..., num_classes] (see `Sample` for `...`), with NaN for a class
without images. Specificity and the metrics of curves are also NaN for a class to which all
images belong.

Unweighted means over classes include only the classes with images in `y_true`. If a
resample has no images of one of these classes, the mean is NaN, because a mean over fewer
classes would not be comparable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from skincnn.lookup import look_up
from skincnn.metrics.sample import Floats, Labels, Sample, Scores, divide
from skincnn.parts import find_custom, is_custom

NUM_BINS = 15
"""Number of bins of the calibration error, as in Guo et al. (2017), arXiv:1706.04599."""
HIGH_SENSITIVITY = 0.8
"""Minimum sensitivity for the partial area under the ROC curve of ISIC 2018."""
MetricFunction = Callable[[Sample], Scores]


def recall_per_class(sample: Sample) -> Scores:
    """Returns the recall (sensitivity) of each class: TP / (TP + FN)."""
    return divide(_diagonal(sample.confusion), sample.counts)


def precision_per_class(sample: Sample) -> Scores:
    """Returns the precision (PPV) of each class: TP / (TP + FP).

    The precision is 0 for a class that has images but is never predicted.
    """
    confusion = sample.confusion
    return _zero_if_undefined(_diagonal(confusion), confusion.sum(axis=-2), sample)


def bootstrap_precision_per_class(sample: Sample) -> Scores:
    """Returns the precision (PPV) of each class, for bootstrap intervals.

    If a class is predicted in the full sample but not in a resample, its precision in that
    resample is NaN, because 0 would bias the interval downwards. If a class is never
    predicted in the full sample, its precision is 0, as in `precision_per_class`.
    """
    num_predicted = sample.confusion.sum(axis=-2)
    ever_predicted = np.isin(np.arange(sample.num_classes), sample.y_pred)
    undefined = ever_predicted & (num_predicted == 0)
    return np.where(undefined, np.nan, precision_per_class(sample))


def f1_per_class(sample: Sample) -> Scores:
    """Returns F1 = 2 TP / (2 TP + FP + FN) of each class."""
    confusion = sample.confusion
    denominator = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return _zero_if_undefined(2 * _diagonal(confusion), denominator, sample)


def specificity_per_class(sample: Sample) -> Scores:
    """Returns the one-vs-rest specificity of each class: TN / (TN + FP)."""
    confusion = sample.confusion
    negatives = sample.counts.sum(axis=-1)[..., None] - sample.counts
    false_positives = confusion.sum(axis=-2) - _diagonal(confusion)
    return np.where(sample.counts > 0, 1 - divide(false_positives, negatives), np.nan)


def auc_per_class(sample: Sample) -> Scores:
    """Returns the area under the one-vs-rest ROC curve of each class."""
    return _per_curve(_area, sample)


def average_precision_per_class(sample: Sample) -> Scores:
    """Returns the one-vs-rest average precision of each class, as in scikit-learn."""
    return _per_curve(_average_precision, sample)


def auc_above_80_sensitivity_per_class(sample: Sample) -> Scores:
    """Returns the area under the part of each class's ROC curve with sensitivity >= 0.8.

    The curve is interpolated linearly. The best value is 1. This is a secondary metric of
    ISIC 2018, task 3: `auc_above_sensitivity` in metrics.py of
    https://github.com/ImageMarkup/isic-challenge-scoring.
    """
    return _per_curve(_area_above, sample)


def balanced_accuracy(sample: Sample) -> Scores:
    """Returns the mean recall over classes, as in scikit-learn."""
    return _mean_over_classes(recall_per_class(sample), sample)


def accuracy(sample: Sample) -> Scores:
    """Returns the fraction of correctly classified images."""
    return sample.mean(sample.y_pred == sample.y_true)


def isic_score(sample: Sample) -> Scores:
    """Returns the balanced accuracy as computed by the official ISIC 2018 scorer.

    An image is treated as misclassified if several classes share the largest probability:
    `_to_labels` in metrics.py of https://github.com/ImageMarkup/isic-challenge-scoring.
    """
    largest = sample.y_prob.max(axis=1, keepdims=True)
    no_tie = (sample.y_prob == largest).sum(axis=1) == 1
    correct = no_tie & (sample.y_pred == sample.y_true)
    true_positives = sample.sums(sample.y_true, sample.num_classes, values=correct)
    return _mean_over_classes(divide(true_positives, sample.counts), sample)


def log_loss(sample: Sample) -> Scores:
    """Returns the mean of -log(probability of the true class) in nats.

    The best value is 0. Probabilities are clipped to at least 2.2e-16, as
    `sklearn.metrics.log_loss` does for float64.
    """
    probability = sample.y_prob[np.arange(len(sample.y_true)), sample.y_true]
    return sample.mean(-np.log(np.maximum(probability, np.finfo(np.float64).eps)))


def brier(sample: Sample) -> Scores:
    """Returns the multiclass Brier score, from 0 (best) to 2.

    The score is the squared error, summed over classes and averaged over images: Brier,
    Verification of forecasts expressed in terms of probability, Monthly Weather Review 78
    (1950).
    """
    errors = sample.y_prob - np.eye(sample.num_classes)[sample.y_true]
    return sample.mean(np.square(errors).sum(axis=1))


def ece(sample: Sample) -> Scores:
    """Returns the expected calibration error of the largest probability.

    The error is the mean absolute difference between confidence and accuracy over 15 bins
    of equal width, weighted by the number of images in each bin. The best value is 0. Guo
    et al., On Calibration of Modern Neural Networks (2017), arXiv:1706.04599.

    The ECE of a small sample is too large, and that of its resamples is even larger. No
    interval is therefore computed for it; see `skincnn.metrics.calibration_error`.
    """
    gaps = sample.y_prob.max(axis=1) - (sample.y_pred == sample.y_true)
    error = np.abs(sample.sums(confidence_bins(sample), NUM_BINS, values=gaps))
    return np.asarray(error.sum(axis=-1) / sample.weights.sum(axis=-1))


def confidence_bins(sample: Sample) -> Labels:
    """Returns the bin of each image's largest probability, [num_images] in 0..14."""
    confidence = sample.y_prob.max(axis=1)
    return np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)


def macro(per_class: MetricFunction) -> MetricFunction:
    """Returns a metric that averages a per-class metric over the classes."""
    return lambda sample: _mean_over_classes(per_class(sample), sample)


def weighted(per_class: MetricFunction) -> MetricFunction:
    """Returns a metric that averages a per-class metric, weighted by the class sizes."""

    def function(sample: Sample) -> Scores:
        total = (sample.counts * np.nan_to_num(per_class(sample))).sum(axis=-1)
        return np.asarray(total / sample.counts.sum(axis=-1))

    return function


@dataclass(frozen=True)
class Metric:
    """A metric with a single value for all classes together.

    `has_interval` is False if bootstrap intervals of the metric are not valid. A metric
    without a `description` is described by the first line of its function's docstring. A
    custom metric for which lower values are better is
    `Metric(function, higher_is_better=False)`.
    """

    function: MetricFunction
    higher_is_better: bool = True
    has_interval: bool = True
    description: str = ""

    def __call__(self, sample: Sample) -> Scores:
        """Returns the value of the metric, [] or [num_resamples]."""
        return self.function(sample)

    def is_better(self, value: float, than: float) -> bool:
        """Returns whether `value` is better than `than`; NaN is the worst value."""
        return self.rank(value) < self.rank(than)

    def rank(self, value: float | None) -> float:
        """Returns a number that is smaller for better values; infinity for None and NaN."""
        if value is None or math.isnan(value):
            return math.inf
        return -value if self.higher_is_better else value


METRICS: dict[str, Metric] = {
    "balanced_accuracy": Metric(balanced_accuracy),
    "macro_f1": Metric(
        macro(f1_per_class),
        description="The unweighted mean of F1 = 2 TP / (2 TP + FP + FN) over the classes.",
    ),
    "accuracy": Metric(accuracy),
    "macro_auc": Metric(
        macro(auc_per_class),
        description="The mean area under the one-vs-rest ROC curves of the classes.",
    ),
    "macro_average_precision": Metric(
        macro(average_precision_per_class),
        description="The mean average precision (area under the precision-recall curve).",
    ),
    "macro_auc_above_80_sensitivity": Metric(
        macro(auc_above_80_sensitivity_per_class),
        description="The mean area under the ROC curves above a sensitivity of 0.8.",
    ),
    "macro_precision": Metric(
        macro(precision_per_class),
        description="The unweighted mean of the precision (PPV) over the classes.",
    ),
    "weighted_precision": Metric(
        weighted(precision_per_class),
        description="The mean precision (PPV), weighted by the sizes of the classes.",
    ),
    "weighted_f1": Metric(
        weighted(f1_per_class),
        description="The mean F1, weighted by the sizes of the classes.",
    ),
    "isic_score": Metric(isic_score),
    "log_loss": Metric(log_loss, higher_is_better=False),
    "brier": Metric(brier, higher_is_better=False),
    "ece": Metric(ece, higher_is_better=False, has_interval=False),
}
"""Metrics of all classes together, by name."""


def find_metric(name: str, what: str = "`train.monitor`") -> Metric:
    """Returns the metric with this name in `METRICS`, or a custom metric.

    A custom metric is a `Metric`, or a function that takes a `Sample` and returns a single
    value for all classes together, [] or [num_resamples], like `balanced_accuracy`. `what`
    names the setting in errors.

    Raises:
        ConfigError: The name is unknown or not valid, or the custom metric cannot be
            imported or cannot be called with one argument. The returned metric raises a
            `ConfigError` if the custom metric fails or returns a wrong shape.
    """
    if not is_custom(name):
        return look_up(METRICS, name, what)
    part = find_custom(name, what, ("sample",))

    def score(sample: Sample) -> Scores:
        values = np.asarray(part(sample))
        if values.shape != sample.weights.shape[:-1]:
            part.fail(
                "must return one number, or one for each row of sample.weights "
                "[num_resamples, num_images], as sample.mean(...) does. Expected: shape "
                f"{sample.weights.shape[:-1]}. Received: shape {values.shape}."
            )
        return values.astype(np.float64)

    metric = part.function
    return replace(metric, function=score) if isinstance(metric, Metric) else Metric(score)


SUMMARY_METRICS = ("balanced_accuracy", "macro_f1", "accuracy", "macro_auc")
"""The main metrics, which summaries show."""
PER_CLASS_METRICS: dict[str, MetricFunction] = {
    "recall": recall_per_class,
    "specificity": specificity_per_class,
    "precision": bootstrap_precision_per_class,
    "f1": f1_per_class,
    "auc": auc_per_class,
    "average_precision": average_precision_per_class,
    "auc_above_80_sensitivity": auc_above_80_sensitivity_per_class,
}
"""One-vs-rest metrics of each class. Higher is better for all of them."""


def _per_curve(summary: Callable[[Scores, Scores], Scores], sample: Sample) -> Scores:
    """Returns `summary` of the ROC curve of each class, [..., num_classes].

    The value is NaN for a class without positive or negative images.
    """
    values = [
        np.where((true[..., -1] > 0) & (false[..., -1] > 0), summary(true, false), np.nan)
        for true, false in sample.curves
    ]
    return np.stack(values, axis=-1)


def _area(true: Scores, false: Scores) -> Scores:
    area = np.asarray(np.trapezoid(true, false, axis=-1))
    return divide(area, true[..., -1] * false[..., -1])


def _area_above(true: Scores, false: Scores) -> Scores:
    """Returns the area under the part of the curve at or above `HIGH_SENSITIVITY`."""
    floor = HIGH_SENSITIVITY * true[..., -1:]
    first = (true < floor).sum(axis=-1, keepdims=True)
    ends = np.concatenate([first - 1, first], axis=-1)
    below, above = np.moveaxis(np.take_along_axis(true, ends, axis=-1), -1, 0)
    left, right = np.moveaxis(np.take_along_axis(false, ends, axis=-1), -1, 0)
    # Fraction of the segment from `below` to `above` that lies above the floor.
    fraction = np.nan_to_num(divide(above - floor[..., 0], above - below))
    width = (right - left) * fraction
    kept = np.arange(true.shape[-1] - 1) >= first
    heights = (true[..., 1:] + true[..., :-1]) / 2
    area = (np.diff(false, axis=-1) * heights * kept).sum(axis=-1)
    area = area + width * (above + floor[..., 0]) / 2
    return divide(area, true[..., -1] * false[..., -1])


def _average_precision(true: Scores, false: Scores) -> Scores:
    num_predicted = (true + false)[..., 1:]
    precision = true[..., 1:] / np.maximum(num_predicted, np.finfo(np.float64).tiny)
    return divide((np.diff(true, axis=-1) * precision).sum(axis=-1), true[..., -1])


def _mean_over_classes(values: Scores, sample: Sample) -> Scores:
    present = np.bincount(sample.y_true, minlength=sample.num_classes) > 0
    return np.asarray(values[..., present].mean(axis=-1))


def _diagonal(confusion: Scores) -> Scores:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _zero_if_undefined(numerator: Floats, denominator: Floats, sample: Sample) -> Scores:
    """Returns the quotient, with 0 for 0 / 0 and NaN for classes without images."""
    quotient = np.nan_to_num(divide(numerator, denominator))
    return np.where(sample.counts > 0, quotient, np.nan)
