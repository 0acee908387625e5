"""The referral decision as a sentence."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from web_models import RULE

from skincnn.config import DataConfig
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.decision import (
    explain_decision,
    explain_rule,
    find_reason,
    percent,
)
from skincnn.serving.images import OK, UNREADABLE
from skincnn.serving.postprocessing import postprocess
from skincnn.serving.predictor import Predictor, predict_files
from skincnn.serving.saved_model import Predictions
from skincnn.serving.tables import csv_line, to_lines
from skincnn.serving.web.schemas import to_predictions


def prediction_of(
    malignant: float, distance: float, rule: DecisionRule = RULE
) -> dict[str, Any]:
    """Returns a prediction of two classes with the decisions of the rule."""
    refer, ood = rule.decide(np.array([[malignant, 1 - malignant]]), np.array([distance]))
    return {
        "status": OK.encode(),
        "probabilities": np.array([malignant, 1 - malignant], np.float32),
        "out_of_distribution": ood[0],
        "refer": refer[0],
    }


@pytest.mark.parametrize(
    ("malignant", "distance", "reason", "expected"),
    [
        (0.5, 0.1, "malignant", "is 50.0 %, at or above the referral threshold of 30.0 %"),
        (0.3, 0.1, "malignant", "is 30.0 %, at or above the referral threshold of 30.0 %"),
        (0.2, 0.1, "below_threshold", "is 20.0 %, below the referral threshold of 30.0 %"),
        (
            0.2999,
            0.1,
            "below_threshold",
            "30.0 %, just below the referral threshold of 30.0",
        ),
        (0.2, 0.9, "out_of_distribution", "differs strongly from the images for which"),
        (0.5, 0.9, "out_of_distribution", "differs strongly from the images for which"),
    ],
)
def test_the_sentence_matches_the_decision(
    malignant: float, distance: float, reason: str, expected: str
) -> None:
    prediction = prediction_of(malignant, distance)
    text = explain_decision(prediction, RULE)
    assert find_reason(prediction, RULE) == reason
    assert expected in text
    assert text.startswith("Refer to a" if prediction["refer"] else "Not referred")
    assert prediction["refer"] != ("does not rule out malignancy" in text)


def test_rounding_does_not_contradict_the_decision_of_the_model() -> None:
    """The sum of the probabilities in float32 may be on the other side of the threshold."""
    prediction = prediction_of(0.3 - 1e-7, 0.1)
    text = explain_decision({**prediction, "refer": np.True_}, RULE)
    assert "is 30.0 %, at or above the referral threshold of 30.0 %" in text


def test_sentences_without_a_threshold_and_for_unreadable_files() -> None:
    rule = RULE.model_copy(update={"threshold": None})
    prediction = prediction_of(0.5, 0.1, rule)
    assert find_reason(prediction, rule) == "no_threshold"
    assert "has no referral threshold" in explain_decision(prediction, rule)
    unreadable = {**prediction, "status": UNREADABLE.encode(), "refer": np.True_}
    assert find_reason(unreadable, rule) == "unreadable"
    assert "not a readable image" in explain_decision(unreadable, rule)


def test_nothing_is_said_about_a_referral_if_malignant_classes_are_not_known() -> None:
    rule = RULE.model_copy(update={"class_names": ("one", "two"), "threshold": None})
    prediction = prediction_of(0.5, 0.1, rule)
    unreadable = {**prediction, "status": UNREADABLE.encode()}
    for case, reason, expected in (
        (prediction, "no_target", "it is not known which classes are malignant"),
        (prediction_of(0.5, 0.9, rule), "out_of_distribution", "differs strongly"),
        (unreadable, "unreadable", "not a readable image"),
    ):
        text = explain_decision(case, rule)
        assert find_reason(case, rule) == reason
        assert expected in text
        assert "Refer" not in text
    assert explain_rule(rule).startswith("The model refers no image, because it is")
    [result] = to_predictions(["a.jpg"], in_batch(prediction), rule)
    assert result.refer is result.malignant_probability is None


def in_batch(prediction: dict[str, Any]) -> dict[str, Any]:
    """Returns the outputs of a model without a target for a batch of one image."""
    outputs = {
        **{name: values for name, values in prediction.items() if name != "refer"},
        "predicted_class": b"one",
        "in_prediction_set": np.array([True, False]),
        "ood_distance": 0.1,
    }
    return {name: [values] for name, values in outputs.items()}


@pytest.mark.parametrize(
    ("max_distance", "expected"), [(None, [None] * 3), (0.6, [False, True, None])]
)
def test_nothing_is_said_about_ood_without_detection_and_for_unreadable_files(
    max_distance: float | None, expected: list[bool | None]
) -> None:
    rule = RULE.model_copy(update={"max_distance": max_distance})

    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        is_readable = tf.constant([content != b"" for content in contents])
        distances = tf.constant([0.1, 0.9, 0.9])
        outputs = postprocess([tf.zeros((3, 2))], [distances], is_readable, rule)
        return {name: value.numpy() for name, value in outputs.items()}

    predictor = Predictor("keras", rule, DataConfig(), False, False, predict)
    names, contents = ["a", "b", "c"], [b"a", b"b", "unreadable: text"]
    table = predict_files(predictor, list(map(Path, names)), contents, pd.DataFrame())
    lines = list(map(json.loads, to_lines(table, as_json=True)))
    assert [line["out_of_distribution"] for line in lines] == expected
    text = "\n".join([csv_line(table), *to_lines(table, as_json=False)])
    cells = pd.read_csv(io.StringIO(text), dtype={"out_of_distribution": "boolean"})
    pd.testing.assert_series_equal(
        cells["out_of_distribution"], table["out_of_distribution"]
    )
    outputs = predictor.predict([b"a", b"b", b""], pd.DataFrame())
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
