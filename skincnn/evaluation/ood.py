"""Scores of out-of-distribution (OOD) detection by the Mahalanobis distance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import sklearn.metrics

from skincnn.config import EvaluateConfig
from skincnn.evaluation.resampled import Resampled
from skincnn.evaluation.results import OodResult, OodSet, OodSplit, split_name
from skincnn.evaluation.triage import ACCEPTED, choose_max_distance
from skincnn.inference.ood import OOD_SET
from skincnn.inference.predictions import DISTANCE


def score_all_ood(
    predictions: Mapping[str, pd.DataFrame],
    ood: Mapping[str, pd.DataFrame],
    config: EvaluateConfig,
) -> dict[str, OodResult]:
    """Returns results by name, such as "fold_3.ood", for each split except validation.

    Args:
        predictions: Predictions tables by split, including "val".
        ood: Tables of OOD images by name, such as "ood" or "ood.<directory>".
        config: Number of resamples and confidence level of the intervals.
    """
    return {
        name if split == "test" else split_name(split, name): score_ood(
            predictions, split, images, config
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
) -> OodResult:
    """Returns how well the distance separates the images of a split from OOD images.

    The threshold accepts the share `ACCEPTED` of the images in `predictions["val"]`.
    """
    max_distance, table = choose_max_distance(predictions["val"]), predictions[split]
    sets = []
    for name, rows in ood.groupby(OOD_SET, sort=False):
        both = np.concatenate([table[DISTANCE], rows[DISTANCE]])
        is_ood = np.repeat([0, 1], [len(table), len(rows)])
        sets.append(
            OodSet(
                name=str(name),
                num_images=len(rows),
                rejected=round(float((rows[DISTANCE] > max_distance).mean()), 6),
                auc=round(float(sklearn.metrics.roc_auc_score(is_ood, both)), 6),
            )
        )
    sample = Resampled(table, config)
    rejected = (table[DISTANCE] > max_distance).to_numpy(float)
    shares = sample.all_weights @ rejected / sample.all_weights.sum(axis=1)
    estimate = sample.estimate(shares, np.array([table["lesion_id"].nunique()]))
    return OodResult(
        max_distance=max_distance,
        accepted_validation=ACCEPTED,
        splits={split: OodSplit(num_images=len(table), rejected=estimate)},
        sets=tuple(sets),
    )
