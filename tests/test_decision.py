"""The referral decision as a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from web_models import RULE, make_outputs

from skincnn.config import DataConfig
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.decision import explain_rule, percent
from skincnn.serving.predictor import Predictor, predict_files
from skincnn.serving.tables import to_text
from skincnn.serving.web.schemas import ImagePrediction, to_predictions

UNKNOWN = {"class_names": ("one", "two"), "threshold": None}
HALF = {"threshold": 0.5}  # float32 and its softmax are exact
BENIGN = {"class_names": ("nv", "bkl"), "threshold": None}


def predict(
    malignant: float, distance: float, rule: DecisionRule, **changes: Any
) -> ImagePrediction:
    """Returns a prediction from `make_outputs`, whose outputs are replaced by `changes`."""
    outputs = make_outputs([malignant], [distance], rule)
    (prediction,) = to_predictions(["a.jpg"], {**outputs, **changes}, rule)
    return prediction


@pytest.mark.parametrize(
    ("malignant", "distance", "changes", "reason", "expected"),
    [
        (0.5, 0.1, {}, "malignant", "50.0 %, at or above the referral threshold of 30.0 %"),
        (0.5, 0.1, HALF, "malignant", "50.0 %, at or above the referral threshold of 50.0"),
        (0.2, 0.1, {}, "below_threshold", "20.0 %, below the referral threshold of 30.0 %"),
        (0.2999, 0.1, {}, "below_threshold", "30.0 %, just below the referral threshold"),
        (0.2, 0.9, {}, "out_of_distribution", "differs strongly from the images for which"),
        (0.5, 0.9, {}, "out_of_distribution", "differs strongly from the images for which"),
        (0, 0.1, {}, "unreadable", "not a readable image"),
        (0.5, 0.1, {"threshold": None}, "no_threshold", "has no referral threshold"),
        (0, 0.1, {"threshold": None}, "unreadable", "not a readable image"),
        (0.5, 0.1, UNKNOWN, "no_target", "it is not known which classes are malignant"),
        (0.5, 0.9, UNKNOWN, "out_of_distribution", "differs strongly"),
        (0, 0.1, UNKNOWN, "unreadable", "not a readable image"),
        (0.5, 0.1, BENIGN, "no_target", "all of its classes are benign"),
    ],
)
def test_the_sentence_matches_the_decision(
    malignant: float, distance: float, changes: dict[str, Any], reason: str, expected: str
) -> None:
    rule = RULE.model_copy(update=changes)
    prediction = predict(malignant, distance, rule)
    text = prediction.explanation
    assert prediction.reason == reason
    assert expected in text
    if reason == "no_target":
        assert f"refers no image, because {expected}. " in explain_rule(rule)
    if rule.target is None:
        assert "Refer" not in text
        assert prediction.refer is prediction.malignant_probability is None
    else:
        assert text.startswith("Refer to a" if prediction.refer else "Not referred")
        is_stated = "does not rule out malignancy" in text
        assert is_stated == (not prediction.refer or reason == "unreadable")


def test_rounding_does_not_contradict_the_decision_of_the_model() -> None:
    """The sum of the probabilities in float32 may be on the other side of the threshold."""
    prediction = predict(0.3 - 1e-7, 0.1, RULE, refer=[True])
    text = "is 30.0 %, at or above the referral threshold of 30.0 %"
    assert text in prediction.explanation


@pytest.mark.parametrize(
    ("max_distance", "expected"), [(None, [None] * 3), (0.6, [False, True, None])]
)
def test_nothing_is_said_about_ood_without_detection_and_for_unreadable_files(
    max_distance: float | None, expected: list[bool | None]
) -> None:
    rule = RULE.model_copy(update={"max_distance": max_distance})
    outputs = make_outputs([0.5, 0.5, 0], [0.1, 0.9, 0.9], rule)
    predictor = Predictor("keras", rule, DataConfig(), False, False, lambda *_: outputs)
    names = ["a", "b", "c"]
    table = predict_files(predictor, [*map(Path, names)], [b""] * 3, pd.DataFrame())
    lines = map(json.loads, to_text(table, as_json=True).splitlines())
    assert [line["out_of_distribution"] for line in lines] == expected
    results = to_predictions(names, outputs, rule)
    assert [result.out_of_distribution for result in results] == expected


@pytest.mark.parametrize("max_distance", [None, 0.6])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_the_rule_is_explained(threshold: float | None, max_distance: float | None) -> None:
    update = {"threshold": threshold, "max_distance": max_distance}
    text = explain_rule(RULE.model_copy(update=update))
    assert ("lesion is at least 30 %. On" in text) == (threshold is not None)
    assert ("it gave a sensitivity of at least 90 %" in text) == (threshold is not None)
    assert ("no referral threshold" in text) == (threshold is None)
    assert ("misses some unsuitable images" in text) == (max_distance is not None)
    assert ("does not check whether an image is suitable" in text) == (max_distance is None)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, "0.0"), (1e-6, "< 0.1"), (0.1234, "12.3"), (0.99999, "> 99.9"), (1, "100.0")],
)
def test_no_probability_is_rounded_to_certainty(share: float, expected: str) -> None:
    assert percent(share) == f"{expected} %"
