"""Renders a prediction and the reasons for the referral decision as HTML."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

from skincnn.clinical_metadata import CLINICAL_COLUMNS, UNKNOWN
from skincnn.errors import ConfigError
from skincnn.evaluation.ood import ACCEPTED
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.metrics.operating_points import parse_operating_point
from skincnn.reporting.templates import data_uri, encode_png, environment
from skincnn.serving.explain import Explainer
from skincnn.serving.images import OK, read_images
from skincnn.serving.postprocessing import NO_THRESHOLD
from skincnn.serving.predictor import Predictor, load_predictor

Prediction = Mapping[str, Any]
"""The outputs of `postprocess` for one image."""
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
OOD_OFF = (
    "This model does not check whether an image is suitable for it: in the evaluation, the "
    "check missed too many unsuitable images and was switched off."
)
FAILED = "The prediction failed. The error is shown in the terminal of the server."


@dataclass(frozen=True)
class PageModel:
    """The model that the page uses.

    Attributes:
        predictor: Predicts images.
        explainer: Draws Grad-CAM overlays; None if the model does not support Grad-CAM.
    """

    predictor: Predictor
    explainer: Explainer | None


def load_page_model(path: Path) -> PageModel:
    """Loads a model (see `load_predictor`), with Grad-CAM if the model supports it."""
    predictor = load_predictor(path)
    try:
        return PageModel(predictor, Explainer(path))
    except ConfigError as error:
        logging.getLogger(__name__).warning("No heat map is available: %s", error)
        return PageModel(predictor, None)


def render_prediction(
    model: PageModel,
    content: bytes,
    name: str,
    clinical_metadata: Mapping[str, str | int | None],
) -> str:
    """Returns the prediction for a file as HTML without external resources.

    `clinical_metadata` maps `CLINICAL_COLUMNS` to values. A missing key or None means
    unknown.
    """
    age = clinical_metadata.get("age")
    strings = {key: clinical_metadata.get(key) or UNKNOWN for key in CLINICAL_COLUMNS[1:]}
    table = pd.DataFrame([{"age": np.nan if age is None else age, **strings}])
    outputs = model.predictor.predict([content], table)
    prediction = {key: values[0] for key, values in outputs.items()}
    status, best = (prediction[key].decode() for key in ("status", "predicted_class"))
    if status != OK:
        text = re.sub(r"\d+", lambda digits: f"{int(digits[0]):,}", status)
        return render("unreadable", name=name, status=text)
    rule = model.predictor.rule
    rows = zip(rule.class_names, map(float, prediction["probabilities"]), strict=True)
    return render(
        "prediction",
        name=name,
        refer=None if rule.target is None else bool(prediction["refer"]),
        out_of_distribution=bool(prediction["out_of_distribution"]),
        reasons=list_reasons(prediction, rule),
        rows=sorted(rows, key=lambda row: -row[1]),
        best=best,
        classes=rule.described,
        prediction_set=list_prediction_set(prediction, rule),
        **_draw_images(model, content, best, table),
    )


def list_prediction_set(prediction: Prediction, rule: DecisionRule) -> list[str]:
    """Returns the classes in the prediction set of a readable image."""
    in_set = rule.prediction_set(np.asarray(prediction["probabilities"]))
    return [name for name, inside in zip(rule.class_names, in_set, strict=True) if inside]


def list_reasons(prediction: Prediction, rule: DecisionRule) -> list[str]:
    """Returns the reasons for the referral decision of a readable image, as sentences.

    Without a referral rule, they only describe out-of-distribution detection.
    """
    malignant = [_explain_malignant(prediction, rule)] if rule.target else []
    if rule.max_distance is None:
        return [*malignant, OOD_OFF]
    distance, threshold = distinguish(
        float(prediction["ood_distance"]), rule.max_distance, "{:.{}g}".format, range(3, 10)
    )
    measured = (
        "flagged as out-of-distribution: its distance from the reference images "
        f"(validation split; cosine distance of the features) is {distance}"
    )
    if not prediction["out_of_distribution"]:
        return [
            *malignant,
            f"The image was not {measured}; the limit is {threshold}. This check does not "
            "recognize every unsuitable image.",
        ]
    return [
        f"The image was {measured}; {100 * ACCEPTED:.0f} % of the reference images have a "
        f"distance of at most {threshold}.",
        *malignant,
    ]


def render(template: str, **content: Any) -> str:
    """Returns a template of this package rendered as HTML; all values are escaped."""
    templates = environment("skincnn.serving.web", autoescape=True)
    templates.filters["percent"] = percent
    return templates.get_template(f"{template}.html.j2").render(**content)


def percent(share: float, digits: int = 1) -> str:
    """Returns a share in 0..1 as a percentage with `digits` decimal places.

    A share strictly between 0 and 1 is never rounded to 0 % or 100 %; the result is then,
    for example, "< 0.1 %" or "> 99.9 %".
    """
    text, smallest = f"{100 * share:.{digits}f} %", 10.0**-digits
    if 0 < 100 * share < smallest:
        text = f"< {smallest:.{digits}f} %"
    elif 100 - smallest < 100 * share < 100:
        text = f"> {100 - smallest:.{digits}f} %"
    return text.replace(" ", NO_BREAK_SPACE)


def distinguish(
    first: float,
    second: float,
    to_text: Callable[[float, int], str] = percent,
    digits: Sequence[int] = range(1, 7),
) -> list[str]:
    """Formats two numbers with the fewest digits that distinguish them.

    Numbers that are equal up to float32 rounding errors are not distinguished. `to_text`
    formats a number with a given number of digits; `digits` are tried in order.
    """
    pairs = [[to_text(first, count), to_text(second, count)] for count in digits]
    if math.isclose(first, second, rel_tol=1e-6):
        return pairs[0]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])


def _explain_malignant(prediction: Prediction, rule: DecisionRule) -> str:
    if rule.threshold is None:
        text = (
            f"{NO_THRESHOLD} It refers no image because of a high probability of malignancy"
        )
        if rule.max_distance is None:
            return f"{text}."
        return f"{text}, only if the image is flagged as out-of-distribution."
    is_malignant = [bool(known.malignant) for known in rule.described.values()]
    probability = prediction["probabilities"][is_malignant].sum()
    # The graph may round the sum differently, so the decision is that of the model.
    is_reached = (
        probability >= rule.threshold
        if prediction["out_of_distribution"]
        else prediction["refer"]
    )
    text, threshold = distinguish(float(probability), rule.threshold)
    below = "just below" if text == threshold else "below"
    point = parse_operating_point(rule.operating_point)
    return (
        f"The probabilities of the malignant classes add up to {text}. This is "
        f"{'at or above' if is_reached else below} the referral threshold of {threshold}. "
        "On the images used to choose it (validation split), this threshold gave a "
        f"{point.metric} of at least {100 * point.minimum:.0f} % for malignant lesions; on "
        f"other images the {point.metric} can be lower."
    )


def _draw_images(
    model: PageModel, content: bytes, class_name: str, clinical_metadata: pd.DataFrame
) -> dict[str, str]:
    """Returns `image` and `overlay`, two variables of prediction.html.j2, as data URIs."""
    if model.explainer is None:
        images, _ = read_images(tf.constant([content]), model.predictor.data)
        image = data_uri(encode_png(Image.fromarray(images[0].numpy())))
        return {"image": image, "overlay": ""}
    (pair,) = model.explainer.explain([content], [class_name], clinical_metadata)
    assert pair is not None, "a readable image has a predicted class"
    size = pair.height
    halves = [pair.crop((x, 0, x + size, size)) for x in (0, size)]
    image, overlay = (data_uri(encode_png(half)) for half in halves)
    return {"image": image, "overlay": overlay}
