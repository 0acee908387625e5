"""Exports of the ISIC Archive: isic-cli, downloads of the gallery, and metadata files.

The columns depend on the date of the export, and columns without any value are missing.
Until 2021, most of them had the prefix `meta.`; since 2024, the diagnosis is a path of up
to five levels, `diagnosis_1` to `diagnosis_5`, instead of `diagnosis`. Source: the code of
ImageMarkup/isic, isic-cli and isic-metadata on GitHub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tfds_ham10000.folds import published_assignments
from tfds_ham10000.published.layout import TableFile, TableLayout, read_only_table
from tfds_ham10000.table.cells import Table, to_table

LEVELS = ("diagnosis_3", "diagnosis_2", "diagnosis_1")
"""The levels of the diagnosis that are read, the most specific first. Levels 4 and 5 are
subtypes."""
DIAGNOSIS = "diagnosis_1..3"
"""Name of the added column: the most specific of `LEVELS` that is known."""
OTHER_LABELS = (*LEVELS, "benign_malignant")
"""Columns that can be labels instead. Images without a label are left out."""
OFFICIAL_2018 = {
    "val": ("ISIC_0034321", "ISIC_0034523"),
    "test": ("ISIC_0034524", "ISIC_0036064"),
}
"""First and last image_id of the official splits of ISIC 2018, task 3, which the Archive
publishes together with HAM10000 (collection 212). All of these images are also in the test
set of ISIC 2019."""
NOTES = (
    "the labels of the ISIC Archive can change, and a few differ from those of the "
    "challenges and of BCN20000",
)


def read_export(tables: Sequence[TableFile], others: Sequence[TableFile]) -> Table:
    """Returns the only export, with a diagnosis and, if necessary, the official splits.

    The images of the official validation and test sets of ISIC 2018 are in these splits if
    the export also contains images of HAM10000, the training set, and has no column split.

    Raises:
        OptionError: There are several exports.
        SourceError: The export is invalid.
        ValueError: See `published_assignments`.
    """
    table = read_only_table(tables, others)
    frame = table.select_all()
    if LEVELS[-1] in frame:
        frame[DIAGNOSIS] = ""
        for level in LEVELS:
            if level in frame:
                frame[DIAGNOSIS] = frame[DIAGNOSIS].mask(
                    frame[DIAGNOSIS] == "", frame[level]
                )
    name = "isic_id" if "isic_id" in frame else "name"
    notes = list(table.notes)
    if "split" not in frame and frame[name].isin(published_assignments()).any():
        frame["split"] = frame[name].map(_official_split)
        notes.append(
            "the export contains images of HAM10000: the images of the official validation "
            "and test sets of ISIC 2018 are not in the folds, but in splits of their own"
        )
    return replace(to_table(table.path, frame), notes=notes)


def _official_split(image_id: str) -> str:
    for split, (first, last) in OFFICIAL_2018.items():
        if first <= image_id <= last:
            return split
    return "train"


def _export(years: str, header: tuple[str, ...], columns: Mapping[str, str]) -> TableLayout:
    return TableLayout(
        title=f"ISIC Archive export, {years}",
        name="isic_archive",
        files="metadata.csv and the images that it lists",
        reference="https://www.isic-archive.com",
        header=header,
        columns=columns,
        cells={name: {"": None} for name in (columns["label"], *OTHER_LABELS)},
        notes=NOTES,
        read=read_export,
    )


ISIC_ARCHIVE = (
    _export(
        "since 2024",
        ("isic_id", "attribution", "diagnosis_1"),
        {"label": DIAGNOSIS, "dataset": "attribution"},
    ),
    _export(
        "2022 to 2024",
        ("isic_id", "attribution", "diagnosis"),
        {"label": "diagnosis", "dataset": "attribution"},
    ),
    _export(
        "until 2021",
        ("name", "meta.clinical.diagnosis"),
        {
            "image": "name",
            "label": "meta.clinical.diagnosis",
            "lesion_id": "meta.clinical.lesion_id",
            "patient_id": "meta.clinical.patient_id",
            "age": "meta.clinical.age_approx",
            "sex": "meta.clinical.sex",
            "site": "meta.clinical.anatom_site_general",
            "dx_type": "meta.clinical.diagnosis_confirm_type",
            "dataset": "dataset.name",
            "image_type": "meta.acquisition.image_type",
        },
    ),
)
