"""Scores of subgroups of the patients, which show for whom a model performs worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from skincnn.evaluation.results import SubgroupScores
from skincnn.inference.predictions import arrays, class_names_of
from skincnn.metrics.bootstrap import (
    Estimate,
    bootstrap,
    bootstrap_weights,
    estimate,
    num_groups_per_rate,
)
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
    predictions: pd.DataFrame, num_bootstrap: int, confidence: float = 0.95
) -> tuple[SubgroupScores, ...]:
    """Returns the scores of each subgroup, grouped by attribute.

    Attributes that are missing in the table, or unknown for all images, are left out. The
    bootstrap resamples the lesions of the subgroup.

    Args:
        predictions: A predictions table.
        num_bootstrap: Number of bootstrap resamples.
        confidence: Coverage of the intervals, 0..1.
    """
    class_names = class_names_of(predictions)
    subgroups = []
    for attribute, (column, values_of) in SUBGROUPS.items():
        if column not in predictions:
            continue
        values = values_of(predictions)
        if (values == UNKNOWN).all():
            continue
        for value, rows in predictions.groupby(values, observed=True, sort=True):
            subgroups.append(
                SubgroupScores(
                    attribute=attribute,
                    value=str(value),
                    num_images=len(rows),
                    num_lesions=int(rows["lesion_id"].nunique()),
                    class_names=tuple(n for n in class_names if (rows["label"] == n).any()),
                    scores=_scores(rows, class_names, num_bootstrap, confidence),
                )
            )
    return tuple(subgroups)


def _scores(
    rows: pd.DataFrame,
    class_names: Sequence[str],
    num_bootstrap: int,
    confidence: float,
) -> dict[str, Estimate]:
    lesions = rows["lesion_id"].tolist()
    if len(set(lesions)) < MIN_LESIONS:
        return {}
    weights = bootstrap_weights(rows["image_id"], rows["lesion_id"], num_bootstrap)
    functions = {name: METRICS[name].function for name in SCORES}
    y_true, y_prob = arrays(rows, class_names)
    values = bootstrap(functions, y_true, y_prob, weights)
    counts = num_groups_per_rate(lesions, y_true, y_prob)
    return {name: estimate(values[name], confidence, counts[name])[0] for name in SCORES}
