"""Scores of predictions, with confidence intervals.

`METRICS` and `PER_CLASS_METRICS` contain the metrics by name. `bootstrap_ci` computes the
value of one metric with its interval.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.config.section import require, require_count
from skincnn.errors import ConfigError
from skincnn.lookup import look_up
from skincnn.metrics import bootstrap
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.classification import METRICS, PER_CLASS_METRICS, find_metric
from skincnn.metrics.intervals import estimate, find_supports

SUM_TOLERANCE = 1e-2
"""Maximum difference between the sum of an image's probabilities and 1; the differences
from rounding to float16 are smaller."""

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

    Metrics without a valid interval, such as "ece", have a value only.

    >>> y_true = [0, 0, 0, 1, 1, 1]
    >>> y_prob = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]]
    >>> bootstrap_ci(y_true, y_prob, "accuracy").value
    0.666667
    >>> print(bootstrap_ci(y_true, y_prob, "recall", label=1))
    0.667 [0.188, 0.945]

    Args:
        y_true: Integer labels, the indices of the classes, [num_images].
        y_prob: Probabilities, [num_images, num_classes]. Those of an image sum to 1.
        metric: A key of `METRICS`, a custom `module:function`, or, with a `label`, a key of
            `PER_CLASS_METRICS`.
        label: Index of the class, for a metric of `PER_CLASS_METRICS`.
        groups: IDs of the groups that the bootstrap resamples, [num_images], such as
            lesions or patients. By default, each image is a group of its own; the
            interval is then too narrow if several images show the same lesion.
        num_resamples: Number of bootstrap resamples, 1 or more.
        confidence: Confidence level, between 0 and 1.
        seed: Seed of the resamples, 0 or more.

    Raises:
        ConfigError: There are no images, an argument has a wrong shape or values that are
            not valid, the metric does not exist, `label` is not the index of a class, or a
            custom metric cannot be imported, fails or returns a wrong shape.
    """
    y_true, y_prob = np.asarray(y_true), np.asarray(y_prob)
    _check(y_true, y_prob, groups)
    y_true = y_true.astype(int)
    require_count("num_resamples", num_resamples)
    require_count("seed", seed, minimum=0)
    is_share = isinstance(confidence, Real) and 0 < confidence < 1
    require(is_share, "confidence", "between 0 and 1", confidence)
    if label is not None:
        last = y_prob.shape[1] - 1
        is_index = isinstance(label, Integral) and 0 <= label <= last
        is_index = is_index and not isinstance(label, bool)
        require(is_index, "label", f"in 0..{last}, the index of a class", label)
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


def _check(
    y_true: npt.NDArray[Any], y_prob: npt.NDArray[Any], groups: npt.ArrayLike | None
) -> None:
    """Raises a `ConfigError` if an argument of `bootstrap_ci` is not valid."""
    if not y_true.size:
        raise ConfigError("`y_true` must contain at least one label. Received: none.")
    if y_prob.ndim != 2 or y_true.shape != y_prob.shape[:1] or y_prob.shape[1] < 2:
        raise ConfigError(
            "`y_true` must have the shape [num_images], and `y_prob` the shape "
            "[num_images, num_classes] with two classes or more. Received: "
            f"{list(y_true.shape)} and {list(y_prob.shape)}."
        )
    valid: npt.NDArray[np.bool_] = np.zeros(len(y_prob), np.bool_)
    if y_prob.dtype.kind in "fiub":
        valid = np.asarray((y_prob >= 0).all(axis=1))
        valid[valid] = abs(y_prob[valid].sum(axis=1) - 1) <= SUM_TOLERANCE
    if not valid.all():
        row = int(valid.argmin())
        raise ConfigError(
            "`y_prob` must contain probabilities >= 0 that sum to 1 for each image. "
            f"Received: {y_prob.dtype}, y_prob[{row}] = {y_prob[row].tolist()}. Apply a "
            "softmax to logits, and leave out images without a prediction."
        )
    classes = range(y_prob.shape[1])
    invalid = y_true
    if y_true.dtype.kind in "iub":
        invalid = y_true[~np.isin(y_true, classes)]
    if invalid.size:
        raise ConfigError(
            f"`y_true` must contain integers in 0..{classes[-1]}, the indices of the "
            f"classes. Received: {y_true.dtype}, {', '.join(map(str, invalid[:10]))}."
        )
    if groups is not None:
        ids = np.asarray(groups)
        if ids.shape != y_true.shape or pd.isna(ids).any():
            raise ConfigError(
                "`groups` must contain an ID for each image, without missing values; an "
                "image whose group is not known needs an ID of its own. Expected: shape "
                f"{list(y_true.shape)}. Received: shape {list(ids.shape)}, "
                f"{int(pd.isna(ids).sum())} missing values."
            )
