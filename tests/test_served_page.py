"""The text of the page of scripts/serve.py."""

from __future__ import annotations

import logging
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import jpeg
from page_server import text_of, upload

from skincnn.classes import LesionClass, describe
from skincnn.config import DataConfig
from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.predictor import Predict, Predictions, Predictor
from skincnn.serving.web import app
from skincnn.serving.web.page import (
    FAILED,
    PageModel,
    distinguish,
    list_reasons,
    load_page_model,
    percent,
    render,
    render_prediction,
)

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
RULE = DecisionRule(
    class_names=("mel", "nv"),
    set_thresholds=(0.1, 0.2),
    calibration_map=CalibrationMap(temperature=1.5, bias=(-0.2, 0.2)),
    threshold=0.3,
    max_distance=0.6,
)
LIMIT = "95 % of the reference images have a distance of at most 0.6."


@pytest.fixture(scope="module")
def model(run: Run) -> PageModel:
    return load_page_model(run[0])


def page_model(predict: Predict, *, clinical_metadata: bool = False) -> PageModel:
    predictor = Predictor("keras", RULE, DataConfig(), False, clinical_metadata, predict)
    return PageModel(predictor, None)


def prediction_of(
    malignant: float, distance: float, rule: DecisionRule = RULE
) -> dict[str, Any]:
    """Returns a prediction of two classes with the decisions of the rule."""
    probabilities = np.array([malignant, 1 - malignant], np.float32)
    refer, ood = rule.decide(np.array([[malignant, 1 - malignant]]), np.array([distance]))
    return {
        "probabilities": probabilities,
        "ood_distance": np.float32(distance),
        "out_of_distribution": ood[0],
        "refer": refer[0],
    }


@pytest.mark.parametrize(
    ("malignant", "distance", "expected"),
    [
        (0.5, 0.1, ["up to 50.0 %. This is at or above 30.0 %", "was not flagged"]),
        (0.3, 0.1, ["up to 30.0 %. This is at or above 30.0 %", "was not flagged"]),
        (0.2, 0.1, ["up to 20.0 %. This is below 30.0 %", "is 0.1; the limit is 0.6."]),
        (0.2999, 0.1, ["29.99 %. This is below 30.00 %", "was not flagged"]),
        (0.299998, 0.1, ["29.9998 %. This is below 30.0000 %", "was not flagged"]),
        (0.30002, 0.9, ["is 0.9; 95 %", "30.002 %. This is at or above 30.000 %"]),
        (0.2, 0.9, [f"is 0.9; {LIMIT}", "is below"]),
        (0.5, 0.9, [f"is 0.9; {LIMIT}", "at or above"]),
        (0.2, 0.60004, [f"is 0.60004; {LIMIT}", "is below"]),
        (0.2, 0.59996, ["is below", "features) is 0.59996; the limit is 0.6."]),
        (0.2, 0.6, ["is below", "features) is 0.6; the limit is 0.6."]),
    ],
)
def test_the_reasons_match_the_decision(
    malignant: float, distance: float, expected: list[str]
) -> None:
    reasons = [
        text_of(one).replace(" the referral threshold of", "")
        for one in list_reasons(prediction_of(malignant, distance), RULE)
    ]
    assert len(reasons) == len(expected)
    for sentence, part in zip(reasons, expected, strict=True):
        assert part in sentence
    threshold = "this threshold gave a sensitivity of at least 90 % for malignant lesions"
    assert threshold in " ".join(reasons)


@pytest.mark.parametrize(
    ("step", "refer", "expected"),
    [
        (0, True, "30.0 %. This is at or above the referral threshold of 30.0 %"),
        (-1, True, "30.0 %. This is at or above the referral threshold of 30.0 %"),
        (0, False, "30.0 %. This is just below the referral threshold of 30.0 %"),
        (1, False, "30.0 %. This is just below the referral threshold of 30.0 %"),
    ],
)
def test_rounding_does_not_contradict_the_decision_of_the_model(
    step: int, refer: bool, expected: str
) -> None:
    threshold = np.float32(RULE.threshold)
    prediction = prediction_of(float(threshold + step * np.spacing(threshold)), 0.1)
    reasons = list_reasons({**prediction, "refer": np.bool_(refer)}, RULE)
    assert expected in text_of(reasons[0])


