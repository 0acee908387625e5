"""All that can be said from predictions tables alone, as plain values for report.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from skincnn.config import Config, EvaluateConfig
from skincnn.evaluation.subgroups import score_subgroups
from skincnn.evaluation.triage import score_referral
from skincnn.inference.predictions import DISTANCE, arrays, class_names_of
from skincnn.metrics.bootstrap import (
    Estimate,
    bootstrap,
    estimate,
    lesion_weights,
    lesions_of_rates,
)
from skincnn.metrics.calibration import apply_temperature, fit_temperature
from skincnn.metrics.classification import (
    METRICS,
    PER_CLASS_METRICS,
    Floats,
    Sample,
    Scores,
    auc_per_class,
    ece,
    recall_per_class,
)
from skincnn.metrics.operating_points import (
    HEADLINE_POINT,
    OPERATING_POINTS,
    RATES,
    Flags,
    Target,
    choose_threshold,
    find_targets,
    rates,
    score_operating_point,
)

CALIBRATION_METRICS = ("ece", "adaptive_ece", "brier", "log_loss")
MELANOMA_RECALL = "melanoma_recall"
MELANOMA_AUC = "melanoma_auc"
MELANOMA_SENSITIVITY = "melanoma_sensitivity"
MELANOMA_SPECIFICITY = "melanoma_specificity"
CALIBRATED_ECE = "calibrated_ece"
CALIBRATED = (MELANOMA_AUC, MELANOMA_SENSITIVITY, MELANOMA_SPECIFICITY, CALIBRATED_ECE)
"""Names of `calibrated_values`."""


def assess(
    tables: Mapping[str, pd.DataFrame],
    class_names: Sequence[str],
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Returns every score with its interval; what is chosen is chosen on "val" alone.

    Args:
        tables: Split to its predictions (`predict.predictions_table`), "val" among them.
        class_names: The names of the labels, in order.
        config: Resamples and confidence.

    Returns:
        temperature and thresholds (from validation), and `splits`: for each table what
        `score` gives, `calibration` (before and after the temperature), `targets` (each
        what `score_target` gives), `refer` (what `score_referral` gives) and `subgroups`.
        An interval is {value, low, high}, with None for what the pictures cannot tell.
    """
    y_true, y_prob = arrays(tables["val"], class_names)
    temperature = fit_temperature(y_true, y_prob)
    calibrated = apply_temperature(y_prob, temperature)
    targets = find_targets(class_names).values()
    thresholds: dict[str, dict[str, float | None]] = {
        target.name: {
            point.name: choose_threshold(
                target.positive(y_true), target.score(calibrated), point
            )
            for point in OPERATING_POINTS
        }
        for target in targets
    }
    splits = {}
    for split, table in tables.items():
        y_true, y_prob = arrays(table, class_names)
        calibrated = apply_temperature(y_prob, temperature)
        weights = lesion_weights(table, config.num_bootstrap)
        scores = score(table, class_names, weights, config.confidence)
        after = {name: METRICS[name].function for name in CALIBRATION_METRICS}
        values = bootstrap(after, y_true, calibrated, weights)
        splits[split] = {
            **scores,
            "calibration": {
                "before": {name: scores["metrics"][name] for name in CALIBRATION_METRICS},
                "after": {
                    name: _plain(estimate(value, config.confidence)[0])
                    for name, value in values.items()
                },
            },
            "targets": {
                target.name: score_target(
                    table,
                    target,
                    target.score(calibrated),
                    thresholds[target.name],
                    weights,
                    config.confidence,
                )
                for target in targets
            },
            "refer": score_referral(
                table, tables["val"], calibrated, thresholds, weights, config.confidence
            ),
            "subgroups": [
                dataclasses.asdict(group)
                for group in score_subgroups(
                    table, class_names, config.num_bootstrap, config.confidence
                )
            ],
        }
    return {
        "temperature": round(temperature, 6),
        "thresholds": thresholds,
        "splits": splits,
    }


