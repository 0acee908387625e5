"""Scores of lesions and of patients."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from run_dirs import CONFIG, make_cost, predict_lesions
from sklearn import metrics as reference

from skincnn.evaluation.results import SplitResult
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.inference.predictions import arrays, mean_over_images
from skincnn.reporting.text.decision_text import unit_scores

NAMES = ("bkl", "mel", "nv")


def make_table(seed: int, per_lesion: int) -> pd.DataFrame:
    """Returns predictions of 120 images; the images of a lesion have the same label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120) // per_lesion % 3
    logits = rng.normal(0, 1, (120, 3)) + np.eye(3)[labels]
    return predict_lesions(labels, logits, NAMES, per_lesion)


def score(per_lesion: int) -> SplitResult:
    return score_tables(
        {"val": make_table(0, per_lesion), "test": make_table(1, per_lesion)}
    )


def score_tables(tables: dict[str, pd.DataFrame]) -> SplitResult:
    as_is = InferenceVariant("", tables, make_cost(1))
    stored_in = dict.fromkeys(tables, "fold 9")
    return score_variants([as_is], stored_in, {}, CONFIG.evaluate)[1]["test"]


def test_probabilities_are_averaged_over_the_images_of_a_lesion() -> None:
    table = make_table(0, 3).sample(frac=1, random_state=0)
    lesions = mean_over_images(table, "lesion_id").set_index("lesion_id")
    assert len(lesions) == 40
    for lesion, rows in table.groupby("lesion_id"):
        expected = arrays(rows, NAMES)[1].mean(axis=0)
        row = lesions.loc[lesion, [f"probability_{name}" for name in NAMES]]
        np.testing.assert_allclose(row.to_numpy(float), expected, rtol=1e-6)
        assert lesions.loc[lesion, "label"] == rows["label"].iloc[0]


def test_scores_of_lesions_are_those_of_the_averages() -> None:
    result = score(3)
    units = result.units["lesion"]
    y_true, y_prob = arrays(mean_over_images(make_table(1, 3), "lesion_id"), NAMES)
    y_pred = y_prob.argmax(axis=1)
    melanoma, scores = y_true == 1, result.calibration_map.apply(y_prob)[:, 1]
    detected = scores >= result.thresholds["melanoma"]["specificity=0.90"]
    assert units.num_units == len(y_true) == 40
    values = {name: score.value for name, score in units.scores.items()}
    assert values == pytest.approx(
        {
            "balanced_accuracy": reference.balanced_accuracy_score(y_true, y_pred),
            "macro_f1": reference.f1_score(y_true, y_pred, average="macro"),
            "melanoma_auc": reference.roc_auc_score(melanoma, scores),
            "melanoma_sensitivity": detected[melanoma].mean(),
            "melanoma_specificity": 1 - detected[~melanoma].mean(),
        },
        abs=1e-6,
    )
    for score_of_lesions in units.scores.values():
        assert score_of_lesions.low < score_of_lesions.value < score_of_lesions.high
    # Averages over images are better than single images.
    assert values["melanoma_auc"] > result.targets["melanoma"].auc.value


def test_a_patient_is_detected_if_a_lesion_is() -> None:
    """Two lesions of three images per patient; the lesions have different labels."""
    patients = np.arange(120) // 6
    tables = {split: make_table(seed, 3) for seed, split in enumerate(("val", "test"))}
    tables = {
        split: table.assign(patient_id=patients.astype(str), group_id=patients.astype(str))
        for split, table in tables.items()
    }
    result = score_tables(tables)
    assert result.unit == "patient"
    assert (result.num_groups, result.characteristics.num_patients) == (20, 20)
    lesions = mean_over_images(tables["test"], "lesion_id")
    y_true, y_prob = arrays(lesions, NAMES)
    scores = result.calibration_map.apply(y_prob)[:, 1]
    threshold = result.thresholds["melanoma"]["specificity=0.90"]
    positive, detected, highest = [], [], []
    for patient in range(20):
        rows = (lesions["patient_id"] == str(patient)).to_numpy()
        positive.append((y_true[rows] == 1).any())
        detected.append((scores[rows] >= threshold).any())
        highest.append(scores[rows].max())
    is_melanoma = np.array(positive)
    assert result.units["patient"].num_units == 20
    values = {n: score.value for n, score in result.units["patient"].scores.items()}
    assert values == pytest.approx(
        {
            "melanoma_auc": reference.roc_auc_score(is_melanoma, highest),
            "melanoma_sensitivity": np.array(detected)[is_melanoma].mean(),
            "melanoma_specificity": 1 - np.array(detected)[~is_melanoma].mean(),
        },
        abs=1e-6,
    )


def test_units_that_are_not_known_have_no_scores() -> None:
    tables = {split: make_table(seed, 3) for seed, split in enumerate(("val", "test"))}
    first = tables["test"].index[0]
    tables["test"].loc[first, "lesion_id"] = ""
    result = score_tables(tables)
    assert (result.num_lesions, result.units) == (None, {})
    assert result.classes["bkl"].num_lesions is None
    assert result.classes["nv"].num_lesions == 13
    assert result.unit == "lesion"


def test_lesions_of_one_image_have_the_scores_of_the_images() -> None:
    for _, image, lesion in unit_scores(score(1), "lesion"):
        assert image == lesion
