"""The label sets: order, full names, and which classes are malignant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LesionClass:
    """One diagnosis.

    Attributes:
        name: The short name: HAM10000's `dx`, or the column of ISIC 2019 in lower case.
        full_name: The name to show to a reader.
        malignant: Whether it is malignant or in situ, and so must not be missed; None
            where that is not known.
    """

    name: str
    full_name: str
    malignant: bool | None


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
"""ISIC 2019 has these two where HAM10000 has akiec."""

TWO_CLASSES = (
    LesionClass("benign", "benign", False),
    LesionClass("malignant", "malignant", True),
)
"""The names of many folders of labelled pictures."""

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
"""Other names of the same classes, in lower case: folders are called by them."""


def describe(names: Iterable[str]) -> dict[str, LesionClass]:
    """Returns what is known of each class; of one's own classes that is their name.

    Args:
        names: The names of the labels of any dataset.
    """
    known = {lesion.name: lesion for lesion in (*HAM10000, *ISIC2019_ONLY, *TWO_CLASSES)}
    described = {}
    for name in names:
        key = name.lower().replace("_", " ").strip()
        unknown = LesionClass(name, name, None)
        described[name] = known.get(SYNONYMS.get(key, key), unknown)
    return described
