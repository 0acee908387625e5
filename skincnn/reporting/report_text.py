"""Sentences about results, for the report, the model card and the terminal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from skincnn.classes import describe
from skincnn.evaluation.results import (
    CorruptionResult,
    CorruptionRow,
    SplitResult,
    TriageScores,
)
from skincnn.evaluation.scoring import MELANOMA_RECALL
from skincnn.inference.logit_adjustment import ADJUSTED, unadjusted_name
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.operating_points import HEADLINE_POINT, find_targets
from skincnn.reporting.labels import (
    class_label,
    confidence_interval,
    corruption_label,
    interval,
    metric_label,
    percent,
    point_label,
)
from skincnn.reporting.load import RunResults
from skincnn.reporting.training_text import describe_leakage, is_leaky

SUMMARY_METRICS = ("balanced_accuracy", "macro_f1", "accuracy", "macro_auc")
INTERVAL_METHOD = (
    "percentile bootstrap over lesions; exact Clopper-Pearson interval for a rate that is "
    "0 or 1 in all resamples"
)
SYNTHETIC = (
    "SYNTHETIC images, rendered by code. The scores show that the software works; they say "
    "nothing about skin lesions."
)
NO_MELANOMA = "No image shows melanoma, so the sensitivity for melanoma is unknown."
OOD_NOTE = (
    "The photographs are 48 crops of two photographs. Noise, plain colors and stripes are "
    "generated. These sets are only examples of unsuitable images, so the rejected shares "
    "have no confidence intervals."
)
"""Note on the built-in out-of-distribution images."""
TTA_TEXT = {
    "d4": "predictions are averaged over rotations and reflections of each image",
    "augment": "predictions are averaged over random augmentations of each image, drawn as "
    "in training",
}
"""Explanation of each kind of test-time augmentation."""
ADJUSTMENT = (
    "the probabilities are corrected for how often each class occurs in the training "
    "images. The logarithm of the share of a class, times a strength, is subtracted from "
    "its logit, the output of the model before the softmax (Menon et al., Long-tail "
    "Learning via Logit Adjustment, 2021, arXiv:2007.07314)"
)
EXPORTED_VIEWS = {"d4": 8}
"""Number of views of each kind of test-time augmentation that exports support."""
MODEL_CARD_METRICS = (*SUMMARY_METRICS, "log_loss", "ece")


@dataclass(frozen=True)
class MelanomaResult:
    """Results for the melanoma images of a split.

    Attributes:
        recall: Share of the images that are predicted as melanoma.
        mistaken_for: Number of images predicted as each other class, in decreasing order.
        rates: Rates at `HEADLINE_POINT`; empty if no threshold reaches this point.
    """

    num_images: int
    num_lesions: int
    recall: Estimate
    mistaken_for: dict[str, int]
    rates: dict[str, Estimate]

    @property
    def num_missed(self) -> int:
        """Number of images predicted as another class."""
        return sum(self.mistaken_for.values())

    @property
    def num_detected(self) -> int | None:
        """Number of images at or above the threshold; None without a threshold."""
        sensitivity = self.rates["sensitivity"].value if self.rates else None
        return None if sensitivity is None else round(sensitivity * self.num_images)


def find_melanoma(result: SplitResult) -> MelanomaResult | None:
    """Returns the melanoma results of a split, or None if no class is melanoma."""
    names = result.class_names
    melanoma = find_targets(names).get("melanoma")
    if melanoma is None:
        return None
    index = melanoma.classes[0]
    row = dict(zip(names, result.confusion_matrix[index], strict=True))
    del row[names[index]]
    mistakes = Counter({other: count for other, count in row.items() if count})
    scores = result.classes[names[index]]
    rates = {}
    if scores.num_images:
        points = result.targets["melanoma"].operating_points
        rates = points[HEADLINE_POINT.key].rates
    return MelanomaResult(
        num_images=scores.num_images,
        num_lesions=scores.num_lesions,
        recall=scores.scores["recall"],
        mistaken_for=dict(mistakes.most_common()),
        rates=rates,
    )


def count_benign_predictions(result: SplitResult) -> tuple[int, int]:
    """Returns the numbers of malignant images predicted as benign and of malignant images.

    Classes of unknown malignancy are treated as benign.
    """
    known = describe(result.class_names).values()
    malignant = np.array([bool(diagnosis.malignant) for diagnosis in known])
    rows = np.array(result.confusion_matrix)[malignant]
    return int(rows[:, ~malignant].sum()), int(rows.sum())


def describe_scores(results: RunResults) -> str:
    """Returns the main scores, and a warning if the splits overlap."""
    result = results.headline
    accuracy = result.metrics["balanced_accuracy"]
    ends = confidence_interval(accuracy, result.confidence, as_percent=True)
    chance = 100 / len(result.class_names)
    sentences = [
        "Balanced accuracy, the average sensitivity (recall) over the classes, is "
        f"{percent(accuracy)} ({ends}); random guessing gives {chance:.0f} %. Macro F1 is "
        f"{interval(result.metrics['macro_f1'])}."
    ]
    melanoma = find_melanoma(result)
    if melanoma is None:
        sentences.append("No class is melanoma.")
    elif not melanoma.num_images:
        sentences.append(NO_MELANOMA)
    else:
        sentences.append(
            f"{melanoma.num_missed} of {melanoma.num_images} melanoma images are predicted "
            "as another class."
        )
    if describe_leakage(result):
        sentences.append(describe_leakage(result))
    elif is_leaky(results):
        sentences.append(
            "Training, validation and test share images, lesions or near-duplicates. Do "
            "not trust these scores."
        )
    else:
        sentences.append(
            "Training, validation and test share no images, lesions or near-duplicates."
        )
    return " ".join(sentences)


def describe_intervals(results: RunResults) -> str:
    """Returns an explanation of the intervals in brackets."""
    result = results.headline
    return (
        f"Numbers in brackets are {100 * result.confidence:.0f} % confidence intervals "
        f"({INTERVAL_METHOD}; {result.num_bootstrap:,} resamples). Intervals cover the "
        "sampling of lesions, not the variance between training runs."
    )


def describe_triage(result: SplitResult) -> str:
    """Returns the referral rule of exports and its rates; "" if it was not evaluated."""
    triage = result.triage
    if triage is None:
        return ""
    threshold = ""
    if triage.threshold is not None:
        threshold = (
            "its probability of a malignant class reaches the threshold for "
            f"{point_label(triage.operating_point)}, or if "
        )
    return (
        f"By default, exported models refer an image to a dermatologist if {threshold}"
        "it is out-of-distribution, that is, too different from the validation images "
        f"(Mahalanobis distance above {triage.max_distance:.3f}). "
        f"{_describe_referred(triage, find_melanoma(result))} Another operating point can "
        "be chosen with --operating-point of scripts/export.py."
    )


def _describe_referred(triage: TriageScores, melanoma: MelanomaResult | None) -> str:
    """Returns the shares of images and of melanoma images that are referred."""
    referred = f"This rule refers a share of {interval(triage.referred)} of the images"
    share = triage.melanoma_referred
    if melanoma is None or share is None or share.value is None:
        return f"{referred}."
    missed = round((1 - share.value) * melanoma.num_images)
    return (
        f"{referred} and {interval(share)} of the melanoma images; {missed} of "
        f"{melanoma.num_images} melanoma images are not referred."
    )


def describe_variants(results: RunResults) -> str:
    """Returns an explanation of the variants that were evaluated."""
    names = [variant.variant for variant in results.variants]
    kinds = dict.fromkeys(unadjusted_name(name) for name in names)
    sentences = [
        f"Test-time augmentation {kind}: {TTA_TEXT[kind]}."
        for kind in kinds
        if kind in TTA_TEXT
    ]
    if any(name.endswith(ADJUSTED) for name in names):
        chosen = (
            "This is done for each model before averaging, with the strength that gives the"
            if results.info.members
            else "The strength, given in parentheses, is the one with the"
        )
        sentences.append(
            f"Logit adjustment: {ADJUSTMENT}. {chosen} best balanced accuracy on the "
            "validation split. Exports do not apply it."
        )
    return " ".join(sentences)


def variant_scores(variant: SplitResult) -> list[tuple[str, Estimate, Estimate]]:
    """Returns the name, score and difference from the model as is for the main metrics."""
    scores = {name: variant.metrics[name] for name in ("balanced_accuracy", "macro_f1")}
    melanoma = find_melanoma(variant)
    if melanoma is not None:
        scores[MELANOMA_RECALL] = melanoma.recall
    return [
        (metric_label(name), score, variant.differences[name])
        for name, score in scores.items()
    ]


def exported_variants(results: RunResults) -> list[SplitResult]:
    """Returns the variants that can be exported."""
    return [
        variant
        for variant in results.variants
        if EXPORTED_VIEWS.get(variant.variant) == variant.cost.num_views
    ]


def describe_export(variant: SplitResult) -> str:
    """Returns what an export with test-time augmentation contains."""
    return (
        f"An export with --tta {variant.variant} has its own temperature, "
        f"{variant.temperature:.2f}, and its own thresholds, chosen on the validation "
        "split. It averages the Mahalanobis distance over all views; the share of images "
        "that it refers as out-of-distribution was not measured."
    )


def describe_smallest_class(result: SplitResult) -> str:
    """Returns by how much an image of the smallest class can change balanced accuracy."""
    sizes = {name: part.num_images for name, part in result.classes.items()}
    sizes = {name: size for name, size in sizes.items() if size}
    name, count = min(sizes.items(), key=lambda item: item[1])
    return (
        f"The smallest class, {class_label(name)}, has {count} "
        f"{'image' if count == 1 else 'images'}: each changes balanced accuracy by "
        f"{1 / (count * len(sizes)):.3f}."
    )


def describe_missing_classes(result: SplitResult) -> str:
    """Returns which classes have no images; "" if every class has images."""
    if not result.missing_classes:
        return ""
    names = ", ".join(map(class_label, result.missing_classes))
    return f"There are no images of {names}: averages are over the other classes."


def describe_trained_corruptions(corruptions: CorruptionResult) -> str:
    """Returns which corruptions resemble the training augmentation; "" if none do."""
    if not corruptions.trained:
        return ""
    names = ", ".join(map(corruption_label, corruptions.trained))
    return (
        f"The training augmentation resembles these corruptions: {names}. The model was "
        "trained on similar images, so the scores for these corruptions do not show the "
        "robustness to unseen changes."
    )


def worst_corruption(corruptions: CorruptionResult) -> CorruptionRow:
    """Returns the corruption and severity with the largest loss of balanced accuracy."""
    return min(corruptions.rows, key=lambda row: row.difference.value or 0.0)


def describe_counts(result: SplitResult) -> str:
    """Returns a text such as "1,001 images of 750 lesions"."""
    return f"{result.num_images:,} images of {result.num_lesions:,} lesions"
