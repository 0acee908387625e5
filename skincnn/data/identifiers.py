"""Numbers of images with a known lesion and a known patient, and the grouping of images."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from skincnn.records import Part

Unit = Literal["patient", "lesion", "image"]
"""What images are grouped by. Detected near-duplicates are in the same group as well."""
ID_COLUMNS = {"lesion": "lesion_id", "patient": "patient_id"}
"""Column of a table of images with the IDs of each unit; "" where the ID is not known."""


class Identifiers(Part):
    """The numbers of images with a known lesion and with a known patient, and the grouping.

    Attributes:
        unit: What the images are grouped by: "patient" if any patient is known and all
            images of each patient are in one group; otherwise "lesion" if any lesion is
            known; otherwise "image". An image whose patient or lesion is not known is
            grouped only with the other images of its lesion, if the lesion is known, and
            with detected near-duplicates.
    """

    num_images: int
    with_lesion: int
    with_patient: int
    unit: Unit


def find_identifiers(table: pd.DataFrame) -> Identifiers:
    """Counts the images of a table with a known lesion and with a known patient.

    The table has the columns lesion_id and group_id, and may have patient_id.
    """
    lesions, patients = known_ids(table, "lesion"), known_ids(table, "patient")
    group_of_patient = table["group_id"].groupby(patients)
    unit: Unit = "lesion" if len(lesions) else "image"
    if len(patients) and (group_of_patient.nunique() == 1).all():
        unit = "patient"
    return Identifiers(
        num_images=len(table),
        with_lesion=len(lesions),
        with_patient=len(patients),
        unit=unit,
    )


def known_ids(table: pd.DataFrame, unit: str) -> pd.Series[str]:
    """Returns the lesion or patient IDs of the images for which they are known.

    `unit` is a key of `ID_COLUMNS`. None are known if the table lacks the column.
    """
    column = ID_COLUMNS[unit]
    if column not in table:
        return pd.Series([], dtype=str)
    return table.loc[table[column] != "", column]


def count_ids(table: pd.DataFrame, unit: str) -> int | None:
    """Returns the number of lesions or patients; None unless known for all images."""
    known = known_ids(table, unit)
    return int(known.nunique()) if len(known) == len(table) else None
