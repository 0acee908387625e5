"""The simulation of the coverage of confidence intervals."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from benchmarks.__main__ import measure_coverage
from benchmarks.coverage.cases import PARTS, Part, Simulation
from benchmarks.coverage.population import MELANOMA, Population, draw
from benchmarks.coverage.smallest import smallest_coverage, smallest_coverage_of_difference
from skincnn.errors import ConfigError


@pytest.fixture(scope="module")
def population() -> Population:
    return Population(20_000)


def test_the_calibrated_population_is_calibrated(population: Population) -> None:
    """The share of melanoma in a band is the mean probability of the band."""
    y_prob = draw(np.random.default_rng(1), 20_000).probabilities(calibrated=True)
    score = y_prob[:, MELANOMA]
    for index, (low, high) in {0: (0, 0.02), 3: (0.1, 0.2), 7: (0.8, 1)}.items():
        expected = score[(score >= low) & (score <= high)].mean()
        assert population.bands[index] == pytest.approx(expected, abs=0.04)
    assert population.calibration_errors[1.0] == 0
    assert 0.01 < population.calibration_errors[0.9] < population.calibration_errors[0.6]


def test_the_true_rates_are_those_of_the_threshold(population: Population) -> None:
    melanoma = population.melanoma
    rates = melanoma.rates(melanoma.threshold("specificity=0.90"))
    assert rates["specificity"] == pytest.approx(0.9, abs=1e-3)
    assert melanoma.rates(melanoma.threshold("sensitivity=0.90"))[
        "sensitivity"
    ] == pytest.approx(0.9, abs=1e-3)
    y_prob = draw(np.random.default_rng(1), 20_000).probabilities(calibrated=True)
    threshold = 0.3
    expected = (y_prob[:, MELANOMA] >= threshold).mean()
    assert melanoma.flagged(threshold) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.function.__name__)
def test_each_part_yields_intervals(part: Part, population: Population) -> None:
    simulation = Simulation(population, 400, 100)
    cases = list(part.function(simulation, np.random.default_rng(0), 0))
    names = [case.name for case in cases]
    assert len(set(names)) == len(names) > 2
    with_ends = [case for case in cases if case.interval.low is not None]
    assert len(with_ends) > len(cases) / 2
    inside = [case.interval.low <= case.truth <= case.interval.high for case in with_ends]
    assert np.mean(inside) > 0.6


def test_too_few_resamples_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_bootstrap` must be >= 100\. Received: 99"):
        measure_coverage(num_resamples=99, num_true=1000, output=tmp_path / "coverage.md")


@pytest.mark.parametrize(("count", "rate"), [(9, 0.8), (3, 0.5), (12, 0.02)])
def test_the_smallest_coverage_is_found(count: int, rate: float) -> None:
    """An interval misses the rate for all counts up to a limit and from another limit."""
    probabilities = scipy.stats.binom.pmf(np.arange(count + 1), count, rate)
    coverages = [
        probabilities[first:last].sum()
        for first, last in itertools.combinations(range(count + 2), 2)
    ]
    expected = min(c for c in coverages if c >= 0.93)
    assert smallest_coverage(count, rate) == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, 4, 5, 7])
def test_the_smallest_coverage_of_a_difference_is_found(count: int) -> None:
    """Here, an interval misses 0 if the absolute sum of the signs exceeds a limit."""
    sums = np.abs([sum(s) for s in itertools.product((-1, 1), repeat=count)])
    coverages = [np.mean(sums <= limit) for limit in range(count + 1)]
    expected = min(c for c in coverages if c >= 0.93)
    assert 0.93 <= smallest_coverage_of_difference(count) <= expected
    if count <= 5:
        assert smallest_coverage_of_difference(count) == expected


def test_the_page_contains_each_part(tmp_path: Path) -> None:
    path = tmp_path / "coverage.md"
    measure_coverage(1, 300, 100, 5_000, 1, path)
    text = path.read_text()
    assert all(f"## {part.title}" in text for part in PARTS)
    assert "| log loss | 4 |" in text
