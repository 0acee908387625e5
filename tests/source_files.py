"""Writes small datasets in the layouts of HAM10000 and ISIC 2018 and 2019.

The layouts have the peculiarities of the published files. `published_files` writes those
of other datasets.
"""

from __future__ import annotations

import functools
import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageCms

from tfds_ham10000.layouts import CONFIRM_TYPES, HAM10000_COLUMNS
from tfds_ham10000.records import CLASS_NAMES, ISIC2019_CLASS_NAMES

IMAGE_ARCHIVES = ("HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip")
METADATA_FILE = "HAM10000_metadata.csv"
COLUMNS = (*HAM10000_COLUMNS, "dataset")
Rows = list[dict[str, str]]
SIZE = (40, 30)


@functools.cache
def jpeg(seed: int = 0, size: tuple[int, int] = SIZE) -> bytes:
    """Returns a small smooth image as a JPEG file."""
    return encode(make_image(seed, size), "JPEG", quality=95)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """Returns an image as a file; see `PIL.Image.Image.save` for the options."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def make_image(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """Returns a small smooth image."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def make_rows(
    class_names: Sequence[str] = CLASS_NAMES, lesions: int = 20, start: int = 0
) -> Rows:
    """Returns rows of `HAM10000_metadata`: lesions with one and with two images."""
    rows: Rows = []
    for dx in class_names:
        for lesion in range(lesions):
            for _ in range(1 + lesion % 2):
                age = "" if len(rows) % 50 == 0 else "45.0"
                ids = (f"HAM_{dx}_{lesion}", f"ISIC_{start + len(rows):07d}")
                cells = (*ids, dx, "histo", age, "female", "back", "rosendahl")
                rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def contents(rows: Rows) -> dict[str, bytes]:
    """Returns the image file of each row, by image_id."""
    return {row["image_id"]: jpeg(int(row["image_id"][5:12])) for row in rows}


def write_table(
    path: Path, rows: Sequence[object], columns: Sequence[str], separator: str = ","
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(path, sep=separator, index=False, lineterminator="\r\n")


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_folder(path: Path, members: Mapping[str, bytes]) -> None:
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def halves(rows: Rows, prefix: str = "") -> list[dict[str, bytes]]:
    """Returns the image files of the two parts, by file name."""
    named = [(f"{prefix}{name}.jpg", content) for name, content in contents(rows).items()]
    return [dict(named[0::2]), dict(named[1::2])]


def write_dataverse(folder: Path, rows: Rows, table: str = METADATA_FILE) -> Path:
    """Harvard Dataverse: two archives, and a table that may have tabs and quotes."""
    for name, members in zip(IMAGE_ARCHIVES, halves(rows, "part/"), strict=True):
        write_zip(folder / name, members)
    path = folder / table
    write_table(path, rows, COLUMNS, "," if path.suffix == ".csv" else "\t")
    if path.suffix != ".csv":
        path.write_text(path.read_text().replace("rosendahl", '"rosendahl"'))
    return folder


def write_kaggle(folder: Path, rows: Rows, *, lower: bool = False) -> Path:
    """Kaggle: each folder twice, or once with `lower`; a table of seven columns."""
    for part, members in enumerate(halves(rows), 1):
        name = f"HAM10000_images_part_{part}"
        write_folder(folder / (name.lower() if lower else name), members)
        if not lower:
            write_folder(folder / name.lower(), members)
    write_table(folder / METADATA_FILE, rows, HAM10000_COLUMNS)
    (folder / "hmnist_8_8_L.csv").write_text("pixel0000,label\n1,2\n")
    return folder


def one_hot(rows: Rows, names: Sequence[str]) -> list[dict[str, object]]:
    """Returns the rows of a ground-truth table of the ISIC challenges."""
    return [
        {
            "image": row["image_id"],
            **{name.upper(): float(name == row["dx"]) for name in names},
        }
        for row in rows
    ]


def write_isic2018(
    folder: Path, rows: Rows, part: str = "Training", *, packed: bool = True
) -> Path:
    """One part of the ISIC challenge 2018, task 3."""
    stem = f"ISIC2018_Task3_{part}"
    columns = ("image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    members = {f"{stem}_Input/{n}.jpg": content for n, content in contents(rows).items()}
    truth = folder / f"{stem}_GroundTruth" / f"{stem}_GroundTruth.csv"
    write_table(truth, one_hot(rows, CLASS_NAMES), columns)
    if packed:
        write_zip(
            folder / f"{stem}_Input.zip", {**members, f"{stem}_Input/LICENSE.txt": b""}
        )
        write_zip(
            folder / f"{stem}_GroundTruth.zip", {f"a/{truth.name}": truth.read_bytes()}
        )
        truth.unlink()
        truth.parent.rmdir()
    else:
        write_folder(folder, members)
    if part == "Training":
        write_groupings(folder / f"{stem}_LesionGroupings.csv", rows)
    return folder


def write_groupings(path: Path, rows: Rows) -> None:
    """Writes the lesion groupings of the training images of 2018."""
    confirmed = {short: long for long, short in CONFIRM_TYPES.items()}
    groupings = [
        {
            "image": row["image_id"],
            "lesion_id": row["lesion_id"],
            "diagnosis_confirm_type": confirmed[row["dx_type"]],
        }
        for row in rows
    ]
    write_table(path, groupings, ("image", "lesion_id", "diagnosis_confirm_type"))


def write_isic2019(folder: Path, rows: Rows) -> Path:
    """The training set of the ISIC challenge 2019."""
    columns = ("image", "MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    stem = "ISIC_2019_Training"
    truth = [{**row, "UNK": 0.0} for row in one_hot(rows, ISIC2019_CLASS_NAMES)]
    write_table(folder / f"{stem}_GroundTruth.csv", truth, columns)
    metadata = [
        {
            "image": row["image_id"],
            "age_approx": row["age"],
            "anatom_site_general": "anterior torso",
            "lesion_id": row["lesion_id"],
            "sex": row["sex"],
        }
        for row in rows
    ]
    write_table(folder / f"{stem}_Metadata.csv", metadata, tuple(metadata[0]))
    members = {f"{stem}_Input/{n}.jpg": content for n, content in contents(rows).items()}
    write_zip(folder / f"{stem}_Input.zip", members)
    return folder


def write_classes(folder: Path, rows: Rows) -> Path:
    """One folder per class."""
    names = [f"{row['dx']}/{row['image_id']}.jpg" for row in rows]
    write_folder(folder, dict(zip(names, contents(rows).values(), strict=True)))
    return folder


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def linear_rgb() -> bytes:
    """Returns a profile of the primaries of sRGB with linear tone curves."""
    tags = {}
    for number in range(int.from_bytes(SRGB[128:132])):
        name, start, size = struct.unpack_from(">4sII", SRGB, 132 + 12 * number)
        tags[name] = (start, size)
    start, size = tags[b"rTRC"]
    curve = b"curv" + bytes(8)  # no entries: the identity
    return SRGB[:start] + curve.ljust(size, b"\0") + SRGB[start + size :]
