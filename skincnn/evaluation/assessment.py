"""All that can be said from predictions tables alone, as plain values for report.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from skincnn.config import EvaluateConfig
from skincnn.evaluation.calibration import apply_temperature, fit_temperature
from skincnn.evaluation.intervals import (
    Estimate,
    bootstrap,
    estimate,
    lesion_weights,
)
from skincnn.evaluation.metrics import METRICS, PER_CLASS_METRICS, Sample, Scores
from skincnn.evaluation.operating import (
    OPERATING_POINTS,
    choose_threshold,
    find_targets,
    score_operating_point,
)
from skincnn.evaluation.predictions import arrays
from skincnn.evaluation.subgroups import score_subgroups

CALIBRATION_METRICS = ("ece", "adaptive_ece", "brier", "log_loss")


def assess(
    tables: Mapping[str, pd.DataFrame],
    class_names: Sequence[str],
    config: EvaluateConfig,
    seed: int,
) -> dict[str, Any]:
    """Returns every score with its interval; what is chosen is chosen on "val" alone.

    Args:
        tables: Split to its predictions (`predict.predictions_table`), "val" among them.
        class_names: The names of the labels, in order.
        config: Resamples and confidence.
        seed: Seed of the resamples.

    Returns:
        temperature and thresholds (from validation), and `splits`: for each table what
        `score`, `score_calibration`, `score_targets` and `score_subgroups` give. An
        interval is {value, low, high}, with None for what the pictures cannot tell.
    """
    y_true, y_prob = arrays(tables["val"], class_names)
    temperature = fit_temperature(y_true, y_prob)
    calibrated = apply_temperature(y_prob, temperature)
    thresholds: dict[str, dict[str, float | None]] = {
        target.name: {
            point.name: choose_threshold(
                target.positive(y_true), target.score(calibrated), point
            )
            for point in OPERATING_POINTS
        }
        for target in find_targets(class_names)
    }
    return {
        "temperature": round(temperature, 6),
        "thresholds": thresholds,
        "splits": {
            split: {
                **score(table, class_names, config, seed),
                "calibration": score_calibration(
                    table, class_names, temperature, config, seed
                ),
                "targets": score_targets(
                    table, class_names, temperature, thresholds, config, seed
                ),
                "subgroups": [
                    dataclasses.asdict(group)
                    for group in score_subgroups(
                        table, class_names, config.resamples, seed, config.confidence
                    )
                ],
            }
            for split, table in tables.items()
        },
    }


def score(
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    config: EvaluateConfig,
    seed: int,
) -> dict[str, Any]:
    """Returns every metric of a predictions table, with its interval.

    Returns:
        num_images, num_lesions, `missing_classes` (without a picture: all means are over
        the others), `metrics` (name to interval), `classes` (class to num_images,
        num_lesions and each of `PER_CLASS_METRICS`), and `confusion_matrix`.
    """
    functions: dict[str, Callable[[Sample], Scores]] = {
        name: metric.function for name, metric in METRICS.items()
    }
    y_true, y_prob = arrays(predictions, class_names)
    weights = lesion_weights(predictions["lesion_id"].tolist(), config.resamples, seed)
    values = bootstrap(functions | PER_CLASS_METRICS, y_true, y_prob, weights)
    found = {name: estimate(value, config.confidence) for name, value in values.items()}
    described = {}
    for index, name in enumerate(class_names):
        rows = predictions[predictions["label"] == name]
        described[name] = {
            "num_images": len(rows),
            "num_lesions": int(rows["lesion_id"].nunique()),
            **{metric: _plain(found[metric][index]) for metric in PER_CLASS_METRICS},
        }
    return {
        "num_images": len(predictions),
        "num_lesions": int(predictions["lesion_id"].nunique()),
        "missing_classes": [n for n in class_names if not described[n]["num_images"]],
        "metrics": {name: _plain(found[name][0]) for name in METRICS},
        "classes": described,
        "confusion_matrix": Sample(y_true, y_prob).confusion.astype(int).tolist(),
    }


def score_calibration(
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    temperature: float,
    config: EvaluateConfig,
    seed: int,
) -> dict[str, Any]:
    """Returns `CALIBRATION_METRICS` before and after the temperature.

    Args:
        predictions: A predictions table.
        class_names: The names of the labels, in order.
        temperature: Fitted on validation.
        config: Resamples and confidence.
        seed: Seed of the resamples.
    """
    y_true, y_prob = arrays(predictions, class_names)
    weights = lesion_weights(predictions["lesion_id"].tolist(), config.resamples, seed)
    functions = {name: METRICS[name].function for name in CALIBRATION_METRICS}
    found = {}
    for when, scaled in (
        ("before", y_prob),
        ("after", apply_temperature(y_prob, temperature)),
    ):
        values = bootstrap(functions, y_true, scaled, weights)
        found[when] = {
            name: _plain(estimate(value, config.confidence)[0])
            for name, value in values.items()
        }
    return found


def score_targets(
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    temperature: float,
    thresholds: Mapping[str, Mapping[str, float | None]],
    config: EvaluateConfig,
    seed: int,
) -> dict[str, Any]:
    """Returns how well melanoma, and malignant lesions, are told from the others.

    Args:
        predictions: A predictions table.
        class_names: The names of the labels, in order.
        temperature: Fitted on validation.
        thresholds: Target to operating point to threshold, chosen on validation.
        config: Resamples and confidence.
        seed: Seed of the resamples.

    Returns:
        Target to num_images and num_lesions of its classes, auc, and for each operating
        point its threshold and its rates; the rates are empty where there is no threshold.
    """
    y_true, y_prob = arrays(predictions, class_names)
    calibrated = apply_temperature(y_prob, temperature)
    weights = lesion_weights(predictions["lesion_id"].tolist(), config.resamples, seed)
    found = {}
    for target in find_targets(class_names):
        positive, probability = target.positive(y_true), target.score(calibrated)
        points = {}
        for name, threshold in thresholds[target.name].items():
            scores: dict[str, Estimate] = {}
            if threshold is not None:
                scores = score_operating_point(
                    positive, probability, threshold, weights, config.confidence
                )
            points[name] = {
                "threshold": threshold,
                **{rate: _plain(value) for rate, value in scores.items()},
            }
        rows = predictions[positive]
        found[target.name] = {
            "num_images": len(rows),
            "num_lesions": int(rows["lesion_id"].nunique()),
            "auc": _plain(_auc(positive, probability, weights, config.confidence)),
            "operating_points": points,
        }
    return found


def _auc(positive: Any, probability: Any, weights: Any, confidence: float) -> Estimate:
    two = pd.DataFrame({0: 1 - probability, 1: probability}).to_numpy()
    values = bootstrap(
        {"auc": PER_CLASS_METRICS["auc"]}, positive.astype(int), two, weights
    )
    return estimate(values["auc"], confidence)[1]


def _plain(found: Estimate) -> dict[str, float | None]:
    return dataclasses.asdict(found)
