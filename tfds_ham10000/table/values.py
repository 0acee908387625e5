"""The values of the cells of a table, in the vocabulary of `Record`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pandas as pd

from tfds_ham10000.records import MAX_AGE, UNKNOWN, SourceError, join_first, suggest

T = TypeVar("T")

BIRTH_YEARS = range(1880, 2101)
MISSING = frozenset(
    (
        *("", "unknown", "unk", "na", "n/a", "n.a.", "nan", "none", "null", "not known"),
        *("missing", "#n/a", "#na", "<na>", "nat", "-", "?"),
    )
)
"""Lower-case cells that mean that a value is not known."""
SEXES = {
    **dict.fromkeys(("f", "female", "w", "woman"), "female"),
    **dict.fromkeys(("m", "male", "man"), "male"),
    "other": UNKNOWN,
}
"""The `sex` of a record by lower-case cell."""
SITES = {
    "head/neck": ("head/neck", "head and neck", "head neck", "head neck face", "lip"),
    "face": ("face", "nose"),
    "scalp": ("scalp",),
    "ear": ("ear",),
    "neck": ("neck",),
    "trunk": ("trunk", "torso", "buttocks"),
    "anterior torso": ("anterior torso",),
    "posterior torso": ("posterior torso",),
    "lateral torso": ("lateral torso",),
    "back": ("back",),
    "chest": ("chest",),
    "abdomen": ("abdomen",),
    "upper extremity": ("upper extremity", "upper limbs", "upper limb", "arm", "forearm"),
    "hand": ("hand",),
    "lower extremity": ("lower extremity", "lower limbs", "lower limb", "leg", "thigh"),
    "foot": ("foot",),
    "palms/soles": ("palms/soles", "acral palms or soles"),
    "acral": ("acral", "acral nos"),
    "genital": ("genital", "genital areas", "anogenital region", "anogenital"),
    "oral/genital": ("oral/genital", "oral or genital"),
}
"""Lower-case cells for each `localization` of a record: the sites of HAM10000 and ISIC 2019
and the names of the same sites in the ISIC Archive, PAD-UFES-20, Derm7pt and MILK10k."""
SITE_OF = {cell: site for site, cells in SITES.items() for cell in cells}
SKIN_TYPES = {
    **dict.fromkeys(("i", "1", "1.0"), "I"),
    **dict.fromkeys(("ii", "2", "2.0"), "II"),
    **dict.fromkeys(("iii", "3", "3.0"), "III"),
    **dict.fromkeys(("iv", "4", "4.0"), "IV"),
    **dict.fromkeys(("v", "5", "5.0"), "V"),
    **dict.fromkeys(("vi", "6", "6.0"), "VI"),
    **dict.fromkeys(("12", "i-ii"), "I-II"),
    **dict.fromkeys(("34", "iii-iv"), "III-IV"),
    **dict.fromkeys(("56", "v-vi"), "V-VI"),
    "-1": UNKNOWN,
}
"""The Fitzpatrick skin type by lower-case cell. DDI has pairs of types (12, 34, 56), and -1
is a missing value of Fitzpatrick17k."""
DERMOSCOPIC = ("dermoscopic", "dermatoscopic", "dermoscopy", "dermatoscopy")
"""Lower-case image types of dermatoscopic images."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(
        ("val", "valid", "validation", "dev", "eval", "evaluation"), "validation_official"
    ),
    **dict.fromkeys(("test", "testing"), "test_official"),
}
"""The split of the dataset by lower-case cell."""
AGE = re.compile(r"(?:>=?|over )?(\d+(?:[.,]\d+)?)\+?\s*(?:y|yrs?|years?)?")


def parse_column(
    cells: pd.Series, parse: Callable[[str], T], where: str, expected: str, advice: str = ""
) -> list[T]:
    """Returns `parse(cell)` for each cell of a column.

    The index of `cells` contains the row numbers. `parse` raises a KeyError or ValueError
    if a cell is invalid; the text of the first SourceError becomes part of the error
    message. For this message, `where` names the table, `expected` describes valid cells,
    and `advice` says what else the user can do.

    Raises:
        SourceError: A cell is invalid. The message names the first rows.
    """
    values: dict[str, T] = {}
    invalid: list[str] = []
    reasons: list[str] = []
    for cell in cells.unique():
        try:
            values[cell] = parse(cell)
        except (KeyError, ValueError) as error:
            invalid.append(cell)
            reasons += filter(None, error.args if isinstance(error, SourceError) else ())
    if invalid:
        rows = cells[cells.isin(invalid)]
        first = [f"row {row}: {cell!r}" for row, cell in rows.items()]
        reason = f" {reasons[0]}" if reasons else ""
        raise SourceError(
            f"{where}, column {cells.name!r}: {len(rows)} invalid value(s): "
            f"{join_first(first)}. Expected {expected}.{reason} Correct the cells"
            f"{f', or {advice}' if advice else ''}."
        )
    return [values[cell] for cell in cells]


def parse_age(cell: str) -> float:
    """Returns an age in years; NaN for a missing value. "85+" is 85.

    Raises:
        SourceError: The cell seems to be a year of birth.
        ValueError: The cell is not an age from 0 to `MAX_AGE`.
    """
    if cell.lower() in MISSING:
        return math.nan
    match = AGE.fullmatch(cell.lower())
    if match is None:
        raise ValueError(cell)
    age = float(match[1].replace(",", "."))
    if age in BIRTH_YEARS:
        raise SourceError("The values look like years of birth: replace them with ages.")
    if age > MAX_AGE:
        raise ValueError(cell)
    return age


def parse_word(vocabulary: Mapping[str, str]) -> Callable[[str], str]:
    """Returns a function that looks up a cell in `vocabulary`.

    Case is ignored, and underscores count as spaces. A missing value gives "unknown". The
    function raises a SourceError for other words.
    """

    def parse(cell: str) -> str:
        word = " ".join(cell.lower().replace("_", " ").split())
        if word not in MISSING and word not in vocabulary:
            raise SourceError(suggest(word, vocabulary).strip())
        return UNKNOWN if word in MISSING else vocabulary[word]

    return parse


def parse_id(cell: str) -> str:
    """Returns the cell, or "" if it means that the ID is not known."""
    return "" if cell.lower() in MISSING else cell


PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "age": (parse_age, f"an age in years, 0 to {MAX_AGE}; empty if not known"),
    "sex": (parse_word(SEXES), f"one of {', '.join(SEXES)}; empty if not known"),
    "site": (parse_word(SITE_OF), f"one of {', '.join(SITE_OF)}; empty if not known"),
    "skin_type": (
        parse_word(SKIN_TYPES),
        f"a Fitzpatrick skin type, one of {', '.join(SKIN_TYPES)}; empty if not known",
    ),
    "split": (lambda cell: SPLITS[cell.lower()], f"one of {', '.join(SPLITS)}"),
}
"""How the cells of a field are parsed, and what is expected, for error messages."""
