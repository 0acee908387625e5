"""Scores of predictions tables, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skincnn.classes import NOTHING_DECLARED, LesionClass
from skincnn.config import EvaluateConfig
from skincnn.data.characteristics import describe_images
from skincnn.data.identifiers import count_ids
from skincnn.data.leakage import SplitLeakage
from skincnn.evaluation.resampled import (
    VALIDATION_SEED,
    Resampled,
    count_outcomes,
    seed_of,
)
from skincnn.evaluation.results import (
    Calibration,
    ClassScores,
    InferenceCost,
    OperatingPointScores,
    SplitResult,
    TargetScores,
    split_name,
)
from skincnn.evaluation.subgroups import Thresholds, score_subgroups, score_units
from skincnn.evaluation.triage import (
    ValidationChoices,
    choose_on_validation,
    score_calibration,
    score_prediction_sets,
    score_triage,
)
from skincnn.inference.predictions import table_sha256
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.calibration_error import calibration_gaps, rms_calibration_error
from skincnn.metrics.classification import (
    METRICS,
    PER_CLASS_METRICS,
    MetricFunction,
    find_metric,
    log_loss,
)
from skincnn.metrics.intervals import Support, estimate, find_supports
from skincnn.metrics.operating_points import (
    HEADLINE_POINT,
    OPERATING_POINTS,
    Target,
    parse_operating_point,
    rates,
)
from skincnn.metrics.sample import Flags, Floats, Sample, Scores, divide

FUNCTIONS = {name: metric.function for name, metric in METRICS.items()}
CALIBRATION_METRICS = ("ece", "brier", "log_loss")
RMS_CALIBRATION_ERROR = "rms_calibration_error"
MELANOMA_RECALL = "melanoma_recall"
MELANOMA_AUC = "melanoma_auc"
MELANOMA_SENSITIVITY = "melanoma_sensitivity"
MELANOMA_SPECIFICITY = "melanoma_specificity"
CALIBRATED_LOG_LOSS = "calibrated_log_loss"
CALIBRATED = (
    MELANOMA_AUC,
    MELANOMA_SENSITIVITY,
    MELANOMA_SPECIFICITY,
    CALIBRATED_LOG_LOSS,
)
"""Names of the scores from `calibrated_values`."""
MELANOMA_SCORES = {
    MELANOMA_AUC: "auc",
    MELANOMA_RECALL: "recall",
    MELANOMA_SENSITIVITY: "recall",
    MELANOMA_SPECIFICITY: "specificity",
}
"""Scores of melanoma, each with the per-class score whose support it has; see
`find_supports`."""


@dataclass(frozen=True)
class InferenceVariant:
    """The predictions tables of one inference variant by split, and its prediction time.

    The splits include "val". For `name`, see `SplitResult.variant`; for `logit_adjustment`,
    see `SplitResult.logit_adjustment`.
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
    max_distance: float | None = None,
    declared: Mapping[str, LesionClass] = NOTHING_DECLARED,
) -> tuple[dict[str, pd.DataFrame], dict[str, SplitResult]]:
    """Returns the predictions tables and their results by name, such as "test.d4".

    The calibration map and the thresholds of each variant are chosen on its "val" table.

    Args:
        variants: First the model as is, then the variants to compare with it.
        stored_in: The part of the dataset that contains each split, such as "fold 9".
        leakage: Leakage by split; only of splits that were not audited before training.
        config: Number of resamples and confidence level of the intervals.
        max_distance: See `ValidationChoices`; the same for all variants.
        declared: The classes that the dataset declares; see `skincnn.classes.describe`.

    Raises:
        ConfigError: See `score_functions`.
    """
    tables, results = {}, {}
    for variant in variants:
        validation = Resampled(variant.tables["val"], config, VALIDATION_SEED, declared)
        choices = choose_on_validation(validation, max_distance)
        thresholds = resample_thresholds(validation, choices)
        for split, table in variant.tables.items():
            seed = seed_of(split)
            sample = Resampled(table, config, seed, declared)
            stored = stored_in[split]
            result = score_split(variant, split, sample, choices, thresholds, stored)
            differences = {}
            if variant.name:
                as_is = Resampled(variants[0].tables[split], config, seed, declared)
                differences = score_differences(sample, as_is)
            name = split_name(split, variant.name)
            tables[name] = table
            results[name] = result.model_copy(
                update={"leakage": leakage.get(split), "differences": differences}
            )
    return tables, results


