"""Scores of some of the patients, to see for whom the model must not be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from skincnn.evaluation.results import SubgroupScores
from skincnn.inference.predictions import arrays
from skincnn.metrics.bootstrap import (
    Estimate,
    bootstrap,
    bootstrap_weights,
    estimate,
    num_groups_per_rate,
)
from skincnn.metrics.classification import METRICS

MIN_IMAGES = 5
"""Of fewer pictures, or lesions, no score is shown: it would be noise, and might tell of a
person."""
SCORES = ("balanced_accuracy", "accuracy")
AGE_BANDS = {
    "under 30": 30,
    "30 to 44": 45,
    "45 to 59": 60,
    "60 to 74": 75,
    "75 and over": 999,
}
"""Name to the age, in years, below which it ends."""
UNKNOWN = "not known"


def age_band(predictions: pd.DataFrame) -> pd.Series:
    """Returns the band of each age in years."""
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
"""Name to the column that it needs, and a function that gives each picture's value."""


def score_subgroups(
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    resamples: int,
    confidence: float = 0.95,
) -> tuple[SubgroupScores, ...]:
    """Returns the scores of each subgroup, those of one attribute one after the other.

    An attribute that the table does not have, or that is not known of any picture, is left
    out. Resamples are of the lesions of the subgroup.

    Args:
        predictions: A table of `predict.predictions_table`.
        class_names: The names of the labels, in order.
        resamples: How many there are.
        confidence: Coverage, between 0 and 1.
    """
    found = []
    for attribute, (column, values_of) in SUBGROUPS.items():
        if column not in predictions:
            continue
        values = values_of(predictions)
        if (values == UNKNOWN).all():
            continue
        for value, rows in predictions.groupby(values, observed=True, sort=True):
            found.append(
                SubgroupScores(
                    attribute=attribute,
                    value=str(value),
                    num_images=len(rows),
                    num_lesions=int(rows["lesion_id"].nunique()),
                    class_names=tuple(n for n in class_names if (rows["label"] == n).any()),
                    scores=_scores(rows, class_names, resamples, confidence),
                )
            )
    return tuple(found)


def _scores(
    rows: pd.DataFrame,
    class_names: Sequence[str],
    resamples: int,
    confidence: float,
) -> dict[str, Estimate]:
    lesions = rows["lesion_id"].tolist()
    if len(set(lesions)) < MIN_IMAGES:
        return {}
    weights = bootstrap_weights(rows["image_id"], rows["lesion_id"], resamples)
    functions = {name: METRICS[name].function for name in SCORES}
    answers = arrays(rows, class_names)
    values = bootstrap(functions, *answers, weights)
    counts = num_groups_per_rate(lesions, *answers)
    return {name: estimate(values[name], confidence, counts[name])[0] for name in SCORES}
