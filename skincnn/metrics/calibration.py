"""Calibration of probabilities: temperature scaling and reliability diagrams."""

from __future__ import annotations

import numpy as np
import scipy.optimize
import scipy.special

from skincnn.metrics.classification import NUM_BINS, confidence_bins, log_loss
from skincnn.metrics.sample import Floats, Labels, Sample, Scores, divide

TEMPERATURES = (0.05, 20.0)
"""Range of the fitted temperature."""


def fit_temperature(y_true: Labels, y_prob: Floats) -> float:
    """Returns the temperature that minimizes the log loss.

    Guo et al., On Calibration of Modern Neural Networks (2017), section 4.2. Fit it on the
    validation split: scores of the images on which it was fitted are too optimistic.

    Returns:
        0.05 to 20; above 1 for an overconfident model.
    """

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(y_prob, float(np.exp(log_temperature)))
        return float(log_loss(Sample(y_true, scaled)))

    bounds = tuple(np.log(TEMPERATURES))
    result = scipy.optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(result.x))


def apply_temperature(y_prob: Floats, temperature: float) -> Floats:
    """Returns the softmax of the logits divided by a temperature.

    The logits are recovered as log probabilities, which differ from them by a constant per
    image. The order of the classes, and therefore the predicted class, stays the same.
    Probabilities [num_images, num_classes] are clipped to at least 1.2e-38.
    """
    logits = np.log(np.maximum(y_prob, np.finfo(np.float32).tiny))
    return np.asarray(scipy.special.softmax(logits / temperature, axis=1))


def reliability(y_true: Labels, y_prob: Floats) -> dict[str, Scores]:
    """Returns the reliability diagram as arrays with one element per bin, [15].

    Returns:
        `low` and `high`, the edges of the bins; `num_images`; `confidence`, the mean of the
        largest probabilities; and `accuracy`. The last two are NaN in empty bins.
    """
    sample = Sample(y_true, y_prob)
    bins = confidence_bins(sample)
    num_images = sample.sums(bins, NUM_BINS)
    confidence = sample.sums(bins, NUM_BINS, values=y_prob.max(axis=1))
    correct = sample.sums(bins, NUM_BINS, values=sample.y_pred == sample.y_true)
    edges = np.linspace(0, 1, NUM_BINS + 1)
    return {
        "low": edges[:-1],
        "high": edges[1:],
        "num_images": num_images,
        "confidence": divide(confidence, num_images),
        "accuracy": divide(correct, num_images),
    }
