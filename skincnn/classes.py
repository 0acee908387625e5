"""Class names: order of the labels, full names, and which classes are malignant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LesionClass:
    """A class of skin lesions, usually a diagnosis."""

    name: str
    """Short name, such as a `dx` of HAM10000 or a lower-case column name of ISIC 2019."""
    full_name: str
    malignant: bool | None
    """Whether the class counts as malignant, as `akiec` and `ak` do; None if unknown."""


HAM10000 = (
    LesionClass("akiec", "actinic keratosis / intraepithelial carcinoma", True),
    LesionClass("bcc", "basal cell carcinoma", True),
    LesionClass("bkl", "benign keratosis-like lesion", False),
    LesionClass("df", "dermatofibroma", False),
    LesionClass("mel", "melanoma", True),
    LesionClass("nv", "melanocytic naevus", False),
    LesionClass("vasc", "vascular lesion", False),
)
"""The seven classes of HAM10000 in the order of their labels (alphabetical).

Tschandl, Rosendahl, Kittler: The HAM10000 dataset, Scientific Data 5:180161 (2018).
"""

ISIC2019_ONLY = (
    LesionClass("ak", "actinic keratosis", True),
    LesionClass("scc", "squamous cell carcinoma", True),
)
"""The two classes that ISIC 2019 has instead of `akiec`."""

TWO_CLASSES = (
    LesionClass("benign", "benign", False),
    LesionClass("malignant", "malignant", True),
)
"""Classes of datasets that only distinguish benign from malignant lesions."""

SYNONYMS = {
    "actinic keratosis": "ak",
    "basal cell carcinoma": "bcc",
    "benign keratosis": "bkl",
    "seborrheic keratosis": "bkl",
    "dermatofibroma": "df",
    "melanoma": "mel",
    "melanocytic nevus": "nv",
    "melanocytic nevi": "nv",
    "naevus": "nv",
    "nevus": "nv",
    "squamous cell carcinoma": "scc",
    "vascular lesion": "vasc",
}
"""Short class names by lower-case synonym, such as the name of a directory."""


def describe(names: Iterable[str]) -> dict[str, LesionClass]:
    """Returns the class of each short name or synonym; the keys are `names`.

    Case is ignored; underscores match spaces. An unknown name is its own full name.
    """
    known = {lesion.name: lesion for lesion in (*HAM10000, *ISIC2019_ONLY, *TWO_CLASSES)}
    keys = {name: name.lower().replace("_", " ").strip() for name in names}
    return {
        name: known.get(SYNONYMS.get(key, key), LesionClass(name, name, None))
        for name, key in keys.items()
    }
