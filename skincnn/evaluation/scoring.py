"""Scores of a predictions table, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skincnn.config import EvaluateConfig
from skincnn.data.leakage import SplitLeakage
from skincnn.evaluation.results import (
    Calibration,
    ClassScores,
    InferenceCost,
    OperatingPointScores,
    SplitResult,
    TargetScores,
)
from skincnn.evaluation.subgroups import score_subgroups
from skincnn.evaluation.triage import choose_max_distance, score_triage
from skincnn.inference.predictions import (
    DISTANCE,
    arrays,
    class_names_of,
    table_sha256,
)
from skincnn.metrics.bootstrap import (
    Estimate,
    bootstrap,
    bootstrap_weights,
    estimate,
    num_groups_per_rate,
)
from skincnn.metrics.calibration import apply_temperature, fit_temperature
from skincnn.metrics.classification import (
    METRICS,
    PER_CLASS_METRICS,
    auc_per_class,
    ece,
    recall_per_class,
)
from skincnn.metrics.operating_points import (
    HEADLINE_POINT,
    OPERATING_POINTS,
    RATES,
    Target,
    choose_threshold,
    find_targets,
    rates,
    score_operating_point,
)
from skincnn.metrics.sample import Flags, Floats, Sample, Scores

CALIBRATION_METRICS = ("ece", "adaptive_ece", "brier", "log_loss")
MELANOMA_RECALL = "melanoma_recall"
MELANOMA_AUC = "melanoma_auc"
MELANOMA_SENSITIVITY = "melanoma_sensitivity"
MELANOMA_SPECIFICITY = "melanoma_specificity"
CALIBRATED_ECE = "calibrated_ece"
CALIBRATED = (MELANOMA_AUC, MELANOMA_SENSITIVITY, MELANOMA_SPECIFICITY, CALIBRATED_ECE)
"""Names of `calibrated_values`."""


@dataclass(frozen=True)
class ValidationChoices:
    """What is chosen on the validation split and applied to all others.

    Attributes:
        temperature: Of temperature scaling.
        thresholds: Target to operating point to threshold; None if the operating point is
            not reached.
        max_distance: The Mahalanobis distance beyond which an image is
            out-of-distribution; None if the table has no distances.
    """

    temperature: float
    thresholds: dict[str, dict[str, float | None]]
    max_distance: float | None


@dataclass(frozen=True)
class InferenceVariant:
    """Predictions of all splits, made in the same way.

    Attributes:
        name: "" for the model as is; else a kind of test-time augmentation, "adjusted", or
            both, as "d4_adjusted".
        tables: Split to its predictions table, "val" among them.
        cost: Of the predictions.
        logit_adjustment: Strength of the logit adjustment; None without.
    """

    name: str
    tables: Mapping[str, pd.DataFrame]
    cost: InferenceCost
    logit_adjustment: float | None = None


def choose_on_validation(validation: pd.DataFrame) -> ValidationChoices:
    """Returns the temperature and the thresholds of a validation table."""
    class_names = class_names_of(validation)
    y_true, y_prob = arrays(validation, class_names)
    temperature = fit_temperature(y_true, y_prob)
    calibrated = apply_temperature(y_prob, temperature)
    return ValidationChoices(
        temperature,
        {
            target.name: {
                point.key: choose_threshold(
                    target.positive(y_true), target.score(calibrated), point
                )
                for point in OPERATING_POINTS
            }
            for target in find_targets(class_names).values()
        },
        choose_max_distance(validation) if DISTANCE in validation else None,
    )


def score_variant(
    variant: InferenceVariant,
    stored_in: Mapping[str, str],
    leakage: Mapping[str, SplitLeakage],
    config: EvaluateConfig,
    baseline: InferenceVariant | None = None,
) -> dict[str, SplitResult]:
    """Returns split to its result; temperature and thresholds are chosen on "val".

    Args:
        variant: The predictions.
        stored_in: Split to where its images are stored, as "fold 9".
        leakage: Split to its leakage, of splits that no training was checked against.
        config: Number of resamples and coverage of the intervals.
        baseline: The predictions of the model as is, for paired differences.
    """
    tables = dict(variant.tables)
    if variant.name:
        # Exports serve the distance averaged over all views, which no table has.
        tables = {s: t.drop(columns=DISTANCE, errors="ignore") for s, t in tables.items()}
    choices = choose_on_validation(tables["val"])
    return {
        split: score_split(
            table,
            choices,
            variant,
            split=split,
            stored_in=stored_in[split],
            leakage=leakage.get(split),
            config=config,
            baseline=baseline.tables[split] if baseline else None,
        )
        for split, table in tables.items()
    }


def score_split(
    table: pd.DataFrame,
    choices: ValidationChoices,
    variant: InferenceVariant,
    *,
    split: str,
    stored_in: str,
    config: EvaluateConfig,
    leakage: SplitLeakage | None = None,
    baseline: pd.DataFrame | None = None,
) -> SplitResult:
    """Returns every score of a predictions table with its interval.

    Args:
        table: A predictions table.
        choices: Of the validation table of the same variant.
        variant: How the table was predicted.
        split: Name of the split.
        stored_in: Where its images are stored.
        config: Number of resamples and coverage of the intervals.
        leakage: How much of the split was seen in training.
        baseline: The same images predicted by the model as is, for paired differences.
    """
    class_names = class_names_of(table)
    y_true, y_prob = arrays(table, class_names)
    calibrated = apply_temperature(y_prob, choices.temperature)
    weights = bootstrap_weights(table["image_id"], table["lesion_id"], config.num_bootstrap)
    metrics, classes = score_classes(table, weights, config.confidence)
    functions = {name: METRICS[name].function for name in CALIBRATION_METRICS}
    after = bootstrap(functions, y_true, calibrated, weights)
    return SplitResult(
        split=split,
        variant=variant.name,
        stored_in=stored_in,
        predictions_sha256=table_sha256(variant.tables[split]),
        validation_sha256=table_sha256(variant.tables["val"]),
        class_names=tuple(class_names),
        num_images=len(table),
        num_lesions=int(table["lesion_id"].nunique()),
        missing_classes=tuple(n for n in class_names if not classes[n].num_images),
        temperature=round(choices.temperature, 6),
        thresholds=choices.thresholds,
        metrics=metrics,
        classes=classes,
        confusion_matrix=Sample(y_true, y_prob).confusion.astype(int).tolist(),
        calibration=Calibration(
            before={name: metrics[name] for name in CALIBRATION_METRICS},
            after={n: estimate(value, config.confidence)[0] for n, value in after.items()},
        ),
        targets={
            target.name: score_target(
                table, target, target.score(calibrated), choices, weights, config.confidence
            )
            for target in find_targets(class_names).values()
        },
        triage=score_triage(
            table,
            calibrated,
            choices.thresholds,
            choices.max_distance,
            weights,
            config.confidence,
        ),
        subgroups=score_subgroups(
            table, class_names, config.num_bootstrap, config.confidence
        ),
        leakage=leakage,
        cost=variant.cost,
        logit_adjustment=variant.logit_adjustment,
        differences={}
        if baseline is None
        else score_differences(
            metric_values(table, weights),
            metric_values(baseline, weights),
            config.confidence,
        ),
        confidence=config.confidence,
        num_bootstrap=config.num_bootstrap,
    )


def score_classes(
    table: pd.DataFrame, weights: Floats, confidence: float
) -> tuple[dict[str, Estimate], dict[str, ClassScores]]:
    """Returns each of `METRICS`, and each class's `PER_CLASS_METRICS`.

    Args:
        table: A predictions table.
        weights: From `bootstrap_weights`, [num_bootstrap, num_images].
        confidence: Coverage of the intervals, 0..1.
    """
    class_names = class_names_of(table)
    functions: dict[str, Callable[[Sample], Scores]] = {
        name: metric.function for name, metric in METRICS.items()
    }
    y_true, y_prob = arrays(table, class_names)
    values = bootstrap(functions | PER_CLASS_METRICS, y_true, y_prob, weights)
    lesions = num_groups_per_rate(table["lesion_id"].tolist(), y_true, y_prob)
    estimates = {
        name: estimate(value, confidence, lesions.get(name))
        for name, value in values.items()
    }
    classes = {}
    for index, name in enumerate(class_names):
        rows = table[table["label"] == name]
        classes[name] = ClassScores(
            num_images=len(rows),
            num_lesions=int(rows["lesion_id"].nunique()),
            scores={metric: estimates[metric][index] for metric in PER_CLASS_METRICS},
        )
    return {name: estimates[name][0] for name in METRICS}, classes


def metric_values(table: pd.DataFrame, weights: Floats) -> dict[str, Scores]:
    """Returns `bootstrap` of `METRICS` and `melanoma_recall`, for `score_differences`.

    Args:
        table: A predictions table.
        weights: From `bootstrap_weights`, [num_bootstrap, num_images].
    """
    class_names = class_names_of(table)
    functions = {name: metric.function for name, metric in METRICS.items()}
    functions |= melanoma_recall(class_names)
    return bootstrap(functions, *arrays(table, class_names), weights)


def melanoma_recall(class_names: Sequence[str]) -> dict[str, Callable[[Sample], Scores]]:
    """Returns `MELANOMA_RECALL` to its function; empty if no class is melanoma."""
    melanoma = find_targets(class_names).get("melanoma")
    if melanoma is None:
        return {}
    return {MELANOMA_RECALL: lambda s: recall_per_class(s)[..., melanoma.classes[0]]}


def calibrated_values(
    table: pd.DataFrame, validation: pd.DataFrame, weights: Floats
) -> dict[str, Scores]:
    """Returns the scores that depend on calibration and thresholds.

    The temperature and the threshold are those of `choose_on_validation`.

    Args:
        table: A predictions table.
        validation: The validation table, predicted in the same way.
        weights: From `bootstrap_weights`, [num_bootstrap, num_images].

    Returns:
        As of `bootstrap`: `CALIBRATED_ECE`; and, if a class is melanoma, `MELANOMA_AUC`
        and the rates at the threshold of `HEADLINE_POINT`, NaN if there is none.
    """
    class_names = class_names_of(table)
    choices = choose_on_validation(validation)
    y_true, y_prob = arrays(table, class_names)
    calibrated = apply_temperature(y_prob, choices.temperature)
    values = bootstrap({CALIBRATED_ECE: ece}, y_true, calibrated, weights)
    melanoma = find_targets(class_names).get("melanoma")
    if melanoma is None:
        return values
    threshold = choices.thresholds["melanoma"][HEADLINE_POINT.key]
    positive, score = melanoma.positive(y_true), melanoma.score(calibrated)
    at_threshold = dict.fromkeys(RATES, np.full(len(weights) + 1, np.nan))
    if threshold is not None:
        all_weights = np.concatenate([np.ones((1, len(score))), weights])
        at_threshold = rates(positive, score, threshold, all_weights)
    return values | {
        MELANOMA_AUC: _auc(positive, score, weights),
        MELANOMA_SENSITIVITY: at_threshold["sensitivity"],
        MELANOMA_SPECIFICITY: at_threshold["specificity"],
    }


def score_differences(
    values: Mapping[str, Scores], baseline: Mapping[str, Scores], confidence: float
) -> dict[str, Estimate]:
    """Returns `values` minus `baseline` for each metric.

    Args:
        values: From `metric_values`.
        baseline: The same of other predictions for the same images and weights.
        confidence: Coverage of the intervals, 0..1.
    """
    return {n: estimate(values[n] - baseline[n], confidence)[0] for n in values}


def score_target(
    table: pd.DataFrame,
    target: Target,
    probability: Scores,
    choices: ValidationChoices,
    weights: Floats,
    confidence: float,
) -> TargetScores:
    """Returns how well a target, such as melanoma, is detected.

    Args:
        table: A predictions table.
        target: What is detected.
        probability: Its calibrated probability, [num_images].
        choices: The thresholds.
        weights: From `bootstrap_weights`, [num_bootstrap, num_images].
        confidence: Coverage of the intervals, 0..1.
    """
    positive = target.positive(arrays(table, class_names_of(table))[0])
    lesions = table["lesion_id"].tolist()
    points = {}
    for key, threshold in choices.thresholds[target.name].items():
        scores: dict[str, Estimate] = {}
        if threshold is not None:
            scores = score_operating_point(
                positive, probability, threshold, weights, confidence, lesions
            )
        points[key] = OperatingPointScores(threshold=threshold, rates=scores)
    return TargetScores(
        num_images=int(positive.sum()),
        num_lesions=int(table["lesion_id"][positive].nunique()),
        auc=estimate(_auc(positive, probability, weights), confidence)[0],
        operating_points=points,
    )


def _auc(positive: Flags, probability: Scores, weights: Floats) -> Scores:
    """Returns the area under the ROC curve, as `bootstrap` does."""
    two_classes = np.stack([1 - probability, probability], axis=1)
    values = bootstrap({"auc": auc_per_class}, positive.astype(int), two_classes, weights)
    return values["auc"][:, 1]
