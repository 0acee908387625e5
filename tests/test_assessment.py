"""What is said of predictions tables, from subgroups to the whole of report.json."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp, softmax
from sklearn import metrics as reference

from skincnn.config import EvaluateConfig
from skincnn.evaluation.scoring import assess, calibrated_values
from skincnn.evaluation.subgroups import UNKNOWN, age_band, score_subgroups
from skincnn.inference.predictions import arrays, predictions_table
from skincnn.metrics.bootstrap import bootstrap_weights, estimate
from skincnn.metrics.classification import METRICS, PER_CLASS_METRICS
from skincnn.metrics.operating_points import OPERATING_POINTS
from skincnn.reporting import plots
from skincnn.reporting.report import draw_figures, summary

NAMES = ["bkl", "df", "mel", "nv"]
CONFIG = EvaluateConfig(num_bootstrap=200)


def make_table(seed: int, num_images: int = 200, num_classes: int = 4) -> pd.DataFrame:
    """Predictions of the first `num_classes` of four classes, of pairs of pictures."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    logits = rng.normal(0, 1, (num_images, 4)) + 1.5 * np.eye(4)[labels]
    rows = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(num_images)],
            "lesion_id": [f"l{n // 2}" for n in range(num_images)],
            "label": labels,
            "sex": rng.choice(["female", "male", "unknown"], num_images),
            "age": rng.choice([20.0, 50.0, np.nan], num_images),
            "dataset": np.where(np.arange(num_images) < 3, "rare", "common"),
            "localization": "unknown",
            "sha256": "",
        }
    )
    return predictions_table(rows, logits.astype(np.float32), NAMES)


@pytest.fixture(scope="module")
def report() -> dict:
    tables = {"val": make_table(0), "test": make_table(1)}
    return assess(tables, NAMES, CONFIG)


def test_the_energy_gives_the_logits_back() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (20, 4)).astype(np.float32)
    rows = pd.DataFrame({"label": np.arange(20) % 4, "sha256": ""})
    table = predictions_table(rows, logits, NAMES)
    np.testing.assert_allclose(table["energy"], -logsumexp(logits, axis=1), rtol=1e-5)
    _, y_prob = arrays(table, NAMES)
    np.testing.assert_allclose(y_prob, softmax(logits, axis=1), rtol=1e-5)
    back = np.log(y_prob) - table["energy"].to_numpy()[:, None]
    np.testing.assert_allclose(back, logits, atol=1e-4)


def test_every_score_has_its_interval(report: dict) -> None:
    assert "NaN" not in json.dumps(report)
    scores = report["splits"]["test"]
    assert set(scores["metrics"]) == set(METRICS)
    assert (scores["num_images"], scores["num_lesions"]) == (200, 100)
    found = list(scores["metrics"].values())
    for name in NAMES:
        of = scores["classes"][name]
        assert (of["num_images"], of["num_lesions"]) == (50, 50)
        found += [of[metric] for metric in PER_CLASS_METRICS]
    for value in found:
        assert value["low"] <= value["value"] <= value["high"]
        assert value["low"] < value["high"]


def test_what_is_chosen_is_chosen_on_validation(report: dict) -> None:
    other = assess({"val": make_table(0), "test": make_table(2)}, NAMES, CONFIG)
    assert other["temperature"] == report["temperature"]
    assert other["thresholds"] == report["thresholds"]
    assert set(report["thresholds"]) == {"melanoma", "malignant"}
    for name, point in zip(report["thresholds"]["melanoma"], OPERATING_POINTS, strict=True):
        rates = report["splits"]["val"]["targets"]["melanoma"]["operating_points"][name]
        assert rates[point.metric]["value"] >= point.minimum
        on_test = report["splits"]["test"]["targets"]["melanoma"]["operating_points"][name]
        assert on_test["threshold"] == rates["threshold"]


def test_the_temperature_serves_validation_and_changes_no_accuracy(report: dict) -> None:
    of = report["splits"]["val"]["calibration"]
    assert of["after"]["log_loss"]["value"] <= of["before"]["log_loss"]["value"]
    table = make_table(1)
    y_true, y_prob = arrays(table, NAMES)
    expected = reference.roc_auc_score(y_true == 2, y_prob[:, 2])
    found = report["splits"]["test"]["targets"]["melanoma"]["auc"]["value"]
    assert found == pytest.approx(expected, abs=0.02)  # one T, another order of pictures


def test_calibrated_values_are_those_of_the_report(report: dict) -> None:
    tables = {"val": make_table(0), "test": make_table(1)}
    for split, table in tables.items():
        weights = bootstrap_weights(
            table["image_id"], table["lesion_id"], CONFIG.num_bootstrap
        )
        values = calibrated_values(table, tables["val"], NAMES, weights)
        scores = report["splits"][split]
        melanoma = scores["targets"]["melanoma"]
        point = melanoma["operating_points"]["90 % specificity"]
        expected = {
            "melanoma_auc": melanoma["auc"],
            "melanoma_sensitivity": point["sensitivity"],
            "melanoma_specificity": point["specificity"],
            "calibrated_ece": scores["calibration"]["after"]["ece"],
        }
        found = {
            name: dataclasses.asdict(estimate(value, CONFIG.confidence)[0])
            for name, value in values.items()
        }
        assert found == expected


