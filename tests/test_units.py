"""Scores of lesions, from the mean probabilities over their images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from run_dirs import CONFIG, make_cost, predict_lesions
from sklearn import metrics as reference

from skincnn.evaluation.results import SplitResult
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.inference.predictions import arrays, mean_over_images
from skincnn.reporting.decision_text import unit_scores

NAMES = ("bkl", "mel", "nv")


def make_table(seed: int, per_lesion: int) -> pd.DataFrame:
    """Returns predictions of 120 images; the images of a lesion have the same label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(120) // per_lesion % 3
    logits = rng.normal(0, 1, (120, 3)) + np.eye(3)[labels]
    return predict_lesions(labels, logits, NAMES, per_lesion)


def score(per_lesion: int) -> SplitResult:
    tables = {"val": make_table(0, per_lesion), "test": make_table(1, per_lesion)}
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


def test_lesions_of_one_image_have_the_scores_of_the_images() -> None:
    for _, image, lesion in unit_scores(score(1), "lesion"):
        assert image == lesion
