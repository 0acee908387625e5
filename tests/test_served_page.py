"""What the page of scripts/serve.py says of a picture, and why it says so."""

from __future__ import annotations

import dataclasses
import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import jpeg
from page_server import text_of, upload

from skincnn.classes import describe
from skincnn.config import DataConfig
from skincnn.serving.postprocessing import DecisionRule
from skincnn.serving.predictor import Answers, Predictor
from skincnn.serving.web import app
from skincnn.serving.web.page import (
    FAILED,
    Asked,
    answer_page,
    open_model,
    percent,
    reasons,
    render,
    tell_apart,
)

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
RULES = DecisionRule(("mel", "nv"), 1.5, "90 % sensitivity", 0.3, 0.6)


@pytest.fixture(scope="module")
def asked(run: Run) -> Asked:
    return open_model(run[0])


def found(malignant: float, distance: float, rules: DecisionRule = RULES) -> dict[str, Any]:
    """An answer of two classes, by the rules of `answers.answer`."""
    unknown = distance > rules.limit
    return {
        "probabilities": np.array([malignant, 1 - malignant], np.float32),
        "distance": np.float32(distance),
        "unknown": np.bool_(unknown),
        "refer": np.bool_(unknown or malignant >= rules.threshold),
    }


@pytest.mark.parametrize(
    ("malignant", "distance", "expected"),
    [
        (0.5, 0.1, ["malignant class, 50.0 %, is at or above 30.0 %", "is within"]),
        (0.3, 0.1, ["malignant class, 30.0 %, is at or above 30.0 %", "is within"]),
        (0.2, 0.1, ["malignant class, 20.0 %, is below 30.0 %", "0.1, is within"]),
        (0.2999, 0.1, ["malignant class, 29.99 %, is below 30.00 %", "is within"]),
        (0.299998, 0.1, ["malignant class, 29.9998 %, is below 30.0000 %", "is within"]),
        (0.30002, 0.9, ["distance is 0.9", "30.002 %, is at or above 30.000 %"]),
        (0.2, 0.9, ["distance is 0.9, and 95 % of them lie within 0.6", "is below"]),
        (0.5, 0.9, ["distance is 0.9, and 95 % of them lie within 0.6", "is at or above"]),
        (
            0.2,
            0.60004,
            ["distance is 0.60004, and 95 % of them lie within 0.6.", "is below"],
        ),
        (
            0.2,
            0.59996,
            ["is below", "that the model knows, 0.59996, is within the limit of 0.6."],
        ),
        (0.2, 0.6, ["is below", "that the model knows, 0.6, is within the limit of 0.6."]),
    ],
)
def test_the_reasons_are_those_of_the_decision(
    malignant: float, distance: float, expected: list[str]
) -> None:
    said = [text_of(one) for one in reasons(found(malignant, distance), RULES)]
    assert len(said) == len(expected)
    for sentence, part in zip(said, expected, strict=True):
        assert part in sentence
    assert "chosen for 90 % sensitivity on validation" in " ".join(said)


@pytest.mark.parametrize(
    ("step", "refer", "expected"),
    [
        (0, True, "30.0 %, is at or above 30.0 %"),
        (-1, True, "30.0 %, is at or above 30.0 %"),
        (0, False, "30.0 %, is just below 30.0 %"),
        (1, False, "30.0 %, is just below 30.0 %"),
    ],
)
def test_a_sum_that_is_rounded_otherwise_does_not_belie_the_model(
    step: int, refer: bool, expected: str
) -> None:
    threshold = np.float32(RULES.threshold)
    answer = found(float(threshold + step * np.spacing(threshold)), 0.1)
    said = reasons({**answer, "refer": np.bool_(refer)}, RULES)[0]
    assert expected in text_of(said)


def test_reasons_where_little_is_known_of_the_classes() -> None:
    nothing = dataclasses.replace(RULES, threshold=np.nan)
    assert reasons(found(0.5, 0.1, nothing), nothing)[0] == (
        "This model has no threshold for malignant lesions."
    )
    some = dataclasses.replace(RULES, class_names=("mel", "freckle"))
    for distance in (0.1, 0.9):
        said = text_of(" ".join(reasons(found(0.5, distance, some), some)))
        assert "The probability of a malignant class, 50.0 %, is at or above 30.0 %" in said


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
def test_two_probabilities_are_told_apart(
    shares: tuple[float, float], expected: str
) -> None:
    assert text_of(" ".join(tell_apart(*shares)).replace("<", "&lt;")) == expected