def test_reasons_without_a_threshold_and_with_unknown_classes() -> None:
    without = RULE.model_copy(update={"threshold": None})
    assert list_reasons(prediction_of(0.5, 0.1, without), without)[0] == (
        "This model has no referral threshold for malignant lesions. It refers no image "
        "because of a high probability of malignancy, only if the image is flagged as "
        "out-of-distribution."
    )
    neither = without.model_copy(update={"max_distance": None})
    first, second = list_reasons(prediction_of(0.5, 0.9, neither), neither)
    assert first.endswith("because of a high probability of malignancy.")
    assert "does not check whether an image is suitable" in second
    own = RULE.model_copy(update={"class_names": ("mel", "freckle")})
    for distance in (0.1, 0.9):
        [reason] = list_reasons(prediction_of(0.5, distance, own), own)
        assert "malignant" not in reason


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, "0.0"), (1e-6, "< 0.1"), (0.1234, "12.3"), (0.99999, "> 99.9"), (1, "100.0")],
)
def test_no_probability_is_rounded_to_certainty(share: float, expected: str) -> None:
    assert percent(share).replace("\N{NO-BREAK SPACE}", " ") == f"{expected} %"


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.0003, 0.0005), "0.03 % 0.05 %"),
        ((0.99995, 0.9996), "> 99.99 % 99.96 %"),
        ((0.0, 0.0004), "0.0 % < 0.1 %"),
        ((1e-9, 1e-10), "< 0.1 % < 0.1 %"),
        ((0.5, 0.5), "50.0 % 50.0 %"),
    ],
)
def test_different_probabilities_are_distinguished(
    shares: tuple[float, float], expected: str
) -> None:
    assert text_of(" ".join(distinguish(*shares)).replace("<", "&lt;")) == expected


def test_the_page_shows_the_prediction_of_the_model(model: PageModel) -> None:
    content = jpeg()
    predictions = model.predictor.predict([content], pd.DataFrame())
    page = render_prediction(model, content, "a <b> & c.jpg", {})
    text = text_of(page)
    assert "a <b> & c.jpg" in text
    probabilities = predictions["probabilities"][0]
    class_names = model.predictor.rule.class_names
    classes = describe(class_names)
    before = predictions["uncalibrated_probabilities"][0]
    best = class_names[before.argmax()]
    number = percent(float(probabilities[before.argmax()]))
    heading = f"Predicted class: {classes[best].full_name}, {text_of(number)}"
    assert heading in text
    most_probable = classes[class_names[probabilities.argmax()]].full_name
    is_other = probabilities.argmax() != before.argmax()
    assert (f"{most_probable} has a higher probability" in text) == is_other
    for name, probability in zip(class_names, probabilities, strict=True):
        mark = " malignant" if classes[name].malignant else ""
        number = text_of(percent(float(probability)))
        assert f"{classes[name].full_name} {name}{mark} {number}" in text
    assert ("Refer to" in text) == bool(predictions["refer"][0])
    assert page.count('<img src="data:image/png;base64,') == 2
    assert len(re.findall(r"<img [^>]*alt=\"[^\"]{20,}\"", page)) == 2


