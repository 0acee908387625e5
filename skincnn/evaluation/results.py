"""The results of an evaluation: one immutable JSON file for each, under results/.

Every type here is a record (`skincnn.records`). A result is computed from predictions
tables alone and names them by SHA-256. Reports are rendered from results and never the
other way round.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from skincnn.data.leakage import SplitLeakage
from skincnn.metrics.bootstrap import Estimate
from skincnn.records import Part, Record, read_record, write_record

FOLDER = "results"
OTHER_RESULTS = re.compile(r"(.*\.)?ood(\..*)?|export\..*|.*\.corruptions|members")
"""Names of results that are not a `SplitResult`."""
R = TypeVar("R", bound=Record)


class ClassScores(Part):
    """One class against all others; `scores` maps `PER_CLASS_METRICS` to their values."""

    num_images: int
    num_lesions: int
    scores: dict[str, Estimate]


class Calibration(Part):
    """Calibration metrics before and after temperature scaling, by name."""

    before: dict[str, Estimate]
    after: dict[str, Estimate]


class OperatingPointScores(Part):
    """One operating point of a target.

    Attributes:
        threshold: The probability, chosen on validation; None if no threshold reaches the
            operating point there.
        rates: Name of `RATES` (sensitivity, specificity, PPV, NPV) to its value; empty
            without a threshold.
    """

    threshold: float | None
    rates: dict[str, Estimate]


class TargetScores(Part):
    """Detection of melanoma, or of malignant lesions, by calibrated probability.

    Attributes:
        num_images: Positive images.
        num_lesions: Positive lesions.
        auc: Area under the ROC curve.
        operating_points: Operating point, as "specificity=0.90", to its scores.
    """

    num_images: int
    num_lesions: int
    auc: Estimate
    operating_points: dict[str, OperatingPointScores]


class TriageScores(Part):
    """The referral decision that exports serve by default.

    Attributes:
        operating_point: That of malignant lesions, as "sensitivity=0.90".
        threshold: The malignant probability from which an image is referred, chosen on
            validation; None if no threshold reaches the operating point.
        max_distance: The Mahalanobis distance beyond which an image is referred as
            out-of-distribution.
        rates: Name of `RATES` to its value, for malignant lesions.
        referred: Share of all images that are referred.
        melanoma_referred: Share of the melanomas that are referred; None if melanoma is
            not a class.
    """

    operating_point: str
    threshold: float | None
    max_distance: float
    rates: dict[str, Estimate]
    referred: Estimate
    melanoma_referred: Estimate | None


class SubgroupScores(Part):
    """Scores of a subgroup of the images.

    Attributes:
        attribute: What defines it, as "sex".
        class_names: The classes in the subgroup; balanced accuracy is over these.
        scores: Name of the metric to its value; empty for small subgroups.
    """

    attribute: str
    value: str
    num_images: int
    num_lesions: int
    class_names: tuple[str, ...]
    scores: dict[str, Estimate]


class InferenceCost(Part):
    """What the predictions cost.

    Attributes:
        num_views: Number of views of each image that were averaged.
        seconds_per_image: Prediction time, measured on the test split.
        relative: The same, divided by that of the model as is.
    """

    num_views: int
    seconds_per_image: float
    relative: float


class SplitResult(Record):
    """results/<split>[.<variant>].json: every score of one predictions table.

    Attributes:
        split: "val", "test", "out_of_fold", or another split of the dataset.
        variant: "" for the model as is; else a kind of test-time augmentation, "adjusted"
            (logit adjustment), or both, as "d4_adjusted".
        stored_in: The part of the dataset that holds the images, as "folds 8, 9".
        predictions_sha256: SHA-256 of the predictions table.
        validation_sha256: SHA-256 of the validation table on which the temperature and
            the thresholds were chosen.
        class_names: Names of the classes, in order.
        missing_classes: Classes without an image; means are over the other classes.
        temperature: Temperature for calibration, chosen on validation.
        thresholds: Target to operating point to threshold, chosen on validation.
        metrics: Name of `METRICS` to its value.
        confusion_matrix: Images of class i (row) predicted as class j (column).
        targets: "melanoma" and "malignant", as far as the classes have them.
        triage: The referral decision; None without distances or malignant classes.
        subgroups: Scores by age band, sex, site, source and method of ground truth.
        leakage: How much of the split was seen in training; None for validation and test,
            whose audit is in run.json.
        logit_adjustment: Strength of the logit adjustment; None without.
        differences: Metric to the value of this variant minus that of the model as is, on
            the same resamples; empty for the model as is.
        confidence: Coverage of the intervals, 0..1.
        num_bootstrap: Number of bootstrap resamples.
    """

    split: str
    variant: str
    stored_in: str
    predictions_sha256: str
    validation_sha256: str
    class_names: tuple[str, ...]
    num_images: int
    num_lesions: int
    missing_classes: tuple[str, ...]
    temperature: float
    thresholds: dict[str, dict[str, float | None]]
    metrics: dict[str, Estimate]
    classes: dict[str, ClassScores]
    confusion_matrix: tuple[tuple[int, ...], ...]
    calibration: Calibration
    targets: dict[str, TargetScores]
    triage: TriageScores | None
    subgroups: tuple[SubgroupScores, ...]
    leakage: SplitLeakage | None
    cost: InferenceCost
    logit_adjustment: float | None
    differences: dict[str, Estimate]
    confidence: float
    num_bootstrap: int


class CorruptionScores(Part):
    """Scores of corrupted, or of clean, images.

    Attributes:
        melanoma_sensitivity: At the threshold of `HEADLINE_POINT`, which was chosen on
            clean validation images; None without melanoma or a threshold.
        melanoma_specificity: At the same threshold.
    """

    balanced_accuracy: Estimate
    melanoma_sensitivity: Estimate | None
    melanoma_specificity: Estimate | None


class CorruptionRow(Part):
    """One corruption at one severity.

    Attributes:
        name: Name of `CORRUPTIONS`.
        severity: 1..5.
        difference: Balanced accuracy minus that of the clean images, on the same resamples.
    """

    name: str
    severity: int
    scores: CorruptionScores
    difference: Estimate


class CorruptionResult(Record):
    """results/<split>.corruptions.json: scores under each corruption and severity.

    Attributes:
        split: The split whose images were corrupted.
        clean: Scores of the images as they are.
        trained: Corruptions that resemble one of the training's augmentations.
    """

    split: str
    num_images: int
    clean: CorruptionScores
    rows: tuple[CorruptionRow, ...]
    trained: tuple[str, ...]


class OodSet(Part):
    """Out-of-distribution images of one kind.

    Attributes:
        name: Name of the kind, or of the user's folder.
        rejected: Share of the images that are rejected, 0..1.
        auc: Area under the ROC curve of the distance, against the images of the splits.
    """

    name: str
    num_images: int
    rejected: float
    auc: float


class OodSplit(Part):
    """Images of a split, and the share of them that is rejected by mistake."""

    num_images: int
    rejected: Estimate


class OodResult(Record):
    """results/[<split>.]ood[.<folder>].json: detection of out-of-distribution images.

    The images are compared with those of the test split, or of the split in the name.

    Attributes:
        max_distance: Mahalanobis distance beyond which an image is rejected.
        accepted_validation: Share of the validation images that are accepted, 0..1.
    """

    max_distance: float
    accepted_validation: float
    splits: dict[str, OodSplit]
    sets: tuple[OodSet, ...]


class MemberScores(Part):
    """One model of an ensemble or a cross-validation.

    Attributes:
        name: Name of the run directory.
        metrics: Name of `METRICS` to the value of this model alone.
        differences: Metric to the value of the ensemble minus that of this model, on the
            same resamples; empty for a cross-validation, whose models are tested on
            different images.
    """

    name: str
    metrics: dict[str, Estimate]
    differences: dict[str, Estimate]


class MembersResult(Record):
    """results/members.json: the scores of the models, in the order of run.json."""

    split: str
    members: tuple[MemberScores, ...]


def result_path(workdir: Path, name: str) -> Path:
    """Returns results/<name>.json of a run directory."""
    return workdir / FOLDER / f"{name}.json"


def split_name(split: str, variant: str = "") -> str:
    """Returns the name of a predictions table and of its result: "test" or "test.d4"."""
    return f"{split}.{variant}" if variant else split


def read_split_results(workdir: Path) -> dict[str, SplitResult]:
    """Returns the name of each predictions table, as "test.d4", to its result.

    Raises:
        ConfigError: A file is damaged or of another schema version.
    """
    return {
        path.stem: read_result(workdir, path.stem, SplitResult)
        for path in sorted((workdir / FOLDER).glob("*.json"))
        if not OTHER_RESULTS.fullmatch(path.stem)
    }


def read_result(workdir: Path, name: str, kind: type[R]) -> R:
    """Returns results/<name>.json.

    Raises:
        ConfigError: The file is missing, damaged, or of another schema version.
    """
    path = result_path(workdir, name)
    fix = f"Make it with scripts/evaluate.py {workdir}"
    return read_record(path, kind, f"{fix}{', or delete it' if path.exists() else ''}.")


def write_results(workdir: Path, results: Mapping[str, Record]) -> None:
    """Writes results/<name>.json for each name and result."""
    for name, result in results.items():
        write_record(result_path(workdir, name), result)
