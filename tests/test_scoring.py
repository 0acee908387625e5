"""Scores of predictions tables, from subgroups to the whole result."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from run_dirs import make_cost, predict_lesions
from sklearn import metrics as reference

from skincnn.config import EvaluateConfig
from skincnn.data.leakage import SplitLeakage
from skincnn.evaluation.resampled import VALIDATION_SEED, Resampled, seed_of
from skincnn.evaluation.results import SplitResult
from skincnn.evaluation.scoring import (
    InferenceVariant,
    calibrated_values,
    find_support,
    score_variants,
)
from skincnn.evaluation.triage import choose_on_validation
from skincnn.inference.predictions import PROBABILITY_PREFIX, arrays, table_sha256
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.classification import METRICS, PER_CLASS_METRICS
from skincnn.metrics.operating_points import OPERATING_POINTS
from skincnn.records import to_json
from skincnn.reporting.text.report_text import find_melanoma

NAMES = ["bkl", "df", "mel", "nv"]
CONFIG = EvaluateConfig(num_bootstrap=200)
STORED_IN = {"val": "fold 8", "test": "fold 9"}


def make_table(seed: int, num_images: int = 200, num_classes: int = 4) -> pd.DataFrame:
    """Returns predictions of pairs of images, with the first `num_classes` classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    return predict_lesions(
        labels,
        rng.normal(0, 1, (num_images, 4)) + 1.5 * np.eye(4)[labels],
        NAMES,
        sex=rng.choice(["female", "male", "unknown"], num_images),
        age=rng.choice([20.0, 50.0, np.nan], num_images),
        dataset=np.where(np.arange(num_images) < 6, "rare", "common"),
        localization="unknown",
    )


def score(tables: Mapping[str, pd.DataFrame]) -> dict[str, SplitResult]:
    """Returns the results of the model as is."""
    as_is = InferenceVariant("", tables, make_cost(1))
    return score_variants([as_is], STORED_IN, {}, CONFIG)[1]


@pytest.fixture(scope="module")
def results() -> dict[str, SplitResult]:
    return score({"val": make_table(0), "test": make_table(1)})


def test_every_score_has_an_interval(results: dict[str, SplitResult]) -> None:
    result = results["test"]
    assert set(result.metrics) == set(METRICS)
    assert (result.num_images, result.num_lesions) == (200, 100)
    estimates = list(result.metrics.values())
    for name in NAMES:
        class_scores = result.classes[name]
        assert (class_scores.num_images, class_scores.num_lesions) == (50, 50)
        assert set(class_scores.scores) == set(PER_CLASS_METRICS)
        estimates += class_scores.scores.values()
    ece = result.metrics["ece"]
    assert ece.value is not None
    assert ece.low is ece.high is None  # no interval would be valid
    estimates.remove(ece)
    for score in estimates:
        assert score.low <= score.value <= score.high
        assert score.low < score.high
    assert (result.confidence, result.num_bootstrap, result.num_groups) == (0.95, 200, 100)
    assert result.unit == "lesion"


def test_a_result_identifies_its_tables(results: dict[str, SplitResult]) -> None:
    for split, result in results.items():
        assert (result.split, result.variant) == (split, "")
        assert result.stored_in == STORED_IN[split]
        assert result.validation_sha256 == results["val"].predictions_sha256
        assert result.cost == make_cost(1)
        assert result.leakage is result.logit_adjustment is None
        assert result.differences == {}
    assert results["test"].predictions_sha256 == table_sha256(make_table(1))


def test_metrics_and_confusion_matrix_are_those_of_scikit_learn(
    results: dict[str, SplitResult],
) -> None:
    y_true, y_prob = arrays(make_table(1), NAMES)
    y_pred = y_prob.argmax(axis=1)
    result = results["test"]
    expected = reference.confusion_matrix(y_true, y_pred)
    np.testing.assert_array_equal(result.confusion_matrix, expected)
    for name, value in {
        "accuracy": reference.accuracy_score(y_true, y_pred),
        "balanced_accuracy": reference.balanced_accuracy_score(y_true, y_pred),
        "macro_f1": reference.f1_score(y_true, y_pred, average="macro"),
        "macro_auc": reference.roc_auc_score(
            y_true, y_prob / y_prob.sum(axis=1, keepdims=True), multi_class="ovr"
        ),
        "log_loss": -np.log(y_prob[np.arange(200), y_true]).mean(),
    }.items():
        assert result.metrics[name].value == pytest.approx(value, abs=1e-6), name
    recalls = reference.recall_score(y_true, y_pred, average=None)
    for name, recall in zip(NAMES, recalls, strict=True):
        assert result.classes[name].scores["recall"].value == pytest.approx(
            recall, abs=1e-6
        )


