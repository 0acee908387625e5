"""The root mean square calibration error, corrected for bias, with a valid interval.

The mean absolute calibration error (`ece`) is biased: even perfect probabilities have a
positive error in a small sample, and a larger one in resamples. The bias of the mean square
error does not depend on the true error, so it can be subtracted: Kumar, Liang and Ma,
Verified Uncertainty Calibration (2019), arXiv:1909.10155.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize

from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.classification import NUM_BINS
from skincnn.metrics.sample import Sample, Scores, divide

MIN_PER_BIN = 4
"""Minimum number of groups of images, divided by the number of bins. With fewer groups, the
error is undefined."""
MIN_POWER = 0.05
"""For the upper end of the interval, the observed mean square error is replaced by this
quantile of the mean square errors of perfectly calibrated probabilities, if the quantile is
larger.

Otherwise, an error that is small by chance could have an interval that contains only 0:
Cowan et al., Power-Constrained Limits (2011), arXiv:1105.3166."""


def calibration_gaps(sample: Sample) -> Scores:
    """Returns the calibration gap of each of 15 bins, [..., 15].

    The gap is the mean confidence (largest probability) minus the accuracy. The images are
    sorted by confidence and divided into bins whose sizes differ by at most one; resamples
    use the same bins. Each gap is multiplied by the square root of the share of the images
    in the bin, so that the sum of the squares is the mean square calibration error. A gap
    is NaN if its bin has no images, for example in a resample. Nguyen and O'Connor,
    Posterior calibration and exploratory analysis for natural language processing models
    (2015), arXiv:1508.05154.
    """
    confidence = sample.y_prob.max(axis=1)
    ranks = confidence.argsort(kind="stable").argsort(kind="stable")
    bins = ranks * NUM_BINS // len(ranks)
    gaps = sample.sums(bins, NUM_BINS, confidence - (sample.y_pred == sample.y_true))
    shares = np.bincount(bins, minlength=NUM_BINS) / len(bins)
    return divide(gaps, sample.sums(bins, NUM_BINS)) * np.sqrt(shares)


def rms_calibration_error(
    values: Scores, num_groups: int, confidence: float = 0.95
) -> Estimate:
    """Returns the root mean square calibration error in 0..1, with its interval.

    The value is the square root of the difference between the mean square error and its
    bias. It is 0 if the difference is negative.

    The interval contains each error that a test does not reject. Unlike a percentile
    interval, it is therefore also valid near 0. For each tested error, all gaps are scaled
    by one factor, so that the sum of their squares is the square of this error. Adding the
    deviations of the resamples to the scaled gaps gives a distribution of the mean square
    error. The tested error is rejected if the observed mean square error lies in a tail of
    this distribution. Both tails have the same probability, except for errors near 0: the
    lower tail, which can hardly reject them, is smaller, and the upper tail is larger. Puza
    and O'Neill, Interval estimation via tail functions (2006),
    doi:10.1002/cjs.5550340207.

    Args:
        values: `calibration_gaps` from `bootstrap`, [1 + num_resamples, 15].
        num_groups: Number of groups of images. The error is undefined (None) for fewer than
            15 * `MIN_PER_BIN` groups.
        confidence: Confidence level of the interval, between 0 and 1.
    """
    if num_groups < MIN_PER_BIN * NUM_BINS:
        return Estimate(None, None, None)
    gaps = values[0]
    # The variance of resamples of n groups, here those in a bin, is too small by the
    # factor (n - 1) / n.
    deviations = np.nan_to_num(values[1:] - gaps)
    deviations *= np.sqrt(num_groups / (num_groups - NUM_BINS))
    noise = np.square(deviations).sum(axis=1)
    observed = float(np.square(gaps).sum())
    along = 2 * deviations @ np.nan_to_num(divide(gaps, np.sqrt(observed)))
    # A one-sided test rejects an error of 0 if the observed mean square exceeds this limit.
    limit = _quantile(noise, confidence)

    def quantile(error: float, *, upper: bool) -> float:
        """Returns the upper or lower end of the mean squares that do not reject `error`."""
        squares = error**2 + error * along + noise
        # The lower tail is about half as large for errors that hardly differ from 0.
        tail = (1 - confidence) / 4 * (1 + np.mean(squares > limit))
        return _quantile(squares, tail + confidence if upper else tail)

    def end(square: float, *, upper: bool) -> float:
        """Returns the error whose `quantile` is `square`; 0 if there is none."""

        def excess(error: float) -> float:
            return quantile(error, upper=upper) - square

        return float(scipy.optimize.brentq(excess, 0, 2)) if excess(0) < 0 else 0.0

    bounded = max(observed, _quantile(noise, MIN_POWER))
    low, high = end(observed, upper=True), end(bounded, upper=False)
    value = np.sqrt(max(0.0, observed - float(noise.mean())))
    return Estimate(round(float(value), 6), round(low, 6), round(min(high, 1.0), 6))


def _quantile(values: Scores, share: float) -> float:
    return float(np.quantile(values, share, method="weibull"))
