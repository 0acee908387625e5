"""The CLEAR Derm checklist, filled from the results of a run.

The 25 points of Daneshjou et al., Checklist for Evaluation of Image-Based Artificial
Intelligence Reports in Dermatology: CLEAR Derm Consensus Guidelines From the International
Skin Imaging Collaboration Artificial Intelligence Working Group, JAMA Dermatology
158(1):90-96 (2022), shortened. A filled checklist is no certificate.
"""

from __future__ import annotations

from skincnn.reporting.labels import attribute_label, class_label, split_label, value_label
from skincnn.reporting.load import RunResults
from skincnn.reporting.report_text import INTERVAL_METHOD, list_counts
from skincnn.reporting.training_text import (
    describe_leakage,
    describe_training,
    is_split_by_image,
)

NOT_KNOWN = "not known"
"""Begins each answer that a run cannot give."""
Answers = list[tuple[str, str]]


def fill_checklist(results: RunResults) -> dict[str, Answers]:
    """Returns each part of the checklist to its points, each with its answer."""
    return {
        "Data": [*_images(results), *_patients(results), *_splits(results)],
        "Technique": _technique(results),
        "Technical assessment": _assessment(results),
        "Application": _application(results),
    }


def _images(results: RunResults) -> Answers:
    synthetic, attribution = results.info.synthetic, results.info.attribution
    published = attribution and not synthetic
    see = "; see the publication of the dataset" if published else ""
    if synthetic:
        image_type = "synthetic images that imitate dermoscopy; none is a photograph"
    else:
        image_type = "dermoscopic" if published else f"{NOT_KNOWN}: the user's own images"
    data = results.config.data
    steps = [
        f"resized to {data.image_size} x {data.image_size} pixels ({data.resize_mode})",
        *(["dark borders cropped"] if data.crop_border else []),
        *(["color constancy"] if data.color_constancy else []),
        f"training augmentation: {', '.join(results.config.augment.parts) or 'none'}",
    ]
    generated = "all images; the code that renders them is part of skincnn"
    return [
        ("Image types", image_type),
        ("Image artifacts", f"{NOT_KNOWN}: not recorded for each image{see}"),
        ("Technical acquisition details", f"{NOT_KNOWN}{see}"),
        ("Preprocessing procedures", "; ".join(steps)),
        ("Synthetic images", generated if synthetic else "none in training or test"),
        ("Public images referenced", attribution or f"{NOT_KNOWN}: the user's own images"),
    ]


def _patients(results: RunResults) -> Answers:
    recorded = {group.attribute for group in results.headline.subgroups}
    attributes = [
        attribute_label(name) for name in ("age band", "sex", "site") if name in recorded
    ]
    return [
        (
            "Patient-level metadata",
            f"{', '.join(attributes)}; ethnicity and country are not recorded"
            if attributes
            else NOT_KNOWN,
        ),
        ("Skin color", f"{NOT_KNOWN}: not recorded in the dataset"),
        (
            "Potential biases from patient information",
            "age, sex and body site are inputs of the model; its predictions can depend on "
            "which patients were imaged"
            if results.config.model.clinical_metadata
            else "patient information is not an input of the model",
        ),
    ]


def _splits(results: RunResults) -> Answers:
    audit, headline = results.info.audit, results.headline
    others = [
        split_label(result)
        for name, result in results.splits.items()
        if name not in ("val", "test", headline.split)
    ]
    most = "at most " if results.info.members else ""  # members may differ
    parts = {"train": "training", "val": "validation", "test": "test"}
    sizes = [f"{text} {most}{audit.num_images[name]:,}" for name, text in parts.items()]
    counts = [(name, of.num_images) for name, of in headline.classes.items()]
    sources = _list_subgroups(results, "source")
    return [
        ("Dataset partitions", _describe_partitions(results)),
        ("Sample sizes", f"images: {', '.join(sizes)}"),
        (
            "External test set",
            f"also tested on the {', '.join(others)}; whether these images come from "
            f"another clinic is {NOT_KNOWN}"
            if others
            else "none",
        ),
        (
            "Multivendor images",
            f"vendors {NOT_KNOWN}; test images by source: {sources}"
            if sources
            else NOT_KNOWN,
        ),
        ("Class distribution and balance", f"test images: {list_counts(counts)}"),
        (
            "Out-of-distribution images",
            "rejected by Mahalanobis distance; see Evaluation"
            if results.ood
            else f"{NOT_KNOWN}: not tested",
        ),
    ]


def _describe_partitions(results: RunResults) -> str:
    """Returns how the images were split, and whether the splits leak."""
    if is_split_by_image(results):
        return "BY IMAGE: lesions of the test images were in training; scores are inflated"
    audit = results.info.audit
    warnings = [describe_leakage(result) for result in results.splits.values()]
    parts = [
        "by lesion and near-duplicate group; audited before training: "
        f"{audit.num_shared_images} images, {audit.num_shared_lesions} lesions and "
        f"{audit.num_shared_groups} near-duplicate groups in two splits",
        *(warning for warning in warnings if warning),
    ]
    return "; ".join(parts)


def _technique(results: RunResults) -> Answers:
    truth = _list_subgroups(results, "ground truth by")
    known = truth and not results.info.synthetic
    return [
        (
            "Labeling method",
            f"test images by ground truth: {truth}" if known else NOT_KNOWN,
        ),
        ("Diagnostic labels", ", ".join(map(class_label, results.info.class_names))),
        (
            "Histopathologic review of malignant lesions",
            f"{NOT_KNOWN} for malignant lesions alone; all test images: {truth}"
            if known
            else NOT_KNOWN,
        ),
        (
            "Algorithm development",
            f"{describe_training(results)} Every setting is in config.json.",
        ),
    ]


def _assessment(results: RunResults) -> Answers:
    groups = results.headline.subgroups
    return [
        (
            "Public evaluation of the algorithm",
            "predictions/*.csv has the probabilities of each image; scripts/evaluate.py "
            "repeats the evaluation with the model and the dataset",
        ),
        (
            "Performance measures",
            "balanced accuracy, F1, AUC, recall and precision of each class, calibration "
            "and operating points, each with a confidence interval "
            f"({INTERVAL_METHOD})",
        ),
        (
            "Benchmarking and technical comparison",
            f"{NOT_KNOWN}: not compared with physicians; scripts/compare.py compares runs",
        ),
        (
            "Bias assessment",
            f"{len(groups)} subgroups; none by skin color" if groups else NOT_KNOWN,
        ),
    ]


def _application(results: RunResults) -> Answers:
    names = ", ".join(map(class_label, results.info.class_names))
    return [
        ("Use cases and target conditions", f"research and teaching; images of: {names}"),
        (
            "Potential impact on the health care team and patients",
            f"{NOT_KNOWN}: not studied",
        ),
    ]


def _list_subgroups(results: RunResults, attribute: str) -> str:
    """Returns the images with each value, as "histopathology 40, follow-up 9"."""
    return ", ".join(
        f"{value_label(group.value)} {group.num_images}"
        for group in results.headline.subgroups
        if group.attribute == attribute
    )
