"""Coverage of the confidence intervals, by simulation.

Each simulation draws a test set of lesions, and computes the intervals of the package. The
coverage is the share of the simulations whose interval contains the true score.

The population is simple, so that the true scores are known. Lesions have the class shares
of HAM10000 and one to three images. The features of an image are seven normal variables,
correlated between the images of a lesion; that of the true class has mean `SIGNAL`. With
logits `SIGNAL` times the features plus the logarithm of the class shares, probabilities are
perfectly calibrated; without the second term, all classes have the same recall, as with
class weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special
from tqdm import tqdm

from skincnn.metrics.bootstrap import (
    Estimate,
    Resamples,
    bootstrap,
    bootstrap_weights,
    count_groups,
)
from skincnn.metrics.calibration_error import calibration_gaps, rms_calibration_error
from skincnn.metrics.classification import (
    METRICS,
    NUM_BINS,
    PER_CLASS_METRICS,
    MetricFunction,
    balanced_accuracy,
    recall_per_class,
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
    choose_thresholds,
    rates,
)
from skincnn.metrics.sample import Floats, Labels, Sample, Scores
from skincnn.metrics.seed_variance import estimate_recipe_difference, pool_seed_variance

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
SHARES = np.array([0.0327, 0.0513, 0.1097, 0.0115, 0.1111, 0.6695, 0.0142])
SHARES /= SHARES.sum()
MELANOMA, RAREST = 4, 3
IMAGES_PER_LESION = (0.74, 0.19, 0.07)
SIGNAL = 2.2
WITHIN_LESION = 0.6
"""Correlation of the features of two images of a lesion."""
METRIC_NAMES = (
    *("balanced_accuracy", "accuracy", "macro_f1", "macro_precision", "macro_auc"),
    *("macro_average_precision", "weighted_f1", "log_loss", "brier"),
)
CLASS_SCORES = ("recall", "specificity", "precision", "auc")
TEMPERATURES = {"0": 1.0, "small": 0.9, "large": 0.6}
"""Divisor of the calibrated logits for each size of the calibration error."""
POINTS = (OperatingPoint("specificity", 0.9), OperatingPoint("sensitivity", 0.9))
OWN_NOISE = {"similar models": 0.02, "different models": 0.2}
"""Share of the variance of the features that two models do not have in common."""
SEED_EFFECTS = {"none": 0.0, "small": 0.05, "large": 0.2}
"""Standard deviation of the signal across seeds."""
NUM_SEEDS = 3


@dataclass(frozen=True)
class Lesions:
    """Images of drawn lesions: labels, lesion ids, and features [num_images, 7]."""

    y_true: Labels
    groups: Sequence[str]
    features: Floats

    def probabilities(self, *, calibrated: bool = False, temperature: float = 1) -> Scores:
        """Returns the probabilities of a model, [num_images, 7]."""
        logits = SIGNAL * self.features + (np.log(SHARES) if calibrated else 0)
        return np.asarray(scipy.special.softmax(logits / temperature, axis=1))

    def model(self, rng: np.random.Generator, own: float, shift: float = 0) -> Scores:
        """Returns the probabilities of a model with noise of its own, [num_images, 7].

        The signal of the model is larger by `shift`.
        """
        signal = SIGNAL * np.eye(len(CLASSES))[self.y_true]
        noise = math.sqrt(1 - own) * (self.features - signal)
        noise = noise + math.sqrt(own) * rng.normal(size=noise.shape)
        features = noise + signal * (1 + shift / SIGNAL)
        return np.asarray(scipy.special.softmax(SIGNAL * features, axis=1))


@dataclass(frozen=True)
class Case:
    """One interval of one simulation, and the resamples from which it was computed."""

    name: str
    truth: float
    interval: Estimate
    values: Scores | None = None


@dataclass
class Row:
    """Coverage of one interval: counts over the simulations in which it exists."""

    name: str
    num: int = 0
    below: int = 0
    above: int = 0
    percentile: int = 0
    has_percentile: bool = False

    def add(self, case: Case) -> None:
        """Counts one simulation."""
        if case.interval.low is None or case.interval.high is None:
            return
        self.num += 1
        self.below += case.truth < case.interval.low
        self.above += case.truth > case.interval.high
        if case.values is not None:
            low, high = np.nanquantile(case.values[1:], (0.025, 0.975))
            self.has_percentile = True
            self.percentile += bool(low <= case.truth <= high)

    @property
    def coverage(self) -> float:
        """Share of the intervals that contain the true score."""
        return 1 - (self.below + self.above) / self.num


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
    return Lesions(label[lesion], [f"{number:08d}" for number in lesion], features)


class Simulation:
    """The true scores of the population, and simulations of test sets.

    Args:
        num_lesions: Number of lesions of a test set, and of a validation set.
        num_resamples: Number of bootstrap resamples.
        num_true: Number of lesions from which the true scores are computed.
    """

    def __init__(self, num_lesions: int, num_resamples: int, num_true: int) -> None:
        self.num_lesions, self.num_resamples = num_lesions, num_resamples
        population = draw(np.random.default_rng(0), num_true)
        sample = Sample(population.y_true, population.probabilities())
        self.true = {
            name: np.ravel(function(sample)) for name, function in _functions().items()
        }
        positive = population.y_true == MELANOMA
        score = population.probabilities()[:, MELANOMA]
        weights = np.ones((1, len(score)))
        self.true_rates = {
            point.key: rates(
                positive, score, choose_thresholds(positive, score, point, weights), weights
            )
            for point in POINTS
        }
        self.true_error = {
            size: _population_error(population, temperature)
            for size, temperature in TEMPERATURES.items()
        }

    def run(self, seed: int) -> Iterator[Case]:
        """Yields the intervals of one simulation."""
        rng = np.random.default_rng([1, seed])
        test, validation = draw(rng, self.num_lesions), draw(rng, self.num_lesions)
        weights = self._weights(test, seed)
        yield from self._scores(test, weights)
        yield from self._calibration(test, weights)
        yield from self._operating_points(test, validation, weights, seed)
        yield from self._differences(rng, test, weights)
        yield from self._recipes(rng, test, weights)

    def _weights(self, lesions: Lesions, seed: int) -> Resamples:
        images = np.arange(len(lesions.y_true)) + 10**8
        return bootstrap_weights(images, lesions.groups, self.num_resamples, seed)

    def _scores(self, test: Lesions, weights: Resamples) -> Iterator[Case]:
        y_prob = test.probabilities()
        supports = find_supports(test.groups, test.y_true, y_prob)
        for name, values in bootstrap(_functions(), test.y_true, y_prob, weights).items():
            columns = values.reshape(len(values), -1)
            intervals = estimate(values, supports=supports.get(name))
            shown = (0,) if name in METRICS else (RAREST, MELANOMA)
            for index in shown:
                label = name if name in METRICS else f"{name} of {CLASSES[index]}"
                truth = float(self.true[name][index])
                yield Case(label, truth, intervals[index], columns[:, index])

    def _calibration(self, test: Lesions, weights: Resamples) -> Iterator[Case]:
        functions: dict[str, MetricFunction] = {"gaps": calibration_gaps}
        for size, temperature in TEMPERATURES.items():
            y_prob = test.probabilities(calibrated=True, temperature=temperature)
            gaps = bootstrap(functions, test.y_true, y_prob, weights)["gaps"]
            truth = self.true_error[size]
            yield Case(
                f"RMS calibration error ({truth:.3f})",
                truth,
                rms_calibration_error(gaps, self.num_lesions),
                np.sqrt(np.square(gaps).sum(axis=1)),
            )

    def _operating_points(
        self, test: Lesions, validation: Lesions, weights: Resamples, seed: int
    ) -> Iterator[Case]:
        ones = np.ones((1, len(test.y_true)))
        chosen_on = np.vstack(
            [np.ones(len(validation.y_true)), self._weights(validation, seed + 10**6)]
        )
        positive, score = test.y_true == MELANOMA, test.probabilities()[:, MELANOMA]
        for point in POINTS:
            thresholds = choose_thresholds(
                validation.y_true == MELANOMA,
                validation.probabilities()[:, MELANOMA],
                point,
                chosen_on,
            )
            values = rates(positive, score, thresholds, np.vstack([ones, weights]))
            predicted = score >= thresholds[0]
            masks = np.stack([positive, ~positive, predicted, ~predicted], axis=1)
            counts = dict(zip(RATES, count_groups(test.groups, masks), strict=True))
            for rate in RATES:
                support = Support(
                    "mean" if rate in ("ppv", "npv") else "rate", (int(counts[rate]),)
                )
                [interval] = estimate(values[rate], supports=[support])
                truth = float(self.true_rates[point.key][rate][0])
                yield Case(f"{rate} at {point.key}", truth, interval, values[rate])

    def _differences(
        self, rng: np.random.Generator, test: Lesions, weights: Resamples
    ) -> Iterator[Case]:
        names = ("balanced_accuracy", "macro_f1", "log_loss")
        functions = {name: METRICS[name].function for name in names}
        functions["recall"] = recall_per_class
        for models, own in OWN_NOISE.items():
            first, second = (
                bootstrap(functions, test.y_true, test.model(rng, own), weights)
                for _ in range(2)
            )
            supports = find_supports(test.groups, test.y_true, test.probabilities())
            changes = {name: second[name] - first[name] for name in names}
            recall = second["recall"] - first["recall"]
            changes |= {f"recall of {CLASSES[i]}": recall[:, i] for i in (RAREST, MELANOMA)}
            known = {name: supports[name][0] for name in names if name in supports}
            known |= {
                f"recall of {CLASSES[i]}": supports["recall"][i] for i in (RAREST, MELANOMA)
            }
            for name, values in changes.items():
                difference = estimate_difference(values, support=known.get(name))
                label = f"difference in {name}, {models}"
                yield Case(label, 0.0, difference.estimate, values)

    def _recipes(
        self, rng: np.random.Generator, test: Lesions, weights: Resamples
    ) -> Iterator[Case]:
        functions: dict[str, MetricFunction] = {"score": balanced_accuracy}
        for size, effect in SEED_EFFECTS.items():
            recipes = [
                [
                    bootstrap(
                        functions,
                        test.y_true,
                        test.model(rng, 0.1, effect * rng.normal()),
                        weights,
                    )
                    for _ in range(NUM_SEEDS)
                ]
                for _ in range(2)
            ]
            variance = pool_seed_variance(recipes)
            assert variance is not None
            means = [np.mean([run["score"] for run in runs], axis=0) for runs in recipes]
            supports = find_supports(test.groups, test.y_true, test.probabilities())
            difference = estimate_recipe_difference(
                "score",
                means[1] - means[0],
                variance,
                (NUM_SEEDS, NUM_SEEDS),
                0.95,
                supports["balanced_accuracy"][0],
            )
            yield Case(
                f"difference of recipes, {NUM_SEEDS} seeds each, effect of seeds: {size}",
                0.0,
                difference.estimate,
                means[1] - means[0],
            )


def measure(
    num_simulations: int, num_lesions: int, num_resamples: int, num_true: int
) -> list[Row]:
    """Returns the coverage of each interval; for the arguments, see `Simulation`."""
    simulation = Simulation(num_lesions, num_resamples, num_true)
    rows: dict[str, Row] = {}
    for seed in tqdm(range(num_simulations), desc="Simulating", unit="test set"):
        for case in simulation.run(seed):
            rows.setdefault(case.name, Row(case.name)).add(case)
    return list(rows.values())


def to_markdown(rows: Sequence[Row], settings: Mapping[str, int]) -> str:
    """Returns the page docs/coverage.md."""
    error = math.sqrt(0.95 * 0.05 / settings["num_simulations"])
    header = ("interval", "coverage", "true score below", "above", "percentile bootstrap")
    lines = [
        "# Coverage of the confidence intervals",
        "",
        "Generated by `python -m benchmarks coverage`. "
        f"{settings['num_simulations']:,} simulated test sets of "
        f"{settings['num_lesions']:,} lesions, {settings['num_resamples']:,} resamples "
        "each; `benchmarks/coverage.py` describes the population. A 95 % interval should "
        "contain the true score in .95 of the test sets; the standard error of a coverage "
        f"of .95 is {error:.3f}. The last column is the coverage of the percentiles of the "
        "same resamples. Coverages outside .93 to .97 are bold.",
        "",
        f"The rarest class, df, has about {settings['num_lesions'] * SHARES[RAREST]:.0f} "
        "lesions in a test set, melanoma (mel) "
        f"{settings['num_lesions'] * SHARES[MELANOMA]:.0f}. The true rates at an operating "
        "point are those at the threshold that reaches it in the population. Compared "
        "models have the same true scores.",
        "",
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
    ]
    for row in rows:
        outside = not 0.93 <= round(row.coverage, 3) <= 0.97
        coverage = f"{row.coverage:.3f}"
        percentile = f"{row.percentile / row.num:.3f}" if row.has_percentile else ""
        cells = (
            row.name.replace("_", " "),
            f"**{coverage}**" if outside else coverage,
            f"{row.below / row.num:.3f}",
            f"{row.above / row.num:.3f}",
            percentile,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _functions() -> dict[str, MetricFunction]:
    functions = {name: METRICS[name].function for name in METRIC_NAMES}
    return functions | {name: PER_CLASS_METRICS[name] for name in CLASS_SCORES}


def _population_error(population: Lesions, temperature: float) -> float:
    """Returns the RMS calibration error of the population; 0 at temperature 1."""
    if temperature == 1:
        return 0.0
    y_prob = population.probabilities(calibrated=True, temperature=temperature)
    gaps = calibration_gaps(Sample(population.y_true, y_prob))
    assert gaps.shape == (NUM_BINS,)
    return float(np.sqrt(np.square(gaps).sum()))
