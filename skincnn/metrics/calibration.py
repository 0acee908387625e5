"""Calibration of probabilities: temperature scaling and reliability diagrams."""

from __future__ import annotations

import numpy as np
import scipy.optimize
import scipy.special

from skincnn.metrics.classification import NUM_BINS, confidence_bins, log_loss
from skincnn.metrics.sample import Floats, Labels, Sample, Scores, divide

TEMPERATURES = (0.05, 20.0)
"""Minimum and maximum of the fitted temperature."""


def fit_temperature(y_true: Labels, y_prob: Floats) -> float:
    """Returns the temperature in 0.05..20 that minimizes the log loss.

    A value above 1 indicates overconfidence. Use the validation split, because scores on
    the images used for fitting are optimistic. Guo et al., On Calibration of Modern Neural
    Networks (2017), section 4.2. For the shapes, see `Sample`.
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
    """Returns the softmax of logits / temperature, [num_images, num_classes].

    Log probabilities are used as logits: the two differ only by a constant for each image.
    The predicted classes do not change. The probabilities `y_prob`
    [num_images, num_classes] are clipped to at least 1.2e-38.
    """
    logits = np.log(np.maximum(y_prob, np.finfo(np.float32).tiny))
    return np.asarray(scipy.special.softmax(logits / temperature, axis=1))


def reliability(y_true: Labels, y_prob: Floats) -> dict[str, Scores]:
    """Returns the reliability diagram: arrays [15] with one element per bin, by name.

    `low` and `high` are the edges of the bins of the largest probability; `confidence` is
    its mean in each bin. `confidence` and `accuracy` are NaN in empty bins.
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
