"""Scores of subgroups of the patients, which show for whom a model performs worse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from skincnn.config import EvaluateConfig
from skincnn.evaluation.resampled import Resampled
from skincnn.evaluation.results import SubgroupScores
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.classification import METRICS

MIN_LESIONS = 5
"""Smaller subgroups are counted but not scored: their scores would be noise and could
disclose the result of a single patient."""
SCORES = ("balanced_accuracy", "accuracy")
AGE_BANDS = {
    "under 30": 30,
    "30 to 44": 45,
    "45 to 59": 60,
    "60 to 74": 75,
    "75 and over": 999,
}
"""Name to the age, in years, below which the band ends."""
UNKNOWN = "not known"


def age_band(predictions: pd.DataFrame) -> pd.Series:
    """Returns the name of each image's age band."""
    edges = [-np.inf, *AGE_BANDS.values()]
    bands = pd.cut(predictions["age"], edges, right=False, labels=list(AGE_BANDS))
    return bands.cat.add_categories(UNKNOWN).fillna(UNKNOWN)


def _column(name: str) -> Callable[[pd.DataFrame], pd.Series]:
    def values(predictions: pd.DataFrame) -> pd.Series:
        column = predictions[name].astype(str)
        return column.mask(column.isin(["", "unknown", "nan"]), UNKNOWN)

    return values


SUBGROUPS: dict[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {
    "age band": ("age", age_band),
    "sex": ("sex", _column("sex")),
    "site": ("localization", _column("localization")),
    "source": ("dataset", _column("dataset")),
    "ground truth by": ("dx_type", _column("dx_type")),
}
"""Attribute to the column that it needs and a function that returns each image's value."""


def score_subgroups(
    predictions: pd.DataFrame, config: EvaluateConfig
) -> tuple[SubgroupScores, ...]:
    """Returns the scores of each subgroup, grouped by attribute.

    Attributes that are missing in the table, or unknown for all images, are left out. The
    bootstrap resamples the lesions of the subgroup.

    Args:
        predictions: A predictions table.
        config: Number of resamples and coverage of the intervals.
    """
    subgroups = []
    for attribute, (column, values_of) in SUBGROUPS.items():
        if column not in predictions:
            continue
        values = values_of(predictions)
        if (values == UNKNOWN).all():
            continue
        for value, rows in predictions.groupby(values, observed=True, sort=True):
            sample = Resampled(rows, config)
            present = set(rows["label"])
            subgroups.append(
                SubgroupScores(
                    attribute=attribute,
                    value=str(value),
                    num_images=len(rows),
                    num_lesions=int(rows["lesion_id"].nunique()),
                    class_names=tuple(n for n in sample.class_names if n in present),
                    scores=_scores(sample),
                )
            )
    return tuple(subgroups)


def _scores(sample: Resampled) -> dict[str, Estimate]:
    if len(set(sample.lesions)) < MIN_LESIONS:
        return {}
    values = sample.bootstrap({name: METRICS[name].function for name in SCORES})
    counts = sample.num_lesions_per_rate()
    return {name: sample.estimate(values[name], counts[name]) for name in SCORES}
