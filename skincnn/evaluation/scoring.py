"""Scores of a predictions table, each with its interval."""

from __future__ import annotations

import dataclasses
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
    split_name,
)
from skincnn.evaluation.subgroups import score_subgroups
from skincnn.evaluation.triage import (
    ValidationChoices,
    choose_on_validation,
    score_triage,
)
from skincnn.inference.predictions import (
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
from skincnn.metrics.calibration import apply_temperature
from skincnn.metrics.classification import (
    METRICS,
    PER_CLASS_METRICS,
    auc_per_class,
    ece,
    recall_per_class,
)
from skincnn.metrics.operating_points import (
    HEADLINE_POINT,
    RATES,
    Target,
    find_targets,
    rates,
    score_operating_point,
)
from skincnn.metrics.sample import Flags, Floats, Labels, Sample, Scores

FUNCTIONS: dict[str, Callable[[Sample], Scores]] = {
    name: metric.function for name, metric in METRICS.items()
}
"""The functions of `METRICS`."""
CALIBRATION_METRICS = ("ece", "adaptive_ece", "brier", "log_loss")
MELANOMA_RECALL = "melanoma_recall"
MELANOMA_AUC = "melanoma_auc"
MELANOMA_SENSITIVITY = "melanoma_sensitivity"
MELANOMA_SPECIFICITY = "melanoma_specificity"
CALIBRATED_ECE = "calibrated_ece"
CALIBRATED = (MELANOMA_AUC, MELANOMA_SENSITIVITY, MELANOMA_SPECIFICITY, CALIBRATED_ECE)
"""Names in `calibrated_values`."""


@dataclass(frozen=True)
class InferenceVariant:
    """Predictions of several splits, made in the same way.

    Attributes:
        name: "" for the model as is; else a kind of test-time augmentation, "adjusted", or
            both, as "d4_adjusted".
        tables: Split to its predictions table, "val" among them.
        cost: Cost of the predictions.
        logit_adjustment: Strength of the logit adjustment; None without.
    """

    name: str
    tables: Mapping[str, pd.DataFrame]
    cost: InferenceCost
    logit_adjustment: float | None = None


def score_variants(
    variants: Sequence[InferenceVariant],
    stored_in: Mapping[str, str],
    leakage: Mapping[str, SplitLeakage],
    config: EvaluateConfig,
) -> tuple[dict[str, pd.DataFrame], dict[str, SplitResult]]:
    """Returns the name of each table, as "test.d4", to the table and to its result.

    The first variant is the model as is; see `score_variant`.
    """
    tables, results = {}, {}
    for variant in variants:
        baseline = variants[0] if variant.name else None
        scores = score_variant(variant, stored_in, leakage, config, baseline)
        for split, table in variant.tables.items():
            name = split_name(split, variant.name)
            tables[name], results[name] = table, scores[split]
    return tables, results


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
        stored_in: Split to the part of the dataset that holds its images, as "fold 9".
        leakage: Split to its leakage; without the splits that training audits.
        config: Number of resamples and coverage of the intervals.
        baseline: The predictions of the model as is, for paired differences.
    """
    choices = choose_on_validation(variant.tables["val"])
    if variant.name:
        # Exports average the distance over all views; the tables of variants lack it.
        choices = dataclasses.replace(choices, max_distance=None)
    return {
        split: score_split(
            variant,
            split,
            choices,
            stored_in=stored_in[split],
            leakage=leakage.get(split),
            config=config,
            baseline=baseline.tables[split] if baseline else None,
        )
        for split in variant.tables
    }


def score_split(
    variant: InferenceVariant,
    split: str,
    choices: ValidationChoices,
    *,
    stored_in: str,
    leakage: SplitLeakage | None,
    config: EvaluateConfig,
    baseline: pd.DataFrame | None,
) -> SplitResult:
    """Returns every score of a split with its interval; see `score_variant`."""
    table = variant.tables[split]
    class_names = class_names_of(table)
    y_true, y_prob = arrays(table, class_names)
    calibrated = apply_temperature(y_prob, choices.temperature)
    weights = bootstrap_weights(table["image_id"], table["lesion_id"], config.num_bootstrap)
    confidence = config.confidence
    metrics, classes = score_classes(table, weights, confidence)
    return SplitResult(
        split=split,
        variant=variant.name,
        stored_in=stored_in,
        predictions_sha256=table_sha256(table),
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
            after=score_calibration(y_true, calibrated, weights, confidence),
        ),
        targets={
            target.name: score_target(
                table, target, target.score(calibrated), choices, weights, confidence
            )
            for target in find_targets(class_names).values()
        },
        triage=score_triage(table, calibrated, choices, weights, confidence),
        subgroups=score_subgroups(table, config.num_bootstrap, confidence),
        leakage=leakage,
        cost=variant.cost,
        logit_adjustment=variant.logit_adjustment,
        differences={}
        if baseline is None
        else score_differences(
            metric_values(table, weights), metric_values(baseline, weights), confidence
        ),
        confidence=confidence,
        num_bootstrap=config.num_bootstrap,
    )


def score_calibration(
    y_true: Labels, y_prob: Floats, weights: Floats, confidence: float
) -> dict[str, Estimate]:
    """Returns each of `CALIBRATION_METRICS`.

    Args:
        y_true: Integer labels, [num_images].
        y_prob: Probabilities, [num_images, num_classes].
        weights: From `bootstrap_weights`, [num_bootstrap, num_images].
        confidence: Coverage of the intervals, 0..1.
    """
    functions = {name: FUNCTIONS[name] for name in CALIBRATION_METRICS}
    values = bootstrap(functions, y_true, y_prob, weights)
    return {name: estimate(value, confidence)[0] for name, value in values.items()}


def score_classes(
    table: pd.DataFrame, weights: Floats, confidence: float
) -> tuple[dict[str, Estimate], dict[str, ClassScores]]:
    """Returns each of `METRICS`, and `PER_CLASS_METRICS` of each class.

    Args:
        table: A predictions table.
        weights: From `bootstrap_weights`, [num_bootstrap, num_images].
        confidence: Coverage of the intervals, 0..1.
    """
    class_names = class_names_of(table)
    y_true, y_prob = arrays(table, class_names)
    values = bootstrap(FUNCTIONS | PER_CLASS_METRICS, y_true, y_prob, weights)
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
    functions = FUNCTIONS | melanoma_recall(class_names)
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

    `choose_on_validation` chooses the temperature and the threshold.

    Args:
        table: A predictions table.
        validation: The validation table of the same variant.
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
    """Returns the difference `values - baseline` of each metric.

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
        target: The target.
        probability: Calibrated probability of the target, [num_images].
        choices: The choices on validation, with the thresholds.
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