def test_several_classes_of_melanoma_are_one_target() -> None:
    names = {"df": "melanoma in situ", "mel": "melanoma invasive"}
    columns = {
        PROBABILITY_PREFIX + old: PROBABILITY_PREFIX + new for old, new in names.items()
    }

    def rename(seed: int) -> pd.DataFrame:
        return make_table(seed).replace({"label": names}).rename(columns=columns)

    as_is = InferenceVariant("", {"val": rename(0), "test": rename(1)}, make_cost(1))
    d4 = InferenceVariant("d4", {"val": rename(2), "test": rename(3)}, make_cost(8))
    results = score_variants([as_is, d4], STORED_IN, {}, CONFIG)[1]
    recalls = []
    for seed, result in ((1, results["test"]), (3, results["test.d4"])):
        y_true, y_prob = arrays(make_table(seed), NAMES)
        positive, predicted = (np.isin(x, (1, 2)) for x in (y_true, y_prob.argmax(axis=1)))
        recalls.append(reference.recall_score(positive, predicted))
        melanoma, shown = result.targets["melanoma"], find_melanoma(result)
        assert melanoma.num_images == shown.num_images == 100
        assert melanoma.recall.value == pytest.approx(recalls[-1], abs=1e-6)
        assert shown.recall == melanoma.recall
        assert shown.num_missed == (positive & ~predicted).sum()
        assert set(shown.mistaken_for) <= {"bkl", "nv"}
    difference = results["test.d4"].differences["melanoma_recall"]
    assert difference.value == pytest.approx(recalls[1] - recalls[0], abs=1e-5)


def test_choices_are_made_on_validation_only(results: dict[str, SplitResult]) -> None:
    others = score({"val": make_table(0), "test": make_table(2)})
    choices = choose_on_validation(Resampled(make_table(0), CONFIG))
    for result in (*results.values(), *others.values()):
        assert result.calibration_map == choices.calibration_map
        assert result.thresholds == choices.thresholds
        for target, scores in result.targets.items():
            assert choices.thresholds[target] == {
                key: point.threshold for key, point in scores.operating_points.items()
            }
    assert set(choices.thresholds) == {"melanoma", "malignant"}
    points = results["val"].targets["melanoma"].operating_points
    for point in OPERATING_POINTS:
        assert points[point.key].rates[point.metric].value >= point.minimum


def test_calibration_improves_validation_and_keeps_the_auc(
    results: dict[str, SplitResult],
) -> None:
    calibration = results["val"].calibration
    assert calibration.after["log_loss"].value <= calibration.before["log_loss"].value
    y_true, y_prob = arrays(make_table(1), NAMES)
    expected = reference.roc_auc_score(y_true == 2, y_prob[:, 2])
    # Calibration may slightly change the order of the images.
    auc = results["test"].targets["melanoma"].auc.value
    assert auc == pytest.approx(expected, abs=0.02)


def test_calibrated_values_are_those_of_the_result(results: dict[str, SplitResult]) -> None:
    tables = {"val": make_table(0), "test": make_table(1)}
    for split, table in tables.items():
        validation = Resampled(tables["val"], CONFIG, VALIDATION_SEED)
        sample = Resampled(table, CONFIG, seed_of(split))
        values = calibrated_values(sample, validation)
        result = results[split]
        melanoma = result.targets["melanoma"]
        rates = melanoma.operating_points["specificity=0.90"].rates
        expected = {
            "melanoma_auc": melanoma.auc,
            "melanoma_sensitivity": rates["sensitivity"],
            "melanoma_specificity": rates["specificity"],
            "calibrated_log_loss": result.calibration.after["log_loss"],
        }
        assert expected == {
            name: sample.estimate(value, find_support(sample, name))
            for name, value in values.items()
        }


