"""The record of one image, and its validation."""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from pydantic import BaseModel, ConfigDict

CLASS_NAMES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""The diagnoses (`dx`) of HAM10000 in alphabetical order, the order of the labels."""

ISIC2019_CLASS_NAMES = ("mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc")
"""The diagnoses of ISIC 2019 in the order of the columns of the ground truth."""

UNKNOWN = "unknown"
MAX_AGE = 120
"""Maximum age of a patient in years."""
OPTIONAL_COLUMNS = ("dx_type", "age", "sex", "localization", "dataset", "skin_type")
"""Fields of a `Record` in which a missing value is NaN (`age`) or "unknown" (the others). A
lesion_id or patient_id that is not known is ""."""


class SourceError(ValueError):
    """Raised if source files are missing or invalid, or cannot be downloaded."""

    exit_code = 3


class OptionError(SourceError):
    """Raised if an option is invalid, is missing or does not fit the source files."""

    exit_code = 2


class DeclaredClass(BaseModel):
    """A class that `classes.json` beside the images describes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    full_name: str  # the name, unless another one is declared
    malignant: bool | None  # None if not known


@dataclass(frozen=True)
class Record:
    """The label and metadata of one image."""

    image_id: str  # unique; the file name, or path, without a suffix
    lesion_id: str  # the lesion, which several images may show; "" if it is not known
    dx: str  # the diagnosis, one of the class names of the dataset
    dx_type: str = UNKNOWN  # how the diagnosis was confirmed: "histo", "follow_up", ...
    age: float = math.nan  # the age of the patient in years
    sex: str = UNKNOWN  # the sex of the patient, "female" or "male"
    localization: str = UNKNOWN  # the body site
    dataset: str = UNKNOWN  # the collection that the image is from
    patient_id: str = ""  # the patient, who may have several lesions; "" if not known
    skin_type: str = UNKNOWN  # Fitzpatrick skin type, "I" .. "VI", or "I-II", ... of DDI


def make_record(cells: Mapping[str, str], where: str, class_names: Sequence[str]) -> Record:
    """Returns the record of one image; `cells` are its known fields, as text.

    `where` names the file and the row, for error messages.

    Raises:
        SourceError: The image_id is missing, or the dx or age is invalid.
    """
    if not cells.get("image_id"):
        raise SourceError(f"{where}: image_id must not be empty.")
    dx = cells.get("dx", "")
    if dx not in class_names:
        raise SourceError(
            f"{where}: unknown label of {cells['image_id']}. Expected one of: "
            f"{', '.join(class_names)}. Received: dx={dx!r}.{suggest(dx, class_names)}"
        )
    age = _parse_age(cells.get("age", "nan"), cells["image_id"], where)
    fields = {"lesion_id": "", **cells, "age": age}
    return Record(**fields)  # type: ignore[arg-type]  # only the age is a number


def check_records(
    records: Sequence[Record], where: object, *, one_diagnosis: bool = True
) -> None:
    """Checks that the records of a table are consistent.

    `where` names the table, for error messages.

    Raises:
        SourceError: There are no records, an image_id is not unique, or a lesion has
            several diagnoses although `one_diagnosis` is true.
    """
    if not records:
        raise SourceError(
            f"{where} has no image with a known diagnosis. Expected at least one."
        )
    counts = Counter(record.image_id for record in records)
    repeated = [image_id for image_id, count in counts.items() if count > 1]
    if repeated:
        raise SourceError(
            f"{where}: {len(repeated)} image_id(s) occur in several rows: "
            f"{join_first(repeated)}. Expected one row per image."
        )
    conflicting = lesions_with_several_diagnoses(records)
    if one_diagnosis and conflicting:
        raise SourceError(
            f"{where}: {len(conflicting)} lesion(s) have several diagnoses: "
            f"{join_first(conflicting)}. Expected one diagnosis for all images of a lesion."
        )


def lesions_with_several_diagnoses(records: Sequence[Record]) -> list[str]:
    """Returns the sorted, known lesion_ids whose images have different diagnoses."""
    known = [record for record in records if record.lesion_id]
    diagnoses = {record.lesion_id: record.dx for record in known}
    return sorted({r.lesion_id for r in known if r.dx != diagnoses[r.lesion_id]})


def count_missing(records: Iterable[Record]) -> dict[str, int]:
    """Returns the number of missing values in each of `OPTIONAL_COLUMNS`."""
    table = pd.DataFrame(list(records), columns=OPTIONAL_COLUMNS)
    counts = (table.isna() | (table == UNKNOWN)).sum()
    return {name: int(counts[name]) for name in OPTIONAL_COLUMNS}


def compose(text: str) -> str:
    """Returns text in the Unicode form NFC, in which "é" is one character.

    macOS and some programs encode it as two characters (NFD).
    """
    return unicodedata.normalize("NFC", text)


def join_first(names: Sequence[str], separator: str = ", ", limit: int = 10) -> str:
    """Returns the first `limit` names as text, with the total number if there are more."""
    more = f"{separator}... ({len(names)} in total)" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def suggest(name: str, valid: Iterable[str]) -> str:
    """Returns " Did you mean ...?" for the closest valid name, or "" if none is close."""
    nearest = difflib.get_close_matches(name, list(valid), n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def _parse_age(cell: str, image_id: str, where: str) -> float:
    try:
        age = float(cell)
    except ValueError:
        age = -1
    if age < 0 or age > MAX_AGE:
        raise SourceError(
            f"{where}: invalid age of {image_id}. Expected a number of years in "
            f"0..{MAX_AGE}, or an empty cell. Received: {cell!r}."
        )
    return age
