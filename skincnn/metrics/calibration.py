"""Calibration of probabilities, and scores that measure the calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.optimize
import scipy.special

from skincnn.metrics.classification import NUM_BINS, MetricFunction, confidence_bins
from skincnn.metrics.sample import Floats, Labels, Sample, Scores, divide
from skincnn.records import Part

TINY = float(np.finfo(np.float32).tiny)
"""Smaller probabilities are replaced by this value before the logarithm is taken."""
BANDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Edges of the probability bands of `reliability_curve`. A band excludes its upper edge,
unless this is 1."""
MAX_STEPS = 30
"""Maximum number of Newton steps of a logistic regression."""


class CalibrationMap(Part):
    """Temperature scaling with a bias for each class.

    calibrated probabilities = softmax(log(probabilities) / temperature + bias)

    Alexandari, Kundaje and Shrikumar, Maximum Likelihood with Bias-Corrected Calibration is
    Hard-To-Beat at Label Shift Adaptation (2020), arXiv:1901.06852: bias-corrected
    temperature scaling.

    Attributes:
        temperature: Positive divisor of the log probabilities.
        bias: One number for each class, in the order of the model's outputs.
    """

    temperature: float
    bias: tuple[float, ...]

    def logits(self, log_prob: Any) -> Any:
        """Returns the logits of the calibrated probabilities, [num_images, num_classes].

        `log_prob` are the logarithms of probabilities, in the same shape: a NumPy array
        (evaluation) or a TensorFlow tensor (exports).
        """
        # Only operators, which NumPy arrays and TensorFlow tensors have in common.
        return log_prob / self.temperature + self.bias

    def apply(self, y_prob: Floats) -> Floats:
        """Returns the calibrated probabilities, [num_images, num_classes].

        The probabilities `y_prob` [num_images, num_classes] are clipped to at least
        1.2e-38. The most probable class of an image can change.
        """
        return np.asarray(scipy.special.softmax(self.logits(_log(y_prob)), axis=1))

    def undo(self, calibrated: Floats) -> Floats:
        """Returns the probabilities for which `apply` returns `calibrated`.

        Both are [num_images, num_classes]. The calibrated probabilities are clipped to at
        least 1.2e-38.
        """
        logits = (_log(calibrated) - self.bias) * self.temperature
        return np.asarray(scipy.special.softmax(logits, axis=1))


def fit_calibration(y_true: Labels, y_prob: Floats) -> CalibrationMap:
    """Returns the calibration map with the smallest penalized log loss.

    loss = sum over images of -log(calibrated probability of the true class)
           + log(temperature)^2 / 2 + sum over classes of bias^2 / 2

    The penalty corresponds to standard normal priors of log(temperature) and the biases,
    which favor unchanged probabilities. The penalty does not grow with the number of
    images: with many images, the log loss dominates; with few images, the calibrated
    probabilities stay close to those of the model. At the minimum, the calibrated
    probabilities of a class add up to its number of images minus its bias. Therefore, their
    mean is nearly the observed share of the class, and the bias of a class without images
    is finite.

    Fit the map on the validation split: the calibration of the images used for fitting is
    optimistic. The parameters are rounded to 6 decimals.

    Args:
        y_true: Integer labels, [num_images].
        y_prob: Probabilities, [num_images, num_classes].
    """
    log_prob, num_classes = _log(y_prob), y_prob.shape[1]
    one_hot = np.eye(num_classes)[y_true]

    def loss(parameters: Scores) -> tuple[float, Scores]:
        log_scale, bias = parameters[0], parameters[1:]
        scaled = np.exp(log_scale) * log_prob
        log_calibrated = scipy.special.log_softmax(scaled + bias, axis=1)
        error = np.exp(log_calibrated) - one_hot
        value = -(one_hot * log_calibrated).sum()
        penalty = (parameters**2).sum() / 2
        slope = (error * scaled).sum() + log_scale
        slopes = error.sum(axis=0) + bias
        return float(value + penalty), np.array([slope, *slopes])

    result = scipy.optimize.minimize(
        loss,
        np.zeros(1 + num_classes),
        method="L-BFGS-B",
        jac=True,
        options={"ftol": 1e-15, "gtol": 1e-8, "maxiter": 1000},
    )
    log_scale, *bias = result.x.tolist()
    temperature = round(float(np.exp(-log_scale)), 6)
    return CalibrationMap(
        temperature=temperature, bias=tuple(round(each, 6) for each in bias)
    )


def observed_expected(sample: Sample) -> Scores:
    """Returns the observed divided by the expected number of positive images.

    The expected number is the sum of the target's probability over all images. The best
    value is 1. Below 1, the probabilities are too high on average. The ratio is NaN without
    positive images, or if the expected number is 0. `sample` has two classes. The second
    one is the target; its images are the positive images.
    """
    observed = sample.weights @ (sample.y_true == 1).astype(float)
    ratio = divide(observed, sample.weights @ sample.y_prob[:, 1])
    return np.where(observed > 0, ratio, np.nan)


