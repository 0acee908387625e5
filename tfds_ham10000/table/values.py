"""The values of the cells of a table, in the vocabulary of `Record`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import pandas as pd

from tfds_ham10000.records import UNKNOWN, SourceError, join_first

T = TypeVar("T")

MAX_AGE = 120
BIRTH_YEARS = range(1880, 2101)
MISSING = frozenset(
    ("", "unknown", "unk", "na", "n/a", "nan", "none", "null", "not known", "-", "?")
)
"""Lower-case cells that mean that a value is not known."""
SEXES = {
    **dict.fromkeys(("f", "female", "w", "woman"), "female"),
    **dict.fromkeys(("m", "male", "man"), "male"),
    "other": UNKNOWN,
}
"""The `sex` of a record by lower-case cell."""
SITES = {
    "head/neck": ("head/neck", "head and neck", "head neck", "lip"),
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
and the names of the same sites in the ISIC Archive, PAD-UFES-20 and Derm7pt."""
SITE_OF = {cell: site for site, cells in SITES.items() for cell in cells}
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
    cells: pd.Series, parse: Callable[[str], T], where: str, expected: str
) -> list[T]:
    """Returns `parse(cell)` for each cell of a column.

    The index of `cells` is the row in the file. `parse` raises a KeyError or ValueError if
    a cell is invalid. `where` is the file and `expected` describes valid cells, for the
    error message.

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
            reasons += error.args[:1] if isinstance(error, SourceError) else []
    if invalid:
        rows = cells[cells.isin(invalid)]
        first = [f"row {row}: {cell!r}" for row, cell in rows.items()]
        reason = f" {reasons[0]}" if reasons else ""
        raise SourceError(
            f"{where}, column {cells.name!r}: {len(rows)} invalid value(s): "
            f"{join_first(first)}. Expected {expected}.{reason} Correct the cells, or "
            "leave the column out, as in --columns age=."
        )
    return [values[cell] for cell in cells]


def parse_age(cell: str) -> float:
    """Returns an age in years; NaN for a missing value. "85+" is 85.

    Raises:
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

    Case and underscores in the cell are ignored. A missing value gives "unknown".
    """

    def parse(cell: str) -> str:
        word = " ".join(cell.lower().replace("_", " ").split())
        return UNKNOWN if word in MISSING else vocabulary[word]

    return parse


def parse_id(cell: str) -> str:
    """Returns the cell, or "" if it means that the id is not known."""
    return "" if cell.lower() in MISSING else cell
