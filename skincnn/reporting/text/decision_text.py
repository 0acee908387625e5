"""Sentences and rows about decisions at thresholds, and about subgroups."""

from __future__ import annotations

from skincnn.data.characteristics import MANY_VALUES, UNKNOWN
from skincnn.evaluation.results import (
    Outcomes,
    SplitResult,
    SubgroupScores,
    TargetScores,
    TriageScores,
)
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.operating_points import HEADLINE_POINT
from skincnn.metrics.predictive_values import PrevalenceScores
from skincnn.reporting.labels import (
    ATTRIBUTE_LABELS,
    percent_interval,
    point_label,
    subgroup_label,
)

COMPARED_ATTRIBUTES = {
    "ground truth by": "how the diagnosis was established",
    "source": "the source of the images",
    "dataset": "the dataset of the images",
}
"""Subgroup attributes that the summary compares, and their descriptions."""


def outcomes(
    target: TargetScores, triage: TriageScores | None, referral_label: str
) -> list[tuple[str, Outcomes]]:
    """Returns the label and the 2x2 table of each operating point that has a threshold.

    The last row is the referral rule, with `referral_label`, if `triage` is given.
    """
    points = target.operating_points.items()
    tables = [(point_label(key), point.outcomes) for key, point in points]
    if triage is not None:
        tables.append((referral_label, triage.outcomes))
    return [(label, table) for label, table in tables if table is not None]


def prevalence_scores(
    target: TargetScores, triage: TriageScores | None
) -> list[tuple[str, tuple[PrevalenceScores, ...]]]:
    """Returns rows: which lesions are flagged, and the scores at each prevalence.

    The text on the flagged lesions completes the phrase "lesions that ...". There is a row
    for `HEADLINE_POINT`, unless it has no threshold, and for the referral rule, if `triage`
    is given.
    """
    point = target.operating_points[HEADLINE_POINT.key]
    how = f"reach the threshold for {HEADLINE_POINT.text}"
    rows = [(how, point.by_prevalence)]
    if triage is not None:
        rows.append(("the referral rule refers", triage.by_prevalence))
    return [(how, scores) for how, scores in rows if scores]


def always_included(result: SplitResult) -> list[str]:
    """Returns the classes in every prediction set: they have too few validation groups."""
    thresholds = result.prediction_sets.thresholds
    pairs = zip(result.class_names, thresholds, strict=True)
    return [name for name, threshold in pairs if threshold == 0]


def below_coverage(result: SplitResult) -> list[str]:
    """Returns the classes whose coverage, with its whole interval, is below the goal."""
    sets = result.prediction_sets
    ends = {name: score.high for name, score in sets.covered.items()}
    return [name for name, end in ends.items() if end is not None and end < sets.coverage]


def unit_scores(result: SplitResult, unit: str) -> list[tuple[str, Estimate, Estimate]]:
    """Returns the name of each score in `UnitScores`, its value per image and per unit."""
    per_image = dict(result.metrics)
    for name, target in result.targets.items():
        rates = target.operating_points[HEADLINE_POINT.key].rates
        per_image[f"{name}_auc"] = target.auc
        per_image |= {f"{name}_{rate}": score for rate, score in rates.items()}
    scores = result.units[unit].scores.items()
    return [(name, per_image[name], score) for name, score in scores]


def describe_different_subgroups(result: SplitResult) -> str:
    """Returns for which of `COMPARED_ATTRIBUTES` the accuracy differs; "" for none.

    The accuracy differs if the intervals of the subgroups with the lowest and the highest
    accuracy do not overlap. Images for which the attribute is not known are ignored.
    """
    parts = []
    for attribute, text in COMPARED_ATTRIBUTES.items():
        groups = [
            group
            for group in result.subgroups
            if group.attribute == attribute and group.value != UNKNOWN and group.scores
        ]
        ordered = sorted(groups, key=lambda group: group.scores["accuracy"].value or 0.0)
        if len(ordered) < 2:
            continue
        worst, best = (ordered[end].scores["accuracy"] for end in (0, -1))
        if worst.high is None or best.low is None or worst.high >= best.low:
            continue
        parts.append(f"{text} ({_describe_accuracy(ordered[0], ordered[-1])})")
    return f"Accuracy differs by {' and by '.join(parts)}." if parts else ""


def attributes_with_many_values(result: SplitResult) -> list[str]:
    """Returns the attributes that have too many values for subgroups."""
    attributes = result.characteristics.attributes
    return [name for name, counts in attributes.items() if MANY_VALUES in counts]


def describe_attributes_without_subgroups(result: SplitResult) -> str:
    """Returns which attributes have too many values for subgroups; "" for none."""
    names = attributes_with_many_values(result)
    if not names:
        return ""
    labels = (ATTRIBUTE_LABELS.get(name, subgroup_label(name)) for name in names)
    return (
        f"There are no subgroups by {' and by '.join(labels)}, which "
        f"{'has' if len(names) == 1 else 'have'} {MANY_VALUES}."
    )


def _describe_accuracy(*groups: SubgroupScores) -> str:
    return ", ".join(
        f"{subgroup_label(group.value)} {percent_interval(group.scores['accuracy'])}"
        for group in groups
    )