def calibration_slope(sample: Sample) -> Scores:
    """Returns the slope of a logistic regression of the target on the predicted log odds.

    The best value is 1. Below 1, high probabilities are too high and low ones too low. The
    slope is NaN if the regression has no finite solution or does not converge. For
    `sample`, see `observed_expected`.

    References:
        Cox, Two further applications of a model for binary regression (1958), Biometrika
        45.
    """
    return 1 + _recalibrate(sample, num_coefficients=2)[..., 1]


def calibration_intercept(sample: Sample) -> Scores:
    """Returns the intercept of a logistic regression with the slope fixed at 1.

    This is called calibration-in-the-large. The best value is 0. Below 0, the probabilities
    are too high on average. The intercept is NaN if all images or none are positive, or if
    the regression does not converge. For `sample`, see `observed_expected`.

    References:
        Van Calster et al., Calibration: the Achilles heel of predictive analytics (2019),
        BMC Medicine 17:230.
    """
    return _recalibrate(sample, num_coefficients=1)[..., 0]


CALIBRATION_SCORES: dict[str, MetricFunction] = {
    "observed_expected": observed_expected,
    "slope": calibration_slope,
    "intercept": calibration_intercept,
}
"""Calibration of the probability of a target: scores of a sample with two classes."""


def find_bands(score: Floats) -> Labels:
    """Returns the index in `BANDS` of the band of each probability, [num_images]."""
    return np.searchsorted(BANDS[1:-1], score, side="right")


def reliability_curve(sample: Sample) -> Scores:
    """Returns the share of positive images in each probability band, [..., num_bands].

    The share is NaN in a band without images. For `sample`, see `observed_expected`.
    """
    bands, num_bands = find_bands(sample.y_prob[:, 1]), len(BANDS) - 1
    observed = sample.sums(bands, num_bands, values=sample.y_true == 1)
    return divide(observed, sample.sums(bands, num_bands))


def reliability(y_true: Labels, y_prob: Floats) -> dict[str, Scores]:
    """Returns the reliability diagram of the largest probability (confidence).

    Args:
        y_true: Integer labels, [num_images].
        y_prob: Probabilities, [num_images, num_classes].

    Returns:
        Arrays [15] by name, with one element per bin: the edges `low` and `high`,
        `num_images`, and the mean `confidence` and `accuracy`, which are NaN in empty bins.
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


def _log(y_prob: Floats) -> Floats:
    return np.log(np.maximum(np.asarray(y_prob, np.float64), TINY))


def _recalibrate(sample: Sample, num_coefficients: int) -> Scores:
    """Returns the intercept, and with two coefficients also the slope minus 1.

    The coefficients, [..., num_coefficients], are those of a logistic regression of the
    target with the log odds as offset. Newton's method starts at 0, and for resamples at
    the coefficients of all images. If it does not converge, the coefficients are NaN.
    Probabilities are clipped to 1e-7..1-1e-7.
    """
    log_odds = scipy.special.logit(np.clip(sample.y_prob[:, 1], 1e-7, 1 - 1e-7))
    features = np.stack([np.ones_like(log_odds), log_odds], axis=1)[:, :num_coefficients]
    products = (features[:, :, None] * features[:, None]).reshape(len(features), -1)
    positive, weights = sample.y_true == 1, sample.weights
    coefficients = np.zeros((*weights.shape[:-1], num_coefficients))
    if coefficients.ndim > 1 and len(coefficients) > 1:
        unweighted = Sample(sample.y_true, sample.y_prob)
        coefficients += np.nan_to_num(_recalibrate(unweighted, num_coefficients))
    step = np.full_like(coefficients, np.inf)
    for _ in range(MAX_STEPS):
        probability = scipy.special.expit(coefficients @ features.T + log_odds)
        gradient = (weights * (positive - probability)) @ features
        curvature = (weights * probability * (1 - probability)) @ products
        step = _solve(curvature.reshape(*gradient.shape, num_coefficients), gradient)
        if not (np.abs(step) > 1e-8).any():
            break
        coefficients = coefficients + np.nan_to_num(step)
    converged = np.abs(step).max(axis=-1, keepdims=True) < 1e-6
    return np.where(converged, coefficients, np.nan)


def _solve(matrix: Scores, vector: Scores) -> Scores:
    """Returns the solutions of systems of linear equations; NaN for singular ones."""
    singular = ~(np.abs(np.linalg.det(matrix)) > 0)
    safe = np.where(singular[..., None, None], np.eye(matrix.shape[-1]), matrix)
    solution = np.linalg.solve(safe, vector[..., None])[..., 0]
    return np.where(singular[..., None], np.nan, solution)
