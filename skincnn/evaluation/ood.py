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
from skincnn.metrics.bootstrap import Estimate


def score_all_ood(
    predictions: Mapping[str, pd.DataFrame],
    ood: Mapping[str, pd.DataFrame],
    config: EvaluateConfig,
) -> dict[str, OodResult]:
    """Returns the name of each result, as "ood" or "fold_3.ood", to the result.

    Each split but validation has results of its own, so that evaluating another split does
    not change any.

    Args:
        predictions: Split to its predictions table, "val" among them.
        ood: Name of a table of OOD images, as "ood" or "ood.<folder>", to the table.
        config: Number of resamples and coverage of the intervals.
    """
    return {
        name if split == "test" else split_name(split, name): score_ood(
            {"val": predictions["val"], split: predictions[split]}, table, config
        )
        for name, table in ood.items()
        for split in predictions
        if split != "val"
    }


def score_ood(
    predictions: Mapping[str, pd.DataFrame], ood: pd.DataFrame, config: EvaluateConfig
) -> OodResult:
    """Returns how well the distance separates the images of the splits from OOD images.

    The threshold accepts `ACCEPTED`, 95 %, of the validation images. See `score_all_ood`.
    """
    max_distance = choose_max_distance(predictions["val"])
    tables = {split: t for split, t in predictions.items() if split != "val"}
    distances = np.concatenate([table[DISTANCE].to_numpy() for table in tables.values()])
    sets = []
    for name, rows in ood.groupby(OOD_SET, sort=False):
        both = np.concatenate([distances, rows[DISTANCE]])
        is_ood = np.repeat([0, 1], [len(distances), len(rows)])
        sets.append(
            OodSet(
                name=str(name),
                num_images=len(rows),
                rejected=round(float((rows[DISTANCE] > max_distance).mean()), 6),
                auc=round(float(sklearn.metrics.roc_auc_score(is_ood, both)), 6),
            )
        )
    return OodResult(
        max_distance=max_distance,
        accepted_validation=ACCEPTED,
        splits={
            split: OodSplit(
                num_images=len(table), rejected=_rejected(table, max_distance, config)
            )
            for split, table in tables.items()
        },
        sets=tuple(sets),
    )


def _rejected(table: pd.DataFrame, max_distance: float, config: EvaluateConfig) -> Estimate:
    """Returns the share of the images of a split that are rejected."""
    sample = Resampled(table, config)
    rejected = (table[DISTANCE] > max_distance).to_numpy(float)
    shares = sample.all_weights @ rejected / sample.all_weights.sum(axis=1)
    return sample.estimate(shares, np.array([table["lesion_id"].nunique()]))
