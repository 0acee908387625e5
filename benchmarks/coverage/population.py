"""The simulated population of lesions, and its true scores.

The population is simple, so that the true scores are known. Lesions have the class shares
of HAM10000 and one to three images. An image has seven normally distributed features, one
for each class, which are correlated between the images of a lesion. The mean is `SIGNAL`
for the feature of the true class and 0 for the others. If the logits are `SIGNAL` times the
features plus the logarithms of the class shares, the probabilities are perfectly
calibrated. Without the second term, all classes have the same recall, as after training
with class weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.special

from skincnn.evaluation.subgroups import SUBGROUP_SCORES
from skincnn.inference.predictions import probability_columns
from skincnn.metrics.calibration import reliability_curve
from skincnn.metrics.calibration_error import calibration_gaps
from skincnn.metrics.classification import METRICS, PER_CLASS_METRICS, auc_per_class
from skincnn.metrics.operating_points import (
    HEADLINE_POINT,
    Target,
    choose_threshold,
    parse_operating_point,
)
from skincnn.metrics.predictive_values import npv_at, ppv_at
from skincnn.metrics.sample import Floats, Labels, Sample, Scores

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
SHARES = np.array([0.0327, 0.0513, 0.1097, 0.0115, 0.1111, 0.6695, 0.0142])
SHARES /= SHARES.sum()
MELANOMA, RAREST = CLASSES.index("mel"), CLASSES.index("df")
MALIGNANT = (0, 1, 4)
"""Indices of the malignant classes."""
IMAGES_PER_LESION = (0.74, 0.19, 0.07)
"""Shares of the lesions with one, two and three images."""
SIGNAL = 2.2
WITHIN_LESION = 0.6
"""Correlation of the features of two images of a lesion."""
TEMPERATURES = (1.0, 0.9, 0.6)
"""Divisors of the calibrated logits for no, a small and a large calibration error."""
SUBGROUP = 0.2
"""Share of the lesions in a subgroup, which has the same true scores as the others."""


@dataclass(frozen=True)
class Lesions:
    """Images of drawn lesions: labels, numbers of the lesions, features [num_images, 7]."""

    y_true: Labels
    lesion: Labels
    features: Floats

    @property
    def groups(self) -> list[str]:
        """IDs of the lesions, [num_images]."""
        return [f"{number:08d}" for number in self.lesion]

    def probabilities(self, *, calibrated: bool = False, temperature: float = 1) -> Scores:
        """Returns the probabilities of a model, [num_images, 7]."""
        logits = SIGNAL * self.features + (np.log(SHARES) if calibrated else 0)
        return np.asarray(scipy.special.softmax(logits / temperature, axis=1))

    def model(self, rng: np.random.Generator, own: float, shift: float = 0) -> Scores:
        """Returns the probabilities of a model with noise of its own, [num_images, 7].

        `own` is the share of the variance of the features that is noise of the model. The
        signal of the model is larger by `shift`.
        """
        signal = SIGNAL * np.eye(len(CLASSES))[self.y_true]
        noise = math.sqrt(1 - own) * (self.features - signal)
        noise = noise + math.sqrt(own) * rng.normal(size=noise.shape)
        features = noise + signal * (1 + shift / SIGNAL)
        return np.asarray(scipy.special.softmax(SIGNAL * features, axis=1))

    def means(self, y_prob: Scores) -> tuple[Labels, Scores]:
        """Returns the labels of the lesions, and the mean probabilities of their images."""
        first = np.flatnonzero(np.diff(self.lesion, prepend=-1))
        counts = np.diff(first, append=len(self.lesion))
        return self.y_true[first], np.add.reduceat(y_prob, first) / counts[:, None]

    def table(self, y_prob: Scores) -> pd.DataFrame:
        """Returns a predictions table; the attribute `sex` is unrelated to the features."""
        groups = self.groups
        in_subgroup = self.lesion % round(1 / SUBGROUP) == 0
        columns = {
            "image_id": [f"{number:08d}" for number in range(len(groups))],
            "lesion_id": groups,
            "group_id": groups,
            "label": np.array(CLASSES)[self.y_true],
            "sex": np.where(in_subgroup, "female", "male"),
        }
        return pd.DataFrame({**columns, **probability_columns(y_prob, CLASSES)})


def draw(rng: np.random.Generator, num_lesions: int) -> Lesions:
    """Draws lesions from the population."""
    label = rng.choice(len(CLASSES), num_lesions, p=SHARES)
    lesion = np.repeat(
        np.arange(num_lesions), rng.choice(3, num_lesions, p=[*IMAGES_PER_LESION]) + 1
    )
    shared = rng.normal(size=(num_lesions, len(CLASSES)))[lesion]
    own = rng.normal(size=shared.shape)
    features = math.sqrt(WITHIN_LESION) * shared + math.sqrt(1 - WITHIN_LESION) * own
    features[np.arange(len(lesion)), label[lesion]] += SIGNAL
    return Lesions(label[lesion], lesion, features)


class DetectionTruth:
    """The true rates of a target at any threshold.

    Args:
        classes: The classes of the target.
        population: Drawn lesions.
        y_prob: Their probabilities, [num_images, 7].
    """

    def __init__(self, classes: Sequence[int], population: Lesions, y_prob: Scores):
        self.target = Target("", tuple(classes))
        positive, score = self.target.positive(population.y_true), self.target.score(y_prob)
        self.positive, self.negative = np.sort(score[positive]), np.sort(score[~positive])
        two_classes = np.stack([1 - score, score], axis=1)
        self.auc = float(auc_per_class(Sample(positive.astype(int), two_classes))[1])

    def threshold(self, key: str) -> float:
        """Returns the threshold of an operating point in the population."""
        point = parse_operating_point(key)
        if point.metric == "specificity":
            return float(np.quantile(self.negative, point.minimum))
        return float(np.quantile(self.positive, 1 - point.minimum))

    def choose(self, validation: Lesions, y_prob: Scores, key: str) -> float:
        """Returns the threshold of an operating point on validation lesions."""
        positive, score = self.target.positive(validation.y_true), self.target.score(y_prob)
        threshold = choose_threshold(positive, score, parse_operating_point(key))
        assert threshold is not None
        return threshold

    def flagged(self, threshold: float) -> float:
        """Returns the share of the images that reach a threshold."""
        counts = [_share_at_least(part, threshold) * len(part) for part in self._parts]
        return sum(counts) / sum(map(len, self._parts))

    def rates(self, threshold: float) -> dict[str, float]:
        """Returns the `RATES` at a threshold."""
        sensitivity, false = (_share_at_least(part, threshold) for part in self._parts)
        prevalence = len(self.positive) / sum(map(len, self._parts))
        pair = np.array([sensitivity]), np.array([1 - false])
        return {
            "sensitivity": sensitivity,
            "specificity": 1 - false,
            "ppv": float(ppv_at(*pair, prevalence)[0]),
            "npv": float(npv_at(*pair, prevalence)[0]),
        }

    @property
    def _parts(self) -> tuple[Scores, Scores]:
        return self.positive, self.negative


class Population:
    """The true scores, computed from many lesions."""

    def __init__(self, num_lesions: int) -> None:
        lesions = draw(np.random.default_rng(0), num_lesions)
        y_prob = lesions.probabilities()
        calibrated = lesions.probabilities(calibrated=True)
        sample = Sample(lesions.y_true, y_prob)
        functions = {name: metric.function for name, metric in METRICS.items()}
        functions |= PER_CLASS_METRICS
        self.scores = {name: function(sample) for name, function in functions.items()}
        self.calibrated_scores = {
            name: float(METRICS[name].function(Sample(lesions.y_true, calibrated)))
            for name in SUBGROUP_SCORES
        }
        self.melanoma = DetectionTruth((MELANOMA,), lesions, calibrated)
        self.malignant = DetectionTruth(MALIGNANT, lesions, calibrated)
        self.lesion_scores = _score_lesions(lesions, y_prob)
        two_classes = np.stack([1 - calibrated[:, MELANOMA], calibrated[:, MELANOMA]], 1)
        is_melanoma = (lesions.y_true == MELANOMA).astype(int)
        self.bands = reliability_curve(Sample(is_melanoma, two_classes)).tolist()
        self._by_class = [np.sort(column) for column in calibrated.T]
        self._own = [
            np.sort(calibrated[lesions.y_true == index, index])
            for index in range(len(CLASSES))
        ]
        self._some = calibrated[:100_000]
        malignant = self.malignant.target.score(calibrated)
        self._malignant_of_melanoma = np.sort(malignant[is_melanoma == 1])
        self.calibration_errors = {
            temperature: _calibration_error(lesions, temperature)
            for temperature in TEMPERATURES
        }

    def melanoma_referred(self, threshold: float) -> float:
        """Returns the share of melanoma images that reach a threshold of `malignant`."""
        return _share_at_least(self._malignant_of_melanoma, threshold)

    def prediction_sets(
        self, thresholds: Sequence[float]
    ) -> tuple[list[float], float, float]:
        """Returns the coverage by class, mean size and share of empty prediction sets."""
        covered, included = (
            list(map(_share_at_least, columns, thresholds))
            for columns in (self._own, self._by_class)
        )
        empty = (self._some < np.array(thresholds)).all(axis=1).mean()
        return covered, sum(included), float(empty)


def _score_lesions(lesions: Lesions, y_prob: Scores) -> dict[str, float]:
    """Returns the scores of the mean probabilities of lesions; see `score_units`."""
    y_true, means = lesions.means(y_prob)
    sample = Sample(y_true, means)
    names = ("balanced_accuracy", "macro_f1")
    of_images = DetectionTruth((MELANOMA,), lesions, y_prob)
    of_lesions = DetectionTruth(
        (MELANOMA,), Lesions(y_true, np.arange(len(y_true)), means), means
    )
    rates = of_lesions.rates(of_images.threshold(HEADLINE_POINT.key))
    return {
        **{name: float(METRICS[name].function(sample)) for name in names},
        "melanoma_auc": of_lesions.auc,
        "melanoma_sensitivity": rates["sensitivity"],
        "melanoma_specificity": rates["specificity"],
    }


def _calibration_error(lesions: Lesions, temperature: float) -> float:
    """Returns the RMS calibration error at a temperature; 0 at temperature 1."""
    if temperature == 1:
        return 0.0
    y_prob = lesions.probabilities(calibrated=True, temperature=temperature)
    gaps = calibration_gaps(Sample(lesions.y_true, y_prob))
    return float(np.sqrt(np.square(gaps).sum()))


def _share_at_least(ordered: Scores, threshold: float) -> float:
    """Returns the share of sorted values that reach a threshold."""
    return 1 - float(np.searchsorted(ordered, threshold) / len(ordered))
