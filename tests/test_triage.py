"""Scores of the referral rule, compared with a direct NumPy computation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from run_dirs import make_cost, make_table

from skincnn.config import EvaluateConfig
from skincnn.evaluation.ood import distance_limit
from skincnn.evaluation.results import SplitResult
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.inference.predictions import arrays

NAMES = ("bcc", "bkl", "mel", "nv")
MALIGNANT = ["bcc", "mel"]
Tables = Mapping[str, pd.DataFrame]
TABLES = {split: make_table(split, 0.6, names=NAMES) for split in ("val", "test")}


def score(
    tables: Tables,
    max_distance: Literal["chosen"] | None = "chosen",
) -> dict[str, SplitResult]:
    config = EvaluateConfig(num_bootstrap=200)
    stored_in = dict.fromkeys(tables, "fold 9")
    only = InferenceVariant("", tables, make_cost(1))
    limit = distance_limit(tables["val"]) if max_distance == "chosen" else max_distance
    results = score_variants([only], stored_in, {}, config, limit)[1]
    return {result.split: result for result in results.values()}


@pytest.fixture(scope="module")
def results() -> dict[str, SplitResult]:
    return score(TABLES)


@pytest.mark.parametrize("split", TABLES)
def test_scores_match_a_direct_computation(
    split: str, results: dict[str, SplitResult]
) -> None:
    table, result = TABLES[split], results[split]
    triage = result.triage
    assert triage is not None
    y_prob = arrays(table, NAMES)[1]
    calibrated = result.calibration_map.apply(y_prob)
    far = table["distance"].to_numpy() > np.quantile(TABLES["val"]["distance"], 0.95)
    refer = (calibrated[:, [0, 2]].sum(axis=1) >= triage.threshold) | far
    malignant = table["label"].isin(MALIGNANT).to_numpy()
    melanoma = (table["label"] == "mel").to_numpy()
    for name, expected in {
        "sensitivity": refer[malignant].mean(),
        "specificity": 1 - refer[~malignant].mean(),
        "ppv": malignant[refer].mean(),
        "npv": 1 - malignant[~refer].mean(),
        "referred": refer.mean(),
        "melanoma_referred": refer[melanoma].mean(),
    }.items():
        rate = triage.rates[name] if name in triage.rates else getattr(triage, name)
        assert rate.value == pytest.approx(expected, abs=1e-6), name
        assert rate.low <= expected <= rate.high
        assert rate.low < rate.high
    # The rule uses both the threshold and the distance.
    point = result.targets["malignant"].operating_points["sensitivity=0.90"]
    assert triage.operating_point == "sensitivity=0.90"
    assert triage.threshold == point.threshold
    assert triage.rates["specificity"].value < point.rates["specificity"].value
    assert triage.referred.value > far.mean() > 0


@pytest.mark.parametrize("name", ["melanoma", "malignant"])
@pytest.mark.parametrize("split", TABLES)
def test_the_calibration_of_a_target_matches_a_loop(
    name: str, split: str, results: dict[str, SplitResult]
) -> None:
    table, result = TABLES[split], results[split]
    labels = ["mel"] if name == "melanoma" else MALIGNANT
    calibrated = result.calibration_map.apply(arrays(table, NAMES)[1])
    score = calibrated[:, [NAMES.index(label) for label in labels]].sum(axis=1)
    positive = table["label"].isin(labels).to_numpy()
    calibration = result.targets[name].calibration
    ratio = calibration.scores["observed_expected"]
    assert ratio.value == pytest.approx(positive.sum() / score.sum(), abs=1e-6)
    if split == "val":  # up to the penalty of the fit
        assert ratio.value == pytest.approx(1, abs=0.02)
    for estimate in calibration.scores.values():
        assert estimate.low < estimate.value < estimate.high
    assert sum(band.num_images for band in calibration.bands) == len(table)
    for band in calibration.bands:
        rows = (score >= band.low) & ((score < band.high) | (band.high == 1))
        assert band.num_images == rows.sum()
        if rows.any():
            assert band.predicted == pytest.approx(score[rows].mean(), abs=1e-6)
            assert band.observed.value == pytest.approx(positive[rows].mean(), abs=1e-6)
        else:
            assert (band.predicted, band.observed.value) == (None, None)


def test_calibration_counts_the_images_whose_most_probable_class_changes(
    results: dict[str, SplitResult],
) -> None:
    y_prob = arrays(TABLES["test"], NAMES)[1]
    result = results["test"]
    calibrated = result.calibration_map.apply(y_prob)
    changed = calibrated.argmax(axis=1) != y_prob.argmax(axis=1)
    assert result.calibration.num_changed == changed.sum() > 0
    # The predicted classes, and the scores of them, are those before calibration.
    y_true = arrays(TABLES["test"], NAMES)[0]
    accuracy = (y_prob.argmax(axis=1) == y_true).mean()
    assert result.metrics["accuracy"].value == pytest.approx(accuracy, abs=1e-6)


def test_without_a_threshold_only_out_of_distribution_images_are_referred() -> None:
    benign = TABLES["val"][~TABLES["val"]["label"].isin(MALIGNANT)]
    result = score({"val": benign, "test": TABLES["test"]})["test"]
    triage = result.triage
    assert triage is not None
    assert triage.threshold is None
    assert triage.max_distance == np.quantile(benign["distance"], 0.95)
    far = (TABLES["test"]["distance"] > triage.max_distance).mean()
    assert triage.referred.value == pytest.approx(far, abs=1e-6)


def test_without_melanoma_images_their_share_is_unknown() -> None:
    benign = TABLES["test"][~TABLES["test"]["label"].isin(MALIGNANT)]
    triage = score({"val": TABLES["val"], "test": benign})["test"].triage
    assert triage is not None
    assert triage.melanoma_referred is not None
    assert triage.melanoma_referred.value is None
    assert triage.referred.value is not None


def rename_classes(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    columns = {f"probability_{old}": f"probability_{new}" for old, new in names.items()}
    return table.rename(columns=columns).assign(label=table["label"].replace(names))


def test_without_a_melanoma_class_its_share_is_none() -> None:
    names = {"mel": "scc"}
    tables = {split: rename_classes(table, names) for split, table in TABLES.items()}
    triage = score(tables)["test"].triage
    assert triage is not None
    assert triage.melanoma_referred is None


def test_without_detection_only_the_threshold_refers(
    results: dict[str, SplitResult],
) -> None:
    tables = {split: table.drop(columns="distance") for split, table in TABLES.items()}
    result = score(tables, max_distance=None)["test"]
    triage, with_detection = result.triage, results["test"].triage
    assert triage is not None
    assert with_detection is not None
    assert triage.max_distance is None
    assert triage.threshold == with_detection.threshold
    point = result.targets["malignant"].operating_points[triage.operating_point]
    assert triage.rates["sensitivity"].value == point.rates["sensitivity"].value
    assert triage.rates["specificity"].value == point.rates["specificity"].value


@pytest.mark.parametrize("case", ["no rule", "no malignant class"])
def test_some_results_have_no_triage(case: str) -> None:
    tables: Tables = TABLES
    if case == "no rule":
        benign = TABLES["val"][~TABLES["val"]["label"].isin(MALIGNANT)]
        without = score({"val": benign, "test": TABLES["test"]}, max_distance=None)
        assert [result.triage for result in without.values()] == [None, None]
        return
    names = {"mel": "df", "bcc": "vasc"}
    tables = {split: rename_classes(table, names) for split, table in tables.items()}
    assert [result.triage for result in score(tables).values()] == [None, None]
