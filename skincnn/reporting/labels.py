"""Labels of classes, metrics, splits and variants, and the format of scores."""

from __future__ import annotations

from collections.abc import Mapping

from skincnn.classes import NOTHING_DECLARED, LesionClass, describe
from skincnn.evaluation.results import ProbabilityBand, SplitResult
from skincnn.inference.logit_adjustment import ADJUSTED, unadjusted_name
from skincnn.metrics.bootstrap import NO_INTERVAL, UNDEFINED, Estimate

TOO_FEW = "too few to score"
"""Shown instead of the scores of a subgroup of too few patients, lesions or images."""
METRIC_LABELS = {
    "macro_auc_above_80_sensitivity": "macro AUC above 80 % sensitivity",
    "isic_score": "ISIC 2018 score",
    "brier": "Brier score",
    "calibrated_log_loss": "log loss after calibration",
}
"""Labels that cannot be derived from the name of the metric."""
CAPITALS = {"auc": "AUC", "ece": "ECE", "f1": "F1"}
SPLIT_LABELS = {
    "val": "validation split",
    "test": "test split",
    "test_official": "official test split",
    "validation_official": "official validation split",
}
SUBGROUP_LABELS = {
    "site": "body site",
    "ground truth by": "ground truth",
    "histo": "histopathology",
    "follow_up": "follow-up",
    "consensus": "expert consensus",
    "confocal": "confocal microscopy",
}
"""Labels that differ from the name of the subgroup attribute or value."""
ATTRIBUTE_LABELS = {
    "dataset": "dataset (of several that were used together)",
    "source": "source (image set within the dataset)",
    "ground truth by": "how the diagnosis was established (ground truth)",
    "skin tone (estimated)": "skin tone, estimated from the border of the image",
}
"""Labels of subgroup attributes in tables, where there is room for an explanation."""
TARGET_LABELS = {"melanoma": "melanoma", "malignant": "malignant lesions"}
"""Labels of targets in headings."""
CORRUPTION_LABELS = {
    "blur": "Gaussian blur",
    "motion": "motion blur",
    "jpeg": "JPEG compression",
}
"""Labels that cannot be derived from the name of the corruption."""


def full_name(
    class_name: str, declared: Mapping[str, LesionClass] = NOTHING_DECLARED
) -> str:
    """Returns "melanoma" for "mel"; unknown class names are returned unchanged.

    `declared` contains the classes that the datasets declare, as in `RunInfo`.
    """
    described = describe([class_name], declared)[class_name].full_name
    return class_name if described.lower() == class_name.lower() else described


def class_label(
    class_name: str, declared: Mapping[str, LesionClass] = NOTHING_DECLARED
) -> str:
    """Returns "melanoma (mel)" for "mel"; see `full_name`."""
    full = full_name(class_name, declared)
    return full if full == class_name else f"{full} ({class_name})"


def metric_label(name: str) -> str:
    """Returns "macro F1" for "macro_f1", and "cost" for a custom metric "my_parts:cost"."""
    words = (CAPITALS.get(word, word) for word in name.rpartition(":")[2].split("_"))
    return METRIC_LABELS.get(name, " ".join(words))


def point_label(key: str) -> str:
    """Returns "specificity ≥ 90 %" for the operating point "specificity=0.90"."""
    metric, minimum = key.split("=")
    return f"{metric} ≥ {100 * float(minimum):.0f} %"


def split_label(result: SplitResult) -> str:
    """Returns the label of a split, such as "test split (fold 9)"."""
    label = SPLIT_LABELS.get(result.split, result.stored_in)
    if result.split not in ("val", "test"):
        return label
    # `stored_in` already describes the pooled validation folds of a cross-validation.
    is_fold = result.stored_in.startswith(("fold", "source "))
    return f"{label} ({result.stored_in})" if is_fold else result.stored_in


