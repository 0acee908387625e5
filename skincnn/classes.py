"""Class names: order of the labels, full names, and which classes are malignant."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType


@dataclass(frozen=True)
class LesionClass:
    """A class of skin lesions, usually a diagnosis."""

    name: str
    """Short name, such as a `dx` of HAM10000 or a lower-case column name of ISIC 2019; for
    a class without one, its name in the dataset."""
    full_name: str
    malignant: bool | None
    """Whether the class counts as malignant; None if unknown. `akiec` and `ak`, which are
    precancerous or in situ, count as malignant."""


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

MILK10K_ONLY = (
    LesionClass("ben oth", "other benign proliferation", False),
    LesionClass("inf", "inflammatory or infectious disease", False),
    LesionClass("mal oth", "other malignant proliferation", True),
    LesionClass("sccka", "squamous cell carcinoma / keratoacanthoma", True),
)
"""The four classes that only MILK10k (ISIC challenge 2025) has, as `_key` returns them."""

TWO_CLASSES = (
    LesionClass("benign", "benign", False),
    LesionClass("malignant", "malignant", True),
)
"""Classes of datasets that only distinguish benign from malignant lesions."""

NOTHING_DECLARED: Mapping[str, LesionClass] = MappingProxyType({})
"""The declared classes of a dataset that only states the names of its classes."""

SYNONYMS = {
    "ak": ("actinic keratosis", "solar or actinic keratosis"),
    "akiec": ("actinic keratosis intraepithelial carcinoma",),
    "bcc": ("basal cell carcinoma",),
    "bkl": (
        "benign keratosis",
        "benign keratosis like lesion",
        "pigmented benign keratosis",
        "seborrheic keratosis",
    ),
    "df": ("dermatofibroma",),
    "mel": (
        "malignant melanoma",
        "melanoma",
        "melanoma acral lentiginous",
        "melanoma in situ",
        "melanoma invasive",
        "melanoma metastasis",
        "melanoma nos",
        "melanoma less than 0.76 mm",
        "melanoma 0.76 to 1.5 mm",
        "melanoma more than 1.5 mm",
        "nodular melanoma nm",
        "superficial spreading melanoma ssm",
    ),
    "nv": (
        "melanocytic naevus",
        "melanocytic nevi",
        "melanocytic nevus",
        "naevus",
        "nevocytic nevus",
        "nevus",
    ),
    "scc": (
        "squamous cell carcinoma",
        "squamous cell carcinoma in situ",
        "squamous cell carcinoma invasive",
        "squamous cell carcinoma nos",
    ),
    "vasc": ("vascular lesion",),
}
"""Published names of classes by short name, in the form that `_key` returns.

Most names are labels of the ISIC challenges, the ISIC Archive (`diagnosis_3`), Derm7pt,
Fitzpatrick17k and DDI. Labels that are neither here nor in `KNOWN`, such as lentigo
maligna, are classes of their own; see `describe`.
"""

KNOWN = {
    lesion.name: lesion
    for lesion in (*HAM10000, *ISIC2019_ONLY, *MILK10K_ONLY, *TWO_CLASSES)
}
# Short names of PAD-UFES-20.
KNOWN |= {"ack": KNOWN["ak"], "nev": KNOWN["nv"], "sek": KNOWN["bkl"]}
SHORT_NAMES = {key: short for short, keys in SYNONYMS.items() for key in keys}


def describe(
    names: Iterable[str], declared: Mapping[str, LesionClass] = NOTHING_DECLARED
) -> dict[str, LesionClass]:
    """Returns the class of each name; the keys are `names`.

    `declared` contains the classes that the dataset itself describes, by name, which have
    priority. Other names are looked up as short names and synonyms: case is ignored, and
    punctuation, except dots, counts as a space. The full name of a synonym is the synonym
    as given. A name that is neither a short name nor a synonym is a class of its own, whose
    malignancy is unknown.
    """
    return {name: declared.get(name) or _describe(name) for name in names}


@functools.lru_cache(maxsize=1024)  # called several times for each served prediction
def _describe(name: str) -> LesionClass:
    key = _key(name)
    if key in KNOWN:
        return KNOWN[key]
    if key in SHORT_NAMES:
        return replace(KNOWN[SHORT_NAMES[key]], full_name=name)
    return LesionClass(name, name, None)


def _key(name: str) -> str:
    """Returns a name in lower case, with single spaces for punctuation except dots."""
    return " ".join(re.findall(r"[\w.]+", name.lower().replace("_", " ")))
