"""What the page of scripts/serve.py says of a picture: the answer, and why it is that."""

from __future__ import annotations

import base64
import functools
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from PIL import Image

from skincnn.classes import describe
from skincnn.clinical_metadata import CLINICAL_COLUMNS, UNKNOWN
from skincnn.errors import ConfigError
from skincnn.evaluation.triage import ACCEPTED
from skincnn.serving.explain import Explainer
from skincnn.serving.images import READ, read_images
from skincnn.serving.postprocessing import NO_THRESHOLD, DecisionRule
from skincnn.serving.predictor import Predictor, load_predictor

Found = Mapping[str, Any]
"""What `answers.answer` returns of one picture, and `status`."""
NO_BREAK = "\N{NO-BREAK SPACE}"
FAILED = "The picture could not be answered. The terminal of the page says why."


@dataclass(frozen=True)
class Asked:
    """A model that the page asks.

    Attributes:
        predictor: What answers.
        explainer: What draws maps; None where the model's form allows none.
        no_map: Why there is none.
    """

    predictor: Predictor
    explainer: Explainer | None
    no_map: str


def open_model(path: Path) -> Asked:
    """Returns the model at a path, with maps where its form allows them.

    Args:
        path: See `load_predictor`.

    Raises:
        ConfigError: It is no model, or packages are missing.
        DataError: A file has changed since it was written.
    """
    predictor = load_predictor(path)
    try:
        return Asked(predictor, Explainer(path), "")
    except ConfigError as error:
        return Asked(predictor, None, str(error))


def answer_page(asked: Asked, content: bytes, name: str, patient: Mapping[str, Any]) -> str:
    """Returns what is shown of a file, as HTML that loads nothing.

    Args:
        asked: The model.
        content: The file, whatever it is.
        name: What it is called.
        patient: `CLINICAL_COLUMNS`, for a model that is told of them; what is not there
            or None is not known.

    Raises:
        ValueError: The model cannot be told so of the patient.
    """
    patients = pd.DataFrame(
        {
            "age": [np.nan if patient.get("age") is None else patient["age"]],
            **{key: [patient.get(key) or UNKNOWN] for key in CLINICAL_COLUMNS[1:]},
        }
    )
    answers = asked.predictor.ask([content], patients)
    found = {key: values[0] for key, values in answers.items()}
    status, class_name = (found[key].decode() for key in ("status", "class_name"))
    if status != READ:
        numbers = re.sub(r"\d+", lambda digits: f"{int(digits[0]):,}", status)
        return render("unread", name=name, status=numbers)
    rules = asked.predictor.rules
    return render(
        "answer",
        name=name,
        refer=bool(found["refer"]),
        unknown=bool(found["unknown"]),
        reasons=reasons(found, rules),
        rows=rank(found["probabilities"], rules),
        best=class_name,
        classes=describe(rules.class_names),
        temperature=rules.temperature,
        **_pictures(asked, content, class_name, patients),
    )


def reasons(found: Found, rules: DecisionRule) -> list[str]:
    """Returns why a picture that was read is referred, or is not, as sentences."""
    distance, limit = tell_apart(
        float(found["distance"]), rules.limit, "{:.{}g}".format, range(3, 10)
    )
    if not found["unknown"]:
        return [
            _about_malignant(found, rules),
            f"Its distance from the pictures that the model knows, {distance}, is within "
            f"the limit of {limit}.",
        ]
    return [
        f"It is unlike the pictures of validation: its distance is {distance}, and "
        f"{100 * ACCEPTED:.0f} % of them lie within {limit}.",
        _about_malignant(found, rules),
    ]


def rank(
    probabilities: npt.NDArray[np.float32], rules: DecisionRule
) -> list[tuple[str, float]]:
    """Returns the classes and their probabilities, the most probable first."""
    named = zip(rules.class_names, map(float, probabilities), strict=True)
    return sorted(named, key=lambda row: -row[1])


def render(template: str, **content: Any) -> str:
    """Returns a template beside this file as HTML; what is put in is text."""
    return _environment().get_template(f"{template}.html.j2").render(**content)


def percent(share: float, digits: int = 1) -> str:
    """Returns a share as a percentage, never 0 or 100 by rounding.

    Args:
        share: 0..1.
        digits: How many after the point.
    """
    text, least = f"{100 * share:.{digits}f} %", 10.0**-digits
    if 0 < 100 * share < least:
        text = f"< {least:.{digits}f} %"
    elif 100 - least < 100 * share < 100:
        text = f"> {100 - least:.{digits}f} %"
    return text.replace(" ", NO_BREAK)


def tell_apart(
    first: float,
    second: float,
    write: Callable[[float, int], str] = percent,
    digits: Sequence[int] = range(1, 7),
) -> list[str]:
    """Returns two numbers as text, with as many digits as they differ in.

    What differs no more than sums in float32 are rounded by is the same, and has the
    fewest digits.

    Args:
        first: Of `percent`, a share, 0..1.
        second: Likewise.
        write: Returns a number as text with so many digits.
        digits: How many to try, the fewest first.
    """
    written = [[write(first, count), write(second, count)] for count in digits]
    if math.isclose(first, second, rel_tol=1e-6):
        return written[0]
    return next((pair for pair in written if pair[0] != pair[1]), written[0])


def _about_malignant(found: Found, rules: DecisionRule) -> str:
    if np.isnan(rules.threshold):
        return NO_THRESHOLD
    known = describe(rules.class_names)
    is_malignant = [bool(known[name].malignant) for name in rules.class_names]
    number = found["probabilities"][is_malignant].sum()
    # Of what is not unknown the model itself says it, by its own rounding.
    reached = number >= rules.threshold if found["unknown"] else found["refer"]
    said, threshold = tell_apart(float(number), rules.threshold)
    below = "just below" if said == threshold else "below"
    return (
        f"The probability of a malignant class, {said}, is "
        f"{'at or above' if reached else below} {threshold}, {rules.chosen}."
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skincnn.serving.web", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment


def _pictures(
    asked: Asked, content: bytes, class_name: str, patients: pd.DataFrame
) -> dict[str, str]:
    """Returns the picture as the model sees it, and under its map or why there is none."""
    no_map = asked.no_map
    try:
        if asked.explainer is not None:
            (pair,) = asked.explainer.explain([content], [class_name], patients)
            assert pair is not None, "a picture that was read has a class"
            size = pair.height
            plain, under = (pair.crop((x, 0, x + size, size)) for x in (0, size))
            return {"picture": data_uri(plain), "overlay": data_uri(under), "no_map": ""}
    except ConfigError as error:  # of what the network ends in
        no_map = str(error)
    images, _ = read_images(tf.constant([content]), asked.predictor.data)
    picture = data_uri(Image.fromarray(images[0].numpy()))
    return {"picture": picture, "overlay": "", "no_map": no_map}


def data_uri(picture: Image.Image) -> str:
    """Returns a picture as an address that holds it, as PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
