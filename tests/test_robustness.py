"""Scores on corrupted images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from run_dirs import make_cost, predict_lesions
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score

from skincnn.config import AugmentConfig, Config, EvaluateConfig
from skincnn.errors import DataError
from skincnn.evaluation import robustness
from skincnn.evaluation.results import (
    SplitResult,
)
from skincnn.evaluation.robustness import (
    TRAINED_BY,
    CorruptionResult,
    CorruptionScores,
    score_corruptions,
    trained_corruptions,
)
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.inference.corruptions import CORRUPTIONS, corrupt
from skincnn.inference.predictions import arrays, class_names_of
from skincnn.metrics.bootstrap import Estimate
from skincnn.metrics.calibration import CalibrationMap
from skincnn.model.augment import AUGMENTATIONS
from skincnn.records import to_json

NAMES = ["bkl", "mel", "nv"]
CONFIG = Config(seed=3, evaluate=EvaluateConfig(num_bootstrap=100))
CALIBRATION_MAP = CalibrationMap(temperature=1.7, bias=(-0.2, 0.3, -0.1))
THRESHOLD = 0.4
Predict = Callable[[np.ndarray, slice], np.ndarray]


def test_corruptions_that_resemble_an_augmentation_are_listed() -> None:
    assert trained_corruptions(AugmentConfig(parts=())) == ()
    assert trained_corruptions(AugmentConfig(magnitude=0)) == ()
    default = trained_corruptions(AugmentConfig())
    assert default == ("brightness", "contrast", "color_cast", "zoom")
    parts = ("hair", "ruler", "blur", "light", "hue", "flip")
    some = trained_corruptions(AugmentConfig(parts=parts, contrast=0, hairs=0))
    assert some == ("brightness", "blur", "defocus", "ruler")
    assert set(TRAINED_BY) < set(CORRUPTIONS)
    assert {part for parts in TRAINED_BY.values() for part in parts} < set(AUGMENTATIONS)
    jitter = AugmentConfig(parts=("jitter", "crop"), brightness=0)
    assert trained_corruptions(jitter) == ("contrast", "zoom")


def predict_color(images: np.ndarray, rows: slice | None = None) -> np.ndarray:
    """Returns logits that increase with the means of red, green and blue."""
    assert images.dtype == np.uint8
    assert rows is None or len(images) == rows.stop - rows.start <= 128
    means = images.mean(axis=(1, 2)) / 255
    return (8 * (means - means.mean(axis=1, keepdims=True))).astype(np.float32)


def make_table(images: np.ndarray, classes: tuple[int, ...] = (0, 1, 2)) -> pd.DataFrame:
    """Returns predictions of pairs of images, whose labels repeat these classes."""
    labels, logits = np.resize(classes, len(images)), predict_color(images)
    return predict_lesions(labels, logits, NAMES)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Returns uniform images whose largest channel is usually that of their class."""
    rng = np.random.default_rng(0)
    levels = rng.uniform(80, 160, (30, 3)) + 60 * np.eye(3)[np.arange(30) % 3]
    return np.repeat(levels.astype(np.uint8)[:, None], 64, axis=1).reshape(30, 8, 8, 3)


def make_clean(table: pd.DataFrame, threshold: float | None = THRESHOLD) -> SplitResult:
    """Returns the result of a table, with `CALIBRATION_MAP` and this melanoma threshold."""
    tables = {"val": table, "test": table}
    variant = InferenceVariant("", tables, make_cost(1))
    stored_in = {"val": "fold 8", "test": "fold 9"}
    result = score_variants([variant], stored_in, {}, CONFIG.evaluate)[1]["test"]
    thresholds = result.thresholds
    if "melanoma" in thresholds:
        points = {**thresholds["melanoma"], "specificity=0.90": threshold}
        thresholds = {**thresholds, "melanoma": points}
    return result.model_copy(
        update={"calibration_map": CALIBRATION_MAP, "thresholds": thresholds}
    )


def score(
    images: np.ndarray,
    table: pd.DataFrame,
    predict: Predict = predict_color,
    threshold: float | None = THRESHOLD,
    config: Config = CONFIG,
) -> CorruptionResult:
    clean = make_clean(table, threshold)
    return score_corruptions(predict, images, table, clean, config)


@pytest.fixture(scope="module")
def result(images: np.ndarray) -> CorruptionResult:
    return score(images, make_table(images))


