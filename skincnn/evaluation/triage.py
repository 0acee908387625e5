"""Calibration and thresholds chosen on validation, and scores that depend on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from skincnn.evaluation.resampled import Resampled, count_outcomes
from skincnn.evaluation.results import ProbabilityBand, TargetCalibration, TriageScores
from skincnn.inference.predictions import DISTANCE
from skincnn.metrics.bootstrap import bootstrap, count_groups
from skincnn.metrics.calibration import (
    BANDS,
    CALIBRATION_SCORES,
    CalibrationMap,
    find_bands,
    fit_calibration,
    reliability_curve,
)
from skincnn.metrics.conformal import (
    ERROR,
    PredictionSetScores,
    choose_set_thresholds,
    group_shares,
)
from skincnn.metrics.decision_rule import DEFAULT_OPERATING_POINT, TARGET, DecisionRule
from skincnn.metrics.intervals import Support, estimate
from skincnn.metrics.operating_points import (
    OPERATING_POINTS,
    choose_threshold,
)
from skincnn.metrics.sample import Flags, Floats, Scores, divide


@dataclass(frozen=True)
class ValidationChoices:
    """The calibration map and thresholds, chosen on validation and used for all splits.

    Attributes:
        thresholds: By target and operating point; None where `choose_threshold` finds none.
        max_distance: Distance above which an image is out-of-distribution; None if
            out-of-distribution detection is switched off.
        set_thresholds: Threshold of each class for the prediction sets; see
            `choose_set_thresholds`.
    """

    calibration_map: CalibrationMap
    thresholds: dict[str, dict[str, float | None]]
    max_distance: float | None
    set_thresholds: tuple[float, ...]


def choose_on_validation(
    validation: Resampled, max_distance: float | None = None
) -> ValidationChoices:
    """Returns the calibration map and the thresholds, chosen on a validation table.

    `max_distance` is not chosen here, but becomes that of the result.
    """
    y_true, y_prob = validation.arrays
    calibration_map = fit_calibration(y_true, y_prob)
    calibrated = calibration_map.apply(y_prob)
    return ValidationChoices(
        calibration_map,
        {
            target.name: {
                point.key: choose_threshold(
                    target.positive(y_true), target.score(calibrated), point
                )
                for point in OPERATING_POINTS
            }
            for target in validation.targets.values()
        },
        max_distance,
        choose_set_thresholds(y_true, calibrated, validation.groups),
    )


def score_calibration(
    sample: Resampled, positive: Flags, score: Scores
) -> TargetCalibration:
    """Returns how well the calibrated probabilities of a target match its frequency.

    `positive` contains whether each image belongs to the target, and `score` the calibrated
    probability of the target, both [num_images].
    """
    two_classes = np.stack([1 - score, score], axis=1)
    functions = {**CALIBRATION_SCORES, "curve": reliability_curve}
    values = bootstrap(functions, positive.astype(int), two_classes, sample.weights)
    in_band = find_bands(score)[:, None] == np.arange(len(BANDS) - 1)
    num_groups = count_groups(sample.groups, in_band)
    supports = [Support("mean", (int(count),)) for count in num_groups]
    observed = estimate(values.pop("curve"), sample.config.confidence, supports)
    return TargetCalibration(
        scores={name: sample.estimate(part) for name, part in values.items()},
        bands=tuple(
            ProbabilityBand(
                low=low,
                high=high,
                num_images=int(rows.sum()),
                predicted=round(float(score[rows].mean()), 6) if rows.any() else None,
                observed=share,
            )
            for low, high, rows, share in zip(
                BANDS[:-1], BANDS[1:], in_band.T, observed, strict=True
            )
        ),
    )


def make_rule(sample: Resampled, choices: ValidationChoices) -> DecisionRule | None:
    """Returns the referral rule with the threshold of `DEFAULT_OPERATING_POINT`.

    Returns None if there is no target "malignant", or if there is neither a threshold nor a
    maximum distance.
    """
    if TARGET not in choices.thresholds:
        return None
    rule = DecisionRule(
        class_names=sample.class_names,
        declared=dict(sample.declared),
        calibration_map=choices.calibration_map,
        threshold=choices.thresholds[TARGET][DEFAULT_OPERATING_POINT],
        max_distance=choices.max_distance,
        set_thresholds=choices.set_thresholds,
    )
    return None if rule.threshold is None and rule.max_distance is None else rule


def refer(rule: DecisionRule, table: pd.DataFrame, calibrated: Floats) -> Flags:
    """Returns whether each image is referred, [num_images].

    The calibrated probabilities are [num_images, num_classes].
    """
    distances = np.zeros(len(table)) if rule.max_distance is None else table[DISTANCE]
    return np.asarray(rule.decide(calibrated, np.asarray(distances))[0])


def score_triage(
    sample: Resampled, calibrated: Floats, choices: ValidationChoices
) -> TriageScores | None:
    """Returns the scores of the referral rule; None if `make_rule` returns None.

    The calibrated probabilities are [num_images, num_classes].
    """
    table, targets = sample.table, sample.targets
    rule = make_rule(sample, choices)
    if rule is None:
        return None
    referred = refer(rule, table, calibrated).astype(float)
    y_true = sample.arrays[0]
    malignant = targets[TARGET].positive(y_true)
    all_images = sample.rates(np.ones(len(table), bool), referred, 0.5)
    melanoma = targets.get("melanoma")
    melanoma_rates = (
        sample.rates(melanoma.positive(y_true), referred, 0.5) if melanoma else {}
    )
    return TriageScores(
        operating_point=DEFAULT_OPERATING_POINT,
        threshold=rule.threshold,
        max_distance=rule.max_distance,
        rates=sample.rates(malignant, referred, 0.5),
        outcomes=count_outcomes(malignant, referred, 0.5),
        by_prevalence=sample.by_prevalence(malignant, referred, 0.5),
        referred=all_images["sensitivity"],
        melanoma_referred=melanoma_rates.get("sensitivity"),
    )


def score_prediction_sets(
    sample: Resampled, calibrated: Floats, choices: ValidationChoices
) -> PredictionSetScores:
    """Returns the coverage and the size of the prediction sets.

    The calibrated probabilities are [num_images, num_classes].
    """
    in_set = calibrated >= choices.set_thresholds
    y_true = sample.arrays[0]
    own = y_true[:, None] == np.arange(len(sample.class_names))
    shares = own * group_shares(y_true, sample.groups)[:, None]
    weights = sample.all_weights
    covered = divide(weights @ (in_set * shares), weights @ shares)
    supports = [
        Support("rate", (count,)) for count in count_groups(sample.groups, own).tolist()
    ]
    sizes = in_set.sum(axis=1)
    totals = weights.sum(axis=1)
    return PredictionSetScores(
        coverage=1 - ERROR,
        thresholds=choices.set_thresholds,
        covered=dict(
            zip(
                sample.class_names,
                estimate(covered, sample.config.confidence, supports),
                strict=True,
            )
        ),
        mean_size=sample.estimate(weights @ sizes / totals),
        empty=sample.estimate(
            weights @ (sizes == 0) / totals, Support("rate", (sample.num_groups,))
        ),
    )
