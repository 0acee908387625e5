"""Sensitivity and specificity of subgroups, and differences between subgroups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_runs import TABLES
from run_dirs import score_test, write_run
from scipy.stats import binomtest

from skincnn.data.characteristics import MANY_VALUES, MAX_VALUES, UNKNOWN, align_values
from skincnn.evaluation.results import SplitResult
from skincnn.evaluation.subgroups import difference_from
from skincnn.inference.predictions import arrays
from skincnn.metrics.bootstrap import Estimate
from skincnn.reporting.checklist import complete_checklist
from skincnn.reporting.load import load_results
from skincnn.reporting.model_card import render_card
from skincnn.reporting.text.decision_text import (
    describe_attributes_without_subgroups,
    describe_different_subgroups,
)
from skincnn.reporting.text.report_text import baseline_rows


@pytest.fixture(scope="module")
def result() -> SplitResult:
    return score_test(TABLES)


def test_rates_are_those_of_the_images_of_the_subgroup(result: SplitResult) -> None:
    table = TABLES["test"]
    y_prob = arrays(table, result.class_names)[1]
    calibrated = result.calibration_map.apply(y_prob)[:, 1]
    threshold = result.thresholds["melanoma"]["specificity=0.90"]
    melanoma = (table["label"] == "mel").to_numpy()
    correct = (calibrated >= threshold) == melanoma
    known = (table["sex"] != "unknown").to_numpy()
    groups = {group.value: group for group in result.subgroups if group.attribute == "sex"}
    assert set(groups) == {"female", "male", "not known"}
    for value, group in groups.items():
        inside = (table["sex"] == value.replace("not known", "unknown")).to_numpy()
        target = group.targets["melanoma"]
        rows = table[inside & melanoma]
        assert target.num_images == len(rows)
        assert group.num_groups == table[inside]["group_id"].nunique()
        for name, images in (("sensitivity", melanoma), ("specificity", ~melanoma)):
            rate = correct[inside & images].mean()
            others = correct[~inside & known & images].mean()
            assert target.rates[name].value == pytest.approx(rate, abs=1e-6)
            difference = target.differences[name]
            assert difference.value == pytest.approx(rate - others, abs=2e-6)
            assert difference.low < difference.value < difference.high


def test_rates_of_few_lesions_are_left_out(result: SplitResult) -> None:
    [group] = [group for group in result.subgroups if group.value == "confocal"]
    assert group.targets["melanoma"].rates == {}
    assert group.targets["melanoma"].differences == {}
    [others] = [group for group in result.subgroups if group.value == "histo"]
    assert set(others.targets["melanoma"].rates) == {"sensitivity", "specificity"}
    assert others.targets["melanoma"].differences == {}


def with_sources(count: int) -> dict[str, pd.DataFrame]:
    """Returns tables whose images have this many sources, and one has none."""
    sources = [f"s{number % count}" for number in range(119)]
    return {name: table.assign(dataset=["", *sources]) for name, table in TABLES.items()}


@pytest.mark.parametrize("count", [MAX_VALUES, MAX_VALUES + 1, 119])
def test_an_attribute_with_too_many_values_has_no_subgroups(
    count: int, tmp_path: Path
) -> None:
    write_run(tmp_path, with_sources(count))
    results = load_results(tmp_path)
    result = results.headline
    values = [group.value for group in result.subgroups if group.attribute == "source"]
    rows = [row[1:] for row in baseline_rows(results) if row[0].startswith("source")]
    note = (
        "There are no subgroups by source (image set within the dataset), which has more "
        "than 30 different values."
    )
    items = {i.number: i.answer for i in complete_checklist(results, "tripod-ai").items}
    if count <= MAX_VALUES:
        assert len(values) == count + 1
        assert len(rows) == count + 1
        assert describe_attributes_without_subgroups(result) == ""
        return
    assert values == []
    assert {group.attribute for group in result.subgroups} == {"sex", "ground truth by"}
    assert [value for value, _ in rows] == [MANY_VALUES, UNKNOWN]
    assert describe_attributes_without_subgroups(result) == note
    assert render_card(results).count(note) == 1
    assert note in items["23b"]


def test_the_values_of_an_attribute_are_counted_alike_in_all_columns() -> None:
    few, many = {"a": 3, "b": 2, UNKNOWN: 1}, {MANY_VALUES: 90, UNKNOWN: 10}
    assert align_values([few, few]) == [few, few]
    assert align_values([few, many]) == [{MANY_VALUES: 5, UNKNOWN: 1}, many]


def test_the_interval_of_a_difference_is_that_of_newcombe() -> None:
    # Examples a, b and g of Newcombe (1998), table II, method 10.
    for first, second, expected in (
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((10, 10), (0, 20), (0.6791, 1.0)),
    ):
        scores = []
        for count, total in (first, second):
            ends = binomtest(count, total).proportion_ci(method="wilson")
            scores.append(Estimate(count / total, ends.low, ends.high))
        difference = difference_from(*scores)
        assert (difference.low, difference.high) == pytest.approx(expected, abs=6e-5)
        assert difference.value == pytest.approx(np.divide(*first) - np.divide(*second))
    assert difference_from(Estimate(0.5, None, None), scores[0]).low is None


def test_different_accuracies_are_described(result: SplitResult) -> None:
    histo = next(group for group in result.subgroups if group.value == "histo")

    def change(value: str, low: float, high: float) -> object:
        scores = {"accuracy": Estimate((low + high) / 2, low, high)}
        return histo.model_copy(update={"value": value, "scores": scores})

    def describe(*groups: object) -> str:
        return describe_different_subgroups(result.model_copy(update={"subgroups": groups}))

    pair = change("follow_up", 0.97, 0.99), change("histo", 0.5, 0.6)
    assert describe(*pair, change("consensus", 0.7, 0.9)) == (
        "Accuracy differs by how the diagnosis was established (histopathology 55 % "
        "[50, 60], follow-up 98 % [97, 99])."
    )
    assert describe(pair[1], change("consensus", 0.6, 0.9)) == ""
    assert describe(pair[0], change("not known", 0.1, 0.2)) == ""