def score(
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    weights: Floats,
    confidence: float,
) -> dict[str, Any]:
    """Returns every metric of a predictions table, with its interval.

    Args:
        predictions: A predictions table.
        class_names: The names of the labels, in order.
        weights: From `lesion_weights`, [resamples, num_images].
        confidence: Coverage, between 0 and 1.

    Returns:
        num_images, num_lesions, `missing_classes` (without a picture: all means are over
        the others), `metrics` (name to interval), `classes` (class to num_images,
        num_lesions and each of `PER_CLASS_METRICS`), and `confusion_matrix`.
    """
    functions: dict[str, Callable[[Sample], Scores]] = {
        name: metric.function for name, metric in METRICS.items()
    }
    y_true, y_prob = arrays(predictions, class_names)
    values = bootstrap(functions | PER_CLASS_METRICS, y_true, y_prob, weights)
    lesions = lesions_of_rates(predictions["lesion_id"].tolist(), y_true, y_prob)
    found = {
        name: estimate(value, confidence, lesions.get(name))
        for name, value in values.items()
    }
    described = {
        name: {
            **_count(predictions[predictions["label"] == name]),
            **{metric: _plain(found[metric][index]) for metric in PER_CLASS_METRICS},
        }
        for index, name in enumerate(class_names)
    }
    return {
        **_count(predictions),
        "missing_classes": [n for n in class_names if not described[n]["num_images"]],
        "metrics": {name: _plain(found[name][0]) for name in METRICS},
        "classes": described,
        "confusion_matrix": Sample(y_true, y_prob).confusion.astype(int).tolist(),
    }


def metric_values(
    predictions: pd.DataFrame, class_names: Sequence[str], weights: Floats
) -> dict[str, Scores]:
    """Returns `bootstrap` of `METRICS` and `melanoma_recall`, for `score_differences`.

    Args:
        predictions: A predictions table.
        class_names: The names of the classes, in order.
        weights: From `lesion_weights`, [resamples, num_images].
    """
    functions = {name: metric.function for name, metric in METRICS.items()}
    functions |= melanoma_recall(class_names)
    return bootstrap(functions, *arrays(predictions, class_names), weights)


def melanoma_recall(
    class_names: Sequence[str],
) -> dict[str, Callable[[Sample], Scores]]:
    """Returns `MELANOMA_RECALL` to its function; nothing where no class is melanoma.

    Args:
        class_names: The names of the classes, in order.
    """
    melanoma = find_targets(class_names).get("melanoma")
    return {MELANOMA_RECALL: _recall_of(melanoma.classes[0])} if melanoma else {}


def calibrated_values(
    predictions: pd.DataFrame,
    validation: pd.DataFrame,
    class_names: Sequence[str],
    weights: Floats,
) -> dict[str, Scores]:
    """Returns what the probabilities are worth, once validation has calibrated them.

    The temperature and the threshold are those of `assess`.

    Args:
        predictions: A predictions table.
        validation: That of validation, of the same model asked in the same way.
        class_names: The names of the classes, in order.
        weights: From `lesion_weights`, [resamples, num_images].

    Returns:
        As of `bootstrap`: `CALIBRATED_ECE`; and, where a class is melanoma, `MELANOMA_AUC`
        and the rates at the threshold that gave 90 % specificity on validation, which are
        NaN where there is none.
    """
    true_of_validation, prob_of_validation = arrays(validation, class_names)
    temperature = fit_temperature(true_of_validation, prob_of_validation)
    y_true, y_prob = arrays(predictions, class_names)
    calibrated = apply_temperature(y_prob, temperature)
    values = bootstrap({CALIBRATED_ECE: ece}, y_true, calibrated, weights)
    melanoma = find_targets(class_names).get("melanoma")
    if melanoma is None:
        return values
    threshold = choose_threshold(
        melanoma.positive(true_of_validation),
        melanoma.score(apply_temperature(prob_of_validation, temperature)),
        HEADLINE_POINT,
    )
    positive, score = melanoma.positive(y_true), melanoma.score(calibrated)
    found = dict.fromkeys(RATES, np.full(len(weights) + 1, np.nan))
    if threshold is not None:
        all_weights = np.concatenate([np.ones((1, len(score))), weights])
        found = rates(positive, score, threshold, all_weights)
    return values | {
        MELANOMA_AUC: _auc(positive, score, weights),
        MELANOMA_SENSITIVITY: found["sensitivity"],
        MELANOMA_SPECIFICITY: found["specificity"],
    }