def test_the_page_says_what_the_model_answers(asked: Asked) -> None:
    content = jpeg()
    answers = asked.predictor.ask([content], pd.DataFrame())
    page = answer_page(asked, content, "a <b> & c.jpg", {})
    said = text_of(page)
    assert "a <b> & c.jpg" in said
    probabilities = answers["probabilities"][0]
    described = describe(asked.predictor.class_names)
    best = asked.predictor.class_names[probabilities.argmax()]
    assert f"Most probable: {described[best].full_name}, " in said
    for name, probability in zip(asked.predictor.class_names, probabilities, strict=True):
        marked = " malignant" if described[name].malignant else ""
        number = text_of(percent(float(probability)))
        assert f"{described[name].full_name} {name}{marked} {number}" in said
    assert ("Refer to" in said) == bool(answers["refer"][0])
    assert page.count('<img src="data:image/png;base64,') == 2
    assert len(re.findall(r"<img [^>]*alt=\"[^\"]{20,}\"", page)) == 2


@pytest.mark.parametrize("unknown", [True, False])
@pytest.mark.parametrize("refer", [True, False])
def test_what_does_not_look_like_dermatoscopy_is_warned_of(
    unknown: bool, refer: bool, asked: Asked
) -> None:
    def ask(*given: Any) -> Answers:
        answers = asked.predictor.ask(*given)
        return {
            **answers,
            "unknown": np.array([unknown]),
            "refer": np.array([unknown or refer]),
        }

    predictor = dataclasses.replace(asked.predictor, ask=ask)
    page = answer_page(dataclasses.replace(asked, predictor=predictor), jpeg(), "x", {})
    said = text_of(page)
    assert ("This does not look like dermatoscopy" in said) == unknown
    assert ("It is unlike the pictures of validation" in said) == unknown
    assert ("Refer to somebody" in said) == (unknown or refer)
    assert ("Not referred" in said) == ("That is no all-clear" in said)
    assert ("Not referred" in said) == (not unknown and not refer)


def test_what_is_no_picture_is_said_to_be_none(asked: Asked) -> None:
    page = answer_page(asked, b"this is text", "text.jpg", {})
    said = text_of(page)
    assert "This file could not be read" in said
    assert "Not read: expected a JPEG, PNG" in said
    assert "at most 30,000,000 bytes and 50,000,000 pixels" in said
    assert "<img" not in page
    assert "%" not in said


def test_a_form_without_feature_maps_says_why_there_is_no_map(
    run: Run, asked: Asked
) -> None:
    other = open_model(run[0] / "export/skincnn")
    pages = [answer_page(one, jpeg(), "x.jpg", {}) for one in (asked, other)]
    assert "No map. Grad-CAM needs the feature maps of a run" in text_of(pages[1])
    pictures = [re.findall(r'src="([^"]+)"', page) for page in pages]
    assert pictures[0][:1] == pictures[1], "the same picture as the model sees it"


def test_a_model_that_is_told_of_patients_gets_the_fields(tmp_path: Path) -> None:
    told: list[dict[Any, Any]] = []

    def ask(contents: Any, patients: pd.DataFrame) -> Answers:
        told.append(patients.to_dict("records")[0])
        return {"status": np.array([b"not read"]), "class_name": np.array([b""])}

    predictor = Predictor("keras", RULES, DataConfig(), False, True, ask)
    answer = app.answering(Asked(predictor, None, ""), tmp_path)
    for patient in (("", None, None), (" 50", "female", "back")):
        assert "Not read." in answer(upload(tmp_path), *patient)[1]
    assert np.isnan(told[0].pop("age"))
    assert told == [
        {"sex": "unknown", "localization": "unknown"},
        {"age": 50, "sex": "female", "localization": "back"},
    ]
    for age in ("-1", "121", "nan", "4.5"):
        said = text_of(answer(upload(tmp_path), age, "female", "back")[1])
        assert f"The age must be 0..120 whole years, or empty. Received: {age}." in said
    assert len(told) == 2


def test_a_fault_is_a_sentence_and_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(contents: Any, patients: pd.DataFrame) -> dict[str, Any]:
        raise RuntimeError("an inner matter")

    predictor = Predictor("keras", RULES, DataConfig(), False, False, ask)
    answer = app.answering(Asked(predictor, None, ""), tmp_path)
    with caplog.at_level(logging.ERROR):
        page = answer(upload(tmp_path))[1]
    assert FAILED in text_of(page)
    assert "inner matter" not in page
    assert "an inner matter" in caplog.text, "for who runs the page"
    assert not list(tmp_path.iterdir())


def test_a_model_of_made_up_pictures_says_so() -> None:
    for synthetic in (True, False):
        said = text_of(render("start", synthetic=synthetic, classes=["a"], path="runs/x"))
        assert "Not a medical device." in said
        assert ("trained on synthetic pictures" in said) == synthetic
