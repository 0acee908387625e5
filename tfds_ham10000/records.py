"""What is known of one picture, and the errors that wrong source files cause."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CLASS_NAMES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""HAM10000's diagnoses (`dx`), in alphabetical order, which is the order of labels."""

ISIC2019_CLASS_NAMES = ("mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc")
"""ISIC 2019's diagnoses in the order of the columns of its ground truth."""

UNKNOWN = "unknown"
COUNTED_IF_MISSING = ("dx_type", "age", "sex", "localization", "dataset")
"""The columns that may lack a value: NaN in `age`, "unknown" in the others."""


class SourceError(ValueError):
    """Source files that are missing, incomplete or damaged."""

    exit_code = 3


@dataclass(frozen=True)
class Record:
    """What is known of one picture.

    Attributes:
        image_id: The picture's name, without a suffix; unique.
        lesion_id: The lesion that the picture shows; several pictures may share it.
        dx: The diagnosis, one of the dataset's class names.
        dx_type: How the diagnosis was made ("histo", "follow_up", ...), or "unknown".
        age: The patient's age in years; NaN where it is missing.
        sex: "female", "male" or "unknown".
        localization: The site on the body, or "unknown".
        dataset: The collection that the picture comes from, or "unknown".
    """

    image_id: str
    lesion_id: str
    dx: str
    dx_type: str = UNKNOWN
    age: float = math.nan
    sex: str = UNKNOWN
    localization: str = UNKNOWN
    dataset: str = UNKNOWN


def make_record(cells: Mapping[str, str], where: str, class_names: Sequence[str]) -> Record:
    """Returns a record made of the cells of a row, by the names of `Record`'s fields.

    Cells are stripped; an empty one, or one that is absent, becomes NaN (age) or
    "unknown".

    Args:
        cells: The row; `image_id`, `lesion_id` and `dx` must not be empty.
        where: The file and line, for the messages.
        class_names: What `dx` may be.

    Raises:
        SourceError: An id is empty, the label is unknown, or the age is no age.
    """
    cells = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
    if "image_id" not in cells or "lesion_id" not in cells:
        raise SourceError(f"{where}: image_id and lesion_id must not be empty.")
    dx = cells.get("dx", "")
    if dx not in class_names:
        nearest = difflib.get_close_matches(dx, class_names, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise SourceError(
            f"{where}: unknown label dx={dx!r} of {cells['image_id']}. Expected "
            f"one of: {', '.join(class_names)}.{hint}"
        )
    age = _parse_age(cells.pop("age", "nan"), cells["image_id"], where)
    return Record(age=age, **cells)


def check_records(
    records: Sequence[Record], where: object, *, one_diagnosis: bool = True
) -> None:
    """Checks that rows are there, and that none contradicts another.

    Raises:
        SourceError: There is no row, an image_id stands twice, or (with `one_diagnosis`)
            a lesion has two diagnoses.
    """
    if not records:
        raise SourceError(f"{where} has no rows. Expected one for each picture.")
    counts = Counter(record.image_id for record in records)
    twice = [image_id for image_id, count in counts.items() if count > 1]
    if twice:
        raise SourceError(
            f"{where}: {len(twice)} image_id(s) stand in several rows: {some(twice)}. "
            "Expected one row for each picture."
        )
    torn = lesions_with_two_diagnoses(records)
    if one_diagnosis and torn:
        raise SourceError(
            f"{where}: {len(torn)} lesion(s) have two diagnoses: {some(torn)}. "
            "Expected one `dx` for all pictures of a lesion."
        )


def lesions_with_two_diagnoses(records: Iterable[Record]) -> list[str]:
    """Returns the lesion_ids, sorted, whose pictures do not all have one diagnosis."""
    records = list(records)
    diagnoses = {record.lesion_id: record.dx for record in records}
    return sorted({r.lesion_id for r in records if r.dx != diagnoses[r.lesion_id]})


def count_missing(records: Iterable[Record]) -> dict[str, int]:
    """Returns how many records lack a value, by the columns of `COUNTED_IF_MISSING`."""
    counts = dict.fromkeys(COUNTED_IF_MISSING, 0)
    for record in records:
        for name in COUNTED_IF_MISSING:
            value = getattr(record, name)
            counts[name] += value == UNKNOWN or value != value
    return counts


def some(names: Sequence[str], separator: str = ", ", limit: int = 10) -> str:
    """Returns the first `limit` names in one string, and their number if there are more."""
    more = f"{separator}... ({len(names)} in all)" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def _parse_age(cell: str, image_id: str, where: str) -> float:
    try:
        age = float(cell)
    except ValueError as error:
        raise SourceError(
            f"{where}: the age of {image_id} must be a number of years or empty ({error})."
        ) from error
    if age < 0 or math.isinf(age):
        raise SourceError(f"{where}: impossible age {age} of {image_id}.")
    return age
