"""Sentences about external validation, for the report, the model card and the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from skincnn.classes import LesionClass
from skincnn.evaluation.external.result import (
    KINDS,
    REFERRAL,
    ExternalResult,
    OtherLabel,
)
from skincnn.reporting.labels import (
    class_label,
    interval,
    percent_interval,
    point_label,
)

KIND_LABELS = dict(
    zip(
        KINDS,
        (
            "with the same published image ID",
            "with an identical file",
            "with the same published lesion ID",
            "with the same published patient ID",
            "near-duplicates found by the image search",
            "of the same group (patient, lesion or near-duplicates) as one of these images",
        ),
        strict=True,
    )
)
"""Description of the images with each kind of overlap."""
MAX_PREDICTED = 3
"""Number of predicted classes shown for a label that is not a class of the model."""


def describe_images(result: ExternalResult) -> str:
    """Returns how many images are scored, and how many are not because of their label."""
    other = sum(label.num_images for label in result.other_labels)
    text = (
        f"{result.scores.num_images:,} of the {result.num_images:,} images of "
        f"{result.name} are scored."
    )
    if other:
        names = ", ".join(class_label(label.label) for label in result.other_labels)
        have = "images have labels that are not classes"
        if other == 1:
            have = "image has a label that is not a class"
        text += f" {other:,} {have} of the model ({names})."
    return text


def describe_overlap(result: ExternalResult) -> str:
    """Returns the result of the overlap audit, or a warning if it was skipped."""
    audit = result.overlap
    if audit is None:
        return (
            "OVERLAP NOT CHECKED: these images were not compared with the images that the "
            "model was trained on. If some are the same, the scores are too high."
        )
    text = "No overlap with the training and validation images was found."
    if audit.num_images:
        parts = [f"{count:,} {KIND_LABELS[kind]}" for kind, count in audit.counts.items()]
        were = "image was" if audit.num_images == 1 else "images were"
        text = (
            f"{audit.num_images:,} {were} left out because of overlap with the training or "
            f"validation images: {', '.join(parts)}."
        )
    if audit.num_test_images:
        are = "is" if audit.num_test_images == 1 else "are"
        text += (
            f" {audit.num_test_images:,} of the scored images {are} also in the test split "
            f"of this run and {are} therefore no new evidence."
        )
    search = "near-duplicates only as far as the image search finds them"
    if not audit.searched:
        search = (
            "near-duplicates were not searched for, because synthetic images are all "
            "similar"
        )
    return (
        f"{text} Files that are stored identically and equal published image, lesion and "
        f"patient IDs are always found, {search}. Without published patient IDs, other "
        "images of the same patients are not found."
    )


def describe_predicted(label: OtherLabel, declared: Mapping[str, LesionClass]) -> str:
    """Returns the most frequent predictions, such as "5 as melanoma (mel), 2 others"."""
    counts = list(label.predicted.items())
    shown = [
        f"{count:,} as {class_label(name, declared)}"
        for name, count in counts[:MAX_PREDICTED]
    ]
    rest = sum(count for _, count in counts[MAX_PREDICTED:])
    return ", ".join([*shown, f"{rest:,} others"] if rest else shown)


def describe_external(result: ExternalResult) -> str:
    """Returns the main scores on an external dataset, for the model card."""
    scores = result.scores
    parts = [f"balanced accuracy {interval(scores.metrics['balanced_accuracy'])}"]
    if "melanoma" in scores.targets and scores.targets["melanoma"].num_images:
        parts.append(f"melanoma AUC {interval(scores.targets['melanoma'].auc)}")
    if result.out_of_distribution is not None:
        share = percent_interval(result.out_of_distribution)
        parts.append(f"flagged as out-of-distribution {share}")
    return f"{', '.join(parts)}."


def how_flagged(point: str) -> str:
    """Returns the end of "lesions that ..." for an operating point or the referral rule."""
    if point == REFERRAL:
        return "the referral rule refers"
    return f"reach the threshold for {point_label(point)}"