def test_rates_are_unknown_without_a_threshold() -> None:
    table = make_table(0)
    validation = make_table(1)
    validation[[f"probability_{name}" for name in NAMES]] = [0.3, 0.2, 0.2, 0.3]
    resampled = Resampled(validation, CONFIG)
    values = calibrated_values(Resampled(table, CONFIG), resampled)
    assert np.isnan(values["melanoma_sensitivity"]).all()
    assert np.isnan(values["melanoma_specificity"]).all()
    assert not np.isnan(values["melanoma_auc"]).any()
    point = score({"val": validation, "test": table})["test"].targets["melanoma"]
    assert point.operating_points["specificity=0.90"].threshold is None
    assert point.operating_points["specificity=0.90"].rates == {}
    nevi = table.query("label == 'nv'")
    values = calibrated_values(Resampled(nevi, CONFIG), resampled)
    assert np.isnan(values["melanoma_auc"]).all()


def test_a_missing_class_is_reported() -> None:
    tables = {"val": make_table(0), "test": make_table(1, num_classes=3)}
    result = score(tables)["test"]
    assert result.missing_classes == ("nv",)
    assert result.classes["nv"].scores["recall"] == Estimate(None, None, None)
    assert result.classes["nv"].num_images == 0
    y_true, y_prob = arrays(tables["test"], NAMES)
    recalls = reference.recall_score(
        y_true, y_prob.argmax(axis=1), labels=[0, 1, 2], average=None
    )
    balanced = result.metrics["balanced_accuracy"].value
    assert balanced == pytest.approx(recalls.mean(), abs=1e-6)
    assert "NaN" not in json.dumps(to_json(result))


def test_a_variant_is_scored_like_the_model_as_is_and_compared_with_it() -> None:
    tables = {"val": make_table(0), "test": make_table(1)}
    others = {"val": make_table(2), "test": make_table(3)}
    as_is = InferenceVariant("", tables, make_cost(1))
    d4 = InferenceVariant("d4", others, make_cost(8))
    adjusted = InferenceVariant("adjusted", tables, make_cost(1), 0.3)
    leakage = {"test": SplitLeakage(0, 1, None, 2, 3)}
    written, results = score_variants([as_is, d4, adjusted], STORED_IN, leakage, CONFIG)
    names = [
        f"{split}{variant}" for variant in ("", ".d4", ".adjusted") for split in STORED_IN
    ]
    assert list(written) == list(results) == names
    alone = score(others)["test"]
    result = results["test.d4"]
    assert result.variant == "d4"
    assert (result.metrics, result.targets) == (alone.metrics, alone.targets)
    assert result.validation_sha256 == results["val.d4"].predictions_sha256
    assert result.calibration_map == alone.calibration_map
    assert result.calibration_map != results["test"].calibration_map
    assert result.cost.num_views == 8
    assert {result.leakage for result in results.values() if result.split == "test"} == {
        leakage["test"]
    }
    for name in METRICS:
        value, before = result.metrics[name].value, results["test"].metrics[name].value
        assert result.differences[name].value == pytest.approx(value - before, abs=2e-6)
    recalls = [results[name].classes["mel"].scores["recall"].value for name in names[1:4:2]]
    assert result.differences["melanoma_recall"].value == pytest.approx(
        recalls[1] - recalls[0], abs=2e-6
    )
    # The differences of identical predictions are exactly 0, but not known exactly.
    assert results["test.adjusted"].logit_adjustment == 0.3
    same = results["test.adjusted"].differences
    assert {difference.value for difference in same.values()} == {0}
    square = scipy.stats.norm.ppf(0.975) ** 2
    limit = square / (50 + square)  # no pair of the 50 melanomas differs
    assert same["melanoma_recall"].high == pytest.approx(limit, abs=1e-6)
    assert same["melanoma_recall"].low == pytest.approx(-limit, abs=1e-6)
    assert same["log_loss"] == Estimate(0.0, None, None)


