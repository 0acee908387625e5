"""Writes small synthetic datasets in the layouts of published datasets.

The names of files and columns, and the forms of the values, are those of the published
files. The values and images are synthetic.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import openpyxl
import pandas as pd
from source_files import jpeg, make_image, write_folder, write_zip

SIZE = (16, 12)
EXPORT_2022 = (
    *("isic_id", "attribution", "copyright_license", "age_approx", "anatom_site_general"),
    *("benign_malignant", "dermoscopic_type", "diagnosis", "diagnosis_confirm_type"),
    *("family_hx_mm", "image_type", "lesion_id", "patient_id", "personal_hx_mm"),
    *("pixels_x", "pixels_y", "sex"),
)
PAD_COLUMNS = (
    *("patient_id", "lesion_id", "smoke", "drink", "background_father"),
    *("background_mother", "age", "pesticide", "gender", "skin_cancer_history"),
    *("cancer_history", "has_piped_water", "has_sewage_system", "fitspatrick", "region"),
    *("diameter_1", "diameter_2", "diagnostic", "itch", "grew", "hurt", "changed"),
    *("bleed", "elevation", "img_id", "biopsed"),
)
DERM7PT_COLUMNS = (
    *("case_num", "diagnosis", "seven_point_score", "pigment_network", "streaks"),
    *("pigmentation", "regression_structures", "dots_and_globules", "blue_whitish_veil"),
    *("vascular_structures", "level_of_diagnostic_difficulty", "elevation", "location"),
    *("sex", "management", "clinic", "derm", "case_id", "notes"),
)
DERM7PT_DIAGNOSES = (
    *("basal cell carcinoma", "blue nevus", "melanoma (less than 0.76 mm)"),
    *("clark nevus", "melanoma (in situ)"),
)
TEST_2019 = ("image", "MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
TEST_2018 = ("image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def csv(columns: Sequence[str], *lines: str) -> bytes:
    """Returns a table; `lines` are rows, or the first cells of rows."""
    rows = [",".join(columns)]
    rows += [line + "," * (len(columns) - 1 - line.count(",")) for line in lines]
    return ("\n".join(rows) + "\n").encode()


def images(*names: str) -> dict[str, bytes]:
    """Returns a small image for each name, in the format of its suffix."""
    files = {}
    for number, name in enumerate(names):
        suffix = name.rpartition(".")[2].lower()
        if suffix in ("jpg", "jpeg"):
            files[name] = jpeg(number, SIZE)
            continue
        buffer = io.BytesIO()
        make_image(number, SIZE).save(buffer, suffix.upper())
        files[name] = buffer.getvalue()
    return files


def export_2024(folder: Path) -> None:
    """isic-cli: a flat directory; columns without values are missing."""
    columns = (
        *("isic_id", "attribution", "copyright_license", "age_approx", "anatom_site_1"),
        *("diagnosis_1", "diagnosis_2", "diagnosis_3", "diagnosis_confirm_type"),
        *("fitzpatrick_skin_type", "image_type", "lesion_id", "patient_id", "sex"),
    )
    nevus = "Benign,Benign melanocytic proliferations,Nevus"
    vascular = "Benign,Benign soft tissue proliferations - Vascular,"
    ids = "dermoscopic,IL_0000001,IP_0000001,female"
    rows = (
        f"ISIC_0100000,\t-A,CC-BY,55,Trunk,{nevus},histopathology,II,{ids}",
        f"ISIC_0100001,B,CC-0,85,Head and neck,{vascular},,,dermoscopic,,,",
        f"ISIC_0100002,B,CC-0,,,{nevus},,,clinical: close-up,IL_0000001,IP_0000001,female",
        "ISIC_0100003,B,CC-0,,,,,,,,dermoscopic,,,",
    )
    names = [f"ISIC_010000{number}.jpg" for number in range(4)]
    write_folder(folder, {"metadata.csv": csv(columns, *rows), **images(*names)})
    write_folder(folder, {"attribution.txt": b"A", "licenses/CC-BY.txt": b"..."})


def export_2022(folder: Path) -> None:
    """A download of the gallery, as a zip archive."""
    source = "Hospital Italiano de Buenos Aires,CC-BY"
    rows = (
        f"ISIC_6230191,{source},25.0,anterior torso,malignant,contact polarized,melanoma,"
        "histopathology,,dermoscopic,IL_8124990,IP_8542863,True,640,480,male",
        f"ISIC_4485929,{source},65.0,anterior torso,benign,contact polarized,"
        "seborrheic keratosis,,,dermoscopic,IL_1921228,IP_9326183,True,2448,2448,female",
        f"ISIC_0000009,{source},65.0,,benign,,,,,dermoscopic,,,,640,480,",
    )
    files = images("ISIC_6230191.jpg", "ISIC_4485929.jpg", "ISIC_0000009.jpg")
    table = {"metadata.csv": csv(EXPORT_2022, *rows), "attribution.txt": b"A"}
    write_zip(folder / "ISIC-images.zip", {**table, **files})


def export_2021(folder: Path) -> None:
    """The first form: columns with the prefix meta, images in directories of datasets."""
    columns = (
        *("_id", "name", "meta.clinical.age_approx", "meta.clinical.anatom_site_general"),
        *("meta.clinical.benign_malignant", "meta.clinical.diagnosis"),
        *("meta.clinical.diagnosis_confirm_type", "meta.clinical.sex"),
        "meta.acquisition.image_type",
    )
    rows = (
        "5436,ISIC_0000000,55.0,anterior torso,benign,nevus,histopathology,female,"
        "dermoscopic",
        "5437,ISIC_0000002,60.0,oral/genital,malignant,melanoma,,male,dermoscopic",
        "5438,ISIC_0000003,60.0,,,,,male,dermoscopic",
    )
    names = [f"UDA-1/ISIC_000000{number}.jpg" for number in (0, 2, 3)]
    write_folder(folder, {"metadata.csv": csv(columns, *rows), **images(*names)})


def isic_2016(folder: Path) -> None:
    """Tables without a header; the labels of training and test set differ in form."""
    for part, cells in (("Training", ("benign", "malignant")), ("Test", ("0.0", "1.0"))):
        stem = f"ISBI2016_ISIC_Part3_{part}"
        start = 0 if part == "Training" else 10
        names = [f"ISIC_{start + number:07d}" for number in range(2)]
        rows = [f"{name},{cell}" for name, cell in zip(names, cells, strict=True)]
        (folder / f"{stem}_GroundTruth.csv").write_text("\n".join(rows))
        members = images(*(f"{stem}_Data/{name}.jpg" for name in names))
        write_zip(folder / f"{stem}_Data.zip", members)


def isic_2017(folder: Path) -> None:
    """Two columns for three classes; superpixels and metadata beside the images."""
    parts = {"Training": 3, "Validation": 1, "Test_v2": 2}
    cells = ("0.0,0.0", "1.0,0.0", "0.0,1.0")
    start = 0
    for part, count in parts.items():
        names = [f"ISIC_{start + number:07d}" for number in range(count)]
        start += count
        header = ("image_id", "melanoma", "seborrheic_keratosis")
        rows = [f"{name},{cell}" for name, cell in zip(names, cells, strict=False)]
        path = folder / f"ISIC-2017_{part}_Part3_GroundTruth.csv"
        path.write_bytes(csv(header, *rows))
        inner = f"ISIC-2017_{part}_Data"
        members = images(*(f"{inner}/{name}.jpg" for name in names))
        members |= images(*(f"{inner}/{name}_superpixels.png" for name in names))
        metadata = csv(("image_id", "age_approximate", "sex"), f"{names[0]},55,female")
        metadata += b"".join(f"{name},unknown,unknown\n".encode() for name in names[1:])
        members[f"{inner}/{inner}_metadata.csv"] = metadata
        write_zip(folder / f"{inner}.zip", members)


def isic_2018_test(folder: Path) -> None:
    """The test set of task 3, with the labels in a zip archive."""
    rows = ("ISIC_0034524,1.0,0.0,0.0,0.0,0.0,0.0,0.0", "ISIC_0034525,0,0,0,1,0,0,0")
    stem = "ISIC2018_Task3_Test"
    truth = {f"{stem}_GroundTruth/{stem}_GroundTruth.csv": csv(TEST_2018, *rows)}
    write_zip(folder / f"{stem}_GroundTruth.zip", truth)
    names = (f"{stem}_Input/ISIC_0034524.jpg", f"{stem}_Input/ISIC_0034525.jpg")
    write_zip(folder / f"{stem}_Input.zip", images(*names))


def isic_2018_test_dataverse(folder: Path) -> None:
    """The table of Harvard Dataverse lacks one image."""
    columns = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
    stem = "ISIC2018_Task3_Test"
    rows = (
        "HAMTEST_0000000,ISIC_0034524,nv,follow_up,40.0,female,back,vidir_molemax",
        "HAMTEST_0000001,ISIC_0034525,mel,histo,70.0,male,abdomen,rosendahl",
    )
    table = csv((*columns, "dataset"), *rows).replace(b",", b"\t")
    (folder / f"{stem}_GroundTruth.tab").write_bytes(table)
    names = ("ISIC_0034524.jpg", "ISIC_0034525.jpg", "ISIC_0035068.jpg")
    write_zip(folder / f"{stem}_Images.zip", images(*names))


def isic_2019_test(folder: Path) -> None:
    """The test set, with the weights of the scores and images of unknown class."""
    columns = (*TEST_2019, "score_weight", "validation_weight")
    stem = "ISIC_2019_Test"
    rows = (
        "ISIC_0034321,0.0,0.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0",
        "ISIC_0053456,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0",
        "ISIC_0053457,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0",
    )
    metadata = csv(
        ("image", "age_approx", "anatom_site_general", "sex"),
        *("ISIC_0034321,45,lower extremity,male", "ISIC_0053456,,,", "ISIC_0053457,,,"),
    )
    files = {f"{stem}_GroundTruth.csv": csv(columns, *rows)}
    write_folder(folder, {**files, f"{stem}_Metadata.csv": metadata})
    names = [row.partition(",")[0] for row in rows]
    write_zip(
        folder / f"{stem}_Input.zip", images(*(f"{stem}_Input/{n}.jpg" for n in names))
    )


def isic_2020(folder: Path) -> None:
    """Versions 1 and 2 of the labels, the list of duplicates, and the test metadata."""
    rest = ("sex", "age_approx", "anatom_site_general_challenge", "diagnosis")
    columns = ("image_name", "patient_id", *rest, "benign_malignant", "target")
    rows = (
        ("ISIC_2637011,IP_7279968", "IL_7972535", "male,45,head/neck,unknown,benign,0"),
        ("ISIC_0015719,IP_3075186", "IL_4649854", "female,45,torso,melanoma,malignant,1"),
    )
    v1 = csv(columns, *(f"{first},{rest}" for first, _, rest in rows))
    v2 = csv(
        (*columns[:2], "lesion_id", *columns[2:]), *(",".join(parts) for parts in rows)
    )
    test = ("image", "patient", "sex", "age_approx", "anatom_site_general_challenge")
    stem = "ISIC_2020_Training"
    tables = {
        f"{stem}_GroundTruth.csv": v1,
        f"{stem}_GroundTruth_v2.csv": v2,
        f"{stem}_Duplicates.csv": csv(("image_name_1", "image_name_2")),
        "ISIC_2020_Test_Metadata.csv": csv(test, "ISIC_0052060,IP_3579794,male,70,torso"),
    }
    names = [f"train/{first.partition(',')[0]}.jpg" for first, _, _ in rows]
    write_folder(folder, {**tables, **images(*names)})


SLICE_ROWS = (
    "ISIC_0015670,0,IP_1235828,60.0,male,lower extremity,3.04,TBP tile: close-up,20.2,"
    "MSKCC,CC-BY,,Benign,",
    "ISIC_0015845,1,IP_8170065,60.0,male,head/neck,1.10,TBP tile: close-up,31.7,"
    "MSKCC,CC-BY,IL_6727506,Malignant,Basal cell carcinoma",
)
SLICE_COLUMNS = (
    *("isic_id", "target", "patient_id", "age_approx", "sex", "anatom_site_general"),
    *("clin_size_long_diam_mm", "image_type", "tbp_lv_A", "attribution"),
    *("copyright_license", "lesion_id", "iddx_full", "iddx_3"),
)


def slice_3d_kaggle(folder: Path) -> None:
    """Kaggle has each image twice: in an HDF5 file and in a directory."""
    names = ("ISIC_0015670", "ISIC_0015845")
    test = tuple(name for name in SLICE_COLUMNS[:11] if name != "target")
    tables = {
        "train-metadata.csv": csv(SLICE_COLUMNS, *SLICE_ROWS),
        "test-metadata.csv": csv(test, "ISIC_0015657,IP_6074337,45.0,male,posterior torso"),
    }
    files = images(*(f"train-image/image/{name}.jpg" for name in names))
    write_folder(folder, {**tables, **files})
    slice_3d_hdf5(folder, names, list(files.values()))


def slice_3d_hdf5(folder: Path, names: Sequence[str], files: Sequence[bytes]) -> None:
    with h5py.File(folder / "train-image.hdf5", "w") as file:
        for name, content in zip(names, files, strict=True):
            file[name] = np.void(content)


def slice_3d(folder: Path) -> None:
    """The official files: labels, a supplement on the diagnosis, images with metadata."""
    metadata = tuple(n for n in SLICE_COLUMNS[:11] if n != "target")
    rows = [row.split(",") for row in SLICE_ROWS]
    stem = "ISIC_2024_Training"
    files = {
        f"{stem}_GroundTruth.csv": csv(
            ("isic_id", "malignant"), *(f"{row[0]},{row[1]}.0" for row in rows)
        ),
        f"{stem}_Supplement.csv": csv(
            ("isic_id", *SLICE_COLUMNS[9:]), *(",".join([r[0], *r[9:]]) for r in rows)
        ),
        f"{stem}_Input/metadata.csv": csv(
            metadata, *(",".join([row[0], *row[2:11]]) for row in rows)
        ),
    }
    names = [f"{stem}_Input/{row[0]}.jpg" for row in rows]
    write_folder(folder, {**files, **images(*names)})


def milk10k(folder: Path) -> None:
    """A label of each lesion, and a clinical and a dermatoscopic image in a directory."""
    columns = (
        *("lesion_id", "image_type", "isic_id", "attribution", "copyright_license"),
        *("image_manipulation", "age_approx", "sex", "skin_tone_class", "site"),
        *("MONET_ulceration_crust", "MONET_hair", "MONET_vasculature_vessels"),
        *("MONET_erythema", "MONET_pigmented"),
        "MONET_gel_water_drop_fluid_dermoscopy_liquid",
        "MONET_skin_markings_pen_ink_purple_pen",
    )
    middle = "MILK study team,CC-BY-NC,,"
    sites = ("40,female,3,head_neck_face", "85,male,0,lower_extremity", ",,,")
    rows, names = [], []
    for number, site in enumerate(sites):
        lesion, first = f"IL_000065{number}", 8149219 + 2 * number
        for image, kind in enumerate(("clinical: close-up", "dermoscopic")):
            rows.append(f"{lesion},{kind},ISIC_{first + image},{middle}{site},0.1")
            names.append(f"MILK10k_Training_Input/{lesion}/ISIC_{first + image}.jpg")
    classes = "AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC".split(",")
    labels = [
        f"IL_000065{number}," + ",".join(str(float(name == label)) for name in classes)
        for number, label in enumerate(("SCCKA", "NV"))
    ]
    truth = csv(("lesion_id", *classes), *labels)
    write_folder(folder, {"MILK10k_Training_GroundTruth.csv": truth})
    write_folder(folder, {"MILK10k_Training_Metadata.csv": csv(columns, *rows)})
    write_zip(folder / "MILK10k_Training_Input.zip", images(*names))


def pad_ufes_20(folder: Path) -> None:
    """Images in three archives."""
    rows = (
        "PAT_1516,1765,,,,,8,,,,,,,,ARM,,,NEV,False,False,False,False,False,False,"
        "PAT_1516_1765_530.png,False",
        "PAT_46,881,False,False,POMERANIA,POMERANIA,55,False,FEMALE,True,True,True,True,"
        "3.0,NECK,6.0,5.0,BCC,True,True,False,True,True,True,PAT_46_881_939.png,True",
        "PAT_1545,1765,,,,,77,,,,,,,,FACE,,,ACK,True,False,False,False,False,False,"
        "PAT_1545_1765_547.png,False",
    )
    (folder / "metadata.csv").write_bytes(csv(PAD_COLUMNS, *rows))
    for part, row in enumerate(rows, 1):
        name = row.split(",")[-2]
        members = images(f"imgs_part_{part}/{name}")
        write_zip(folder / f"imgs_part_{part}.zip", members)


def bcn20000(folder: Path) -> None:
    """Two tables; the labels of the test set are withheld."""
    columns = (
        *("bcn_filename", "age_approx", "anatom_site_general", "diagnosis", "lesion_id"),
        *("capture_date", "sex", "split"),
    )
    train = (
        "BCN_0000000001.jpg,55.0,anterior torso,MEL,BCN_0003884,2012-05-16,male,train",
        "BCN_0000000003.jpg,50.0,,NV,BCN_0000019,2015-07-09,female,train",
    )
    test = "BCN_0000000002.jpg,,,,,2015-07-09,,test"
    (folder / "bcn_20k_train.csv").write_bytes(csv(columns, *train))
    (folder / "bcn_20k_test.csv").write_bytes(csv(columns, test))
    for part, names in (("train", (1, 3)), ("test", (2,))):
        members = images(*(f"bcn_20k_{part}/BCN_{n:010d}.jpg" for n in names))
        write_zip(folder / f"BCN_20k_{part}.zip", members)


def derm7pt(folder: Path) -> None:
    """Two images of each case; the splits are positions of rows."""
    middle = "absent," * 7 + "medium,nodular"
    rows = (
        f"1,basal cell carcinoma,0,{middle},abdomen,female,excision,NEL/NEL025.JPG,"
        "NEL/Nel026.jpg,,",
        f"44,blue nevus,0,{middle},head neck,male,no further examination,NFL/Nfl045.jpg,"
        "NFL/Nfl046.jpg,,",
        f"699,melanoma (less than 0.76 mm),4,{middle},upper limbs,female,excision,"
        "Gal/Gal145.jpg,Gal/Gal146.jpg,,",
        f"700,clark nevus,1,{middle},back,male,excision,Gal/Gal147.jpg,Gal/Gal147.jpg,,",
        f"701,melanoma (in situ),3,{middle},acral,female,excision,Gcl/Gcl001.jpg,"
        "Gcl/gcl001.jpg,,",
    )
    paths = [name for row in rows for name in row.split(",")[-4:-2]]
    files = images(*(f"images/{name}" for name in dict.fromkeys(paths)))
    indexes = {"train": (0, 2, 1), "valid": (3,), "test": (4,)}
    tables = {
        f"meta/{name}_indexes.csv": csv(("indexes",), *map(str, positions))
        for name, positions in indexes.items()
    }
    tables["meta/meta.csv"] = csv(DERM7PT_COLUMNS, *rows)
    write_folder(folder, {**tables, **files, "README.txt": b"", "derm.html": b""})


PH2_ROWS = (("IMD002", "", "1"), ("IMD003", "Compound nevus", "0"), ("IMD058", "", "2"))


def _ph2_images(folder: Path) -> None:
    inner = folder / "PH2Dataset" / "PH2 Dataset images"
    for name, _, _ in PH2_ROWS:
        names = (
            f"{name}/{name}_Dermoscopic_Image/{name}.bmp",
            f"{name}/{name}_lesion/{name}_lesion.bmp",
            f"{name}/{name}_roi/{name}_R1_Label3.bmp",
        )
        write_folder(inner, images(*names))


def ph2(folder: Path) -> None:
    """The text file, with a header and a legend."""
    _ph2_images(folder)
    lines = ["|| Name || Histological Diagnosis || Clinical Diagnosis || Asymmetry | PN ||"]
    lines += [f"|| {n} || {h:20} ||  {c}  ||  0  |  T  ||  4  ||" for n, h, c in PH2_ROWS]
    lines += ["", "Clinical Diagnosis: 0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma"]
    path = folder / "PH2Dataset" / "PH2_dataset.txt"
    path.write_text("\n".join(lines), encoding="latin-1")
    (path.parent / "Readme.txt").write_text("Mendonça", encoding="latin-1")


def ph2_excel(folder: Path) -> None:
    """The Excel file: a legend, a header with line breaks, an X for the class."""
    _ph2_images(folder)
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Folha1"
    for number in range(12):
        sheet.append([f"legend {number}"])
    names = ("Common\nNevus", "Atypical\nNevus", "Melanoma")
    sheet.append(["Image\nName", "Histological\nDiagnosis", *names, "Asymmetry\n(0/1/2)"])
    for name, histology, code in PH2_ROWS:
        marks = ["X" if str(number) == code else None for number in range(3)]
        sheet.append([name, histology or None, *marks, 0])
    book.save(folder / "PH2Dataset" / "PH2_dataset.xlsx")


def fitzpatrick17k(folder: Path) -> None:
    """Images are downloaded from other sites, where many no longer exist."""
    columns = (
        *("md5hash", "fitzpatrick_scale", "fitzpatrick_centaur", "label"),
        *("nine_partition_label", "three_partition_label", "qc", "url", "url_alphanum"),
    )
    rows = (
        "5e82a45bc5d78bd24ae9202d194423f8,3,3,drug induced pigmentary changes,"
        "inflammatory,non-neoplastic,,u1.jpg,u1jpg",
        "d2bac3c9e4499032ca8e9b07c7d3bc40,2,3,dermatofibroma,benign dermal,benign,,,",
        "fa2911a9b13b6f8af79cb700937cc14f,-1,1,actinic keratosis,malignant epidermal,"
        "malignant,,u3,u3",
    )
    names = [f"images/{row[:32]}.jpg" for row in (rows[0], rows[2])]
    write_folder(folder, {"fitzpatrick17k.csv": csv(columns, *rows), **images(*names)})


def ddi(folder: Path) -> None:
    """The first column of the table has no name."""
    columns = ("", "DDI_ID", "DDI_file", "skin_tone", "malignant", "disease")
    rows = (
        "0,1,000001.png,56,TRUE,melanoma-in-situ",
        "1,2,000002.png,12,FALSE,melanocytic-nevi",
        "2,3,000003.png,34,FALSE,verruca-vulgaris",
    )
    names = ("000001.png", "000002.png", "000003.png")
    write_folder(folder, {"ddi_metadata.csv": csv(columns, *rows), **images(*names)})


DERMAMNIST_LABELS: Mapping[str, Sequence[int]] = {
    "train": (4, 5, 0),
    "val": (5,),
    "test": (4, 0),
}


def dermamnist(folder: Path, name: str = "dermamnist.npz") -> None:
    """Arrays of all splits, without ids."""
    arrays: dict[str, np.ndarray] = {}
    seed = 0
    for split, labels in DERMAMNIST_LABELS.items():
        pixels = [np.asarray(make_image(seed + i, (28, 28))) for i in range(len(labels))]
        seed += len(labels)
        arrays[f"{split}_images"] = np.stack(pixels)
        arrays[f"{split}_labels"] = np.array(labels, np.uint8)[:, None]
    np.savez_compressed(folder / name, **arrays)


IDS = {
    "train": ("ISIC_0027419", "ISIC_0024306", "ISIC_0024307"),
    "val": ("ISIC_0024308",),
    "test": ("ISIC_0025030", "ISIC_0024309"),
}
"""Images of HAM10000. The first training and the first test image show one lesion."""


def dermamnist_with_ids(folder: Path) -> None:
    """With the table of the ids, which is not sorted."""
    dermamnist(folder, "dermamnist_64.npz")
    rows = [
        (split, index, image_id)
        for split, ids in IDS.items()
        for index, image_id in enumerate(ids)
    ]
    table = pd.DataFrame(rows[::-1], columns=["split", "index", "image_id"])
    table.to_csv(folder / "dermamnist_split_info.csv", index=False)


def dermamnist_corrected(folder: Path) -> None:
    """The corrected version, whose table has the columns of HAM10000."""
    dermamnist(folder, "dermamnist_corrected_28.npz")
    names = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    rows = [
        f"HAM_{image_id[-7:]},{image_id},{names[label]},histo,45.0,male,back,rosendahl,{split}"
        for split, ids in IDS.items()
        for image_id, label in zip(ids, DERMAMNIST_LABELS[split], strict=True)
    ]
    columns = (
        *("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"),
        *("dataset", "split"),
    )
    (folder / "DermaMNIST-C.csv").write_bytes(csv(columns, *rows))
