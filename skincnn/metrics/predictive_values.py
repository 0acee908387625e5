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
"""The prevalence that sentences in reports describe; one of `PREVALENCES`."""
THRESHOLD_PROBABILITY = 0.05
"""Threshold probability of the reported net benefit.

It is an assumption, not a recommendation: missing one of the lesions to detect is as bad as
19 unnecessary referrals."""
Function = Callable[[float, float], float]
"""Function of sensitivity and specificity that increases with both of them."""


class PrevalenceScores(Part):
    """Scores at one prevalence, by Bayes' theorem from sensitivity and specificity.

    Attributes:
        prevalence: Share of the lesions that belong to the target, 0..1.
        ppv: Positive predictive value; undefined if nothing is flagged.
        npv: Negative predictive value; undefined if everything is flagged.
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
    doi:10.1136/bmj.309.6947.102. All values are in 0..1. The result has the shape of
    `sensitivity` and `specificity`.
    """
    true = np.asarray(sensitivity * prevalence)
    return divide(true, true + (1 - specificity) * (1 - prevalence))


def npv_at(sensitivity: Floats, specificity: Floats, prevalence: float) -> Scores:
    """Returns the negative predictive value at a prevalence; NaN if all are flagged.

    See `ppv_at` for the source, the ranges and the shape.
    """
    return ppv_at(specificity, sensitivity, 1 - prevalence)


def net_benefit_at(
    sensitivity: Floats,
    specificity: Floats,
    prevalence: float,
    threshold_probability: float = THRESHOLD_PROBABILITY,
) -> Scores:
    """Returns the net benefit at a prevalence: net true positives per lesion.

    net benefit = sensitivity * prevalence - (1 - specificity) * (1 - prevalence) * odds

    The odds are those of the threshold probability, at which harm and benefit of flagging a
    lesion are equal. Vickers and Elkin, Decision curve analysis (2006),
    doi:10.1177/0272989X06295361. The result is at most the prevalence, and has the shape
    of `sensitivity` and `specificity`. The arguments are in 0..1, and the threshold
    probability is below 1.
    """
    odds = threshold_probability / (1 - threshold_probability)
    harm = (1 - specificity) * (1 - prevalence) * odds
    return np.asarray(sensitivity * prevalence - harm, np.float64)


def score_prevalences(
    values: Mapping[str, Scores],
    rates: Mapping[str, Estimate],
    prevalences: Sequence[float] = PREVALENCES,
) -> tuple[PrevalenceScores, ...]:
    """Returns the scores at each of the prevalences, with intervals.

    Sensitivity and specificity are assumed not to depend on the prevalence. The intervals
    are computed from those of the sensitivity and the specificity: Zou and Donner,
    Construction of confidence limits about effect measures (2008), doi:10.1002/sim.3095.
    A score is undefined if the sensitivity or the specificity is undefined. It has no
    interval if one of these has none, or if the score is undefined for their limits.

    Args:
        values: "sensitivity" and "specificity" on all images, then on each resample,
            [1 + num_resamples].
        rates: The same rates with their intervals.
        prevalences: Shares of the lesions that belong to the target, between 0 and 1.
    """
    pair = [rates[name] for name in ("sensitivity", "specificity")]
    correlation = _correlation(values["sensitivity"][1:], values["specificity"][1:])

    def score(function: Callable[..., Scores], prevalence: float) -> Estimate:
        def at(sensitivity: float, specificity: float) -> float:
            arrays = np.array([sensitivity]), np.array([specificity])
            return float(function(*arrays, prevalence)[0])

        return _estimate(at, pair, correlation)

    return tuple(
        PrevalenceScores(
            prevalence=prevalence,
            ppv=score(ppv_at, prevalence),
            npv=score(npv_at, prevalence),
            net_benefit=score(net_benefit_at, prevalence),
            net_benefit_of_all=round(
                float(net_benefit_at(np.ones(1), np.zeros(1), prevalence)[0]), 6
            ),
        )
        for prevalence in prevalences
    )


def _estimate(
    function: Function, rates: Sequence[Estimate], correlation: float
) -> Estimate:
    """Returns the score with an interval from those of the rates.

    Moving one rate to its limit changes the score by x, and moving the other rate to its
    limit by y. The distance of the score from its limit is sqrt(x^2 + y^2 + 2 r x y) with
    the correlation r of the rates, but at most the change for both rates at their limits.
    """
    first, second = (math.nan if rate.value is None else rate.value for rate in rates)
    value = function(first, second)
    if math.isnan(value):
        return Estimate(None, None, None)
    ends: list[float | None] = []
    for end, sign in (("low", -1), ("high", 1)):
        limits = [getattr(rate, end) for rate in rates]
        if None in limits:
            return Estimate(round(value, 6), None, None)
        changes = function(limits[0], second) - value, function(first, limits[1]) - value
        square = math.fsum((*(c**2 for c in changes), 2 * correlation * math.prod(changes)))
        largest = abs(function(*limits) - value)
        distance = min(largest, math.sqrt(max(0.0, square)))
        if math.isnan(largest):  # the PPV or NPV is not defined at the limits
            return Estimate(round(value, 6), None, None)
        ends.append(round(value + sign * distance, 6))
    return Estimate(round(value, 6), *ends)


def _correlation(first: Scores, second: Scores) -> float:
    """Returns the correlation of two scores; 0 if one is undefined or does not vary."""
    defined = ~np.isnan(first + second)
    if not defined.any():
        return 0.0
    deviations = [part[defined] - part[defined].mean() for part in (first, second)]
    norms = [np.linalg.norm(part) for part in deviations]
    return float(deviations[0] @ deviations[1] / math.prod(norms)) if all(norms) else 0.0
