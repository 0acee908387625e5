"""Published datasets that are recognized by their files, on synthetic files."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import published_files as files
import pytest
import tensorflow_datasets as tfds
from conftest import Prepare
from PIL import Image
from source_files import jpeg, make_rows, write_folder, write_isic2018

from skincnn.data.datasets import open_dataset
from skincnn.data.label_maps import find_label_map
from tfds_ham10000.folds import published_assignments
from tfds_ham10000.layouts import Source
from tfds_ham10000.published.recognition import PUBLISHED
from tfds_ham10000.records import (
    CLASS_NAMES,
    Record,
    SourceError,
)
from tfds_ham10000.sources import find_name, read_source
from tfds_ham10000.table.options import TableOptions

Writer = Callable[[Path], None]
Labels = dict[str, dict[str, str]]
ONE_CLASS_EACH = {"ISIC_0027419": "mel", "ISIC_0024306": "nv", "ISIC_0024307": "akiec"}
LAYOUTS: dict[str, tuple[Writer, str, str, Labels, dict[str, int]]] = {
    "ISIC Archive since 2024": (
        files.export_2024,
        "isic_archive",
        "ISIC Archive export, since 2024",
        {
            "train": {
                "ISIC_0100000": "Nevus",
                "ISIC_0100001": "Benign soft tissue proliferations - Vascular",
            }
        },
        {"no label": 1, "image type 'clinical: close-up'": 1},
    ),
    "ISIC Archive 2022, zip": (
        files.export_2022,
        "isic_archive",
        "ISIC Archive export, 2022 to 2024",
        {"train": {"ISIC_6230191": "melanoma", "ISIC_4485929": "seborrheic keratosis"}},
        {"no label": 1},
    ),
    "ISIC Archive 2021": (
        files.export_2021,
        "isic_archive",
        "ISIC Archive export, until 2021",
        {"train": {"ISIC_0000000": "nevus", "ISIC_0000002": "melanoma"}},
        {"no label": 1},
    ),
    "ISIC 2016": (
        files.isic_2016,
        "isic2016",
        "ISIC challenge 2016, part 3",
        {
            "train": {"ISIC_0000000": "benign", "ISIC_0000001": "malignant"},
            "test_official": {"ISIC_0000010": "benign", "ISIC_0000011": "malignant"},
        },
        {},
    ),
    "ISIC 2017": (
        files.isic_2017,
        "isic2017",
        "ISIC challenge 2017, part 3",
        {
            "train": {
                "ISIC_0000000": "nevus",
                "ISIC_0000001": "melanoma",
                "ISIC_0000002": "seborrheic_keratosis",
            },
            "validation_official": {"ISIC_0000003": "nevus"},
            "test_official": {"ISIC_0000004": "nevus", "ISIC_0000005": "melanoma"},
        },
        {},
    ),
    "ISIC 2018 test": (
        files.isic_2018_test,
        "isic2018_test",
        "ISIC challenge 2018, task 3, validation and test set",
        {"train": {"ISIC_0034524": "mel", "ISIC_0034525": "akiec"}},
        {},
    ),
    "ISIC 2018 test, Harvard Dataverse": (
        files.isic_2018_test_dataverse,
        "isic2018_test",
        "ISIC challenge 2018, task 3, validation and test set",
        {"train": {"ISIC_0034524": "nv", "ISIC_0034525": "mel"}},
        {"not in the table": 1},
    ),
    "ISIC 2019 test": (
        files.isic_2019_test,
        "isic2019_test",
        "ISIC challenge 2019, test set",
        {"train": {"ISIC_0034321": "ak", "ISIC_0053456": "nv"}},
        {"label 'unk'": 1},
    ),
    "ISIC 2020": (
        files.isic_2020,
        "isic2020",
        "ISIC challenge 2020 (SIIM-ISIC)",
        {"train": {"ISIC_2637011": "benign", "ISIC_0015719": "malignant"}},
        {},
    ),
    "MILK10k": (
        files.milk10k,
        "milk10k",
        "ISIC challenge 2025 (MILK10k)",
        {"train": {"ISIC_8149220": "SCCKA", "ISIC_8149222": "NV"}},
        {"no label": 2, "image type 'clinical: close-up'": 2},
    ),
    "ISIC 2024, Kaggle": (
        files.slice_3d_kaggle,
        "isic2024",
        "ISIC 2024, SLICE-3D (Kaggle)",
        {"train": {"ISIC_0015670": "benign", "ISIC_0015845": "malignant"}},
        {},
    ),
    "ISIC 2024": (
        files.slice_3d,
        "isic2024",
        "ISIC 2024, SLICE-3D",
        {"train": {"ISIC_0015670": "benign", "ISIC_0015845": "malignant"}},
        {},
    ),
    "PAD-UFES-20": (
        files.pad_ufes_20,
        "pad_ufes_20",
        "PAD-UFES-20",
        {
            "train": {
                "PAT_1516_1765_530": "NEV",
                "PAT_46_881_939": "BCC",
                "PAT_1545_1765_547": "ACK",
            }
        },
        {},
    ),
    "BCN20000": (
        files.bcn20000,
        "bcn20000",
        "BCN20000",
        {"train": {"BCN_0000000001": "MEL", "BCN_0000000003": "NV"}},
        {"no label": 1},
    ),
    "Derm7pt": (
        files.derm7pt,
        "derm7pt",
        "Derm7pt",
        {
            "train": {
                "NEL/Nel026": "basal cell carcinoma",
                "NFL/Nfl046": "nevus",
                "Gal/Gal146": "melanoma",
            },
            "validation_official": {"Gal/Gal147": "nevus"},
            "test_official": {"Gcl/gcl001": "melanoma"},
        },
        {},
    ),
    "PH2": (
        files.ph2,
        "ph2",
        "PH2",
        {
            "train": {
                "IMD002": "atypical nevus",
                "IMD003": "common nevus",
                "IMD058": "melanoma",
            }
        },
        {},
    ),
    "PH2, Excel": (
        files.ph2_excel,
        "ph2",
        "PH2",
        {
            "train": {
                "IMD002": "atypical nevus",
                "IMD003": "common nevus",
                "IMD058": "melanoma",
            }
        },
        {},
    ),
    "Fitzpatrick17k": (
        files.fitzpatrick17k,
        "fitzpatrick17k",
        "Fitzpatrick17k",
        {
            "train": {
                "5e82a45bc5d78bd24ae9202d194423f8": "drug induced pigmentary changes",
                "fa2911a9b13b6f8af79cb700937cc14f": "actinic keratosis",
            }
        },
        {},
    ),
    "DDI": (
        files.ddi,
        "ddi",
        "DDI",
        {"train": {"000001": "malignant", "000002": "benign", "000003": "benign"}},
        {},
    ),
    "DermaMNIST": (
        files.dermamnist,
        "dermamnist",
        "DermaMNIST",
        {
            "train": {"train/00000": "mel", "train/00001": "nv", "train/00002": "akiec"},
            "validation_official": {"val/00000": "nv"},
            "test_official": {"test/00000": "mel", "test/00001": "akiec"},
        },
        {},
    ),
    "DermaMNIST with ids": (
        files.dermamnist_with_ids,
        "dermamnist",
        "DermaMNIST",
        {
            "train": ONE_CLASS_EACH,
            "validation_official": {"ISIC_0024308": "nv"},
            "test_official": {"ISIC_0025030": "mel", "ISIC_0024309": "akiec"},
        },
        {},
    ),
    "DermaMNIST-C": (
        files.dermamnist_corrected,
        "dermamnist",
        "DermaMNIST",
        {
            "train": ONE_CLASS_EACH,
            "validation_official": {"ISIC_0024308": "nv"},
            "test_official": {"ISIC_0025030": "mel", "ISIC_0024309": "akiec"},
        },
        {},
    ),
}
"""For each layout: the function that writes it, the name of the dataset, the title, the
label of each image by split, and the number of images that are left out, by reason."""


def read(folder: Path, **options: Any) -> Source:
    return read_source(folder, "table", TableOptions(**options))


def records_of(source: Source) -> dict[str, Record]:
    return {r.image_id: r for part in source.splits.values() for r in part}


def written(name: str, folder: Path) -> Path:
    LAYOUTS[name][0](folder)
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognized_and_read(name: str, tmp_path: Path) -> None:
    write, dataset, title, labels, excluded = LAYOUTS[name]
    write(tmp_path)
    assert find_name(tmp_path, TableOptions()) == dataset
    source = read(tmp_path)
    assert source.layout == title
    assert {
        split: {record.image_id: record.dx for record in records}
        for split, records in source.splits.items()
    } == labels
    assert source.excluded == excluded
    for image_id in records_of(source):
        assert len(source.images.read(image_id)) > 100
        assert source.images.size(image_id) > 100
    [layout] = {
        layout.name: layout for layout in PUBLISHED if layout.title == title
    }.values()
    notes = [f"publication: {layout.reference}", *layout.notes]
    assert source.notes[: len(notes)] == notes


def test_each_layout_has_a_test() -> None:
    assert {layout.title for layout in PUBLISHED} == {case[2] for case in LAYOUTS.values()}
    assert all(layout.files and layout.reference and layout.notes for layout in PUBLISHED)


RECORDS: list[tuple[str, str, dict[str, object]]] = [
    (
        "ISIC Archive since 2024",
        "ISIC_0100000",
        {
            "lesion_id": "IL_0000001",
            "patient_id": "IP_0000001",
            "dx_type": "histo",
            "age": 55.0,
            "sex": "female",
            "localization": "trunk",
            "dataset": "-A",
            "skin_type": "II",
        },
    ),
    (
        "ISIC Archive 2021",
        "ISIC_0000002",
        {"age": 60.0, "sex": "male", "localization": "oral/genital", "lesion_id": ""},
    ),
    ("ISIC 2017", "ISIC_0000000", {"age": 55.0, "sex": "female", "patient_id": ""}),
    (
        "ISIC 2018 test, Harvard Dataverse",
        "ISIC_0034525",
        {"lesion_id": "HAMTEST_0000001", "dx_type": "histo", "localization": "abdomen"},
    ),
    ("ISIC 2019 test", "ISIC_0034321", {"age": 45.0, "localization": "lower extremity"}),
    (
        "ISIC 2020",
        "ISIC_2637011",
        {
            "lesion_id": "IL_7972535",
            "patient_id": "IP_7279968",
            "localization": "head/neck",
        },
    ),
    ("ISIC 2024", "ISIC_0015845", {"patient_id": "IP_8170065", "lesion_id": ""}),
    ("ISIC 2024, Kaggle", "ISIC_0015845", {"patient_id": "IP_8170065", "lesion_id": ""}),
    (
        "PAD-UFES-20",
        "PAT_46_881_939",
        {
            "patient_id": "PAT_46",
            "lesion_id": "881",
            "dx_type": "histo",
            "sex": "female",
            "localization": "neck",
            "skin_type": "III",
        },
    ),
    ("PAD-UFES-20", "PAT_1516_1765_530", {"lesion_id": "PAT_1516/1765", "age": 8.0}),
    (
        "MILK10k",
        "ISIC_8149220",
        {
            "lesion_id": "IL_0000650",
            "patient_id": "",
            "age": 40.0,
            "localization": "head/neck",
            "dataset": "MILK study team",
            "skin_type": "unknown",
        },
    ),
    ("BCN20000", "BCN_0000000001", {"lesion_id": "BCN_0003884", "patient_id": ""}),
    ("Derm7pt", "NFL/Nfl046", {"lesion_id": "44", "localization": "head/neck"}),
    ("Fitzpatrick17k", "5e82a45bc5d78bd24ae9202d194423f8", {"skin_type": "III"}),
    ("Fitzpatrick17k", "fa2911a9b13b6f8af79cb700937cc14f", {"skin_type": "unknown"}),
    ("DDI", "000001", {"skin_type": "V-VI"}),
    ("DDI", "000002", {"skin_type": "I-II"}),
    ("DermaMNIST with ids", "ISIC_0027419", {"lesion_id": "HAM_0000118"}),
    ("DermaMNIST-C", "ISIC_0024306", {"age": 45.0, "dataset": "rosendahl"}),
]


def test_tables_with_the_same_name_in_several_directories_are_read(tmp_path: Path) -> None:
    folder = written("BCN20000", tmp_path)
    (folder / "bcn_20k_test.csv").unlink()
    table = folder / "bcn_20k_train.csv"
    columns, row, _ = table.read_text().splitlines()
    (folder / "more").mkdir()
    more = row.replace("BCN_0000000001", "BCN_0000000002")
    (folder / "more" / table.name).write_text(f"{columns}\n{more}\n")
    names = {f"BCN_000000000{number}" for number in (1, 2, 3)}
    assert records_of(read(folder)).keys() == names


@pytest.mark.parametrize(("name", "image_id", "expected"), RECORDS)
def test_the_fields_of_a_layout_are_read(
    name: str, image_id: str, expected: dict[str, object], tmp_path: Path
) -> None:
    record = dataclasses.asdict(records_of(read(written(name, tmp_path)))[image_id])
    assert {field: record[field] for field in expected} == expected


def test_flags_replace_what_is_recognized(tmp_path: Path) -> None:
    written("DDI", tmp_path)
    labels = {
        r.dx for r in records_of(read(tmp_path, columns={"label": "disease"})).values()
    }
    assert labels == {"melanoma-in-situ", "melanocytic-nevi", "verruca-vulgaris"}
    assert read(tmp_path, columns={"skin_type": ""}).columns == {
        "image": "DDI_file",
        "label": "malignant",
    }
    mapping = {"TRUE": "cancer", "FALSE": "none"}
    assert read(tmp_path, label_map=mapping).class_names == ("cancer", "none")
    derm7pt = tmp_path / "derm7pt"
    files.derm7pt(derm7pt)
    source = read(derm7pt, columns={"image": "clinic", "split": ""})
    assert set(source.splits) == {"train"}
    assert "NEL/NEL025" in records_of(source)
    published = files.DERM7PT_DIAGNOSES
    mapping = {name: name.rpartition(" ")[2] for name in published}
    source = read(derm7pt, label_map=mapping, columns={"split": ""})
    assert source.class_names == ("carcinoma", "mm)", "nevus", "situ)")


def test_an_hdf5_file_is_read_if_the_images_are_not_unpacked(tmp_path: Path) -> None:
    written("ISIC 2024, Kaggle", tmp_path)
    unpacked = read(tmp_path)
    contents = {name: unpacked.images.read(name) for name in records_of(unpacked)}
    shutil.rmtree(tmp_path / "train-image")
    source = read(tmp_path)
    assert {name: source.images.read(name) for name in records_of(source)} == contents
    assert not source.excluded


def test_arrays_are_stored_without_loss(tmp_path: Path) -> None:
    written("DermaMNIST", tmp_path)
    source = read(tmp_path)
    (tmp_path / "a.png").write_bytes(source.images.read("test/00001"))
    with np.load(tmp_path / "dermamnist.npz") as arrays:
        expected = arrays["test_images"][1]
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_the_lesion_of_slice_3d_is_no_input(tmp_path: Path) -> None:
    """Its lesion_id is known for malignant and few other images: it reveals the label."""
    for name in ("ISIC 2024", "ISIC 2024, Kaggle"):
        source = read(written(name, tmp_path / name))
        assert "lesion_id" not in source.columns
        assert {record.lesion_id for record in records_of(source).values()} == {""}
        text = json.dumps([dataclasses.asdict(r) for r in records_of(source).values()])
        assert not re.search("IL_6727506|Basal|iddx", text)
        assert "reveals the label" in source.notes[1]


def test_collection_212_contains_the_test_set_of_isic_2018(tmp_path: Path) -> None:
    """Images of HAM10000 and of the official splits in one export."""
    ham = sorted(published_assignments())[:2]
    ids = [*ham, "ISIC_0034321", "ISIC_0034523", "ISIC_0034524", "ISIC_0036064"]
    rows = [
        f"{name},ViDIR,CC-BY-NC,{('Nevus', 'Scar')[i % 2]}" for i, name in enumerate(ids)
    ]
    columns = ("isic_id", "attribution", "copyright_license", "diagnosis_1")
    names = [f"{name}.jpg" for name in ids]
    write_folder(
        tmp_path, {"metadata.csv": files.csv(columns, *rows), **files.images(*names)}
    )
    source = read(tmp_path)
    assert "are not in the folds" in " ".join(source.notes)
    splits = {
        split: [record.image_id for record in records]
        for split, records in source.splits.items()
    }
    assert splits == {
        "train": ham,
        "validation_official": ids[2:4],
        "test_official": ids[4:],
    }
    assert set(read(tmp_path, columns={"split": ""}).splits) == {"train"}
    # Without images of HAM10000, such an export is a dataset for external validation.
    rows = rows[2:]
    (tmp_path / "metadata.csv").write_bytes(files.csv(columns, *rows))
    assert set(read(tmp_path).splits) == {"train"}


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"Fitzpatrick17k"}))
def test_external_validation_needs_no_label_map(name: str, tmp_path: Path) -> None:
    """Most labels of Fitzpatrick17k are not classes of skin lesions."""
    names = read(written(name, tmp_path)).class_names
    assert find_label_map(names, CLASS_NAMES, {}).classes.keys() == set(names)


def damage_index(folder: Path) -> None:
    (folder / "meta" / "valid_indexes.csv").write_text("indexes\n2\n")


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "an archive is missing": (
        "PAD-UFES-20",
        lambda d: (d / "imgs_part_2.zip").unlink(),
        r"no file: PAT_46_881_939\.png \(row 3\)\. .*PAD-UFES-20 consists of metadata\.csv "
        r"and imgs_part_1\.zip to imgs_part_3\.zip\.",
    ),
    "the metadata is missing": (
        "ISIC 2024",
        lambda d: (d / "ISIC_2024_Training_Input" / "metadata.csv").unlink(),
        r"metadata\.csv of the layout 'ISIC 2024, SLICE-3D'",
    ),
    "the metadata of 2019 is missing": (
        "ISIC 2019 test",
        lambda d: (d / "ISIC_2019_Test_Metadata.csv").unlink(),
        r"ISIC_2019_Test_Metadata\.csv of the layout 'ISIC challenge 2019, test set'",
    ),
    "the labels of MILK10k are missing": (
        "MILK10k",
        lambda d: (d / "MILK10k_Training_GroundTruth.csv").unlink(),
        r"MILK10k_Training_GroundTruth\.csv of the layout 'ISIC challenge 2025",
    ),
    "a lesion of two classes": (
        "MILK10k",
        lambda d: edit(d / "MILK10k_Training_GroundTruth.csv", "0,0.0", "0,1.0"),
        r"GroundTruth\.csv, row 2: invalid label for lesion_id IL_0000650",
    ),
    "a table of a split is missing": (
        "Derm7pt",
        lambda d: (d / "meta" / "test_indexes.csv").unlink(),
        r"test_indexes\.csv of the layout 'Derm7pt'",
    ),
    "a row is in two splits": (
        "Derm7pt",
        damage_index,
        r"tables of the splits do not fit the table .*meta\.csv\. .*5 rows",
    ),
    "two exports": (
        "ISIC Archive since 2024",
        lambda d: shutil.copy(d / "metadata.csv", d / "nevi_metadata_2026-01-01.csv"),
        r"2 tables of the same layout: .*metadata\.csv, .*nevi_metadata.*Use --table",
    ),
    "two layouts": (
        "DDI",
        files.pad_ufes_20,
        r"several published datasets: PAD-UFES-20 .*, DDI .*Use --manual-dir",
    ),
    "two classes in a row": (
        "ISIC 2017",
        lambda d: edit(
            d / "ISIC-2017_Training_Part3_GroundTruth.csv", "1.0,0.0", "1.0,1.0"
        ),
        r"GroundTruth\.csv, row 3: invalid label for image ISIC_0000001",
    ),
    "no class": (
        "PH2",
        lambda d: edit(d / "PH2Dataset" / "PH2_dataset.txt", "||  2  ||", "||  3  ||"),
        r"row 4: IMD058 must have exactly one of the classes .* Received: '3'",
    ),
    "the training set is there too": (
        "ISIC 2018 test",
        lambda d: write_isic2018(d, make_rows(lesions=1)),
        r"the training set of 'ISIC challenge 2018, task 3'\. Use --config isic2018",
    ),
    "a label out of range": (
        "DermaMNIST",
        lambda d: change_labels(d / "dermamnist.npz", 7),
        r"dermamnist\.npz, val: expected images, uint8 .* a label in 0\.\.6 for each",
    ),
    "ids of other images": (
        "DermaMNIST-C",
        lambda d: edit(d / "DermaMNIST-C.csv", ",mel,", ",nv,"),
        r"DermaMNIST-C\.csv does not fit the file of arrays",
    ),
    "the labels of 2019 are there twice": (
        "ISIC 2019 test",
        lambda d: shutil.copytree(d, d / "copy"),
        r"2 tables of the same layout: .*Use --table",
    ),
    "the column of the positions is missing": (
        "Derm7pt",
        lambda d: (d / "meta" / "valid_indexes.csv").write_text("rows\n2\n"),
        r"valid_indexes\.csv lacks the columns indexes\. Received: only one column, 'rows'",
    ),
    "a position that is no number": (
        "Derm7pt",
        lambda d: edit(d / "meta" / "valid_indexes.csv", "3", "²"),
        r"valid_indexes\.csv, column 'indexes': 1 invalid value\(s\): row 2: '²'",
    ),
    "an index that is no integer": (
        "DermaMNIST with ids",
        lambda d: edit(d / "dermamnist_split_info.csv", ",1,", ",1.5,"),
        r"split_info\.csv, column 'index': 1 invalid value\(s\): row \d: '1\.5'",
    ),
    "a huge index": (
        "DermaMNIST with ids",
        lambda d: edit(d / "dermamnist_split_info.csv", "val,0,", f"train,{10**30},"),
        r"split_info\.csv does not fit the file of arrays",
    ),
    "labels that are no integers": (
        "DermaMNIST",
        lambda d: change_labels(d / "dermamnist.npz", np.float64),
        r"dermamnist\.npz, train: .* Received: images uint8 .* labels float64",
    ),
    "the column of the images is missing": (
        "ISIC 2019 test",
        lambda d: edit(d / "ISIC_2019_Test_Metadata.csv", "image,", "picture,"),
        r"A table of ISIC challenge 2019, test set lacks a column: .*image",
    ),
    "an unknown skin type": (
        "DDI",
        lambda d: edit(d / "ddi_metadata.csv", ",56,", ",78,"),
        r"column 'skin_tone': 1 invalid value\(s\): row 2: '78'\. Expected a Fitzpatrick",
    ),
}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change_labels(path: Path, change: int | type[np.float64]) -> None:
    with np.load(path) as arrays:
        content = dict(arrays)
    if isinstance(change, int):
        content["val_labels"][:] = change
    else:
        content["train_labels"] = content["train_labels"].astype(change)
    np.savez_compressed(path, **content)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_the_file_and_the_fix(fault: str, tmp_path: Path) -> None:
    name, damage, message = FAULTS[fault]
    written(name, tmp_path)
    damage(tmp_path)
    with pytest.raises(SourceError, match=message):
        read(tmp_path)


def test_several_versions_are_read_as_named(tmp_path: Path) -> None:
    written("ISIC 2020", tmp_path)
    source = read(tmp_path, table="ISIC_2020_Training_GroundTruth.csv")
    assert "lesion_id" not in source.columns
    assert source.layout == "ISIC challenge 2020 (SIIM-ISIC)"


def test_a_dataset_for_another_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"contains 'DDI', .*Use --config table"):
        read_source(written("DDI", tmp_path), "isic2018")


def test_other_tables_are_not_recognized(tmp_path: Path) -> None:
    rows = ("a.jpg,nevus", "b.jpg,melanoma")
    content = {"labels.csv": files.csv(("image", "diagnosis"), *rows)}
    write_folder(tmp_path, {**content, "a.jpg": jpeg(1), "b.jpg": jpeg(2)})
    assert find_name(tmp_path, TableOptions()) == "table"
    assert read(tmp_path).layout == ""


def test_a_published_dataset_is_built_with_skin_types(
    tmp_path: Path, prepare: Prepare
) -> None:
    """PAD-UFES-20 with enough patients for all folds."""
    cells = dict.fromkeys(files.PAD_COLUMNS, "")
    rows = []
    for number in range(24):
        name = f"PAT_{number}_7_{number}.png"
        cells |= {"patient_id": f"PAT_{number // 2}", "lesion_id": f"{number % 2}"}
        cells |= {"diagnostic": ("NEV", "BCC")[number % 2], "img_id": name}
        cells |= {"fitspatrick": f"{number // 2 % 6 + 1}.0", "biopsed": "True"}
        rows.append(",".join(cells.values()))
    members = files.images(*(f"imgs_part_1/{row.split(',')[-2]}" for row in rows))
    table = files.csv(files.PAD_COLUMNS, *rows)
    write_folder(tmp_path / "pad", {"metadata.csv": table, **members})
    done = prepare("table", tmp_path / "built", "--manual-dir", tmp_path / "pad")
    assert done.returncode == 0, done.stderr
    assert "recognized: PAD-UFES-20" in done.stdout
    assert "skin_type=fitspatrick" in done.stdout
    assert "note: the images are smartphone images" in done.stdout
    builder = open_dataset("pad_ufes_20", tmp_path / "built")
    rows_of = tfds.as_numpy(builder.as_dataset(split="all"))
    types = {row["image_id"].decode(): row["skin_type"].decode() for row in rows_of}
    assert types["PAT_0_7_0"] == "I"
    assert types["PAT_11_7_11"] == "VI"
    assert builder.read_report().group_by == "patient"
    again = prepare("table", tmp_path / "built", "--manual-dir", tmp_path / "pad")
    assert "already exists" in again.stdout
