"""A predictions table with its bootstrap resamples, from which every score is computed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skincnn.config import EvaluateConfig
from skincnn.inference.predictions import arrays, class_names_of
from skincnn.metrics.bootstrap import (
    Counts,
    Estimate,
    bootstrap,
    bootstrap_weights,
    estimate,
    num_groups_per_rate,
)
from skincnn.metrics.classification import MetricFunction
from skincnn.metrics.operating_points import Target, find_targets, score_operating_point
from skincnn.metrics.sample import Flags, Floats, Labels, Scores


@dataclass(frozen=True, eq=False)
class Resampled:
    """A predictions table and its bootstrap resamples over lesions.

    Attributes:
        table: A predictions table.
        config: Number of resamples and coverage of the intervals.
    """

    table: pd.DataFrame
    config: EvaluateConfig

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        return tuple(class_names_of(self.table))

    @functools.cached_property
    def targets(self) -> dict[str, Target]:
        """The targets among the classes."""
        return find_targets(self.class_names)

    @functools.cached_property
    def arrays(self) -> tuple[Labels, Floats]:
        """Integer labels [num_images], and probabilities [num_images, num_classes]."""
        return arrays(self.table, self.class_names)

    @functools.cached_property
    def lesions(self) -> list[str]:
        """The lesion of each image, [num_images]."""
        return self.table["lesion_id"].tolist()

    @functools.cached_property
    def weights(self) -> Scores:
        """How often each image counts, [num_resamples, num_images]."""
        return bootstrap_weights(
            self.table["image_id"], self.lesions, self.config.num_bootstrap
        )

    @functools.cached_property
    def all_weights(self) -> Scores:
        """The same after a row of ones, [1 + num_resamples, num_images]."""
        return np.concatenate([np.ones((1, len(self.table))), self.weights])

    def bootstrap(
        self, functions: Mapping[str, MetricFunction], y_prob: Floats | None = None
    ) -> dict[str, Scores]:
        """Returns `metrics.bootstrap.bootstrap`, of other probabilities if given."""
        y_true, own = self.arrays
        return bootstrap(functions, y_true, own if y_prob is None else y_prob, self.weights)

    def num_lesions_per_rate(self, y_prob: Floats | None = None) -> dict[str, Counts]:
        """Returns `num_groups_per_rate`, of other probabilities if given."""
        y_true, own = self.arrays
        return num_groups_per_rate(self.lesions, y_true, own if y_prob is None else y_prob)

    def estimate(self, values: Scores, num_lesions: Counts | None = None) -> Estimate:
        """Returns a score with its interval from its values in `bootstrap`."""
        return estimate(values, self.config.confidence, num_lesions)[0]

    def rates(
        self, positive: Flags, score: Scores, threshold: float | None
    ) -> dict[str, Estimate]:
        """Returns `score_operating_point`; empty without a threshold."""
        if threshold is None:
            return {}
        confidence = self.config.confidence
        return score_operating_point(
            positive, score, threshold, self.weights, confidence, self.lesions
        )