def score_differences(
    ours: Mapping[str, Scores], others: Mapping[str, Scores], confidence: float
) -> dict[str, dict[str, float | None]]:
    """Returns by how much predictions exceed others in each metric.

    Args:
        ours: From `metric_values`.
        others: The same of other predictions for the same pictures, with the same weights.
        confidence: Coverage, between 0 and 1.

    Returns:
        Name of the metric to its interval; one that holds 0 may be chance.
    """
    return {
        name: _plain(estimate(ours[name] - others[name], confidence)[0]) for name in ours
    }


def score_target(
    predictions: pd.DataFrame,
    target: Target,
    probability: Scores,
    thresholds: Mapping[str, float | None],
    weights: Floats,
    confidence: float,
) -> dict[str, Any]:
    """Returns how well melanoma, or malignant lesions, are told from the others.

    Args:
        predictions: A predictions table.
        target: What is to be found.
        probability: Its calibrated probability, [num_images].
        thresholds: Operating point to threshold, chosen on validation.
        weights: From `lesion_weights`, [resamples, num_images].
        confidence: Coverage, between 0 and 1.

    Returns:
        num_images and num_lesions of its classes, auc, and for each operating point its
        threshold and its rates; the rates are empty where there is no threshold.
    """
    class_names = class_names_of(predictions)
    positive = target.positive(arrays(predictions, class_names)[0])
    points = {}
    for name, threshold in thresholds.items():
        scores: dict[str, Estimate] = {}
        if threshold is not None:
            scores = score_operating_point(
                positive,
                probability,
                threshold,
                weights,
                confidence,
                predictions["lesion_id"].tolist(),
            )
        points[name] = {
            "threshold": threshold,
            **{rate: _plain(value) for rate, value in scores.items()},
        }
    return {
        **_count(predictions[positive]),
        "auc": _plain(estimate(_auc(positive, probability, weights), confidence)[0]),
        "operating_points": points,
    }


def score_variant(
    tables: Mapping[str, pd.DataFrame],
    plain: Mapping[str, pd.DataFrame],
    split: str,
    class_names: Sequence[str],
    config: Config,
) -> dict[str, Any]:
    """Returns what is said of a way to predict, beside the plain one.

    Args:
        tables: Split to its predictions, "val" among them.
        plain: The same of the plain model.
        split: Of which the scores are wanted.
        class_names: The names of the classes, in order.
        config: The run's, for the intervals.

    Returns:
        split; what `assess` says of it, with a temperature and thresholds of its own; and
        `differences`, what each metric gains over the plain one.
    """
    # `refer` is not told: an export has the mean distance of all views, which the tables of
    # test-time augmentation lack, and adjusted probabilities are not served.
    chosen = {
        name: tables[name].drop(columns=DISTANCE, errors="ignore")
        for name in ("val", split)
    }
    assessed = assess(chosen, class_names, config.evaluate)
    weights = lesion_weights(tables[split], config.evaluate.num_bootstrap)
    return {
        "split": split,
        "temperature": assessed["temperature"],
        "thresholds": assessed["thresholds"],
        **assessed["splits"][split],
        "differences": score_differences(
            metric_values(tables[split], class_names, weights),
            metric_values(plain[split], class_names, weights),
            config.evaluate.confidence,
        ),
    }


def _auc(positive: Flags, probability: Scores, weights: Floats) -> Scores:
    """Returns the area under the ROC curve, as `bootstrap` does."""
    two_classes = np.stack([1 - probability, probability], axis=1)
    values = bootstrap({"auc": auc_per_class}, positive.astype(int), two_classes, weights)
    return values["auc"][:, 1]


def _recall_of(index: int) -> Callable[[Sample], Scores]:
    return lambda sample: recall_per_class(sample)[..., index]


def _count(rows: pd.DataFrame) -> dict[str, int]:
    return {"num_images": len(rows), "num_lesions": int(rows["lesion_id"].nunique())}


def _plain(found: Estimate) -> dict[str, float | None]:
    return dataclasses.asdict(found)
