"""Scores of subgroups of the images, and how they differ from the other images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skincnn.data import skin_tone
from skincnn.data.characteristics import SUBGROUPS, UNKNOWN, subgroup_values
from skincnn.evaluation.resampled import Resampled
from skincnn.evaluation.results import SubgroupScores, SubgroupTargetScores
from skincnn.metrics.bootstrap import Estimate, count_groups
from skincnn.metrics.classification import METRICS
from skincnn.metrics.intervals import Support, estimate
from skincnn.metrics.sample import Flags, divide

MIN_LESIONS = 5
"""Minimum number of lesions from which a score of a subgroup is computed; near-duplicates
count once. With fewer, the score would be noise and could reveal the result of a single
patient."""
SUBGROUP_SCORES = ("balanced_accuracy", "accuracy")


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

    Attributes that are missing in the predictions table, or unknown for all images, are
    left out.
    """
    subgroups = []
    for attribute, column in {**SUBGROUPS, skin_tone.ATTRIBUTE: skin_tone.ITA}.items():
        if column not in predictions:
            continue
        values = subgroup_values(predictions[column])
        known = (values != UNKNOWN).to_numpy()
        if not known.any():
            continue
        for value in values.sort_values().unique():
            images = (values == value).to_numpy()
            others = known & ~images
            subgroups.append(Subgroup(attribute, str(value), images, others))
    return subgroups


def score_subgroups(
    sample: Resampled, detected: Mapping[str, Flags]
) -> tuple[SubgroupScores, ...]:
    """Returns the scores of each subgroup from `find_subgroups`.

    `detected` contains, by target, whether each image reaches the threshold [num_images].
    The threshold is taken as fixed.
    """
    subgroups = find_subgroups(sample.table)
    if not subgroups:
        return ()
    y_true = sample.arrays[0]
    targets = {
        name: _score_target(sample, subgroups, sample.targets[name].positive(y_true), flags)
        for name, flags in detected.items()
    }
    scores = []
    for index, group in enumerate(subgroups):
        rows = sample.table[group.images]
        present = set(rows["label"])
        scores.append(
            SubgroupScores(
                attribute=group.attribute,
                value=group.value,
                num_images=len(rows),
                num_lesions=int(rows["lesion_id"].nunique()),
                class_names=tuple(n for n in sample.class_names if n in present),
                scores=_score_images(Resampled(rows, sample.config)),
                targets={name: parts[index] for name, parts in targets.items()},
            )
        )
    return tuple(scores)


def difference_from(group: Estimate, others: Estimate) -> Estimate:
    """Returns the difference between two independent rates, group minus others.

    The interval is computed from those of the rates: Newcombe, Interval estimation for the
    difference between independent proportions (1998), method 10; for other intervals than
    Wilson's, Zou and Donner, Construction of confidence limits about effect measures
    (2008), doi:10.1002/sim.3095.
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
    if sample.num_groups < MIN_LESIONS:
        return {}
    functions = {name: METRICS[name].function for name in SUBGROUP_SCORES}
    values, supports = sample.bootstrap(functions), sample.supports()
    return {
        name: sample.estimate(values[name], supports[name][0]) for name in SUBGROUP_SCORES
    }


def _score_target(
    sample: Resampled, subgroups: Sequence[Subgroup], positive: Flags, detected: Flags
) -> list[SubgroupTargetScores]:
    """Returns the scores of a target for each subgroup."""
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
            num_lesions=int(sample.table["lesion_id"][group.images & positive].nunique()),
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
    """Returns the share of correct images in each mask; None if it has too few lesions.

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
        score if count >= MIN_LESIONS else None
        for score, count in zip(estimates, counts, strict=True)
    ]