def split_role(result: SplitResult) -> str:
    """Returns a sentence on how a split was used; "" for a split with leakage."""
    if result.split == "val":
        return (
            "The calibration, the thresholds and usually the epoch were chosen on these "
            "images, so the scores are optimistic."
        )
    if result.split == "out_of_fold":
        return (
            "The calibration, the thresholds and usually the epochs were chosen on "
            "validation folds, which are test folds of other models."
        )
    if result.leakage is not None and result.leakage.num_leaky_images:
        return ""
    return "These images were not used for training or for any choice."


def band_label(band: ProbabilityBand) -> str:
    """Returns "below 2 %", "20 to 40 %" or "80 % or more"."""
    low, high = f"{100 * band.low:.0f}", f"{100 * band.high:.0f} %"
    if not band.low:
        return f"below {high}"
    return f"{low} % or more" if band.high == 1 else f"{low} to {high}"


def variant_label(result: SplitResult) -> str:
    """Returns a label such as "test-time augmentation (d4), logit adjustment (0.50)"."""
    views = unadjusted_name(result.variant)
    parts = [f"test-time augmentation ({views})"] if views else []
    if result.variant.endswith(ADJUSTED):
        strength = result.logit_adjustment
        suffix = "" if strength is None else f" ({strength:.2f})"
        parts.append(f"logit adjustment{suffix}")
    return ", ".join(parts) or "unchanged model (default)"


def subgroup_label(name: str) -> str:
    """Returns the label of a subgroup attribute or value: "body site" for "site".

    Names without an entry in `SUBGROUP_LABELS` are returned unchanged.
    """
    return SUBGROUP_LABELS.get(name, name)


def targets_label(result: SplitResult) -> str:
    """Returns "melanoma and malignant lesions", or only the targets that exist."""
    return " and ".join(TARGET_LABELS[name] for name in result.targets)


def corruption_label(name: str) -> str:
    """Returns "color cast" for "color_cast"."""
    return CORRUPTION_LABELS.get(name, name.replace("_", " "))


def interval(score: Estimate, spec: str = ".3f") -> str:
    """Returns a score with its interval, such as "0.637 [0.548, 0.727]"."""
    return format(score, spec)


def signed(difference: Estimate) -> str:
    """Returns a difference with its interval, such as "+0.043 [+0.012, +0.071]"."""
    return interval(difference, "+.3f")


def percent(score: Estimate) -> str:
    """Returns a share in percent, such as "64 %", or `UNDEFINED`."""
    return UNDEFINED if score.value is None else f"{100 * score.value:.0f} %"


def percent_interval(score: Estimate) -> str:
    """Returns a share with its interval in percent, such as "64 % [55, 73]"."""
    if score.value is None or score.low is None or score.high is None:
        return f"{percent(score)} [{NO_INTERVAL}]"
    return f"{percent(score)} [{100 * score.low:.0f}, {100 * score.high:.0f}]"


def per_hundred(score: Estimate) -> str:
    """Returns a share per 100, with its interval, such as "64 [55, 73]"."""
    return percent_interval(score).replace(" %", "")


def missed_per_thousand(npv: Estimate) -> str:
    """Returns the number of missed lesions among 1,000 unflagged ones: "4 [2, 6]"."""
    ends = (None if end is None else 1000 * (1 - end) for end in (npv.high, npv.low))
    value = None if npv.value is None else 1000 * (1 - npv.value)
    return interval(Estimate(value, *ends), ".0f")


def confidence_interval(score: Estimate, confidence: float, *, as_percent: bool) -> str:
    """Returns text such as "95 % confidence interval 55 to 73 %"."""
    name = f"{100 * confidence:g} % confidence interval"
    if score.low is None or score.high is None:
        return f"{name} not available"
    if as_percent:
        return f"{name} {100 * score.low:.0f} to {100 * score.high:.0f} %"
    return f"{name} {score.low:.3f} to {score.high:.3f}"
