"""A predictions table with its bootstrap resamples, from which every score is computed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skincnn.config import EvaluateConfig
from skincnn.evaluation.results import Outcomes
from skincnn.inference.predictions import arrays, class_names_of
from skincnn.metrics.bootstrap import (
    Counts,
    Estimate,
    bootstrap,
    bootstrap_weights,
    count_groups,
    estimate,
    num_groups_per_rate,
)
from skincnn.metrics.classification import MetricFunction
from skincnn.metrics.operating_points import RATES, Target, find_targets, rates
from skincnn.metrics.sample import Flags, Floats, Labels, Scores


@dataclass(frozen=True, eq=False)
class Resampled:
    """A predictions table and its bootstrap resamples over lesions."""

    table: pd.DataFrame
    config: EvaluateConfig

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Class names, in the order of the probability columns."""
        return tuple(class_names_of(self.table))

    @functools.cached_property
    def targets(self) -> dict[str, Target]:
        """Targets by name; see `find_targets`."""
        return find_targets(self.class_names)

    @functools.cached_property
    def arrays(self) -> tuple[Labels, Floats]:
        """Integer labels [num_images], and probabilities [num_images, num_classes]."""
        return arrays(self.table, self.class_names)

    @functools.cached_property
    def lesions(self) -> list[str]:
        """Lesion ID of each image, [num_images]."""
        return self.table["lesion_id"].tolist()

    @functools.cached_property
    def weights(self) -> Scores:
        """Number of times each image occurs, [num_resamples, num_images]."""
        return bootstrap_weights(
            self.table["image_id"], self.lesions, self.config.num_bootstrap
        )

    @functools.cached_property
    def all_weights(self) -> Scores:
        """`weights` after a row of ones for all images, [1 + num_resamples, num_images]."""
        return np.concatenate([np.ones((1, len(self.table))), self.weights])

    def bootstrap(
        self, functions: Mapping[str, MetricFunction], y_prob: Floats | None = None
    ) -> dict[str, Scores]:
        """Returns the values of each metric; see `skincnn.metrics.bootstrap.bootstrap`.

        If given, `y_prob` [num_images, num_classes] replaces the probabilities.
        """
        y_true, own = self.arrays
        return bootstrap(functions, y_true, own if y_prob is None else y_prob, self.weights)

    def num_lesions_per_rate(self, y_prob: Floats | None = None) -> dict[str, Counts]:
        """Returns `num_groups_per_rate` for lesions. For `y_prob`, see `bootstrap`."""
        y_true, own = self.arrays
        return num_groups_per_rate(self.lesions, y_true, own if y_prob is None else y_prob)

    def estimate(self, values: Scores, num_lesions: Counts | None = None) -> Estimate:
        """Returns a score with its interval.

        `values` [1 + num_resamples] are from `bootstrap`. For a rate, `num_lesions` [1] is
        the value of the rate in `num_lesions_per_rate`.
        """
        return estimate(values, self.config.confidence, num_lesions)[0]

    def rates(
        self, positive: Flags, score: Scores, threshold: float | None
    ) -> dict[str, Estimate]:
        """Returns the `RATES` with intervals; empty if `threshold` is None."""
        if threshold is None:
            return {}
        values = rates(positive, score, threshold, self.all_weights)
        predicted = score >= threshold
        # The images in the denominator of each rate, in the order of `RATES`.
        images = np.stack([positive, ~positive, predicted, ~predicted], axis=1)
        counts = dict(zip(RATES, count_groups(self.lesions, images), strict=True))
        return {
            name: self.estimate(values[name], counts[name].reshape(1)) for name in RATES
        }


def count_outcomes(
    positive: Flags, score: Scores, threshold: float | None
) -> Outcomes | None:
    """Returns the 2x2 table of an operating point; None if `threshold` is None.

    `positive` and `score` are [num_images]. Images with scores at or above the threshold
    are predicted as positive.
    """
    if threshold is None:
        return None
    predicted = score >= threshold
    return Outcomes(
        true_positives=int((positive & predicted).sum()),
        false_negatives=int((positive & ~predicted).sum()),
        false_positives=int((~positive & predicted).sum()),
        true_negatives=int((~positive & ~predicted).sum()),
    )
