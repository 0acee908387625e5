"""The label set: order, full names, and which classes are malignant."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LesionClass:
    """One diagnosis.

    Attributes:
        name: The short name of HAM10000's `dx` column.
        full_name: The name to show to a reader.
        malignant: Whether it is malignant or in situ, and so must not be missed.
    """

    name: str
    full_name: str
    malignant: bool


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
