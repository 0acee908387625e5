"""The columns of a table: which column contains which field, such as the label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tfds_ham10000.records import OptionError, SourceError, join_first, suggest
from tfds_ham10000.table.cells import Table

COLUMN_NAMES = {
    "image": (
        *(
            "image_id",
            "image",
            "isic_id",
            "image_name",
            "img_id",
            "image_file",
            "image_path",
        ),
        *("file", "filename", "filepath", "path", "bcn_filename", "ddi_file", "md5hash"),
    ),
    "label": (
        *("dx", "diagnosis", "diagnostic", "label", "class", "disease"),
        *("benign_malignant", "malignant", "target"),
    ),
    "lesion_id": ("lesion_id", "lesion"),
    "patient_id": ("patient_id", "patient", "subject_id"),
    "age": ("age", "age_approx", "age_approximate", "age_years"),
    "sex": ("sex", "gender"),
    "site": (
        *("localization", "localisation", "anatom_site_general", "anatom_site"),
        *("anatom_site_general_challenge", "anatom_site_1"),
        *("body_site", "site", "region", "location"),
    ),
    "split": ("split", "partition", "subset"),
    "dx_type": ("dx_type", "diagnosis_confirm_type"),
    "dataset": ("dataset", "source"),
    "skin_type": (
        *("fitzpatrick_skin_type", "fitzpatrick_scale", "fitzpatrick", "fitspatrick"),
        *("skin_type", "skin_tone"),
    ),
    "image_type": ("image_type",),
}
"""The usual names of the column of each field, in order of preference. Case, spaces,
hyphens and underscores are ignored."""
REQUIRED = ("image", "label")


def find_columns(
    table: Table,
    given: Mapping[str, str],
    required: Sequence[str] = REQUIRED,
    option: str = "--columns",
) -> tuple[dict[str, str], list[str]]:
    """Returns the column of each field that the table has, and notes.

    Args:
        table: The table.
        given: The columns that the user or a published layout names, by field; "" if a
            field is to be left out.
        required: The fields that the table must have.
        option: The flag that names columns, for messages; "" if there is none.

    Raises:
        OptionError: `given` has an unknown field or a column that the table lacks.
        SourceError: No column of a required field is found, or the column of a field
            occurs several times.
    """
    names, path = table.names, table.path
    columns: dict[str, str] = {}
    notes: list[str] = []
    _check_given(table, given)
    for field, usual in COLUMN_NAMES.items():
        if field in given:
            candidates = [given[field]] if given[field] else []
        else:
            keys = [_key(name) for name in usual]
            known = [name for name in names if _key(name) in keys]
            candidates = sorted(known, key=lambda name: keys.index(_key(name)))
        if not candidates:
            continue
        if names.count(candidates[0]) > 1:
            raise SourceError(
                f"{path}: the column {candidates[0]!r} occurs several times. Expected one "
                "column of this name: rename or delete the others."
            )
        columns[field] = candidates[0]
        if candidates[1:]:
            notes.append(
                f"{field} is read from the column {candidates[0]!r}, and not from "
                f"{', '.join(map(repr, candidates[1:]))}"
                f"{f' ({option} {field}=...)' if option else ''}"
            )
    missing = [field for field in required if field not in columns]
    if missing:
        usual_names = [f"{field}: {', '.join(COLUMN_NAMES[field])}" for field in missing]
        advice = "Rename the columns."
        if option:
            named = " ".join(f"{field}=COLUMN" for field in missing)
            advice = f"Name the columns, as in {option} {named}."
        raise SourceError(
            f"{path} has no column with one of the usual names of the "
            f"{'; nor of the '.join(usual_names)}. {advice} "
            f"Received: {table.describe_names()}."
        )
    return columns, notes


def _check_given(table: Table, given: Mapping[str, str]) -> None:
    """Raises an OptionError if a field or column in `given` does not exist."""
    for field, name in given.items():
        if field not in COLUMN_NAMES:
            raise OptionError(
                f"--columns: unknown field {field!r}. Expected one of: "
                f"{', '.join(COLUMN_NAMES)}.{suggest(field, COLUMN_NAMES)}"
            )
        if name and name not in table.names:
            raise OptionError(
                f"--columns {field}={name}: {table.path} has no column {name!r}. Its "
                f"columns are: {join_first(table.names, limit=60)}."
                f"{suggest(name, table.names)}"
            )


def _key(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).lower()