def score_split(
    variant: InferenceVariant,
    split: str,
    sample: Resampled,
    choices: ValidationChoices,
    thresholds: Thresholds,
    stored_in: str,
) -> SplitResult:
    """Returns the result of a split, without its leakage, differences and position.

    `thresholds` are from `resample_thresholds`.

    Raises:
        ConfigError: See `score_functions`.
    """
    table, (y_true, y_prob) = sample.table, sample.arrays
    calibrated = choices.calibration_map.apply(y_prob)
    metrics, classes = score_classes(sample)
    return SplitResult(
        split=split,
        variant=variant.name,
        stored_in=stored_in,
        predictions_sha256=table_sha256(table),
        validation_sha256=table_sha256(variant.tables["val"]),
        class_names=sample.class_names,
        num_images=len(table),
        num_lesions=count_ids(table, "lesion"),
        num_groups=sample.num_groups,
        missing_classes=tuple(n for n in classes if not classes[n].num_images),
        calibration_map=choices.calibration_map,
        thresholds=choices.thresholds,
        metrics=metrics,
        classes=classes,
        confusion_matrix=Sample(y_true, y_prob).confusion.astype(int).tolist(),
        calibration=Calibration(
            before=score_calibration_metrics(sample, y_prob),
            after=score_calibration_metrics(sample, calibrated),
            num_changed=int((calibrated.argmax(axis=1) != y_prob.argmax(axis=1)).sum()),
        ),
        targets={
            name: score_target(sample, target, calibrated, thresholds[name])
            for name, target in sample.targets.items()
        },
        triage=score_triage(sample, calibrated, choices),
        prediction_sets=score_prediction_sets(sample, calibrated, choices),
        subgroups=score_subgroups(sample, detect(sample, calibrated, choices)),
        units=score_units(sample, choices.calibration_map, thresholds),
        characteristics=describe_images(table, sample.class_names, sample.declared),
        leakage=None,
        cost=variant.cost,
        logit_adjustment=variant.logit_adjustment,
        differences={},
        confidence=sample.config.confidence,
        num_bootstrap=sample.config.num_bootstrap,
    )


def resample_thresholds(validation: Resampled, choices: ValidationChoices) -> Thresholds:
    """Returns the thresholds by target and operating point, [1 + num_resamples].

    The first is the one in `choices`; the others are chosen on each resample of validation.
    They are NaN where `choose_thresholds` finds none.
    """
    y_true, y_prob = validation.arrays
    calibrated = choices.calibration_map.apply(y_prob)
    thresholds: dict[str, dict[str, Scores]] = {}
    for name, target in validation.targets.items():
        positive, score = target.positive(y_true), target.score(calibrated)
        thresholds[name] = {}
        for point in OPERATING_POINTS:
            values = validation.thresholds(positive, score, point)
            chosen = choices.thresholds[name][point.key]
            values[0] = np.nan if chosen is None else chosen
            thresholds[name][point.key] = values
    return thresholds


def score_calibration_metrics(sample: Resampled, y_prob: Floats) -> dict[str, Estimate]:
    """Returns the calibration metrics of probabilities [num_images, num_classes]."""
    functions = {name: FUNCTIONS[name] for name in CALIBRATION_METRICS}
    values = sample.bootstrap({**functions, "gaps": calibration_gaps}, y_prob)
    error = rms_calibration_error(
        values.pop("gaps"), sample.num_groups, sample.config.confidence
    )
    scores = {name: sample.estimate(column) for name, column in values.items()}
    return {RMS_CALIBRATION_ERROR: error, **scores}


def score_classes(sample: Resampled) -> tuple[dict[str, Estimate], dict[str, ClassScores]]:
    """Returns the value of each metric, and the scores of each class, by name.

    Raises:
        ConfigError: See `score_functions`.
    """
    supports, functions = sample.supports(), score_functions(sample.config)
    estimates = {
        name: estimate(values, sample.config.confidence, supports.get(name))
        for name, values in sample.bootstrap(functions | PER_CLASS_METRICS).items()
    }
    classes = {}
    for index, name in enumerate(sample.class_names):
        rows = sample.table[sample.table["label"] == name]
        classes[name] = ClassScores(
            num_images=len(rows),
            num_lesions=count_ids(rows, "lesion"),
            scores={metric: estimates[metric][index] for metric in PER_CLASS_METRICS},
        )
    return {name: estimates[name][0] for name in functions}, classes


def score_functions(config: EvaluateConfig) -> dict[str, MetricFunction]:
    """Returns the `METRICS`, and the custom metrics in `config.metrics`, by name.

    Raises:
        ConfigError: A custom metric cannot be imported, or is not a function of one
            argument. The returned function raises a `ConfigError` if the metric fails or
            returns a wrong shape; see `find_metric`.
    """
    custom = {name: find_metric(name, "`evaluate.metrics`") for name in config.metrics}
    return {name: metric.function for name, metric in {**METRICS, **custom}.items()}


def melanoma_recall(sample: Resampled) -> dict[str, MetricFunction]:
    """Returns {`MELANOMA_RECALL`: metric}, or {} if no class is melanoma.

    The metric is the share of the melanoma images whose predicted class is melanoma.
    """
    melanoma = sample.targets.get("melanoma")
    if melanoma is None:
        return {}
    rows = list(melanoma.classes)

    def recall(part: Sample) -> Scores:
        predicted = part.confusion[..., rows, :][..., rows].sum(axis=(-2, -1))
        return divide(predicted, part.counts[..., rows].sum(axis=-1))

    return {MELANOMA_RECALL: recall}


