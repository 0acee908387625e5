"""Sentences about results, for the report, the model card and the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from skincnn.classes import LesionClass
from skincnn.data.characteristics import (
    DATASET,
    SUBGROUPS,
    UNKNOWN,
    Characteristics,
    align_values,
)
from skincnn.evaluation.results import (
    ProbabilityBand,
    SplitResult,
    TargetScores,
)
from skincnn.evaluation.robustness import (
    CorruptionResult,
    CorruptionRow,
)
from skincnn.evaluation.scoring import MELANOMA_RECALL
from skincnn.inference.logit_adjustment import unadjusted_name
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.classification import SUMMARY_METRICS
from skincnn.metrics.operating_points import HEADLINE_POINT
from skincnn.reporting.labels import (
    ATTRIBUTE_LABELS,
    class_label,
    confidence_interval,
    corruption_label,
    interval,
    metric_label,
    percent,
    split_label,
    subgroup_label,
)
from skincnn.reporting.load import RunResults
from skincnn.reporting.text.dataset_text import describe_input
from skincnn.reporting.text.decision_text import describe_different_subgroups
from skincnn.reporting.text.identifier_text import (
    GROUPS,
    count_or_unknown,
    describe_groups,
    describe_separation,
    units,
)
from skincnn.reporting.text.training_text import (
    describe_leakage,
    is_leaky,
)

INTERVAL_METHOD = "score intervals with the variance of a bootstrap"
COVERAGE = "The measured coverage of the intervals is in docs/coverage.md."
NO_MELANOMA = "No image shows melanoma, so the sensitivity for melanoma is unknown."
OOD_NOTE = (
    "The photographs are 48 crops of two photographs from scikit-learn. Documents, noise, "
    "plain colors and stripes are generated. Inverted, blurred, nearly black, nearly white "
    "and incomplete images are made from validation images. These sets are only examples "
    "of unsuitable images, so their shares of flagged images have no confidence intervals. "
    "Skin without a lesion and clinical images are not among them."
)
"""Note on the built-in out-of-distribution images."""
TTA_TEXT = {"d4": "rotated or mirrored", "augment": "changed at random as in training"}
"""How each kind of test-time augmentation changes the views of an image."""
EXPORTED_VIEWS = {"": 1, "d4": 8}
"""Number of views of each kind of test-time augmentation that exports support."""
MIN_BAND_IMAGES = 20
"""Minimum number of images in a band that a sentence describes."""
MODEL_CARD_METRICS = (*SUMMARY_METRICS, "log_loss", "ece")


@dataclass(frozen=True)
class MelanomaResult:
    """Results for the melanoma images of a split.

    Attributes:
        num_lesions: Number of melanomas; None unless all of their lesion_ids are known.
        recall: Share of the images that are predicted as melanoma.
        mistaken_for: Number of images by predicted class, without classes of melanoma, in
            decreasing order.
        rates: Rates at `HEADLINE_POINT`; empty without melanoma images or a threshold.
    """

    num_images: int
    num_lesions: int | None
    recall: Estimate
    mistaken_for: dict[str, int]
    rates: dict[str, Estimate]

    @property
    def num_missed(self) -> int:
        """Number of images that are not predicted as melanoma."""
        return sum(self.mistaken_for.values())

    @property
    def num_detected(self) -> int | None:
        """Number of images at or above the threshold; None if `rates` is empty."""
        sensitivity = self.rates["sensitivity"].value if self.rates else None
        return None if sensitivity is None else round(sensitivity * self.num_images)


def find_melanoma(result: SplitResult) -> MelanomaResult | None:
    """Returns the melanoma results of a split, or None if no class is melanoma."""
    if "melanoma" not in result.targets:
        return None
    target = result.targets["melanoma"]
    rows = np.isin(result.class_names, target.class_names)
    counts = np.array(result.confusion_matrix)[rows].sum(axis=0).tolist()
    mistakes = Counter(
        {
            name: count
            for name, count in zip(result.class_names, counts, strict=True)
            if count and name not in target.class_names
        }
    )
    rates = target.operating_points[HEADLINE_POINT.key].rates if target.num_images else {}
    return MelanomaResult(
        num_images=target.num_images,
        num_lesions=target.num_lesions,
        recall=target.recall,
        mistaken_for=dict(mistakes.most_common()),
        rates=rates,
    )


def count_benign_predictions(result: SplitResult) -> tuple[int, int]:
    """Returns how many malignant images are predicted as benign, and how many there are.

    Both are 0 if there is no target "malignant".
    """
    names = result.targets["malignant"].class_names if "malignant" in result.targets else ()
    malignant = np.isin(result.class_names, names)
    rows = np.array(result.confusion_matrix)[malignant]
    return int(rows[:, ~malignant].sum()), int(rows.sum())


def describe_missed(result: SplitResult) -> str:
    """Returns which errors are marked as missed; "" if there are no targets."""
    if "malignant" in result.targets:
        return "a malignant lesion that is not predicted as malignant"
    if "melanoma" in result.targets:
        return "a melanoma that is not predicted as melanoma"
    return ""


def outer_bands(target: TargetScores) -> list[ProbabilityBand]:
    """Returns the lowest and the highest band of at least `MIN_BAND_IMAGES` images.

    Bands without an interval are skipped; there may be fewer than two such bands.
    """
    bands = [
        band
        for band in target.calibration.bands
        if band.num_images >= MIN_BAND_IMAGES and band.observed.low is not None
    ]
    return bands if len(bands) < 2 else [bands[0], bands[-1]]


def describe_scores(results: RunResults) -> str:
    """Returns the task, the main scores, and how the splits are separated or overlap."""
    result = results.headline
    model = "Each model" if results.info.kind == "cross_validation" else "The model"
    accuracy = result.metrics["balanced_accuracy"]
    ends = confidence_interval(accuracy, result.confidence, as_percent=True)
    chance = 100 / len(result.class_names)
    sentences = [
        f"{model} assigns {describe_input(results.info)} to one of "
        f"{len(result.class_names)} "
        f"{'diagnoses' if results.info.source_is_known else 'classes'}.",
        "Balanced accuracy, the average sensitivity (recall) over the classes, is "
        f"{percent(accuracy)} ({ends}); random guessing gives {chance:.0f} %. Macro F1 is "
        f"{interval(result.metrics['macro_f1'])}.",
    ]
    melanoma = find_melanoma(result)
    if melanoma is None:
        sentences.append("No class is melanoma.")
    elif not melanoma.num_images:
        sentences.append(NO_MELANOMA)
    else:
        sentences.append(
            f"{melanoma.num_missed} of {melanoma.num_images} melanoma images are not "
            "predicted as melanoma."
        )
    if describe_different_subgroups(result):
        sentences.append(describe_different_subgroups(result))
    if describe_leakage(result):
        sentences.append(describe_leakage(result))
    elif is_leaky(results):
        sentences.append(
            "Training, validation and test share images, lesions, patients or "
            "near-duplicates. Do not trust these scores."
        )
    else:
        sentences.append(describe_separation(results))
    return " ".join(sentences)


def describe_intervals(results: RunResults) -> str:
    """Returns an explanation of the intervals in brackets."""
    result = results.headline
    thresholds = ""
    if result.targets:
        thresholds = (
            " The intervals of rates at an operating point also cover the choice of the "
            "threshold on the validation split, except "
            f"{'for the referral rule, ' if result.triage else ''}in subgroups and on "
            "corrupted images."
        )
    return (
        f"Numbers in brackets are {100 * result.confidence:g} % confidence intervals "
        f"({INTERVAL_METHOD}: {result.num_bootstrap:,} resamples of the "
        f"{describe_groups(result)}). Intervals cover the sampling of {units(result)}, not "
        f"the variance between training runs.{thresholds} {COVERAGE}"
    )


def count_views(results: RunResults) -> dict[str, int]:
    """Returns the number of views of each kind of test-time augmentation."""
    views = {unadjusted_name(v.variant): v.cost.num_views for v in results.variants}
    return {kind: count for kind, count in views.items() if kind}


def variant_scores(variant: SplitResult) -> list[tuple[str, Estimate, Estimate]]:
    """Returns the name, score and difference from the default of each main metric."""
    scores = {name: variant.metrics[name] for name in ("balanced_accuracy", "macro_f1")}
    melanoma = find_melanoma(variant)
    if melanoma is not None:
        scores[MELANOMA_RECALL] = melanoma.recall
    return [
        (metric_label(name), score, variant.differences[name])
        for name, score in scores.items()
    ]


def exported_variants(results: RunResults) -> list[SplitResult]:
    """Returns the variants that can be exported, with or without logit adjustment."""
    return [
        variant
        for variant in results.variants
        if EXPORTED_VIEWS.get(unadjusted_name(variant.variant)) == variant.cost.num_views
    ]


def describe_smallest_class(
    result: SplitResult, declared: Mapping[str, LesionClass]
) -> str:
    """Returns how much one image of the smallest class can change balanced accuracy."""
    sizes = {name: part.num_images for name, part in result.classes.items()}
    sizes = {name: size for name, size in sizes.items() if size}
    name, count = min(sizes.items(), key=lambda item: item[1])
    return (
        f"The smallest class, {class_label(name, declared)}, has {count} "
        f"{'image' if count == 1 else 'images'}: each can change balanced accuracy by "
        f"{1 / (count * len(sizes)):.3f}."
    )


def describe_missing_classes(
    result: SplitResult, declared: Mapping[str, LesionClass]
) -> str:
    """Returns which classes have no images; "" if every class has images."""
    if not result.missing_classes:
        return ""
    names = ", ".join(class_label(name, declared) for name in result.missing_classes)
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


def describe_position(result: SplitResult) -> str:
    """Returns how many other tables were scored on these folds before; "" if not known."""
    if result.position is None:
        return ""
    if result.position == 1:
        return "No other predictions were scored on these folds before."
    count = result.position - 1
    sets = "1 other set" if count == 1 else f"{count} other sets"
    return (
        f"{sets} of predictions (models and variants such as test-time augmentation) "
        f"{'was' if count == 1 else 'were'} scored on these folds before; the best of many "
        "scores is optimistic."
    )


def baseline_columns(results: RunResults) -> dict[str, Characteristics]:
    """Returns the characteristics of each split by label, training first if known.

    The last columns are the scored images of external datasets.
    """
    train = results.info.training_characteristics
    columns = {} if train is None else {"training split": train}
    splits = [*results.splits.values(), *(e.scores for e in results.external)]
    return columns | {split_label(split): split.characteristics for split in splits}


def baseline_rows(results: RunResults) -> list[tuple[str, str, list[str]]]:
    """Returns the rows of the baseline table: characteristic, value, and a cell per split.

    The columns are those of `baseline_columns`. The number of images with a diagnosis or
    another characteristic is followed by their share of the split in percent.
    """
    columns = list(baseline_columns(results).values())
    rows = [
        ("images", "", [f"{column.num_images:,}" for column in columns]),
        ("lesions", "", [_count_units(c.num_lesions, c, "lesion") for c in columns]),
        ("patients", "", [_count_units(c.num_patients, c, "patient") for c in columns]),
        (GROUPS, "", [f"{column.num_groups:,}" for column in columns]),
        (
            "age in years",
            "median (quartiles)",
            [_describe_age(column) for column in columns],
        ),
    ]
    parts: dict[str, list[Mapping[str, int]]] = {}
    parts["diagnosis"] = [column.classes for column in columns]
    for attribute in SUBGROUPS:
        if SUBGROUPS[attribute] == DATASET and len(results.info.datasets) == 1:
            continue
        label = ATTRIBUTE_LABELS.get(attribute, subgroup_label(attribute))
        parts[label] = align_values([c.attributes[attribute] for c in columns])
    for name, counts in parts.items():
        values = dict.fromkeys(value for part in counts for value in part)
        values = dict.fromkeys([*(v for v in values if v != UNKNOWN), UNKNOWN])
        for value in values:
            cells = [
                _count_and_share(part.get(value, 0), column.num_images)
                for part, column in zip(counts, columns, strict=True)
            ]
            if any(part.get(value) for part in counts):
                label = subgroup_label(value)
                if name == "diagnosis":
                    label = class_label(value, results.info.declared)
                rows.append((name, label, cells))
    return rows


def describe_split_boxes(results: RunResults) -> list[str]:
    """Returns the texts of the splits in the flow diagram."""
    splits = results.splits
    if results.info.flow is None or not results.info.flow.splits:
        result = results.headline
        counts = f"{result.num_images:,} images"
        lesions = count_or_unknown(result.num_lesions, "lesions")
        return [f"{split_label(result)}\n{counts}\n{lesions}"]
    audit = results.info.audit
    return [
        f"{split_label(splits[name]) if name in splits else 'training split'}\n"
        f"{count:,} images\n{count_or_unknown(audit.num_lesions[name], 'lesions')}"
        for name, count in results.info.flow.splits.items()
    ]


def _count_units(count: int | None, column: Characteristics, unit: str) -> str:
    """Returns the number of lesions or patients, or of images for which it is not known."""
    if count is not None:
        return f"{count:,}"
    known = column.identifiers
    num_known = known.with_lesion if unit == "lesion" else known.with_patient
    return (
        f"{UNKNOWN} for {column.num_images - num_known:,} images" if num_known else UNKNOWN
    )


def _describe_age(column: Characteristics) -> str:
    if column.age_quartiles is None:
        return UNKNOWN
    low, median, high = column.age_quartiles
    return f"{median:.0f} ({low:.0f} to {high:.0f})"


def _count_and_share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.1f} %)"