def test_scores_match_a_direct_computation(
    images: np.ndarray, result: CorruptionResult
) -> None:
    labels = np.arange(30) % 3
    rows = {(row.name, row.severity): row.scores for row in result.rows}
    assert len(rows) == len(result.rows) == 5 * len(CORRUPTIONS)
    expected = {("clean", 0): images}
    for name in CORRUPTIONS:
        expected[name, 4] = corrupt(images, name, 4, seed=3)
    rows["clean", 0] = result.clean
    for case, corrupted in expected.items():
        y_prob = softmax(predict_color(corrupted), axis=1)
        scores = rows[case]
        balanced = balanced_accuracy_score(labels, y_prob.argmax(axis=1))
        assert scores.balanced_accuracy.value == pytest.approx(balanced, abs=1e-6)
        flagged = CALIBRATION_MAP.apply(y_prob)[:, 1] >= THRESHOLD
        assert scores.melanoma_sensitivity is not None
        assert scores.melanoma_specificity is not None
        sensitivity, specificity = flagged[labels == 1].mean(), ~flagged[labels != 1]
        assert scores.melanoma_sensitivity.value == pytest.approx(sensitivity, abs=1e-6)
        assert scores.melanoma_specificity.value == pytest.approx(
            specificity.mean(), abs=1e-6
        )
    assert (result.split, result.num_images) == ("test", 30)
    assert result.trained == trained_corruptions(CONFIG.augment)
    assert "NaN" not in json.dumps(to_json(result))


def test_differences_are_paired_with_the_clean_images(result: CorruptionResult) -> None:
    clean = result.clean.balanced_accuracy.value
    for row in result.rows:
        difference = row.difference
        expected = row.scores.balanced_accuracy.value - clean
        assert difference.value == pytest.approx(expected, abs=2e-6)
        assert difference.low <= difference.value <= difference.high
    # These corruptions do not change uniform images: no prediction differs.
    same = [row for row in result.rows if row.name in ("blur", "zoom", "motion")]
    assert {row.difference.value for row in same} == {0.0}
    assert all(row.difference.low == -row.difference.high < 0 for row in same)
    assert min(row.difference.value for row in result.rows if row not in same) < -0.1


@pytest.fixture
def three_corruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restricts the corruptions to three, to save time."""
    some = {name: CORRUPTIONS[name] for name in ("contrast", "noise", "hairs")}
    monkeypatch.setattr(robustness, "CORRUPTIONS", some)


@pytest.mark.usefixtures("three_corruptions")
def test_the_result_does_not_depend_on_the_chunk_size(
    images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, table = images[:12], make_table(images[:12])
    at_once = score(few, table)
    monkeypatch.setattr(robustness, "CHUNK", 7)
    sizes = set()

    def predict(chunk: np.ndarray, rows: slice) -> np.ndarray:
        np.testing.assert_array_equal(rows.start % 7, 0)
        sizes.add(len(chunk))
        return predict_color(chunk, rows)

    assert score(few, table, predict) == at_once
    assert sizes == {7, 5}
    assert score(few, table, config=dataclasses.replace(CONFIG, seed=4)) != at_once


def all_scores(result: CorruptionResult) -> list[CorruptionScores]:
    return [result.clean, *(row.scores for row in result.rows)]


@pytest.mark.usefixtures("three_corruptions")
def test_without_melanoma_its_rates_are_missing(images: np.ndarray) -> None:
    few = images[:6]
    for scores in all_scores(score(few, make_table(few), threshold=None)):
        assert scores.melanoma_sensitivity is scores.melanoma_specificity is None
    # The class exists but has no images.
    clean = score(few, make_table(few, classes=(0, 2))).clean
    assert clean.melanoma_sensitivity == Estimate(None, None, None)
    assert clean.melanoma_specificity.value is not None
    assert clean.balanced_accuracy.value is not None
    table = make_table(few).rename(columns={"probability_mel": "probability_df"})
    table["label"] = table["label"].replace("mel", "df")
    assert class_names_of(table) == ["bkl", "df", "nv"]
    for scores in all_scores(score(few, table)):
        assert scores.melanoma_sensitivity is scores.melanoma_specificity is None


def test_images_that_do_not_match_the_predictions_are_rejected(images: np.ndarray) -> None:
    table = make_table(images)
    with pytest.raises(DataError, match="does not match these images"):
        score(np.roll(images, 1, axis=0), table)
    with pytest.raises(DataError, match="29 images and 30 predictions"):
        score(images[1:], table)


def test_the_model_receives_the_rows_of_the_table(images: np.ndarray) -> None:
    table = make_table(images)
    y_prob = arrays(table, NAMES)[1]

    def look_up(chunk: np.ndarray, rows: slice) -> np.ndarray:
        return np.log(y_prob[rows]).astype(np.float32)

    differences = {row.difference for row in score(images, table, look_up).rows}
    assert {difference.value for difference in differences} == {0.0}
