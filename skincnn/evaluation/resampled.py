"""A predictions table with its bootstrap resamples, for scores with intervals."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from skincnn.classes import LesionClass
from skincnn.config import EvaluateConfig
from skincnn.evaluation.results import Outcomes
from skincnn.inference.predictions import arrays, class_names_of
from skincnn.metrics.bootstrap import (
    Estimate,
    Resamples,
    Weights,
    bootstrap,
    bootstrap_weights,
    count_groups,
    map_blocks,
)
from skincnn.metrics.classification import (
    METRICS,
    MetricFunction,
    auc_per_class,
    find_metric,
)
from skincnn.metrics.intervals import (
    Support,
    estimate,
    estimate_difference,
    find_supports,
)
from skincnn.metrics.operating_points import (
    RATES,
    OperatingPoint,
    Target,
    choose_thresholds,
    find_targets,
    rates,
)
from skincnn.metrics.predictive_values import (
    PREVALENCES,
    PrevalenceScores,
    score_prevalences,
)
from skincnn.metrics.sample import Flags, Floats, Labels, Scores
from skincnn.parts import is_custom

VALIDATION_SEED = 1
"""Seed of the resamples of validation tables; that of other tables is 0."""


def seed_of(split: str) -> int:
    """Returns the seed of the resamples of a split."""
    return VALIDATION_SEED if split == "val" else 0


@dataclass(frozen=True, eq=False)
class Resampled:
    """A predictions table and its bootstrap resamples over groups of images.

    A group (`group_id`) is a patient, a lesion or an image with its near-duplicates; see
    `Identifiers.unit`.

    Attributes:
        config: Number of resamples and confidence level of the intervals.
        seed: Seed of the resamples. Validation tables have another seed
            (`VALIDATION_SEED`), so that thresholds chosen on their resamples do not depend
            on the resamples of other splits.
        declared: See `skincnn.classes.describe`.
    """

    table: pd.DataFrame
    config: EvaluateConfig
    seed: int = 0
    declared: Mapping[str, LesionClass] = field(default_factory=dict)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Class names, in the order of the probability columns."""
        return tuple(class_names_of(self.table))

    @functools.cached_property
    def targets(self) -> dict[str, Target]:
        """Targets by name; see `find_targets`."""
        return find_targets(self.class_names, self.declared)

    @functools.cached_property
    def arrays(self) -> tuple[Labels, Floats]:
        """Integer labels [num_images], and probabilities [num_images, num_classes]."""
        return arrays(self.table, self.class_names)

    @functools.cached_property
    def groups(self) -> list[str]:
        """Group ID of each image, [num_images]."""
        return self.table["group_id"].tolist()

    @functools.cached_property
    def num_groups(self) -> int:
        """Number of groups. Each resample draws this number of groups with replacement."""
        return len(set(self.groups))

    @functools.cached_property
    def all_weights(self) -> Weights:
        """A row of ones, then `weights`, [1 + num_resamples, num_images]."""
        num_resamples = self.config.num_bootstrap
        images = self.table["image_id"]
        weights = bootstrap_weights(images, self.groups, num_resamples, self.seed)
        return Weights(np.concatenate([np.ones((1, len(images)), np.uint8), weights]))

    @property
    def weights(self) -> Resamples:
        """How often each image occurs in each resample, [num_resamples, num_images]."""
        return self.all_weights.counts[1:]

    def bootstrap(
        self, functions: Mapping[str, MetricFunction], y_prob: Floats | None = None
    ) -> dict[str, Scores]:
        """Returns each metric on all images and on each resample, [1 + num_resamples, ...].

        See `skincnn.metrics.bootstrap.bootstrap`. If given, `y_prob` [num_images,
        num_classes] replaces the probabilities of the table. A metric without valid
        intervals is NaN on each resample.

        Raises:
            ConfigError: A custom metric cannot be imported, fails or returns a wrong shape.
        """
        y_true, own = self.arrays
        y_prob = own if y_prob is None else y_prob
        values = bootstrap(functions, y_true, y_prob, self.weights)
        for name in values:
            is_metric = name in METRICS or is_custom(name)
            if is_metric and not find_metric(name).has_interval:
                values[name][1:] = np.nan
        return values

    def supports(self, y_prob: Floats | None = None) -> dict[str, list[Support]]:
        """Returns the supports of each score by name; see `find_supports`.

        For `y_prob`, see `bootstrap`.
        """
        y_true, own = self.arrays
        return find_supports(self.groups, y_true, own if y_prob is None else y_prob)

    def estimate(self, values: Scores, support: Support | None = None) -> Estimate:
        """Returns a score with its interval; see `skincnn.metrics.intervals.estimate`.

        `values` are from `bootstrap`, [1 + num_resamples].
        """
        return estimate(values, self.config.confidence, [support])[0]

    def estimate_difference(
        self, values: Scores, support: Support | None = None
    ) -> Estimate:
        """Returns a paired difference with its interval.

        See `skincnn.metrics.intervals.estimate_difference`. `values` are differences
        between values from `bootstrap`, [1 + num_resamples].
        """
        return estimate_difference(values, self.config.confidence, support).estimate

    def auc(self, positive: Flags, score: Scores) -> Estimate:
        """Returns the AUC of a score with its interval; see `auc_values`.

        `positive` contains whether each image is positive, [num_images].
        """
        masks = np.stack([positive, ~positive], axis=1)
        sizes = tuple(count_groups(self.groups, masks).tolist())
        return self.estimate(self.auc_values(positive, score), Support("auc", sizes))

    def auc_values(self, positive: Flags, score: Scores) -> Scores:
        """Returns the AUC on all images and on each resample, [1 + num_resamples].

        The scores are probabilities, [num_images].
        """
        two_classes = np.stack([1 - score, score], axis=1)
        functions = {"": auc_per_class}
        values = bootstrap(functions, positive.astype(int), two_classes, self.weights)
        return values[""][:, 1]

    def thresholds(self, positive: Flags, score: Scores, point: OperatingPoint) -> Scores:
        """Returns the threshold on all images, then that on each resample.

        See `choose_thresholds`. The result is [1 + num_resamples].
        """
        return np.concatenate(
            map_blocks(
                lambda _, block: choose_thresholds(positive, score, point, block),
                self.all_weights,
            )
        )

    def rates(
        self, positive: Flags, score: Scores, threshold: float | Scores | None
    ) -> dict[str, Estimate]:
        """Returns the `RATES` with intervals, by name; empty if there is no threshold.

        Args:
            positive: Whether each image is positive, [num_images].
            score: Score of the positive class, [num_images].
            threshold: One number (None or NaN if there is no threshold), or an array from
                `resample_thresholds`, [1 + num_resamples], with which the intervals
                include the uncertainty of the threshold.
        """
        if threshold is None or np.isnan(np.ravel(threshold)[0]):
            return {}
        values = rates(positive, score, threshold, self.all_weights)
        predicted = score >= np.ravel(threshold)[0]
        # The images in the denominator of each rate, in the order of `RATES`.
        images = np.stack([positive, ~positive, predicted, ~predicted], axis=1)
        counts = dict(zip(RATES, count_groups(self.groups, images), strict=True))
        kinds: dict[str, Literal["mean"]]
        kinds = {"ppv": "mean", "npv": "mean"}  # denominators that vary with predictions
        return {
            name: self.estimate(
                values[name], Support(kinds.get(name, "rate"), (int(counts[name]),))
            )
            for name in RATES
        }

    def by_prevalence(
        self,
        positive: Flags,
        score: Scores,
        threshold: float | Scores | None,
        prevalences: Sequence[float] = PREVALENCES,
    ) -> tuple[PrevalenceScores, ...]:
        """Returns the `PrevalenceScores`; empty if there is no threshold. See `rates`."""
        estimates = self.rates(positive, score, threshold)
        if threshold is None or not estimates:
            return ()
        values = rates(positive, score, threshold, self.all_weights)
        return score_prevalences(values, estimates, prevalences)


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
