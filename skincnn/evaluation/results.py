"""The results of an evaluation, each an immutable JSON file under results/.

Every type here is a record (`skincnn.records`). A result is computed only from predictions
tables, which it identifies by SHA-256. Reports are rendered from results.
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
    """Scores of one class against all others: the value of each of `PER_CLASS_METRICS`."""

    num_images: int
    num_lesions: int
    scores: dict[str, Estimate]


class Calibration(Part):
    """Calibration metrics before and after temperature scaling, by name."""

    before: dict[str, Estimate]
    after: dict[str, Estimate]


class OperatingPointScores(Part):
    """Scores of a target at one operating point.

    Attributes:
        threshold: The threshold of the probability, chosen on validation; None if none
            reaches the operating point there.
        rates: Value of each of `RATES` (sensitivity, specificity, PPV, NPV); empty without
            a threshold.
    """

    threshold: float | None
    rates: dict[str, Estimate]


class TargetScores(Part):
    """Detection of melanoma, or of malignant lesions, by calibrated probability.

    Attributes:
        num_images: Number of positive images.
        num_lesions: Number of positive lesions.
        auc: Area under the ROC curve.
        operating_points: Scores by operating point, such as "specificity=0.90".
    """

    num_images: int
    num_lesions: int
    auc: Estimate
    operating_points: dict[str, OperatingPointScores]


class TriageScores(Part):
    """Scores of the referral rule that exports apply by default; see `DecisionRule`.

    Attributes:
        operating_point: Operating point for malignant lesions, such as "sensitivity=0.90".
        threshold: Probability of a malignant class at or above which an image is referred,
            chosen on validation; None if no threshold reaches the operating point.
        max_distance: Mahalanobis distance above which an image is referred as
            out-of-distribution.
        rates: Value of each of `RATES` for malignant lesions.
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
        attribute: What defines the subgroup, such as "sex".
        class_names: The classes in the subgroup, over which balanced accuracy is averaged.
        scores: Values by name of the metric; empty for small subgroups.
    """

    attribute: str
    value: str
    num_images: int
    num_lesions: int
    class_names: tuple[str, ...]
    scores: dict[str, Estimate]


class InferenceCost(Part):
    """The cost of the predictions.

    Attributes:
        num_views: Number of views of each image that were averaged.
        seconds_per_image: Prediction time, measured on the test split.
        relative: Prediction time divided by that of the model as is.
    """

    num_views: int
    seconds_per_image: float
    relative: float


class SplitResult(Record):
    """results/<split>[.<variant>].json: every score of one predictions table.

    Attributes:
        split: "val", "test", "out_of_fold", or another split of the dataset.
        variant: "" for the model as is; else a kind of test-time augmentation, "adjusted"
            (logit adjustment), or both, such as "d4_adjusted".
        stored_in: The part of the dataset that holds the images, such as "folds 8, 9".
        predictions_sha256: SHA-256 of the predictions table.
        validation_sha256: SHA-256 of the validation table on which the temperature and
            the thresholds were chosen.
        class_names: Names of the classes, in order.
        missing_classes: Classes without an image; means are over the other classes.
        temperature: Temperature for calibration, chosen on validation.
        thresholds: Thresholds by target and operating point, chosen on validation.
        metrics: Value of each of `METRICS`.
        confusion_matrix: Number of images of class i (row) predicted as class j (column).
        targets: Scores for "melanoma" and "malignant", if there are such classes.
        triage: Scores of the referral rule; None without distances or malignant classes.
        subgroups: Scores by age band, sex, site, source and method of ground truth.
        leakage: How much of the split was seen in training; None for validation and test,
            whose audit is in run.json.
        logit_adjustment: Strength of the logit adjustment, if any.
        differences: Each metric of this variant minus that of the model as is, on the same
            resamples; empty for the model as is.
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
    """Scores on corrupted or clean images.

    Attributes:
        melanoma_sensitivity: Sensitivity at the threshold of `HEADLINE_POINT`, which was
            chosen on clean validation images; None without melanoma or a threshold.
        melanoma_specificity: Specificity at the same threshold.
    """

    balanced_accuracy: Estimate
    melanoma_sensitivity: Estimate | None
    melanoma_specificity: Estimate | None


class CorruptionRow(Part):
    """One corruption at one severity in 1..5.

    `difference` is the balanced accuracy minus that on the clean images, paired.
    """

    name: str
    severity: int
    scores: CorruptionScores
    difference: Estimate


class CorruptionResult(Record):
    """results/<split>.corruptions.json: scores under each corruption and severity.

    The corruptions in `trained` resemble an augmentation used in training.
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
        auc: Area under the ROC curve by which the distance separates these images from
            those of the split.
    """

    name: str
    num_images: int
    rejected: float
    auc: float


class OodSplit(Part):
    """The images of a split, and the share of them that is wrongly rejected."""

    num_images: int
    rejected: Estimate


class OodResult(Record):
    """results/[<split>.]ood[.<folder>].json: detection of out-of-distribution images.

    These images are compared with those of the test split, or of the split in the name.

    Attributes:
        max_distance: Mahalanobis distance above which an image is rejected.
        accepted_validation: Share of the validation images that are accepted, 0..1.
    """

    max_distance: float
    accepted_validation: float
    splits: dict[str, OodSplit]
    sets: tuple[OodSet, ...]


class MemberScores(Part):
    """The scores of one model of an ensemble or a cross-validation.

    `differences` are those of the ensemble minus the model, paired; empty for a
    cross-validation, whose models are tested on different images.
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
    """Returns the results by the names of their predictions tables, such as "test.d4".

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
    fix = f"Run scripts/evaluate.py {workdir}"
    fix += " again, or delete the file." if path.exists() else "."
    return read_record(path, kind, fix)


def write_results(workdir: Path, results: Mapping[str, Record]) -> None:
    """Writes each result to results/<name>.json."""
    for name, result in results.items():
        write_record(result_path(workdir, name), result)
