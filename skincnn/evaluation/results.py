"""The results of an evaluation: immutable records, each in a JSON file in results/."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from skincnn.data.characteristics import Characteristics
from skincnn.data.identifiers import Unit
from skincnn.data.leakage import SplitLeakage
from skincnn.inference.commands import evaluate_command
from skincnn.inference.run_dir import CONFIG_FILE, RUN_FILE
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.classification import SUMMARY_METRICS
from skincnn.metrics.conformal import PredictionSetScores
from skincnn.metrics.operating_points import HEADLINE_POINT
from skincnn.metrics.predictive_values import PrevalenceScores
from skincnn.records import Part, R, Record, keep_named, read_record, write_record

FOLDER = "results"
OTHER_RESULTS = re.compile(
    r".*(?<![a-z])(ood|corruptions|members|export|external)(?![a-z]).*"
)
"""Pattern of the names of results that are not a `SplitResult`, and of copies of them, such
as "ood (1)" and "Copy of ood"."""


class ClassScores(Part):
    """One-vs-rest scores of one class: the value of each of `PER_CLASS_METRICS`.

    `num_lesions` is None unless the lesion of every image of the class is known.
    """

    num_images: int
    num_lesions: int | None
    scores: dict[str, Estimate]


class Calibration(Part):
    """Calibration metrics by name, before and after calibration.

    The names are "rms_calibration_error" and, from `METRICS`, "ece", "brier", "log_loss".
    For `num_changed` images, calibration changes the most probable class; the predicted
    class remains the most probable class before calibration.
    """

    before: dict[str, Estimate]
    after: dict[str, Estimate]
    num_changed: int


class ProbabilityBand(Part):
    """The images whose calibrated probability of a target is in one band.

    Attributes:
        low: Lower edge of the band, inclusive.
        high: Upper edge of the band, exclusive unless it is 1.
        predicted: Mean probability of these images; None without images.
        observed: Share of these images that belong to the target.
    """

    low: float
    high: float
    num_images: int
    predicted: float | None
    observed: Estimate


class TargetCalibration(Part):
    """Calibration of the probability of a target.

    `scores` contains the value of each of `CALIBRATION_SCORES`, and `bands` the reliability
    curve in the `BANDS` of `skincnn.metrics.calibration`.
    """

    scores: dict[str, Estimate]
    bands: tuple[ProbabilityBand, ...]


class Outcomes(Part):
    """Numbers of images by true and predicted target: a 2x2 table.

    Positives are the images to detect, such as those of melanomas.
    """

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int


class OperatingPointScores(Part):
    """Scores of a target at one operating point.

    Attributes:
        threshold: Chosen on validation; None if `choose_threshold` finds none.
        missed: Whether the scores miss the operating point significantly: the upper end of
            the interval of its sensitivity or specificity, rounded to three decimals, is
            below the minimum. False without an interval.
        rates: Value of each of `RATES` (sensitivity, specificity, PPV, NPV); empty if the
            threshold is None. The intervals include the uncertainty of the threshold.
        outcomes: Numbers of images by outcome; None if the threshold is None.
        by_prevalence: Scores at each of `PREVALENCES`; empty if the threshold is None.
    """

    threshold: float | None
    missed: bool
    rates: dict[str, Estimate]
    outcomes: Outcomes | None
    by_prevalence: tuple[PrevalenceScores, ...]


class TargetScores(Part):
    """Scores for the detection of melanoma, or of malignant lesions, after calibration.

    `class_names` are the classes to detect, `num_images` is the number of their images, and
    `num_lesions` that of their lesions (None unless all are known). `recall` is the share
    of these images for which one of the classes is predicted, before calibration. The keys
    of `operating_points` are those of `OPERATING_POINTS`, such as "specificity=0.90".
    """

    class_names: tuple[str, ...]
    num_images: int
    num_lesions: int | None
    recall: Estimate
    auc: Estimate
    calibration: TargetCalibration
    operating_points: dict[str, OperatingPointScores]


class TriageScores(Part):
    """Scores of the referral rule that exports apply by default; see `DecisionRule`.

    Attributes:
        operating_point: Operating point for malignant lesions, such as "sensitivity=0.90".
        threshold: Probability of a malignant class at or above which an image is referred,
            chosen on validation; None if `choose_threshold` finds none.
        max_distance: Distance above which an image is referred as out-of-distribution;
            None if OOD detection is switched off.
        rates: Value of each of `RATES` for malignant lesions.
        outcomes: Numbers of images from which the rates are computed.
        by_prevalence: PPV, NPV and net benefit at each of `PREVALENCES`.
        referred: Share of all images that are referred.
        melanoma_referred: Share of the melanoma images that are referred; None if melanoma
            is not a class.
    """

    operating_point: str
    threshold: float | None
    max_distance: float | None
    rates: dict[str, Estimate]
    outcomes: Outcomes | None
    by_prevalence: tuple[PrevalenceScores, ...]
    referred: Estimate
    melanoma_referred: Estimate | None


class SubgroupTargetScores(Part):
    """Detection of a target in a subgroup, at the threshold of `HEADLINE_POINT`.

    Attributes:
        num_images: Number of images of the target in the subgroup.
        rates: "sensitivity" and "specificity", without rates from fewer than `MIN_GROUPS`
            groups.
        differences: The difference of each rate from that of all other images for which the
            attribute is known, unless these have too few groups; see `difference_from`.
    """

    num_images: int
    rates: dict[str, Estimate]
    differences: dict[str, Estimate]


class SubgroupScores(Part):
    """Scores of a subgroup of the images.

    Attributes:
        attribute, value: What defines the subgroup, such as "sex" and "female".
        class_names: Classes with images in the subgroup. Balanced accuracy is the mean
            recall over these classes.
        scores: "balanced_accuracy" and "accuracy"; none for fewer than `MIN_GROUPS` groups.
        targets: Scores by target, for the targets that have a threshold.
    """

    attribute: str
    value: str
    num_images: int
    num_groups: int
    class_names: tuple[str, ...]
    scores: dict[str, Estimate]
    targets: dict[str, SubgroupTargetScores]


class UnitScores(Part):
    """Scores per lesion or per patient.

    Attributes:
        num_units: Number of lesions or patients. A lesion with several diagnoses counts
            once for each.
        scores: Per lesion, "balanced_accuracy" and "macro_f1". Per lesion and per patient,
            if a class is melanoma, "melanoma_auc" and, if `HEADLINE_POINT` has a threshold,
            "melanoma_sensitivity" and "melanoma_specificity". If no class is melanoma, the
            scores per patient are those of the target "malignant", such as "malignant_auc".
    """

    num_units: int
    scores: dict[str, Estimate]


class InferenceCost(Part):
    """The prediction time, measured on the test split.

    For an ensemble, it is the total of all models; for a cross-validation, that of the
    first model. `num_views` is the number of views of each image (1 without TTA).
    """

    num_views: int
    seconds_per_image: float


class SplitResult(Record):
    """results/<split>[.<variant>].json: all scores of one predictions table.

    Attributes:
        split: "val", "test", "out_of_fold", another split, or "external.<dataset>".
        variant: "" for the model as is; otherwise a kind of test-time augmentation,
            "adjusted" (logit adjustment), or both, such as "d4_adjusted".
        stored_in: The part of the dataset that contains the images, such as "folds 8, 9".
        predictions_sha256: SHA-256 of the predictions table.
        validation_sha256: SHA-256 of the validation table on which the calibration map
            and the thresholds were chosen.
        num_lesions: Number of lesions; None unless known for all images.
        num_groups: Number of groups, which the bootstrap resamples; see `unit`.
        missing_classes: Classes without images. Means over classes exclude them.
        calibration_map: Calibrates the probabilities; fitted on validation.
        thresholds: By target and operating point, as in `ValidationChoices`.
        metrics: Value of each of `METRICS` and of `evaluate.metrics`.
        confusion_matrix: Number of images of class i (row) predicted as class j (column).
        targets: Scores of the targets from `find_targets`.
        triage: Scores of the referral rule; None if there is no rule (see `make_rule`).
        subgroups: Scores of each subgroup from `find_subgroups`.
        units: Scores by "lesion" and "patient", each if known for all images; those by
            "patient" also require a target.
        characteristics: Column of the split in the baseline table.
        leakage: Overlap of the split with the training and validation data. None for
            "val", "test" and "out_of_fold", whose leakage audit is in run.json, and for
            external datasets, which have an overlap audit (`ExternalResult.overlap`).
        logit_adjustment: Strength; None without logit adjustment, and for an ensemble.
        differences: Paired differences from `score_differences`, variant minus model as is;
            empty for the model as is.
        position: Position, from 1, among the predictions tables that were scored on any of
            these folds of this copy of the dataset (`record_scored`); None if it is not
            known, for "val", and for an ensemble and a cross-validation.
        confidence: Confidence level of the intervals, 0..1.
        num_bootstrap: Number of bootstrap resamples.
    """

    SCHEMA = 5

    split: str
    variant: str
    stored_in: str
    predictions_sha256: str
    validation_sha256: str
    class_names: tuple[str, ...]
    num_images: int
    num_lesions: int | None
    num_groups: int
    missing_classes: tuple[str, ...]
    calibration_map: CalibrationMap
    thresholds: dict[str, dict[str, float | None]]
    metrics: dict[str, Estimate]
    classes: dict[str, ClassScores]
    confusion_matrix: tuple[tuple[int, ...], ...]
    calibration: Calibration
    targets: dict[str, TargetScores]
    triage: TriageScores | None
    prediction_sets: PredictionSetScores
    subgroups: tuple[SubgroupScores, ...]
    units: dict[str, UnitScores]
    characteristics: Characteristics
    leakage: SplitLeakage | None
    cost: InferenceCost
    logit_adjustment: float | None
    differences: dict[str, Estimate]
    position: int | None = None
    confidence: float
    num_bootstrap: int

    @property
    def unit(self) -> Unit:
        """The unit by which images are grouped; see `Identifiers`."""
        return self.characteristics.identifiers.unit

    def __repr__(self) -> str:
        """Returns the main scores with their intervals."""
        scores = {name: self.metrics[name] for name in SUMMARY_METRICS}
        for name, target in self.targets.items():
            scores[f"{name} AUC"] = target.auc
            if rates := target.operating_points[HEADLINE_POINT.key].rates:
                text = f"{name} sensitivity, {HEADLINE_POINT.text} on validation"
                scores[text] = rates["sensitivity"]
        name, level = split_name(self.split, self.variant), 100 * self.confidence
        lines = [f"{name}: {self.num_images:,} images of {self.stored_in}"]
        lines += [f"  {score}  {text}" for text, score in scores.items()]
        end = "for all scores, see the fields, or report.html from run.report()"
        return "\n".join([*lines, f"  ({level:g} % intervals; {end})"])


class OodSet(Part):
    """Detection of one set of OOD images.

    Attributes:
        name: One of `OOD_SETS`, or name of the user's directory.
        rejected: Share of the images that are rejected, 0..1.
        auc: AUC of the distance as a score that separates the set from the split.
    """

    name: str
    num_images: int
    rejected: float
    auc: float


class OodSplit(Part):
    """The number of images in a split, and the share of these images that is rejected."""

    num_images: int
    rejected: Estimate


class OodResult(Record):
    """results/[<split>.]ood[.<directory>].json: detection of out-of-distribution images.

    The OOD images in `sets` are compared with the images of <split> (by default, the test
    split) in `splits`. An image is rejected if its distance from the validation images
    (`FeatureGaussian`) exceeds `limit`. About the share `accepted_validation` of the
    validation images, or more, is not rejected.

    Attributes:
        min_rejected: Share of each built-in set that must be rejected, 0..1.
        is_on: Whether the built-in sets met `min_rejected`. If not, OOD detection is
            switched off: exports do not use the limit.
    """

    limit: float
    accepted_validation: float
    min_rejected: float
    is_on: bool
    splits: dict[str, OodSplit]
    sets: tuple[OodSet, ...]


def result_path(workdir: Path, name: str) -> Path:
    """Returns the path of results/<name>.json in a run directory."""
    return workdir / FOLDER / f"{name}.json"


def split_name(split: str, variant: str = "") -> str:
    """Returns the name of a predictions table and of its result, such as "test.d4"."""
    return f"{split}.{variant}" if variant else split


def read_split_results(workdir: Path) -> dict[str, SplitResult]:
    """Returns each `SplitResult` in results/ by name, such as "test.d4"; see `keep_named`.

    Raises:
        ConfigError: A file is damaged or has another schema version.
    """
    results = {
        path: read_result(workdir, path.stem, SplitResult)
        for path in sorted((workdir / FOLDER).glob("[!.]*.json"))
        if not OTHER_RESULTS.fullmatch(path.stem)
    }
    return keep_named(results, lambda result: split_name(result.split, result.variant))


def read_result(workdir: Path, name: str, record_type: type[R]) -> R:
    """Returns the content of results/<name>.json.

    Raises:
        ConfigError: The file is missing or damaged, or has another schema version.
    """
    path = result_path(workdir, name)
    fix = "Delete the file, then run: " if path.exists() else "Run: "
    fix += evaluate_command(workdir, name)
    if (workdir / RUN_FILE).is_file() and not (workdir / CONFIG_FILE).is_file():
        fix = "Repeat the command that wrote the directory (skincnn train: with --resume)."
    return read_record(path, record_type, fix)


def write_results(workdir: Path, results: Mapping[str, Record]) -> None:
    """Writes each result to results/<name>.json.

    Raises:
        OSError: A file cannot be written; see `skincnn.files.replacing`.
    """
    for name, result in results.items():
        write_record(result_path(workdir, name), result)