@pytest.mark.parametrize("ood", [True, False])
@pytest.mark.parametrize("refer", [True, False])
def test_an_out_of_distribution_image_gets_a_warning(
    ood: bool, refer: bool, model: PageModel
) -> None:
    def predict(*inputs: Any) -> Predictions:
        return {
            **model.predictor.predict(*inputs),
            "out_of_distribution": np.array([ood]),
            "refer": np.array([ood or refer]),
        }

    rule = model.predictor.rule.model_copy(update={"max_distance": 0.5})
    predictor = replace(model.predictor, predict=predict, rule=rule)
    page = render_prediction(replace(model, predictor=predictor), jpeg(), "x", {})
    text = text_of(page)
    assert ("This image may be unsuitable for the model" in text) == ood
    assert ("The image was flagged as out-of-distribution" in text) == ood
    assert ("Refer to a dermatologist" in text) == (ood or refer)
    assert ("Not referred" in text) == ("This does not rule out malignancy" in text)
    assert ("Not referred" in text) == (not ood and not refer)
    # The malignancy of one class is not known.
    unknown = {"bkl": LesionClass("bkl", "benign keratosis-like lesion", None)}
    undeclared = replace(predictor, rule=rule.model_copy(update={"declared": unknown}))
    text = text_of(render_prediction(replace(model, predictor=undeclared), jpeg(), "x", {}))
    assert "Suitability of the image" in text
    assert ("This image may be unsuitable for the model" in text) == ood
    assert "refer" not in text.lower().replace("reference", "").replace("different", "")


def test_an_unreadable_file_gets_no_prediction(model: PageModel) -> None:
    page = render_prediction(model, b"this is text", "text.jpg", {})
    text = text_of(page)
    assert "This file is not a readable image" in text
    assert "Unreadable: expected a complete image file (JPEG, PNG" in text
    assert "at most 30,000,000 bytes and 50,000,000 pixels" in text
    assert "<img" not in page
    assert "%" not in text


def test_a_format_without_feature_maps_has_no_overlay(
    run: Run, model: PageModel, caplog: pytest.LogCaptureFixture
) -> None:
    saved_model = load_page_model(run[0] / "export/skincnn")
    assert "Grad-CAM requires the feature maps" in caplog.text
    pages = [render_prediction(one, jpeg(), "x.jpg", {}) for one in (model, saved_model)]
    assert "No heat map (Grad-CAM) is available for this model file." in text_of(pages[1])
    images = [re.findall(r'src="([^"]+)"', page) for page in pages]
    assert images[0][:1] == images[1], "the same model input"


def test_a_model_with_clinical_metadata_gets_the_fields(tmp_path: Path) -> None:
    received: list[dict[Any, Any]] = []

    def predict(contents: Any, metadata: pd.DataFrame) -> Predictions:
        received.append(metadata.to_dict("records")[0])
        return {"status": np.array([b"unreadable"]), "predicted_class": np.array([b""])}

    handle = app.make_handler(page_model(predict, clinical_metadata=True), tmp_path)
    for fields in (("", None, None), (" 50", "female", "back")):
        assert "Unreadable." in handle(upload(tmp_path), *fields)[1]
    assert np.isnan(received[0].pop("age"))
    assert received == [
        {"sex": "unknown", "localization": "unknown"},
        {"age": 50, "sex": "female", "localization": "back"},
    ]
    for age in ("-1", "121", "nan", "4.5"):
        text = text_of(handle(upload(tmp_path), age, "female", "back")[1])
        expected = "The age must be a whole number of years in 0..120, or empty. Received: "
        assert f"{expected}{age}." in text
    assert len(received) == 2


def test_an_error_is_shown_as_a_sentence_without_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def predict(contents: Any, metadata: pd.DataFrame) -> Predictions:
        raise RuntimeError("an internal error")

    handle = app.make_handler(page_model(predict), tmp_path)
    with caplog.at_level(logging.ERROR):
        page = handle(upload(tmp_path))[1]
    assert FAILED in text_of(page)
    assert "internal error" not in page
    assert "an internal error" in caplog.text, "in the log of the server"
    assert not list(tmp_path.iterdir())


def test_a_model_of_synthetic_images_has_a_warning() -> None:
    for synthetic in (True, False):
        text = text_of(render("start", synthetic=synthetic, classes=["a"], path="runs/x"))
        assert "Not a medical device." in text
        assert ("trained on synthetic images" in text) == synthetic
