"""Tables of the user's own images: files, columns, values, labels, images and splits."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from source_files import jpeg, write_folder, write_zip

from skincnn.data.label_maps import read_user_map
from skincnn.errors import ConfigError
from tfds_ham10000.layouts import Source
from tfds_ham10000.records import OptionError, Record, SourceError
from tfds_ham10000.sources import read_source
from tfds_ham10000.table.labels import read_label_map
from tfds_ham10000.table.options import TableOptions

Rows = list[dict[str, str]]
HEADER = ("image", "dx", "patient_id", "lesion_id", "age", "sex", "site")


def make_rows() -> Rows:
    """Returns six rows: three patients with two lesions each."""
    rows = []
    for number in range(6):
        dx = ("nevus", "Mélanome")[number % 2]
        cells = (f"i{number}.jpg", dx, f"P{number // 2}", f"L{number}", "45", "m", "back")
        rows.append(dict(zip(HEADER, cells, strict=True)))
    return rows


def write_images(folder: Path, rows: Rows) -> None:
    names = [row["image"] for row in rows]
    write_folder(folder / "images", {name: jpeg(i) for i, name in enumerate(names)})


def write(folder: Path, rows: Rows, name: str = "labels.csv") -> Path:
    write_images(folder, rows)
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    return folder


def read(folder: Path, **options: Any) -> Source:
    return read_source(folder, "table", TableOptions(**options))


def records_of(source: Source) -> list[Record]:
    return [record for part in source.splits.values() for record in part]


def csv_text(separator: str = ",", end: str = "\n") -> str:
    table = pd.DataFrame(make_rows())
    return table.to_csv(index=False, sep=separator, lineterminator=end)


def mixed_separators() -> str:
    header, _, rows = csv_text().partition("\n")
    return f"{header}\n{rows.replace(',', ';')}"


def excel() -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(make_rows()).astype({"age": int}).to_excel(buffer, index=False)
    return buffer.getvalue()


FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "CSV": ("a.csv", lambda p: p.write_text(csv_text())),
    "byte order mark and CRLF": (
        "a.csv",
        lambda p: p.write_bytes(csv_text(end="\r\n").encode("utf-8-sig")),
    ),
    "semicolons": ("a.csv", lambda p: p.write_text(csv_text(";"))),
    "TSV in UTF-16": ("a.tsv", lambda p: p.write_bytes(csv_text("\t").encode("utf-16"))),
    "UTF-16, big endian": (
        "a.txt",
        lambda p: p.write_bytes(b"\xfe\xff" + csv_text("\t").encode("utf-16-be")),
    ),
    "Windows-1252": ("a.csv", lambda p: p.write_bytes(csv_text(";").encode("cp1252"))),
    "a separator at the end of each row, and empty rows": (
        "a.csv",
        lambda p: p.write_text(csv_text().replace("\n", ",\n") + ",,\n\n"),
    ),
    "UTF-16 without a byte order mark": (
        "a.csv",
        lambda p: p.write_bytes(csv_text().encode("utf-16-le")),
    ),
    "the separator in the first line, as Excel reads it": (
        "a.csv",
        lambda p: p.write_text(f"sep=;\n{csv_text(';')}"),
    ),
    "Excel": ("a.xlsx", lambda p: p.write_bytes(excel())),
    "Excel with the suffix of CSV": ("a.csv", lambda p: p.write_bytes(excel())),
    "CSV with the suffix of Excel": ("a.xlsx", lambda p: p.write_text(csv_text())),
    "Parquet": (
        "a.parquet",
        lambda p: pd.DataFrame(make_rows()).astype({"age": float}).to_parquet(p),
    ),
    "Parquet with lists and with text as bytes": (
        "a.parquet",
        lambda p: (
            pd.DataFrame(make_rows())
            .assign(dx=lambda x: x["dx"].str.encode("utf-8"), values=[[1, 2]] * 6)
            .to_parquet(p)
        ),
    ),
    "the line ends of old versions of macOS": (
        "a.csv",
        lambda p: p.write_bytes(csv_text(";", "\r").encode()),
    ),
}


@pytest.mark.parametrize("form", FILES)
def test_each_form_of_a_table_gives_the_same_records(form: str, tmp_path: Path) -> None:
    write_images(tmp_path, make_rows())
    name, write_file = FILES[form]
    write_file(tmp_path / name)
    source = read(tmp_path)
    assert source.class_names == ("Mélanome", "nevus")
    assert records_of(source) == [
        Record(
            image_id=row["image"].removesuffix(".jpg"),
            lesion_id=row["lesion_id"],
            patient_id=row["patient_id"],
            dx=row["dx"],
            age=45.0,
            sex="male",
            localization="back",
        )
        for row in make_rows()
    ]
    encoding = [note for note in source.notes if "Windows-1252" in note]
    assert bool(encoding) == (form == "Windows-1252")


def test_columns_are_recognized_or_named(tmp_path: Path) -> None:
    names = ("Image Name", "Diagnostic", "PATIENT_ID", "lesion", "alter", "Gender", "Site")
    rows = [dict(zip(names, row.values(), strict=True)) for row in make_rows()]
    rows = [{**row, "target": "1"} for row in rows]
    write_images(tmp_path, make_rows())
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    source = read(tmp_path, columns={"age": "alter", "site": ""})
    assert source.columns == {
        "image": "Image Name",
        "label": "Diagnostic",
        "lesion_id": "lesion",
        "patient_id": "PATIENT_ID",
        "age": "alter",
        "sex": "Gender",
    }
    assert "label is read from the column 'Diagnostic', and not from 'target'" in str(
        source.notes
    )
    assert {record.localization for record in records_of(source)} == {"unknown"}


VALUES: list[tuple[str, str, str, object]] = [
    ("sex", "FEMALE", "sex", "female"),
    ("sex", "F", "sex", "female"),
    ("sex", "", "sex", "unknown"),
    ("age", "85+", "age", 85.0),
    ("age", "52,5", "age", 52.5),
    ("age", "0.0", "age", 0.0),
    ("age", "61 years", "age", 61.0),
    ("age", "NaN", "age", math.nan),
    ("site", "FOREARM", "localization", "upper extremity"),
    ("site", "Head and neck", "localization", "head/neck"),
    ("site", "oral_genital", "localization", None),
    ("site", "palms/soles", "localization", "palms/soles"),
    ("site", "unknown", "localization", "unknown"),
    ("lesion_id", "NA", "lesion_id", ""),
    ("lesion_id", "#N/A", "lesion_id", ""),
    ("patient_id", "<NA>", "patient_id", ""),
    ("patient_id", "Missing", "patient_id", ""),
    ("patient_id", "", "patient_id", ""),
    ("age", "121", "age", None),
    ("age", "-3", "age", None),
    ("age", "sixty", "age", None),
    ("sex", "1", "sex", None),
]


@pytest.mark.parametrize(("column", "cell", "field", "expected"), VALUES)
def test_values_have_one_vocabulary(
    column: str, cell: str, field: str, expected: object, tmp_path: Path
) -> None:
    rows = make_rows()
    rows[3][column] = cell
    write(tmp_path, rows)
    if expected is None:
        with pytest.raises(SourceError) as caught:
            read(tmp_path)
        assert f"column '{column}': 1 invalid value(s): row 5: {cell!r}" in str(
            caught.value
        )
        assert "Expected" in str(caught.value)
        return
    value = getattr(records_of(read(tmp_path))[3], field)
    assert value == expected or (value != value and expected != expected)


def edit(folder: Path, **cells: dict[int, str]) -> Path:
    """Writes the table with other cells, given by column and row."""
    rows = make_rows()
    for column, changes in cells.items():
        for number, cell in changes.items():
            rows[number][column] = cell
    return write(folder, rows)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "years of birth": (
        lambda d: edit(d, age={0: "1960", 1: "1955"}),
        r"2 invalid value\(s\): row 2: '1960', row 3: '1955'.*look like years of birth",
    ),
    "two labels in a lesion": (
        lambda d: edit(d, lesion_id={1: "L0"}, patient_id={1: "P0"}),
        r"lesion L0: row 2 'nevus', row 3 'Mélanome'\. Expected the same label",
    ),
    "no label": (
        lambda d: edit(d, dx={4: "", 5: "N/A"}),
        r"2 row\(s\) have no label: row 6, row 7 'N/A'\. "
        r".*map that contains .*\"N/A\": null\}",
    ),
    "one class": (
        lambda d: edit(d, dx=dict.fromkeys(range(6), "nevus")),
        r"at least two classes\. Received: nevus",
    ),
    "an image in two rows": (
        lambda d: edit(d, image={3: "i1.jpg"}),
        r"occur in several rows.*i1: row 3 '.*', row 5 '.*'\. .*delete the repeated rows",
    ),
    "an image without a file": (
        lambda d: (edit(d), (d / "images" / "i2.jpg").unlink()),
        r"1 image\(s\) have no file: i2\.jpg \(row 4\)",
    ),
    "two files of an image": (
        lambda d: (edit(d), write_folder(d / "b", {"i2.jpg": jpeg()})),
        r"have several files: i2\.jpg \(b/i2\.jpg, images/i2\.jpg\)",
    ),
    "too many cells": (
        lambda d: (edit(d), (d / "labels.csv").write_text(csv_text() + "a," * 7 + "h")),
        r"row 8 has more cells than the header has columns",
    ),
    "no rows": (
        lambda d: (edit(d), (d / "labels.csv").write_text(",".join(HEADER))),
        "has no rows",
    ),
    "no label column": (
        lambda d: (edit(d), (d / "labels.csv").write_text("image,truth\na,b\n")),
        r"one of the usual names of the label: dx, .*--columns label=COLUMN\. "
        r"Received: image, truth",
    ),
    "columns of another language": (
        lambda d: (edit(d), (d / "labels.csv").write_text("Bild;Befund\na;b\n")),
        r"names of the image: .*; nor of the label: .*--columns image=COLUMN label=COLUMN",
    ),
    "not a table": (
        lambda d: (edit(d), (d / "labels.csv").write_bytes(bytes(range(256)))),
        "is not a text file",
    ),
    "images in a Parquet file": (
        lambda d: pd.DataFrame(
            {"image": [{"bytes": jpeg()}], "file": [jpeg()], "dx": ["nevus"]}
        ).to_parquet(d / "a.parquet"),
        r"of the image: .*Received: dx; and, .*numbers, image, file\. Write images to",
    ),
    "a damaged Excel file": (
        lambda d: (edit(d), write_zip(d / "labels.csv", {"xl/workbook.xml": b""})),
        r"labels\.csv cannot be read: .*save it as CSV",
    ),
    "a file of an old version of Excel": (
        lambda d: (edit(d), (d / "labels.csv").write_bytes(b"\xd0\xcf\x11\xe0\0")),
        "is an Excel file of an old version, or with a password. Open it, and save it",
    ),
    "a web page": (
        lambda d: (edit(d), (d / "labels.csv").write_text("\n<!DOCTYPE html><html>")),
        "is a web page or an XML file, not a table. Download the table again",
    ),
    "an unusual separator": (
        lambda d: (edit(d), (d / "labels.csv").write_text(csv_text("^"))),
        r"Received: only one column, 'image\^.*'\. Separate columns with commas, ",
    ),
    "comments before the header": (
        lambda d: (edit(d), (d / "labels.csv").write_text(f"# from 2026\n{csv_text()}")),
        r"Received: '# from 2026'\. Delete the lines before the names of the columns",
    ),
    "a quotation mark that is not closed": (
        lambda d: (edit(d), (d / "labels.csv").write_text(f'{csv_text()}\n\n"a,b\nc,d\n')),
        r"unexpected end of data, in the row that begins in line 10\. Close its quotation",
    ),
    "a quotation mark that is not closed, in the header": (
        lambda d: (edit(d), (d / "labels.csv").write_text(f'sep=,\n"{csv_text()}')),
        r"not a valid CSV file: .*in the row that begins in line 2\. Close its quotation",
    ),
    "two separators": (
        lambda d: (edit(d), (d / "labels.csv").write_text(mixed_separators())),
        "row 2 is separated by ';', unlike the header",
    ),
    "no table": (
        lambda d: (write_images(d, make_rows()), (d / "PH2Dataset.rar").touch()),
        r"contains no table\..* Unpack PH2Dataset\.rar first\.",
    ),
    "two tables": (
        lambda d: (edit(d), (d / "b.csv").write_text("x\n")),
        r"contains 2 tables: b\.csv, labels\.csv\. Use --table",
    ),
    "an unknown split": (
        lambda d: write(d, [{**row, "split": "fold 1"} for row in make_rows()]),
        r"column 'split': 6 invalid value\(s\): row 2: 'fold 1'.*Expected one of train",
    ),
    "a class without training images": (
        lambda d: write(
            d, [{**r, "split": ("train", "test")[i % 2]} for i, r in enumerate(make_rows())]
        ),
        "the training split has no images of Mélanome",
    ),
}


@pytest.mark.parametrize(
    "directory", ["C:\\Studies\\Moles\\images\\", "/home/x/moles/images/"]
)
def test_absolute_paths_of_another_computer_are_read(
    directory: str, tmp_path: Path
) -> None:
    rows = make_rows()
    write_images(tmp_path, rows)
    # Another file with the same name, whose path does not fit.
    write_folder(tmp_path, {"masks/i1.jpg": jpeg()})
    table = [{**row, "image": f"{directory}{row['image']}"} for row in rows]
    pd.DataFrame(table).to_csv(tmp_path / "labels.csv", index=False)
    source = read(tmp_path)
    ids = [record.image_id for record in records_of(source)]
    assert ids == [f"images/i{number}" for number in range(6)]
    ignored = directory.replace("\\", "/").removesuffix("images/")
    assert (
        f"{ignored} at the beginning of all paths in the table is ignored" in source.notes
    )
    assert source.excluded == {"not in the table": 1}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_reported_with_rows_and_a_fix(fault: str, tmp_path: Path) -> None:
    damage, message = FAULTS[fault]
    damage(tmp_path)
    with pytest.raises(SourceError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"imag": "image"}}, "unknown field 'imag'.*Did you mean 'image'"),
        ({"columns": {"age": "agee"}}, "has no column 'agee'.*Did you mean 'age'"),
        ({"table": "other.csv"}, "does not exist in"),
        (
            {"label_map": {"nevus": "nv", "Melanome": "mel"}},
            r"lacks 1 label\(s\).*'Mélanome' \(3 images\).*No image has .* 'Melanome'\.",
        ),
    ],
)
def test_options_that_do_not_fit_are_errors_of_usage(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path, make_rows())
    with pytest.raises(OptionError, match=message) as caught:
        read(tmp_path, **options)
    assert caught.value.exit_code == 2


def test_a_table_beside_the_directory_of_images_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    write(folder, make_rows())
    with pytest.raises(
        SourceError, match=rf"labels\.csv exists.* --manual-dir '{folder}'$"
    ):
        read(folder / "images")


def test_grouping_by_an_unknown_unit_is_an_error(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "patient_id"} for row in make_rows()]
    write(tmp_path, rows)
    with pytest.raises(OptionError, match=r"--group-by patient: .*no column of patients"):
        read(tmp_path, group_by="patient")


def test_equal_lesion_ids_of_different_patients_are_different_lesions(
    tmp_path: Path,
) -> None:
    """As in PAD-UFES-20, where equal lesion_ids also have different labels."""
    edit(tmp_path, lesion_id={0: "7", 3: "7", 4: "8"}, patient_id={5: ""})
    source = read(tmp_path)
    lesions = [record.lesion_id for record in records_of(source)]
    assert lesions == ["P0/7", "L1", "L2", "P1/7", "8", "L5"]
    assert "occur with several patients" in str(source.notes)


def test_one_patient_may_have_several_diagnoses(tmp_path: Path) -> None:
    patients: dict[str, set[str]] = {}
    for record in records_of(read(write(tmp_path, make_rows()))):
        patients.setdefault(record.patient_id, set()).add(record.dx)
    assert [len(labels) for labels in patients.values()] == [2, 2, 2]


def test_labels_are_mapped_and_left_out(tmp_path: Path) -> None:
    edit(tmp_path, dx={0: "scar", 2: "blue nevus", 5: ""})
    mapping = {"scar": None, "blue nevus": "nv", "nevus": "nv", "Mélanome": "mel", "": None}
    source = read(tmp_path, label_map=mapping)
    assert source.class_names == ("mel", "nv")
    assert [record.dx for record in records_of(source)] == ["mel", "nv", "mel", "nv"]
    reasons = {"label 'scar' is left out by --label-map": 1}
    reasons |= {"label '' is left out by --label-map": 1}
    assert source.excluded == reasons


def test_a_label_map_has_one_class_name_or_null_for_each_label(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"a": " mal  oth ", "b": null}')
    assert read_label_map(path) == {"a": "mal oth", "b": None}
    for text, message in (
        ('{"a": "mel", "a": "nv"}', "the key 'a' occurs more than once"),
        ('{"a": "mel", "b": " ", "c": ""}', "the class of 'b', 'c' is empty.*or null"),
    ):
        path.write_text(text)
        with pytest.raises(OptionError, match=message):
            read_label_map(path)


def test_spellings_that_differ_in_case_are_one_class(tmp_path: Path) -> None:
    source = read(edit(tmp_path, dx={0: "Nevus", 1: "MÉLANOME", 3: "Mélanome  "}))
    assert source.class_names == ("Mélanome", "nevus")
    assert "belong to the same class: MÉLANOME, Nevus" in str(source.notes)


def test_unicode_forms_of_a_name_are_the_same(tmp_path: Path) -> None:
    """Programs for macOS write accented characters as two characters (NFD)."""
    nfc, nfd = "Mélanome", "Me\u0301lanome"
    rows = [
        {"image": row["image"], "Pa\u0301ciente": f"Jos{form}", "Diagno\u0301stico": label}
        for row, form, label in zip(
            make_rows(), ("é", "e\u0301") * 3, (nfc, nfd, "nevus") * 2, strict=True
        )
    ]
    folder = write(tmp_path, rows)
    columns = {"label": "Diagnóstico", "patient_id": "Páciente"}
    source = read(folder, columns=columns)
    assert source.class_names == (nfc, "nevus")
    assert len({record.patient_id for record in records_of(source)}) == 1
    for label in (nfc, nfd):
        path = tmp_path / "map.json"
        path.write_text(json.dumps({label: nfd, "nevus": "nv"}))
        source = read(folder, columns=columns, label_map=read_label_map(path))
        assert source.class_names == (nfc, "nv")
        assert read_user_map(path, [nfc, "nv"]) == {nfc: nfc, "nevus": "nv"}
    path.write_text(json.dumps({nfc: "mel", nfd: None}))
    with pytest.raises(OptionError, match="the key 'Mélanome' occurs more than once"):
        read_label_map(path)
    with pytest.raises(ConfigError, match="key 'Mélanome' occurs more than once"):
        read_user_map(path, None)


def test_a_column_named_malignant_has_two_classes(tmp_path: Path) -> None:
    rows = [{"image": row["image"], "malignant": "0"} for row in make_rows()]
    rows[1]["malignant"] = "1.0"
    source = read(write(tmp_path, rows))
    assert source.class_names == ("benign", "malignant")
    assert [record.dx for record in records_of(source)].index("malignant") == 1


def test_classes_json_declares_names_and_malignancy(tmp_path: Path) -> None:
    write(tmp_path, make_rows())
    path = tmp_path / "classes.json"
    text = json.dumps({"nevus": {"full_name": "mole", "malignant": False}})
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(text, encoding)
        declared = [tuple(part.model_dump().values()) for part in read(tmp_path).classes]
        assert declared == [("nevus", "mole", False)]
    path.write_text("[" * 200_000)
    with pytest.raises(
        SourceError, match=r"classes\.json cannot be read: maximum recursion"
    ):
        read(tmp_path)
    for content, message in (
        ({"nevi": {"malignant": None}}, "unknown class 'nevi'.*Did you mean 'nevus'"),
        (
            {"nevus": {"malignant": "no"}},
            "nevus.malignant: Input should be a valid boolean",
        ),
        ({"nevus": {"full_name": "mole"}}, "nevus.malignant: Field required"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(SourceError, match=message):
            read(tmp_path)


def test_images_are_found_in_folders_archives_and_hdf5_files(tmp_path: Path) -> None:
    images = [jpeg(i) for i in range(6)]
    write_folder(tmp_path / "deep" / "er", {"i0.JPG": images[0], "i1.jpg": images[1]})
    write_zip(tmp_path / "more.zip", {"x\\i2.jpg": images[2], "y/i2.jpg": images[3]})
    with h5py.File(tmp_path / "images.hdf5", "w") as file:
        file["i4"] = np.void(images[4])
        file["part/i5.png"] = np.frombuffer(images[5], np.uint8)
    cells = ["i0.jpg", "deep\\er\\i1", "x/i2.jpg", "y/i2", "i4", "i5"]
    rows = [{**row, "image": c} for row, c in zip(make_rows(), cells, strict=True)]
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    source = read(tmp_path)
    ids = ["deep/er/i1", "i0", "i4", "i5", "x/i2", "y/i2"]
    assert [record.image_id for record in records_of(source)] == ids
    for image_id, number in zip(ids, (1, 0, 4, 5, 2, 3), strict=True):
        assert source.images.read(image_id) == images[number]
        assert source.images.size(image_id) == len(images[number])


def test_images_without_a_row_are_listed(tmp_path: Path) -> None:
    write(tmp_path, make_rows())
    write_folder(tmp_path, {"other/x.jpg": jpeg(9), "notes.doc": b"", "README.txt": b""})
    source = read(tmp_path)
    assert source.excluded == {"not in the table": 1}
    notes = "\n".join(source.notes)
    assert "not used (not in the table): other/x.jpg" in notes
    assert f"{tmp_path.name}/notes.doc" in notes
    assert "labels.csv" not in notes


def test_published_images_have_their_published_lesions(tmp_path: Path) -> None:
    """Two images of one lesion of HAM10000, of which one has a lesion_id of its own."""
    rows = make_rows()
    for row, name in zip(rows, ("ISIC_0027419", "ISIC_0025030"), strict=False):
        row |= {"image": f"{name}.jpg", "lesion_id": "", "dx": "nevus"}
    rows[1]["lesion_id"] = "mine"
    lesions = {r.image_id: r.lesion_id for r in records_of(read(write(tmp_path, rows)))}
    assert (lesions["ISIC_0027419"], lesions["ISIC_0025030"]) == ("HAM_0000118", "mine")


def splits_of(names: Sequence[str]) -> Rows:
    return [{**r, "split": s} for r, s in zip(make_rows(), names, strict=True)]


def test_the_split_column_is_used(tmp_path: Path) -> None:
    write(tmp_path, splits_of(["Train", "training", "VAL", "dev", "test", "Test"]))
    sizes = {name: len(part) for name, part in read(tmp_path).splits.items()}
    assert sizes == {"train": 2, "validation_official": 2, "test_official": 2}