def test_subgroups_are_the_rows_with_their_value() -> None:
    table = make_table(3)
    groups = score({"val": make_table(0), "test": table})["test"].subgroups
    by_name = {(group.attribute, group.value): group for group in groups}
    women = table[table["sex"] == "female"]
    group = by_name["sex", "female"]
    assert (group.num_images, group.num_groups) == (
        len(women),
        women["lesion_id"].nunique(),
    )
    y_true, y_prob = arrays(women, NAMES)
    expected = reference.balanced_accuracy_score(y_true, y_prob.argmax(axis=1))
    assert group.scores["balanced_accuracy"].value == pytest.approx(expected, abs=1e-6)
    assert group.class_names == tuple(NAMES)
    # Three lesions are too few to be scored, but they are counted.
    rare = by_name["source", "rare"]
    assert (rare.num_images, rare.num_groups, rare.scores) == (6, 3, {})
    for target in rare.targets.values():
        assert target.rates == target.differences == {}
    # The site of all images is unknown, and the table has no column dx_type.
    assert {group.attribute for group in groups} == {"age band", "sex", "source"}
    for attribute in ("age band", "sex", "source"):
        sizes = [group.num_images for group in groups if group.attribute == attribute]
        assert sum(sizes) == len(table)


def test_a_perfect_score_has_an_interval() -> None:
    table = make_table(1)
    columns = [f"probability_{name}" for name in NAMES]
    table[columns] = np.eye(4)[arrays(table, NAMES)[0]]
    result = score({"val": make_table(0), "test": table})["test"]
    rates = result.targets["melanoma"].operating_points["specificity=0.90"].rates
    perfect = [result.classes["mel"].scores[name] for name in ("recall", "precision")]
    perfect += [result.metrics["accuracy"], rates["sensitivity"], rates["npv"]]
    perfect += [group.scores["accuracy"] for group in result.subgroups if group.scores]
    assert len(perfect) > 8
    for rate in perfect:
        assert rate.value == rate.high == 1
        assert rate.low < 1
    # The 50 melanoma images are of 50 lesions, all 200 images of 100.
    square = scipy.stats.norm.ppf(0.975) ** 2
    assert perfect[0].low == pytest.approx(50 / (50 + square), abs=1e-6)
    assert rates["sensitivity"] == perfect[0]
    assert result.metrics["accuracy"].low == pytest.approx(100 / (100 + square), abs=1e-6)


def test_intervals_at_an_operating_point_cover_the_choice_of_the_threshold() -> None:
    tables = {"val": make_table(0), "test": make_table(1)}
    result = score(tables)["test"].targets["melanoma"]
    sample = Resampled(tables["test"], CONFIG)
    choices = choose_on_validation(Resampled(tables["val"], CONFIG))
    y_true, y_prob = sample.arrays
    melanoma = sample.targets["melanoma"]
    score_of_melanoma = melanoma.score(choices.calibration_map.apply(y_prob))
    widths: list[list[float]] = [[], []]
    for point in result.operating_points.values():
        fixed = sample.rates(melanoma.positive(y_true), score_of_melanoma, point.threshold)
        for name, rate in point.rates.items():
            assert rate.value == fixed[name].value
            for column, estimate in zip(widths, (rate, fixed[name]), strict=True):
                column.append(estimate.high - estimate.low)
    assert np.mean(widths[0]) > 1.1 * np.mean(widths[1])


def test_a_goal_is_missed_if_the_whole_interval_is_below_it() -> None:
    test = make_table(1)
    wrong = test.assign(label=np.roll(test["label"], 1))
    values_below = []
    for table in (test, wrong):
        result = score({"val": make_table(0), "test": table})["test"].targets["melanoma"]
        for key, point in result.operating_points.items():
            metric, minimum = key.split("=")
            rate = point.rates[metric]
            assert point.missed == (rate.high < float(minimum))
            values_below += [point.missed] * (rate.value < float(minimum))
    assert set(values_below) == {False, True}


def test_groups_are_resampled_not_lesions() -> None:
    table = make_table(1)
    joined = table.assign(group_id=[f"g{n // 8}" for n in range(len(table))])
    results = [score({"val": make_table(0), "test": t})["test"] for t in (table, joined)]
    assert [result.num_groups for result in results] == [100, 25]
    assert results[0].num_lesions == results[1].num_lesions == 100
    values = [result.metrics["log_loss"] for result in results]
    assert values[0].value == values[1].value
    assert values[0] != values[1]
