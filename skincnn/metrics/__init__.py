"""Scores of predictions, with confidence intervals.

`METRICS` and `PER_CLASS_METRICS` contain the metrics by name. `bootstrap_ci` computes the
value of one metric with its interval.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skincnn.lookup import look_up
from skincnn.metrics import bootstrap
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.classification import METRICS, PER_CLASS_METRICS, find_metric
from skincnn.metrics.intervals import estimate, find_supports

__all__ = ["METRICS", "PER_CLASS_METRICS", "Estimate", "bootstrap_ci"]


def bootstrap_ci(
    y_true: npt.ArrayLike,
    y_prob: npt.ArrayLike,
    metric: str = "balanced_accuracy",
    *,
    label: int | None = None,
    groups: npt.ArrayLike | None = None,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Returns a score with its confidence interval; see `skincnn.metrics.intervals`.

    >>> y_true = [0, 0, 0, 1, 1, 1]
    >>> y_prob = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]]
    >>> bootstrap_ci(y_true, y_prob, "accuracy").value
    0.666667
    >>> print(bootstrap_ci(y_true, y_prob, "recall", label=1))
    0.667 [0.188, 0.945]

    Args:
        y_true: Integer labels, [num_images].
        y_prob: Probabilities, [num_images, num_classes].
        metric: A key of `METRICS`, a custom `module:function`, or, with a `label`, a key of
            `PER_CLASS_METRICS`.
        label: The class that a metric of `PER_CLASS_METRICS` refers to.
        groups: IDs of the groups that the bootstrap resamples, [num_images], such as
            lesions or patients. By default, each image is a group of its own; the
            interval is then too narrow if several images show the same lesion.
        num_resamples: Number of bootstrap resamples.
        confidence: Confidence level, between 0 and 1.
        seed: Seed of the resamples.

    Raises:
        ConfigError: The metric does not exist.
    """
    y_true, y_prob = np.asarray(y_true), np.asarray(y_prob)
    images = np.arange(len(y_true))
    units = (images if groups is None else np.asarray(groups)).astype(str).tolist()
    if label is None:
        chosen = find_metric(metric, "`metric` without `label`")
        function, has_interval = chosen.function, chosen.has_interval
    else:
        function = look_up(PER_CLASS_METRICS, metric, "`metric` with `label`")
        has_interval = True
    weights = bootstrap.bootstrap_weights(images, units, num_resamples, seed)
    values = bootstrap.bootstrap({metric: function}, y_true, y_prob, weights)[metric]
    supports = find_supports(units, y_true, y_prob).get(metric)
    index = label or 0
    if label is not None:
        values = values[:, label]
    result = estimate(values, confidence, [supports[index] if supports else None])[0]
    return result if has_interval else Estimate(result.value, None, None)
