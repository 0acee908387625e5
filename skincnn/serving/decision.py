"""Explains the referral decision for an image, and the referral rule, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from skincnn.metrics.decision_rule import DecisionRule
from skincnn.metrics.operating_points import parse_operating_point
from skincnn.serving.images import OK

Prediction = Mapping[str, Any]
"""The outputs of `serving.postprocessing.postprocess` for one image."""
Reason = Literal[
    "unreadable",
    "out_of_distribution",
    "malignant",
    "below_threshold",
    "no_threshold",
    "no_target",
]
"""Why an image is referred (the first three reasons) or not. A model without the target
"malignant" refers no image; `no_target` then replaces `malignant`, `below_threshold` and
`no_threshold`."""
NOT_RULED_OUT = "this does not rule out malignancy"
UNSUITABLE = {
    "unreadable": "the file is not a readable image and was not predicted",
    "out_of_distribution": "the image differs strongly from the images for which the model "
    "was developed (out-of-distribution), so its probabilities may not be reliable",
}
"""Why the probabilities of an image are missing or unreliable, by reason."""
MARKED = (
    "images that differ strongly from those for which it was developed "
    "(out-of-distribution); this check misses some unsuitable images."
)
"""Which images OOD detection marks, as the end of a sentence whose subject is the model."""


def find_reason(prediction: Prediction, rule: DecisionRule) -> Reason:
    """Returns the reason for the referral decision of the model."""
    if prediction["status"].decode() != OK:
        return "unreadable"
    if prediction.get("out_of_distribution"):
        return "out_of_distribution"
    if rule.target is None:
        return "no_target"
    if prediction["refer"]:
        return "malignant"
    return "no_threshold" if rule.threshold is None else "below_threshold"


def explain_decision(prediction: Prediction, rule: DecisionRule) -> str:
    """Returns the referral decision of the model and its reason as a sentence."""
    reason = find_reason(prediction, rule)
    unsuitable = UNSUITABLE.get(reason)
    if rule.target is None:
        why = unsuitable or f"no referral decision: {_explain_no_target(rule)}"
        return f"{why.capitalize()}."
    if unsuitable:
        ending = f"; {NOT_RULED_OUT}" if reason == "unreadable" else ""
        return f"Refer to a dermatologist: {unsuitable}{ending}."
    if rule.threshold is None:
        return (
            "Not referred: this model has no referral threshold for malignant lesions, so "
            f"its probabilities are not used for referral; {NOT_RULED_OUT}."
        )
    probability = float(prediction["probabilities"][list(rule.target.classes)].sum())
    text, threshold = percent(probability), percent(rule.threshold)
    # The graph may round the sum differently, so the decision is that of the model.
    if reason == "malignant":
        return (
            f"Refer to a dermatologist: the probability of a malignant lesion is {text}, "
            f"at or above the referral threshold of {threshold}."
        )
    below = "just below" if text == threshold else "below"
    return (
        f"Not referred: the probability of a malignant lesion is {text}, {below} the "
        f"referral threshold of {threshold}; {NOT_RULED_OUT}."
    )


def explain_rule(rule: DecisionRule) -> str:
    """Returns which images the model refers and how the threshold was chosen, as text."""
    detection = (
        "It does not check whether an image is suitable for it (out-of-distribution "
        "detection is switched off)."
    )
    if rule.max_distance is not None:
        detection = f"It marks {MARKED}"
    if rule.target is None:
        return f"The model refers no image, because {_explain_no_target(rule)}. {detection}"
    others = "It also refers unreadable files"
    if rule.threshold is None:
        text = "The model has no referral threshold for malignant lesions."
        others = "It refers unreadable files"
    else:
        point = parse_operating_point(rule.operating_point)
        text = (
            "The model refers images for which the probability of a malignant lesion is at "
            f"least {100 * rule.threshold:.4g} %. On the images used to choose this "
            f"threshold (validation split), it gave a {point.metric} of at least "
            f"{100 * point.minimum:.0f} % for malignant lesions; on other images the "
            f"{point.metric} can be lower."
        )
    if rule.max_distance is None:
        return f"{text} {others}. {detection}"
    return f"{text} {others} and {MARKED}"


def percent(share: float) -> str:
    """Returns a share in 0..1 as a percentage with one decimal place.

    Shares close to 0 or 1 become "< 0.1 %" or "> 99.9 %", so that only 0 and 1 themselves
    become "0.0 %" and "100.0 %".
    """
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def _explain_no_target(rule: DecisionRule) -> str:
    """Returns why a rule has no target "malignant"; see `find_targets`."""
    kinds = {described.malignant for described in rule.described.values()}
    if None in kinds:
        return "it is not known which classes are malignant"
    return f"all of its classes are {'malignant' if True in kinds else 'benign'}"
