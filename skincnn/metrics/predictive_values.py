"""Predictive values and net benefit at a given prevalence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.sample import Floats, Scores, divide
from skincnn.records import Part

PREVALENCES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Prevalences for which predictive values are reported."""
EXAMPLE_PREVALENCE = 0.02
"""The one of `PREVALENCES` that sentences describe."""
THRESHOLD_PROBABILITY = 0.05
"""Threshold probability of the reported net benefit.

It is an assumption, not a recommendation: missing one of the lesions to detect is as bad as
19 unnecessary referrals."""
Function = Callable[[Scores, Scores], Scores]
"""Returns a score from a sensitivity and a specificity; it increases with both of them."""


class PrevalenceScores(Part):
    """Scores at one prevalence, by Bayes' theorem from sensitivity and specificity.

    Attributes:
        prevalence: Share of the lesions that show the target, 0..1.
        ppv: Positive predictive value.
        npv: Negative predictive value.
        net_benefit: Net benefit at `THRESHOLD_PROBABILITY`.
        net_benefit_of_all: Net benefit of flagging all lesions. That of flagging none is 0.
    """

    prevalence: float
    ppv: Estimate
    npv: Estimate
    net_benefit: Estimate
    net_benefit_of_all: float


def ppv_at(sensitivity: Floats, specificity: Floats, prevalence: float) -> Scores:
    """Returns the positive predictive value at a prevalence; NaN if nothing is flagged.

    Altman and Bland, Diagnostic tests 2: predictive values (1994),
    doi:10.1136/bmj.309.6947.102. All values are in 0..1.
    """
    true = np.asarray(sensitivity * prevalence)
    return divide(true, true + (1 - specificity) * (1 - prevalence))


def npv_at(sensitivity: Floats, specificity: Floats, prevalence: float) -> Scores:
    """Returns the negative predictive value at a prevalence; see `ppv_at`."""
    return ppv_at(specificity, sensitivity, 1 - prevalence)


def net_benefit_at(
    sensitivity: Floats,
    specificity: Floats,
    prevalence: float,
    threshold_probability: float = THRESHOLD_PROBABILITY,
) -> Scores:
    """Returns the net benefit at a prevalence: net true positives per lesion, up to 1.

    sensitivity * prevalence - (1 - specificity) * (1 - prevalence) * odds, with the odds of
    the threshold probability, at which harm and benefit of flagging a lesion are equal.
    Vickers and Elkin, Decision curve analysis (2006), doi:10.1177/0272989X06295361.
    """
    odds = threshold_probability / (1 - threshold_probability)
    harm = (1 - specificity) * (1 - prevalence) * odds
    return np.asarray(sensitivity * prevalence - harm, np.float64)


def score_prevalences(
    values: Mapping[str, Scores],
    rates: Mapping[str, Estimate],
    confidence: float,
    prevalences: Sequence[float] = PREVALENCES,
) -> tuple[PrevalenceScores, ...]:
    """Returns the scores at each of the prevalences, with percentile intervals.

    Sensitivity and specificity are assumed not to depend on the prevalence.

    Args:
        values: "sensitivity" and "specificity" on all images, then on each resample,
            [1 + num_resamples].
        rates: The same rates with their intervals.
        confidence: Confidence level of the intervals, between 0 and 1.
        prevalences: Shares of the lesions that show the target, between 0 and 1.
    """
    pair = [(values[name], rates[name]) for name in ("sensitivity", "specificity")]

    def score(function: Callable[..., Scores], prevalence: float) -> Estimate:
        return _estimate(lambda *rate: function(*rate, prevalence), pair, confidence)

    one, zero = np.ones(1), np.zeros(1)
    return tuple(
        PrevalenceScores(
            prevalence=prevalence,
            ppv=score(ppv_at, prevalence),
            npv=score(npv_at, prevalence),
            net_benefit=score(net_benefit_at, prevalence),
            net_benefit_of_all=round(float(net_benefit_at(one, zero, prevalence)[0]), 6),
        )
        for prevalence in prevalences
    )


def _estimate(
    function: Function, pair: Sequence[tuple[Scores, Estimate]], confidence: float
) -> Estimate:
    """Returns the score with its interval.

    The resamples of a rate of 0 or 1 can be equal. They are replaced by the limits of the
    interval of the rate, so that each limit of the score is conservative.
    """
    value = float(function(*(values[:1] for values, _ in pair))[0])
    if math.isnan(value):
        return Estimate(None, None, None)
    if any(rate.low is None for _, rate in pair):
        return Estimate(round(value, 6), None, None)
    tail = (1 - confidence) / 2
    ends = []
    for end, quantile in (("low", tail), ("high", 1 - tail)):
        columns = [
            np.full(len(values) - 1, getattr(rate, end))
            if np.nanmin(values) == np.nanmax(values)
            else values[1:]
            for values, rate in pair
        ]
        limit = np.nanquantile(function(*columns), quantile, method="weibull")
        ends.append(round(float(limit), 6))
    return Estimate(round(value, 6), *ends)