def test_a_threshold_that_no_melanoma_passes_leaves_its_rates_unknown() -> None:
    table = make_table(0)
    validation = make_table(1)
    probabilities = [f"probability_{name}" for name in NAMES]
    validation[probabilities] = [0.3, 0.2, 0.2, 0.3]
    weights = bootstrap_weights(table["image_id"], table["lesion_id"], 100)
    values = calibrated_values(table, validation, NAMES, weights)
    assert np.isnan(values["melanoma_sensitivity"]).all()
    assert np.isnan(values["melanoma_specificity"]).all()
    assert not np.isnan(values["melanoma_auc"]).any()
    values = calibrated_values(
        table.query("label == 'nv'"), validation, NAMES, weights[:, : len(table) // 4]
    )
    assert np.isnan(values["melanoma_auc"]).all()


def test_a_missing_class_is_said(report: dict) -> None:
    tables = {"val": make_table(0), "test": make_table(1, num_classes=3)}
    found = assess(tables, NAMES, CONFIG)
    scores = found["splits"]["test"]
    assert scores["missing_classes"] == ["nv"]
    assert scores["classes"]["nv"]["recall"] == {"value": None, "low": None, "high": None}
    assert scores["metrics"]["balanced_accuracy"]["value"] is not None
    assert "NaN" not in json.dumps(found)
    said = finish(found)
    assert "no picture of      nv" in summary(said)


def test_subgroups_are_the_rows_with_their_value() -> None:
    table = make_table(3)
    groups = score_subgroups(table, NAMES, 200)
    by_name = {(group.attribute, group.value): group for group in groups}
    women = table[table["sex"] == "female"]
    found = by_name["sex", "female"]
    assert (found.num_images, found.num_lesions) == (
        len(women),
        women["lesion_id"].nunique(),
    )
    y_true, y_prob = arrays(women, NAMES)
    expected = reference.balanced_accuracy_score(y_true, y_prob.argmax(axis=1))
    assert found.scores["balanced_accuracy"].value == pytest.approx(expected, abs=1e-6)
    assert ("sex", UNKNOWN) in by_name
    # Three pictures are too few for a score, and are counted all the same.
    assert by_name["source", "rare"].num_images == 3
    assert by_name["source", "rare"].scores == {}
    # Nothing is known of the site, and dx_type is no column of this table.
    assert {group.attribute for group in groups} == {"age band", "sex", "source"}
    for attribute in ("age band", "sex", "source"):
        of = [group.num_images for group in groups if group.attribute == attribute]
        assert sum(of) == len(table)


def test_a_score_of_all_or_none_is_not_certain() -> None:
    table = make_table(1)
    columns = [f"probability_{name}" for name in NAMES]
    table[columns] = np.eye(4)[arrays(table, NAMES)[0]]
    found = assess({"val": make_table(0), "test": table}, NAMES, CONFIG)
    content = found["splits"]["test"]
    points = content["targets"]["melanoma"]["operating_points"]["90 % specificity"]
    rates = [content["classes"]["mel"][name] for name in ("recall", "precision")]
    rates += [content["metrics"]["accuracy"], points["sensitivity"], points["npv"]]
    rates += [g["scores"]["accuracy"] for g in content["subgroups"] if g["scores"]]
    assert len(rates) > 8
    for rate in rates:
        assert rate["value"] == rate["high"] == 1
        assert rate["low"] < 1
    # 50 pictures of melanoma are of 50 lesions, all pictures of 100.
    assert rates[0]["low"] == pytest.approx(0.025 ** (1 / 50), abs=1e-6)
    assert points["sensitivity"] == rates[0]
    assert content["metrics"]["accuracy"]["low"] == pytest.approx(
        0.025 ** (1 / 100), abs=1e-6
    )


def test_six_pictures_of_three_lesions_are_too_few() -> None:
    table = make_table(3).assign(dataset="common")
    table.loc[:5, "dataset"] = "rare"  # six pictures of three lesions
    groups = score_subgroups(table, NAMES, 200)
    [rare] = [group for group in groups if group.value == "rare"]
    assert (rare.num_images, rare.num_lesions, rare.scores) == (6, 3, {})


def test_age_bands_begin_with_their_first_year() -> None:
    ages = pd.DataFrame({"age": [0, 29.9, 30, 44, 45, 60, 75, 90, np.nan]})
    assert age_band(ages).astype(str).tolist() == [
        *["under 30"] * 2,
        *["30 to 44"] * 2,
        "45 to 59",
        "60 to 74",
        *["75 and over"] * 2,
        UNKNOWN,
    ]


def finish(found: dict) -> dict:
    """What `evaluate` adds before it draws and sums up."""
    for content in found["splits"].values():
        content["fold"] = "fold 0"
    return {
        **found,
        "class_names": NAMES,
        "synthetic": True,
        "dataset": "x",
        "best_epoch": 1,
        "split_by": "lesion",
    }


def test_every_figure_is_drawn_even_without_a_class() -> None:
    tables = {"val": make_table(0), "test": make_table(1, num_classes=3)}
    found = finish(assess(tables, NAMES, CONFIG))
    history = pd.DataFrame({"epoch": [1, 2], "loss": [1, 0.5], "val_accuracy": [0.4, 0.5]})
    figures = draw_figures(found, tables, history)
    kinds = ("confusion_matrix", "roc", "precision_recall", "reliability")
    kinds += ("decision_curve", "subgroups")
    assert set(figures) == {"learning_curves", "confusion_matrix_val"} | {
        f"{kind}_test" for kind in kinds
    }
    for figure in figures.values():
        assert plots.to_png(figure).startswith(b"\x89PNG")
    titles = [axes.get_title() for axes in figures["roc_test"].axes]
    counted = [title.partition(":")[0] for title in titles]
    assert counted[:4] == ["bkl (n = 67)", "df (n = 67)", "mel (n = 66)", "no nv"]
