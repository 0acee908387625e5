"""The intervals of a simulated test set, computed as in an evaluation, and the true scores.

The function of each of `PARTS` draws its own test set and yields the intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.coverage.population import (
    CLASSES,
    MELANOMA,
    RAREST,
    TEMPERATURES,
    Lesions,
    Population,
    draw,
)
from benchmarks.coverage.smallest import (
    smallest_coverage,
    smallest_coverage_of_difference,
)
from skincnn.config import EvaluateConfig
from skincnn.evaluation.resampled import Resampled
from skincnn.evaluation.scoring import (
    MELANOMA_RECALL,
    find_support,
    melanoma_recall,
    score_calibration_metrics,
    score_target,
)
from skincnn.evaluation.subgroups import score_subgroups, score_units
from skincnn.evaluation.triage import (
    ValidationChoices,
    score_prediction_sets,
    score_triage,
)
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.classification import METRICS, PER_CLASS_METRICS, recall_per_class
from skincnn.metrics.conformal import choose_set_thresholds
from skincnn.metrics.decision_rule import DEFAULT_OPERATING_POINT, TARGET
from skincnn.metrics.intervals import estimate, estimate_difference
from skincnn.metrics.operating_points import (
    HEADLINE_POINT,
    RATES,
    OperatingPoint,
)
from skincnn.metrics.predictive_values import net_benefit_at, npv_at, ppv_at
from skincnn.metrics.sample import Scores
from skincnn.metrics.seed_variance import estimate_recipe_difference, pool_seed_variance

SHOWN_CLASSES = (RAREST, MELANOMA)
CONFIDENCE = 0.95
POINTS = (HEADLINE_POINT, OperatingPoint("sensitivity", 0.9))
SHOWN_PREVALENCES = (0.005, 0.02, 0.2)
SHOWN_BANDS = (0, 3, 7)
"""Indices of the probability bands that the tables show."""
OWN_NOISE = {"similar models": 0.02, "different models": 0.2}
"""Share of the variance of the features that two models do not have in common."""
SEED_EFFECTS = {"none": 0.0, "small": 0.05, "large": 0.2}
"""Standard deviation of the signal across seeds."""
NUM_SEEDS = 3
AS_IS = CalibrationMap(temperature=1.0, bias=(0.0,) * len(CLASSES))
"""The calibration map that changes no probability."""


@dataclass(frozen=True)
class Case:
    """One interval of one simulated test set.

    Attributes:
        smallest: From `smallest_coverage` or `smallest_coverage_of_difference`; None if it
            is not computed.
    """

    name: str
    truth: float
    interval: Estimate
    smallest: float | None = None


class Simulation:
    """Draws test sets of `num_lesions` lesions, with `num_resamples` resamples each."""

    def __init__(self, population: Population, num_lesions: int, num_resamples: int):
        self.population, self.num_lesions = population, num_lesions
        self.config = EvaluateConfig(num_bootstrap=num_resamples)

    def sample(
        self, lesions: Lesions, y_prob: Scores, seed: int, *, validation: bool = False
    ) -> Resampled:
        """Returns the predictions for some lesions, with their resamples.

        For the same `seed`, the resamples of a validation set differ from those of a test
        set.
        """
        return Resampled(lesions.table(y_prob), self.config, 2 * seed + validation)

    def draw(self, rng: np.random.Generator) -> Lesions:
        """Draws the lesions of a test or validation set."""
        return draw(rng, self.num_lesions)


@dataclass(frozen=True)
class Part:
    """Intervals that are computed together.

    Attributes:
        title: Heading of their table.
        function: Yields the intervals of a simulated test set.
        multiple: Factor of the number of test sets; above 1 for intervals that take little
            time.
    """

    title: str
    function: Callable[[Simulation, np.random.Generator, int], Iterator[Case]]
    multiple: int = 1


def scores(simulation: Simulation, rng: np.random.Generator, seed: int) -> Iterator[Case]:
    """Yields the intervals of scores of the predicted classes and of the probabilities."""
    test = simulation.draw(rng)
    sample = simulation.sample(test, test.probabilities(), seed)
    names = [name for name in METRICS if METRICS[name].has_interval and "auc" not in name]
    names.remove("macro_average_precision")
    yield from _score(simulation, sample, names, ("recall", "specificity", "precision"))


def curves(simulation: Simulation, rng: np.random.Generator, seed: int) -> Iterator[Case]:
    """Yields the intervals of scores of ROC and precision-recall curves."""
    test = simulation.draw(rng)
    sample = simulation.sample(test, test.probabilities(), seed)
    names = "macro_auc", "macro_average_precision", "macro_auc_above_80_sensitivity"
    yield from _score(simulation, sample, names, ("auc",))


def _score(
    simulation: Simulation,
    sample: Resampled,
    names: Sequence[str],
    class_names: Sequence[str],
) -> Iterator[Case]:
    functions = {name: METRICS[name].function for name in names}
    functions |= {name: PER_CLASS_METRICS[name] for name in class_names}
    supports, true = sample.supports(), simulation.population.scores
    for name, values in sample.bootstrap(functions).items():
        intervals = estimate(values, CONFIDENCE, supports.get(name))
        if name in names:
            yield Case(name, float(true[name]), intervals[0])
            continue
        for index in SHOWN_CLASSES:
            truth, smallest = float(true[name][index]), None
            if name == "recall":
                smallest = smallest_coverage(supports[name][index].count, truth)
            yield Case(f"{name} of {CLASSES[index]}", truth, intervals[index], smallest)


def lesion_scores(
    simulation: Simulation, rng: np.random.Generator, seed: int
) -> Iterator[Case]:
    """Yields the intervals of scores per lesion.

    The probabilities are averaged over the images of a lesion.
    """
    test, validation = simulation.draw(rng), simulation.draw(rng)
    sample = simulation.sample(test, test.probabilities(), seed)
    chosen_on = simulation.sample(
        validation, validation.probabilities(), seed, validation=True
    )
    thresholds = {"melanoma": {HEADLINE_POINT.key: _thresholds(chosen_on, HEADLINE_POINT)}}
    units = score_units(sample, AS_IS, thresholds)["lesion"]
    for name, interval in units.scores.items():
        yield Case(
            f"{name} per lesion", simulation.population.lesion_scores[name], interval
        )


def calibration(
    simulation: Simulation, rng: np.random.Generator, seed: int
) -> Iterator[Case]:
    """Yields the intervals of the calibration errors."""
    test = simulation.draw(rng)
    sample = simulation.sample(test, test.probabilities(), seed)
    for temperature in TEMPERATURES:
        y_prob = test.probabilities(calibrated=True, temperature=temperature)
        values = score_calibration_metrics(sample, y_prob)
        truth = simulation.population.calibration_errors[temperature]
        name = f"RMS calibration error ({truth:.3f})"
        yield Case(name, truth, values["rms_calibration_error"])


def targets(simulation: Simulation, rng: np.random.Generator, seed: int) -> Iterator[Case]:
    """Yields the intervals of scores of the detection of melanoma."""
    test, validation = simulation.draw(rng), simulation.draw(rng)
    sample = simulation.sample(test, test.probabilities(calibrated=True), seed)
    chosen_on = simulation.sample(
        validation, validation.probabilities(calibrated=True), seed, validation=True
    )
    thresholds = {point.key: _thresholds(chosen_on, point) for point in POINTS}
    y_prob = sample.arrays[1]
    target = score_target(sample, sample.targets["melanoma"], y_prob, thresholds)
    population = simulation.population
    yield Case("auc of melanoma, calibrated", population.melanoma.auc, target.auc)
    true = {"observed_expected": 1.0, "slope": 1.0, "intercept": 0.0}
    for name, interval in target.calibration.scores.items():
        yield Case(f"calibration of melanoma: {name}", true[name], interval)
    for index in SHOWN_BANDS:
        band = target.calibration.bands[index]
        name = f"share of melanoma at probability {band.low:.2f} to {band.high:.2f}"
        yield Case(name, population.bands[index], band.observed)
    for key, point in target.operating_points.items():
        true = population.melanoma.rates(population.melanoma.threshold(key))
        for rate in RATES:
            yield Case(f"{rate} at {key}", true[rate], point.rates[rate])
        for part in point.by_prevalence:
            if part.prevalence not in SHOWN_PREVALENCES:
                continue
            pair = np.array([true["sensitivity"]]), np.array([true["specificity"]])
            for name, function, interval in (
                ("ppv", ppv_at, part.ppv),
                ("npv", npv_at, part.npv),
                ("net benefit", net_benefit_at, part.net_benefit),
            ):
                truth = float(function(*pair, part.prevalence)[0])
                label = f"{name} at {key} and prevalence {part.prevalence:.3f}"
                yield Case(label, truth, interval)


def decisions(
    simulation: Simulation, rng: np.random.Generator, seed: int
) -> Iterator[Case]:
    """Yields the intervals for the referral rule, prediction sets and subgroups.

    The true scores are those at the thresholds that are chosen on validation.
    """
    test, validation = simulation.draw(rng), simulation.draw(rng)
    y_prob, chosen_on = (part.probabilities(calibrated=True) for part in (test, validation))
    population = simulation.population
    malignant, melanoma = population.malignant, population.melanoma
    referral = malignant.choose(validation, chosen_on, DEFAULT_OPERATING_POINT)
    detection = melanoma.choose(validation, chosen_on, HEADLINE_POINT.key)
    choices = ValidationChoices(
        AS_IS,
        {TARGET: {DEFAULT_OPERATING_POINT: referral}},
        None,
        choose_set_thresholds(validation.y_true, chosen_on, validation.groups),
    )
    sample = simulation.sample(test, y_prob, seed)
    triage = score_triage(sample, y_prob, choices)
    assert triage is not None
    assert triage.melanoma_referred is not None
    true = malignant.rates(referral)
    for rate in RATES:
        yield Case(f"{rate} of the referral rule", true[rate], triage.rates[rate])
    yield Case("share referred", malignant.flagged(referral), triage.referred)
    yield Case(
        "share of melanoma referred",
        population.melanoma_referred(referral),
        triage.melanoma_referred,
    )
    yield from _prediction_sets(population, sample, choices)
    yield from _subgroup(population, sample, detection)


def _prediction_sets(
    population: Population, sample: Resampled, choices: ValidationChoices
) -> Iterator[Case]:
    sets = score_prediction_sets(sample, sample.arrays[1], choices)
    covered, size, empty = population.prediction_sets(choices.set_thresholds)
    counts = [support.count for support in sample.supports()["recall"]]
    for index in SHOWN_CLASSES:
        name = CLASSES[index]
        yield Case(
            f"share of images of {name} whose prediction set contains {name}",
            covered[index],
            sets.covered[name],
            smallest_coverage(counts[index], covered[index]),
        )
    yield Case("mean size of prediction sets", size, sets.mean_size)
    smallest = smallest_coverage(sample.num_groups, empty)
    yield Case("share of empty prediction sets", empty, sets.empty, smallest)


def _subgroup(
    population: Population, sample: Resampled, threshold: float
) -> Iterator[Case]:
    score = sample.targets["melanoma"].score(sample.arrays[1])
    [group, _] = score_subgroups(sample, {"melanoma": score >= threshold})
    for name, interval in group.scores.items():
        if name == "accuracy" or len(group.class_names) == len(CLASSES):
            truth = population.calibrated_scores[name]
            yield Case(f"{name} of a subgroup", truth, interval)
    part, true = group.targets["melanoma"], population.melanoma.rates(threshold)
    for rate in ("sensitivity", "specificity"):
        if rate in part.rates:
            yield Case(f"{rate} of a subgroup", true[rate], part.rates[rate])
            name = f"difference in {rate} of a subgroup from the other images"
            yield Case(name, 0.0, part.differences[rate])


def differences(
    simulation: Simulation, rng: np.random.Generator, seed: int
) -> Iterator[Case]:
    """Yields the intervals of paired differences of two models."""
    test = simulation.draw(rng)
    names = ("balanced_accuracy", "macro_f1", "accuracy", "log_loss")
    sample = simulation.sample(test, test.probabilities(), seed)
    functions = {name: METRICS[name].function for name in names}
    functions |= {**melanoma_recall(sample), "recall": recall_per_class}
    supports = sample.supports()["recall"]
    for models, own in OWN_NOISE.items():
        pair = [test.model(rng, own) for _ in range(2)]
        values, others = (sample.bootstrap(functions, y_prob) for y_prob in pair)
        for name in (*names, MELANOMA_RECALL):
            change = values[name] - others[name]
            difference = estimate_difference(change, CONFIDENCE, find_support(sample, name))
            yield Case(f"difference in {name}, {models}", 0.0, difference.estimate)
        change = (values["recall"] - others["recall"])[:, RAREST]
        difference = estimate_difference(change, CONFIDENCE, supports[RAREST])
        yield Case(
            f"difference in recall of {CLASSES[RAREST]}, {models}",
            0.0,
            difference.estimate,
            smallest_coverage_of_difference(_count_discordant(test, pair)),
        )


def recipes(simulation: Simulation, rng: np.random.Generator, seed: int) -> Iterator[Case]:
    """Yields the intervals of differences of recipes, each with several seeds."""
    test = simulation.draw(rng)
    names = ("balanced_accuracy", "macro_f1")
    functions = {name: METRICS[name].function for name in names}
    sample = simulation.sample(test, test.probabilities(), seed)
    for size, effect in SEED_EFFECTS.items():
        runs = [
            sample.bootstrap(functions, test.model(rng, 0.1, effect * rng.normal()))
            for _ in range(2 * NUM_SEEDS)
        ]
        pair = [runs[:NUM_SEEDS], runs[NUM_SEEDS:]]
        variance = pool_seed_variance(pair)
        assert variance is not None
        for name in names:
            means = [np.mean([run[name] for run in part], axis=0) for part in pair]
            difference = estimate_recipe_difference(
                name,
                means[1] - means[0],
                variance,
                (NUM_SEEDS, NUM_SEEDS),
                CONFIDENCE,
                find_support(sample, name),
            )
            label = f"difference of recipes in {name}, effect of seeds: {size}"
            yield Case(label, 0.0, difference.estimate)


PARTS = (
    Part("Scores of predicted classes and of probabilities", scores, 4),
    Part("Scores of curves", curves),
    Part("Scores of lesions (mean probabilities of their images)", lesion_scores),
    Part("Calibration errors of all classes", calibration),
    Part("Detection of melanoma, with the choice of the threshold", targets),
    Part("Referral rule, prediction sets and subgroups at chosen thresholds", decisions),
    Part("Paired differences of two models", differences, 2),
    Part("Differences of recipes, three seeds each", recipes),
)


def _count_discordant(test: Lesions, pair: Sequence[Scores]) -> int:
    """Returns in how many lesions of the rarest class the recall of two models differs."""
    correct = [y_prob.argmax(axis=1) == RAREST for y_prob in pair]
    rows = test.y_true == RAREST
    change = correct[0][rows].astype(int) - correct[1][rows]
    totals = np.bincount(test.lesion[rows], weights=change, minlength=1)
    return int((totals != 0).sum())


def _thresholds(validation: Resampled, point: OperatingPoint) -> Scores:
    target = validation.targets["melanoma"]
    y_true, y_prob = validation.arrays
    return validation.thresholds(target.positive(y_true), target.score(y_prob), point)
