"""ISIC 2024, SLICE-3D: crops of 3D total-body photographs, as published and at Kaggle."""

from __future__ import annotations

from collections.abc import Sequence

from tfds_ham10000.published.layout import (
    TableFile,
    TableLayout,
    find_one,
    join_metadata,
    read_frame,
    read_only_table,
)
from tfds_ham10000.table.cells import Table, to_table

TITLE = "ISIC 2024, SLICE-3D"
METADATA = ("isic_id", "patient_id", "age_approx", "sex", "anatom_site_general")
NOTES = (
    "lesion_id is not used: it is known for all malignant images, but only for 5 % "
    "of all images, and so reveals the label; images are grouped by patient",
    "the images are crops of total-body photographs, not dermatoscopic images",
)


def read_official(tables: Sequence[TableFile], others: Sequence[TableFile]) -> Table:
    """Returns the labels, with those of the columns `METADATA` that metadata.csv has.

    The supplement of the dataset is not read, because its columns describe the diagnosis.

    Raises:
        OptionError: There are several tables of labels.
        SourceError: The labels are invalid, or the metadata are missing or invalid.
        KeyError: The metadata lack the column `isic_id`.
    """
    table = read_only_table(tables, others)
    metadata = find_one(others, "metadata.csv", TITLE)
    columns = [name for name in METADATA if name in metadata.names]
    frame = join_metadata(table.select_all(), read_frame(metadata, columns), "isic_id")
    return to_table(table.path, frame)


SLICE_3D = (
    TableLayout(
        title=f"{TITLE} (Kaggle)",
        name="isic2024",
        files="train-metadata.csv, and train-image.hdf5 or the directory train-image",
        reference="Kurtansky et al. (2024), doi:10.1038/s41597-024-03743-w",
        header=("isic_id", "target", "patient_id", "tbp_lv_A"),
        columns={"label": "target", "lesion_id": ""},
        cells={"target": {"0": "benign", "1": "malignant"}},
        notes=NOTES,
    ),
    TableLayout(
        title=TITLE,
        name="isic2024",
        files="ISIC_2024_Training_GroundTruth.csv and ISIC_2024_Training_Input.zip with "
        "metadata.csv (or the files of the Permissive set)",
        reference="Kurtansky et al. (2024), doi:10.1038/s41597-024-03743-w",
        header=("isic_id", "malignant"),
        other_tables=r"metadata\.csv",
        file_name=r"ISIC_2024_(Permissive_)?Training_GroundTruth\.csv",
        columns={"label": "malignant", "lesion_id": ""},
        notes=NOTES,
        read=read_official,
    ),
)
