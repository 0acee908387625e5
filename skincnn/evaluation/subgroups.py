"""Scores of subgroups of the images, and scores per lesion and per patient."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skincnn.data import skin_tone
from skincnn.data.characteristics import (
    MANY_VALUES,
    SUBGROUPS,
    UNKNOWN,
    subgroup_values,
)
from skincnn.data.identifiers import ID_COLUMNS, count_ids
from skincnn.evaluation.resampled import Resampled
from skincnn.evaluation.results import (
    SubgroupScores,
    SubgroupTargetScores,
    UnitScores,
)
from skincnn.inference.predictions import mean_over_images
from skincnn.metrics.bootstrap import Estimate, count_groups
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.classification import METRICS
from skincnn.metrics.intervals import Support, estimate
from skincnn.metrics.operating_points import HEADLINE_POINT
from skincnn.metrics.sample import Flags, Scores, divide

MIN_GROUPS = 5
"""Minimum number of groups (patients, lesions or images; near-duplicates count once) from
which a score of a subgroup is computed. With fewer groups, the score would be very
uncertain and could reveal the result of a single patient."""
SUBGROUP_SCORES = ("balanced_accuracy", "accuracy")
LESION_SCORES = ("balanced_accuracy", "macro_f1")
UNIT_RATES = ("sensitivity", "specificity")
Thresholds = Mapping[str, Mapping[str, Scores]]
"""Thresholds by target and operating point; see `resample_thresholds`."""


@dataclass(frozen=True)
class Subgroup:
    """A subgroup and its complement.

    `images` contains whether each image is in the subgroup, and `others` whether it has
    another known value of the attribute, both [num_images].
    """

    attribute: str
    value: str
    images: Flags
    others: Flags


def find_subgroups(predictions: pd.DataFrame) -> list[Subgroup]:
    """Returns the subgroups of a predictions table, by `SUBGROUPS` and by skin tone.

    The values of an attribute are those of `subgroup_values`. Images whose value is not
    known form a subgroup, too. An attribute is left out if the table lacks its column, if
    all images have the same value, or if it has more than `MAX_VALUES` known values.
    """
    subgroups = []
    for attribute, column in {**SUBGROUPS, skin_tone.ATTRIBUTE: skin_tone.ITA}.items():
        if column not in predictions:
            continue
        values = subgroup_values(predictions[column])
        if values.nunique() < 2 or (values == MANY_VALUES).any():
            continue
        known = (values != UNKNOWN).to_numpy()
        for value in values.sort_values().unique():
            images = (values == value).to_numpy()
            others = known & ~images
            subgroups.append(Subgroup(attribute, str(value), images, others))
    return subgroups


def score_subgroups(
    sample: Resampled, detected: Mapping[str, Flags]
) -> tuple[SubgroupScores, ...]:
    """Returns the scores of each subgroup from `find_subgroups`.

    `detected` contains, by target, whether each image reaches the threshold, [num_images].
    The intervals do not include the uncertainty of the threshold.
    """
    subgroups = find_subgroups(sample.table)
    if not subgroups:
        return ()
    y_true = sample.arrays[0]
    targets = {
        name: _score_target(sample, subgroups, sample.targets[name].positive(y_true), flags)
        for name, flags in detected.items()
    }

    def score(index: int) -> SubgroupScores:
        group = subgroups[index]
        rows = sample.table[group.images]
        present = set(rows["label"])
        return SubgroupScores(
            attribute=group.attribute,
            value=group.value,
            num_images=len(rows),
            num_groups=int(rows["group_id"].nunique()),
            class_names=tuple(n for n in sample.class_names if n in present),
            scores=_score_images(Resampled(rows, sample.config)),
            targets={name: parts[index] for name, parts in targets.items()},
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(pool.map(score, range(len(subgroups))))


def score_units(
    sample: Resampled, calibration_map: CalibrationMap, thresholds: Thresholds
) -> dict[str, UnitScores]:
    """Returns the scores per lesion and per patient, each if known for all images.

    The probabilities of all images of a lesion are averaged, as those of the views in
    test-time augmentation. The averages are calibrated for the detection of a target, but
    not for the predicted class. Scores per patient require a target; see `score_patients`.
    The thresholds are from `resample_thresholds`.
    """
    lesions, results = sample, {}
    if count_ids(sample.table, "lesion") is not None:
        table = mean_over_images(sample.table, ID_COLUMNS["lesion"])
        lesions = Resampled(table, sample.config, sample.seed, sample.declared)
        results["lesion"] = score_lesions(lesions, calibration_map, thresholds)
    if sample.targets and count_ids(sample.table, "patient") is not None:
        results["patient"] = score_patients(lesions, calibration_map, thresholds)
    return results


def score_lesions(
    lesions: Resampled, calibration_map: CalibrationMap, thresholds: Thresholds
) -> UnitScores:
    """Returns the scores of a table with one row per lesion."""
    supports = lesions.supports()
    values = lesions.bootstrap({name: METRICS[name].function for name in LESION_SCORES})
    scores = {
        name: lesions.estimate(values[name], supports[name][0]) for name in LESION_SCORES
    }
    if melanoma := lesions.targets.get("melanoma"):
        y_true, y_prob = lesions.arrays
        scores |= _score_detection(
            lesions,
            "melanoma",
            melanoma.positive(y_true),
            melanoma.score(calibration_map.apply(y_prob)),
            thresholds,
        )
    return UnitScores(num_units=len(lesions.table), scores=scores)


def score_patients(
    lesions: Resampled, calibration_map: CalibrationMap, thresholds: Thresholds
) -> UnitScores:
    """Returns how well patients with melanoma are detected.

    If no class is melanoma, the target is "malignant". A patient is positive if at least
    one of the patient's lesions is. The score of a patient is the largest probability among
    these lesions, so that a patient is detected if one of the lesions is.

    Args:
        lesions: One row per lesion; if the lesion of any image is not known, one per image.
        calibration_map: Calibrates the probabilities.
        thresholds: From `resample_thresholds`. They were chosen on single images.
    """
    name, target = next(iter(lesions.targets.items()))
    y_true, y_prob = lesions.arrays
    rows = lesions.table.assign(
        positive=target.positive(y_true), score=target.score(calibration_map.apply(y_prob))
    )
    by_patient = rows.groupby(ID_COLUMNS["patient"], sort=False)
    table = by_patient.agg(
        image_id=("image_id", "first"),
        group_id=("group_id", "first"),
        positive=("positive", "any"),
        score=("score", "max"),
    )
    patients = Resampled(table, lesions.config, lesions.seed)
    positive, score = table["positive"].to_numpy(), table["score"].to_numpy()
    scores = _score_detection(patients, name, positive, score, thresholds)
    return UnitScores(num_units=len(table), scores=scores)


def difference_from(group: Estimate, others: Estimate) -> Estimate:
    """Returns the difference between two independent rates, group minus others.

    The interval is computed from those of the rates: Newcombe, Interval estimation for the
    difference between independent proportions (1998), method 10, for Wilson's intervals;
    Zou and Donner, Construction of confidence limits about effect measures (2008),
    doi:10.1002/sim.3095, for other intervals.
    """
    if group.value is None or others.value is None:
        return Estimate(None, None, None)
    value = round(group.value - others.value, 6)
    if group.low is None or group.high is None or others.low is None or others.high is None:
        return Estimate(value, None, None)
    below = math.hypot(group.value - group.low, others.high - others.value)
    above = math.hypot(group.high - group.value, others.value - others.low)
    return Estimate(value, round(value - below, 6), round(value + above, 6))


def _score_images(sample: Resampled) -> dict[str, Estimate]:
    if sample.num_groups < MIN_GROUPS:
        return {}
    functions = {name: METRICS[name].function for name in SUBGROUP_SCORES}
    values, supports = sample.bootstrap(functions), sample.supports()
    return {
        name: sample.estimate(values[name], supports[name][0]) for name in SUBGROUP_SCORES
    }


def _score_target(
    sample: Resampled, subgroups: Sequence[Subgroup], positive: Flags, detected: Flags
) -> list[SubgroupTargetScores]:
    inside = np.stack([group.images for group in subgroups], axis=1)
    outside = np.stack([group.others for group in subgroups], axis=1)
    correct = detected == positive
    rates, others = {}, {}
    for name, images in (("sensitivity", positive), ("specificity", ~positive)):
        rates[name] = _estimate_rates(sample, correct, inside & images[:, None])
        others[name] = _estimate_rates(sample, correct, outside & images[:, None])
    return [
        SubgroupTargetScores(
            num_images=int((group.images & positive).sum()),
            rates={
                name: rate
                for name, parts in rates.items()
                if (rate := parts[index]) is not None
            },
            differences={
                name: difference_from(rate, other)
                for name, parts in rates.items()
                if (rate := parts[index]) is not None
                and (other := others[name][index]) is not None
            },
        )
        for index, group in enumerate(subgroups)
    ]


def _estimate_rates(
    sample: Resampled, correct: Flags, masks: Flags
) -> Sequence[Estimate | None]:
    """Returns the share of correct images in each mask; None if it has too few groups.

    `correct` is [num_images], the masks are [num_images, num_masks].
    """
    weights = sample.all_weights
    counts = count_groups(sample.groups, masks).tolist()
    values = divide(
        weights @ (masks & correct[:, None]).astype(float), weights @ masks.astype(float)
    )
    supports = [Support("rate", (count,)) for count in counts]
    estimates = estimate(values, sample.config.confidence, supports)
    return [
        score if count >= MIN_GROUPS else None
        for score, count in zip(estimates, counts, strict=True)
    ]


def _score_detection(
    sample: Resampled, name: str, positive: Flags, score: Scores, thresholds: Thresholds
) -> dict[str, Estimate]:
    """Returns the AUC and, if there is a threshold, `UNIT_RATES`; `name` is a target."""
    rates = sample.rates(positive, score, thresholds[name][HEADLINE_POINT.key])
    return {f"{name}_auc": sample.auc(positive, score)} | {
        f"{name}_{rate}": rates[rate] for rate in UNIT_RATES if rate in rates
    }
