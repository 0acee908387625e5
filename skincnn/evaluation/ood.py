"""Check and scores of out-of-distribution (OOD) detection by feature distances."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import sklearn.metrics

from skincnn.config import EvaluateConfig
from skincnn.evaluation.resampled import Resampled
from skincnn.evaluation.results import OodResult, OodSet, OodSplit, split_name
from skincnn.inference.ood import ACCEPTED
from skincnn.inference.ood_images import OOD_SET, OOD_TABLE
from skincnn.inference.predictions import DISTANCE
from skincnn.metrics.intervals import Support

MIN_DISTANCE = 1.0
"""Smallest limit of the distance. For an ensemble, whose distances are averages, the
quantile `ACCEPTED` of the distances of the validation images can be smaller. For a single
run, it is smaller only if nearly all of these images have the same features."""
MIN_REJECTED = 0.5
"""Minimum share of each built-in set of OOD images that must be rejected. Otherwise, OOD
detection is switched off."""


def choose_max_distance(
    validation: pd.DataFrame, ood: Mapping[str, pd.DataFrame]
) -> float | None:
    """Returns the distance above which an image is rejected as OOD.

    The result is None, and OOD detection is switched off, if its check fails: the limit
    from `distance_limit` rejects less than `MIN_REJECTED` of one of the built-in sets, or
    these sets are missing from `ood`. Test images are not used.

    Args:
        validation: Predictions table of the validation split.
        ood: Tables of OOD images by name, such as `OOD_TABLE` for the built-in sets.
    """
    if OOD_TABLE not in ood:
        return None
    limit, table = distance_limit(validation), ood[OOD_TABLE]
    rejected = (table[DISTANCE] > limit).groupby(table[OOD_SET]).mean()
    return limit if (rejected >= MIN_REJECTED).all() else None


def distance_limit(validation: pd.DataFrame) -> float:
    """Returns the quantile `ACCEPTED` of the distances, but at least `MIN_DISTANCE`.

    `validation` is the predictions table of the validation split.
    """
    return max(float(np.quantile(validation[DISTANCE], ACCEPTED)), MIN_DISTANCE)


def score_all_ood(
    predictions: Mapping[str, pd.DataFrame],
    ood: Mapping[str, pd.DataFrame],
    config: EvaluateConfig,
) -> dict[str, OodResult]:
    """Returns the scores of each split, except validation, with each table of OOD images.

    The keys are, for example, "ood" for the test split and "fold_3.ood" for another split.

    Args:
        predictions: Predictions tables by split, including "val".
        ood: Tables of OOD images by name, such as "ood" or "ood.<directory>".
        config: Number of resamples and confidence level of the intervals.
    """
    is_on = choose_max_distance(predictions["val"], ood) is not None
    return {
        name if split == "test" else split_name(split, name): score_ood(
            predictions, split, images, config, is_on=is_on
        )
        for name, images in ood.items()
        for split in predictions
        if split != "val"
    }


def score_ood(
    predictions: Mapping[str, pd.DataFrame],
    split: str,
    ood: pd.DataFrame,
    config: EvaluateConfig,
    *,
    is_on: bool,
) -> OodResult:
    """Returns how well the distance separates the images of a split from OOD images.

    Args:
        predictions: Predictions tables by split, including "val", on which the limit is
            chosen (`distance_limit`).
        split: The split that is compared with the OOD images.
        ood: Table of OOD images.
        config: Number of resamples and confidence level of the intervals.
        is_on: Whether OOD detection is switched on; see `choose_max_distance`.
    """
    limit, table = distance_limit(predictions["val"]), predictions[split]
    sets = []
    for name, rows in ood.groupby(OOD_SET, sort=False):
        both = np.concatenate([table[DISTANCE], rows[DISTANCE]])
        is_ood = np.repeat([0, 1], [len(table), len(rows)])
        sets.append(
            OodSet(
                name=str(name),
                num_images=len(rows),
                rejected=round(float((rows[DISTANCE] > limit).mean()), 6),
                auc=round(float(sklearn.metrics.roc_auc_score(is_ood, both)), 6),
            )
        )
    sample = Resampled(table, config)
    rejected = (table[DISTANCE] > limit).to_numpy(float)
    shares = sample.all_weights @ rejected / sample.all_weights.sum(axis=1)
    estimate = sample.estimate(shares, Support("rate", (sample.num_groups,)))
    return OodResult(
        limit=limit,
        accepted_validation=ACCEPTED,
        min_rejected=MIN_REJECTED,
        is_on=is_on,
        splits={split: OodSplit(num_images=len(table), rejected=estimate)},
        sets=tuple(sets),
    )