def score_differences(sample: Resampled, baseline: Resampled) -> dict[str, Estimate]:
    """Returns the paired difference in each metric, sample minus baseline.

    The metrics are those of `score_functions` and, if a class is melanoma,
    `MELANOMA_RECALL`.

    Raises:
        ConfigError: See `score_functions`.
    """
    functions = score_functions(sample.config) | melanoma_recall(sample)
    values, others = sample.bootstrap(functions), baseline.bootstrap(functions)
    return {
        name: sample.estimate_difference(
            values[name] - others[name], find_support(sample, name)
        )
        for name in values
    }


def find_support(sample: Resampled, name: str) -> Support | None:
    """Returns the support of a score by name; None if it has none.

    `name` is that of a metric, of `MELANOMA_SCORES` or of `calibrated_values`. A score of
    melanoma has no support if no class is melanoma. For other scores without support, see
    `find_supports`.
    """
    melanoma = sample.targets.get("melanoma")
    if name in MELANOMA_SCORES and melanoma is not None:
        positive = melanoma.positive(sample.arrays[0]).astype(int)
        classes = np.stack([1.0 - positive, positive], axis=1)
        return find_supports(sample.groups, positive, classes)[MELANOMA_SCORES[name]][1]
    supports = sample.supports()
    return supports[name][0] if name in supports else None


def calibrated_values(sample: Resampled, validation: Resampled) -> dict[str, Scores]:
    """Returns scores of calibrated probabilities by name, each [1 + num_resamples].

    These scores are `CALIBRATED_LOG_LOSS` and, if a class is melanoma, the other names in
    `CALIBRATED`. The sensitivity and the specificity are those at the threshold of
    `HEADLINE_POINT`; they are NaN if no threshold reaches this operating point. The
    calibration and the threshold are chosen on the validation table of the same variant;
    the threshold is chosen again on each of its resamples.
    """
    choices = choose_on_validation(validation)
    y_true, y_prob = sample.arrays
    calibrated = choices.calibration_map.apply(y_prob)
    values = sample.bootstrap({CALIBRATED_LOG_LOSS: log_loss}, calibrated)
    melanoma = sample.targets.get("melanoma")
    if melanoma is None:
        return values
    thresholds = resample_thresholds(validation, choices)["melanoma"][HEADLINE_POINT.key]
    positive, score = melanoma.positive(y_true), melanoma.score(calibrated)
    at_threshold = rates(positive, score, thresholds, sample.all_weights)
    return values | {
        MELANOMA_AUC: sample.auc_values(positive, score),
        MELANOMA_SENSITIVITY: at_threshold["sensitivity"],
        MELANOMA_SPECIFICITY: at_threshold["specificity"],
    }


def score_target(
    sample: Resampled,
    target: Target,
    calibrated: Floats,
    thresholds: Mapping[str, Scores],
) -> TargetScores:
    """Returns how well a target is detected by the calibrated probabilities.

    `thresholds` are those of the target from `resample_thresholds`, by operating point.
    """
    y_true, y_prob = sample.arrays
    positive, score = target.positive(y_true), target.score(calibrated)
    predicted = target.positive(y_prob.argmax(axis=1)).astype(np.float64)
    return TargetScores(
        class_names=tuple(sample.class_names[index] for index in target.classes),
        num_images=int(positive.sum()),
        num_lesions=count_ids(sample.table[positive], "lesion"),
        recall=sample.rates(positive, predicted, 0.5)["sensitivity"],
        auc=sample.auc(positive, score),
        calibration=score_calibration(sample, positive, score),
        operating_points={
            key: _score_operating_point(key, sample, positive, score, values)
            for key, values in thresholds.items()
        },
    )


def _score_operating_point(
    key: str, sample: Resampled, positive: Flags, score: Scores, thresholds: Scores
) -> OperatingPointScores:
    point, rates = parse_operating_point(key), sample.rates(positive, score, thresholds)
    threshold = float(thresholds[0]) if rates else None
    high = rates[point.metric].high if rates else None
    return OperatingPointScores(
        threshold=threshold,
        missed=high is not None and round(high, 3) < point.minimum,
        rates=rates,
        outcomes=count_outcomes(positive, score, threshold),
        by_prevalence=sample.by_prevalence(positive, score, thresholds),
    )


def detect(
    sample: Resampled, calibrated: Floats, choices: ValidationChoices
) -> dict[str, Flags]:
    """Returns whether each image reaches the threshold of `HEADLINE_POINT`, by target.

    Targets without a threshold are left out. The calibrated probabilities are [num_images,
    num_classes]; the result of each target is [num_images].
    """
    key = HEADLINE_POINT.key
    return {
        name: target.score(calibrated) >= threshold
        for name, target in sample.targets.items()
        if (threshold := choices.thresholds[name][key]) is not None
    }
