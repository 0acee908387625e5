"""What a reader of a dermatological study asks, answered from what the run knows.

The 25 points of Daneshjou et al., Checklist for Evaluation of Image-Based Artificial
Intelligence Reports in Dermatology: CLEAR Derm Consensus Guidelines, JAMA Dermatology
158(1):90-96 (2022), in words of our own. It is no certificate of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skincnn import classes
from skincnn.config import Config
from skincnn.reporting.report_text import leak

NOT_KNOWN = "not known"
Answers = list[tuple[str, str]]


def fill_checklist(report: Mapping[str, Any], config: Config) -> dict[str, Answers]:
    """Returns each part of the checklist: its points, and the run's answer to each.

    An answer begins with "not known" where the run knows none.

    Args:
        report: The content of report.json.
        config: The configuration.
    """
    return {
        "Data": [*_pictures(report, config), *_patients(report, config), *_splits(report)],
        "Technique": _technique(report),
        "Technical assessment": _assessment(report),
        "Application": _application(report),
    }


def _pictures(report: Mapping[str, Any], config: Config) -> Answers:
    synthetic, attribution = report["synthetic"], report["attribution"]
    published = attribution and not synthetic
    see = "; see the publication of the data" if published else ""
    if synthetic:
        kind = "drawn by code in the manner of dermatoscopy; none is a photograph"
    else:
        kind = "dermatoscopic" if published else f"{NOT_KNOWN}: pictures of one's own"
    data = config.data
    steps = [
        f"resized to {data.image_size} x {data.image_size} pixels ({data.resize_mode})",
        *(["dark borders cropped"] if data.crop_border else []),
        *(["color constancy"] if data.color_constancy else []),
        f"augmented in training by {', '.join(config.augment.parts) or 'nothing'}",
    ]
    synthetic = "all of them; the code that draws them is part of skincnn"
    return [
        ("Kind of pictures", kind),
        ("Artefacts in them", f"{NOT_KNOWN}: not recorded of each picture{see}"),
        ("How and by whom they were taken", f"{NOT_KNOWN} to the run{see}"),
        ("Preprocessing", "; ".join(steps)),
        ("Synthetic pictures", synthetic if synthetic else "none in training or test"),
        ("Sources named", attribution or f"{NOT_KNOWN}: pictures of one's own"),
    ]


def _patients(report: Mapping[str, Any], config: Config) -> Answers:
    groups = report["splits"][report["headline"]]["subgroups"]
    of_person = [
        attribute
        for attribute in ("age band", "sex", "site")
        if any(group["attribute"] == attribute for group in groups)
    ]
    recorded = f"{', '.join(of_person)}; ethnicity and country are not recorded"
    return [
        ("Patients' data", recorded if of_person else NOT_KNOWN),
        ("Skin tone", f"{NOT_KNOWN}: not recorded in the data"),
        (
            "Bias through patients' data",
            "age, sex and site are inputs: answers can lean on who was photographed"
            if config.model.clinical_metadata
            else "the model is given the picture alone",
        ),
    ]


def _splits(report: Mapping[str, Any]) -> Answers:
    audit, splits = report["audit"], report["splits"]
    content = splits[report["headline"]]
    others = [name for name in splits if name not in ("val", "test", report["headline"])]
    most = "at most " if report["models"] else ""  # each model may have others
    sizes = [
        f"{part} {most}{audit[f'num_{part}_images']}" for part in ("train", "val", "test")
    ]
    counts = [f"{name} {of['num_images']}" for name, of in content["classes"].items()]
    sources = _groups(report, "source")
    unknown = report.get("unknown")
    return [
        (
            "How the data were divided",
            "BY IMAGE: test lesions were trained on, the scores are inflated"
            if report["split_by"] == "image"
            else "by lesion and near-duplicate; audited before training: "
            f"{audit['num_shared_lesions']} lesions, {audit['num_shared_images']} pictures "
            f"and {audit['num_shared_groups']} near-duplicate groups in two splits"
            + "".join(f"; {leak(of)}" for of in splits.values() if leak(of)),
        ),
        ("Sizes", f"pictures: {', '.join(sizes)}"),
        (
            "Test set from elsewhere",
            f"also scored on {', '.join(others)}; whether they come from another clinic is "
            f"{NOT_KNOWN}"
            if others
            else "none",
        ),
        (
            "Several devices",
            f"makers {NOT_KNOWN}; test pictures by source: {sources}"
            if sources
            else NOT_KNOWN,
        ),
        ("Classes and their balance", f"test pictures: {', '.join(counts)}"),
        (
            "Pictures unlike those of training",
            f"refused by a score ({unknown['score']}); see Evaluation"
            if unknown
            else f"{NOT_KNOWN}: not tested",
        ),
    ]


def _technique(report: Mapping[str, Any]) -> Answers:
    truth = _groups(report, "ground truth by")
    known = truth and not report["synthetic"]
    names = [
        f"{name} ({of.full_name})"
        for name, of in classes.describe(report["class_names"]).items()
    ]
    return [
        (
            "How the pictures were labelled",
            f"test pictures by ground truth: {truth}" if known else NOT_KNOWN,
        ),
        ("Diagnoses used", ", ".join(names)),
        (
            "Histopathology of the malignant",
            f"{NOT_KNOWN} of these alone; of all test pictures: {truth}"
            if known
            else NOT_KNOWN,
        ),
        (
            "How the model was made",
            f"{report['protocol']} Every setting is in config.json.",
        ),
    ]


def _assessment(report: Mapping[str, Any]) -> Answers:
    groups = report["splits"][report["headline"]]["subgroups"]
    return [
        (
            "Can others evaluate it",
            "predictions/*.csv hold each picture's probabilities; scripts/evaluate.py "
            "makes the report again where the model and the data are",
        ),
        (
            "Measures",
            "balanced accuracy, F1, AUC, recall and precision of each class, calibration "
            f"and operating points, each with an interval ({report['interval']['method']})",
        ),
        (
            "Compared with others",
            f"{NOT_KNOWN}: no comparison with physicians; scripts/compare.py compares runs",
        ),
        (
            "Tests for bias",
            f"{len(groups)} subgroups; none of skin tone" if groups else NOT_KNOWN,
        ),
    ]


def _application(report: Mapping[str, Any]) -> Answers:
    return [
        (
            "Use, and the conditions it is for",
            f"research and teaching; pictures of {', '.join(report['class_names'])} only",
        ),
        ("Effect on patients and physicians", f"{NOT_KNOWN}: not studied"),
    ]


def _groups(report: Mapping[str, Any], attribute: str) -> str:
    """Returns how many pictures have each value, as "histo 40, consensus 9"."""
    groups = report["splits"][report["headline"]]["subgroups"]
    return ", ".join(
        f"{group['value']} {group['num_images']}"
        for group in groups
        if group["attribute"] == attribute
    )
