"""Scores of a run on another dataset, with the calibration and thresholds of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skincnn.classes import LesionClass
from skincnn.config import EvaluateConfig
from skincnn.evaluation.external.result import REFERRAL, ChosenPrevalence, OtherLabel
from skincnn.evaluation.resampled import VALIDATION_SEED, Resampled
from skincnn.evaluation.results import InferenceCost, SplitResult
from skincnn.evaluation.scoring import (
    InferenceVariant,
    resample_thresholds,
    score_split,
)
from skincnn.evaluation.subgroups import Thresholds
from skincnn.evaluation.triage import (
    ValidationChoices,
    make_rule,
    refer,
)
from skincnn.inference.predictions import DISTANCE, probabilities
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.decision_rule import TARGET
from skincnn.metrics.sample import Flags

ORIGINAL_LABEL = "original_label"
"""Column with the label in the external dataset; `label` is the class of the model."""


@dataclass(frozen=True)
class RunChoices:
    """The calibration, thresholds and OOD limit of a run, and its validation table.

    Attributes:
        validation: The validation predictions table of the run.
        choices: The calibration, the thresholds and the OOD limit, chosen on this table.
        cost: The prediction time of the model as is.
        config: Number of resamples and confidence level of the intervals.
        declared: See `skincnn.classes.describe`.
    """

    validation: pd.DataFrame
    choices: ValidationChoices
    cost: InferenceCost
    config: EvaluateConfig
    declared: Mapping[str, LesionClass]

    def resample(self, table: pd.DataFrame, seed: int = 0) -> Resampled:
        """Returns a predictions table of the run with its resamples."""
        return Resampled(table, self.config, seed, self.declared)

    def thresholds(self) -> Thresholds:
        """Returns the thresholds from `resample_thresholds` for the validation table."""
        validation = self.resample(self.validation, VALIDATION_SEED)
        return resample_thresholds(validation, self.choices)


def score_images(
    name: str, stored_in: str, sample: Resampled, run: RunChoices, thresholds: Thresholds
) -> SplitResult:
    """Returns the scores of images whose labels are classes of the model.

    `name` and `stored_in` are the `split` and the `stored_in` of the result, and
    `thresholds` are those of the run.

    Raises:
        ConfigError: See `skincnn.evaluation.scoring.score_functions`.
    """
    tables = {"val": run.validation, name: sample.table}
    variant = InferenceVariant("", tables, run.cost)
    return score_split(variant, name, sample, run.choices, thresholds, stored_in)


def score_other_label(label: str, table: pd.DataFrame, run: RunChoices) -> OtherLabel:
    """Returns how the images of a label that is not a class of the model were predicted."""
    sample = run.resample(table)
    predicted = probabilities(table, sample.class_names).argmax(axis=1)
    counts = pd.Series(predicted).map(dict(enumerate(sample.class_names))).value_counts()
    return OtherLabel(
        label=label,
        num_images=len(table),
        num_groups=sample.num_groups,
        predicted={str(name): int(count) for name, count in counts.items()},
        referred=_share(sample, find_referred(sample, run.choices)),
    )


def score_out_of_distribution(
    sample: Resampled, choices: ValidationChoices
) -> Estimate | None:
    """Returns the share of the images above the OOD limit; None without a limit."""
    if choices.max_distance is None:
        return None
    return _share(sample, (sample.table[DISTANCE] > choices.max_distance).to_numpy())


def score_chosen_prevalences(
    sample: Resampled,
    choices: ValidationChoices,
    thresholds: Thresholds,
    prevalences: Mapping[str, float],
) -> tuple[ChosenPrevalence, ...]:
    """Returns the scores at the prevalence of each target, for each operating point.

    Operating points without a threshold are left out. For malignant lesions, the last row
    is that of the referral rule, if there is one.
    """
    y_true, y_prob = sample.arrays
    calibrated = choices.calibration_map.apply(y_prob)
    rows = []
    for name, prevalence in prevalences.items():
        target = sample.targets[name]
        positive, score = target.positive(y_true), target.score(calibrated)
        points = {
            key: sample.by_prevalence(positive, score, values, [prevalence])
            for key, values in thresholds[name].items()
        }
        referred = find_referred(sample, choices)
        if name == TARGET and referred is not None:
            points[REFERRAL] = sample.by_prevalence(
                positive, referred.astype(float), 0.5, [prevalence]
            )
        rows += [
            ChosenPrevalence(target=name, point=key, scores=scores)
            for key, part in points.items()
            for scores in part
        ]
    return tuple(rows)


def find_referred(sample: Resampled, choices: ValidationChoices) -> Flags | None:
    """Returns whether each image is referred, [num_images]; None without a rule."""
    rule = make_rule(sample, choices)
    if rule is None:
        return None
    y_prob = probabilities(sample.table, sample.class_names)
    return refer(rule, sample.table, choices.calibration_map.apply(y_prob))


def _share(sample: Resampled, images: Flags | None) -> Estimate | None:
    if images is None:
        return None
    everything = np.ones(len(images), bool)
    return sample.rates(everything, images.astype(float), 0.5)["sensitivity"]
