"""Tests with the real HAM10000 images.

The images are not part of the project. They are expected in the folder `shared` beside it,
or in the folder SKINCNN_SHARED; otherwise these tests are skipped.
"""

from __future__ import annotations

import csv
import os
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds
from conftest import ROOT, run_here, run_script
from source_files import IMAGE_ARCHIVES, METADATA_FILE, write_groupings, write_table
from test_run import check_export

from skincnn.data.datasets import prepare_dataset
from skincnn.data.leakage import sibling_shares
from skincnn.data.splits import image_folds
from skincnn.evaluation.results import SplitResult, read_result
from skincnn.inference.run_dir import read_run_info
from tfds_ham10000 import download, sources
from tfds_ham10000.folds import PUBLISHED_FILE, assign_images, published_assignments
from tfds_ham10000.layouts import HAM10000_COLUMNS
from tfds_ham10000.records import CLASS_NAMES

SHARED = Path(os.environ.get("SKINCNN_SHARED", ROOT.parent / "shared"))
IMAGES = SHARED / "ham10000-200x150"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not IMAGES.is_dir(),
        reason="the real images (ham10000-200x150) are missing",
    ),
]


def test_the_counts_match_the_publication() -> None:
    source = sources.read_source(IMAGES, "isic2018")
    records, images = source.splits["train"], source.images
    assert len(records) == len(images.image_ids) == 10015
    assert len({record.lesion_id for record in records}) == 7470
    counts = Counter(record.dx for record in records)
    assert counts == {
        "nv": 6705,
        "mel": 1113,
        "bkl": 1099,
        "bcc": 514,
        "akiec": 327,
        "vasc": 142,
        "df": 115,
    }
    assert sum(record.age != record.age for record in records) == 57
    assignments = assign_images(records)
    assert assignments == published_assignments()
    sizes = Counter((r.dx, assignments[r.image_id].fold) for r in records)
    for dx in counts:
        of_class = [sizes[dx, fold] for fold in range(10)]
        assert max(of_class) - min(of_class) <= 1


@pytest.mark.slow
def test_the_published_folds_are_reproducible(tmp_path: Path) -> None:
    output = tmp_path / "folds.csv"
    done = run_script("make_folds.py", "--manual-dir", IMAGES, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "The file is equal to the published file." in done.stdout
    assert output.read_bytes() == PUBLISHED_FILE.read_bytes()


def test_a_split_by_image_leaks_as_much_as_published() -> None:
    """Published: 39 to 42 % of the test images, 67 to 72 % of the test melanomas."""
    records = sources.read_source(IMAGES, "isic2018").splits["train"]
    table = pd.DataFrame(
        {
            "image_id": [record.image_id for record in records],
            "lesion_id": [record.lesion_id for record in records],
            "label": [CLASS_NAMES.index(record.dx) for record in records],
        }
    )
    folds = image_folds(table)
    shares = pd.DataFrame(
        [
            sibling_shares(
                table[~folds.isin({test, (test + 9) % 10})],
                table[folds == test],
                CLASS_NAMES,
            )
            for test in range(10)
        ],
        columns=["images", "melanomas"],
    ).mean()
    assert 0.37 < shares["images"] < 0.42
    assert 0.65 < shares["melanomas"] < 0.72


@pytest.mark.parametrize("layout", ["kaggle", "challenge", "challenge with metadata"])
def test_each_layout_has_the_same_images_lesions_and_labels(
    layout: str, tmp_path: Path
) -> None:
    """Compares the published archives with other layouts of all 10,015 images."""
    published = sources.read_source(IMAGES, "isic2018")
    rearrange(layout, tmp_path)
    other = sources.read_source(tmp_path, "isic2018")
    keys = [
        [(r.image_id, r.lesion_id, r.dx, r.dx_type) for r in source.splits["train"]]
        for source in (published, other)
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 10015
    assert assign_images(other.splits["train"]) == published_assignments()
    for image_id in sorted(published.images.image_ids)[::500]:
        assert other.images.read(image_id) == published.images.read(image_id)


def rearrange(layout: str, folder: Path) -> None:
    """Writes the published files in another layout."""
    training = "ISIC2018_Task3_Training"
    for part, name in enumerate(IMAGE_ARCHIVES, 1):
        with zipfile.ZipFile(IMAGES / name) as archive:
            parts = f"HAM10000_images_part_{part}"
            archive.extractall(
                folder / (parts if layout == "kaggle" else f"{training}_Input")
            )
    with (IMAGES / METADATA_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    if layout == "kaggle":
        write_table(folder / METADATA_FILE, rows, HAM10000_COLUMNS)
        return
    shutil.copy(IMAGES / f"{training}_GroundTruth.csv", folder)
    if layout == "challenge":
        write_groupings(folder / f"{training}_LesionGroupings.csv", rows)
    else:
        shutil.copy(IMAGES / METADATA_FILE, folder)


@pytest.mark.slow
def test_three_layouts_build_the_same_dataset(tmp_path: Path) -> None:
    """The stored images, labels and folds are the same."""
    built = []
    for layout in ("published", "kaggle", "challenge"):
        manual_dir = IMAGES
        if layout != "published":
            manual_dir = tmp_path / layout
            rearrange(layout, manual_dir)
        builder = prepare_dataset("isic2018", tmp_path / f"{layout} built", manual_dir)
        rows = builder.as_dataset(
            split="all", decoders={"image": tfds.decode.SkipDecoding()}
        )
        names = ("image", "image_id", "lesion_id", "group_id", "label", "dx_type")
        examples = [tuple(row[name] for name in names) for row in tfds.as_numpy(rows)]
        sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
        built.append((sizes, examples))
    assert built[0] == built[1] == built[2]
    assert len(built[0][1]) == 10015


def test_the_checksum_of_the_published_table_is_verified(tmp_path: Path) -> None:
    shutil.copy(IMAGES / METADATA_FILE, tmp_path)
    assert download.verify(tmp_path) == [METADATA_FILE]
    # The local archives contain downsized images, so their checksums differ.
    with pytest.raises(ValueError, match=r"part_1\.zip, .*part_2\.zip differ"):
        download.verify(IMAGES)


def test_published_weights_can_be_loaded_from_a_path() -> None:
    import keras

    from skincnn.model.backbones import build_backbone

    path = SHARED / "keras_home" / "models" / "mobilenet_7_5_224_tf_no_top.h5"
    expected = keras.applications.MobileNet(
        alpha=0.75, include_top=False, weights=str(path), input_shape=(224, 224, 3)
    )
    actual = build_backbone("mobilenet", 0.75, str(path))
    for a, b in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_real_images_from_build_to_export(tmp_path: Path) -> None:
    manual_dir = tmp_path / "manual"
    write_subset(manual_dir, lesions_per_class=30)
    data_dir, workdir = tmp_path / "data", tmp_path / "run"
    built = run_here(
        "prepare_data.py",
        *("--config", "isic2018", "--manual-dir", manual_dir, "--data-dir", data_dir),
    )
    assert built.returncode == 0, built.stderr
    home = tmp_path / "keras_home"
    shutil.copytree(SHARED / "keras_home", home)
    trained = run_script(
        "train.py",
        "mobilenet_160",
        *("--workdir", workdir, "--data-dir", data_dir),
        *("--data.image-size", 96, "--train.progressive-image-size", 64),
        *("--train.head-epochs", 2, "--train.epochs", 5, "--train.progressive-epochs", 2),
        *(
            "--data.batch-size",
            16,
            "--optimizer.ema-momentum",
            0.9,
            "--evaluate.num-bootstrap",
            200,
        ),
        KERAS_HOME=str(home),
    )
    assert trained.returncode == 0, trained.stderr
    assert "SYNTHETIC" not in trained.stdout
    assert "SYNTHETIC" not in (workdir / "report.html").read_text()
    assert read_run_info(workdir).audit.num_shared_lesions == 0
    # Chance is .5; seven epochs on 230 images with ImageNet weights are above.
    validation = read_result(workdir, "val", SplitResult)
    assert validation.metrics["macro_auc"].value > 0.6
    check_export(workdir, data_dir, tmp_path)


def write_subset(folder: Path, lesions_per_class: int) -> None:
    """Writes a subset, stratified by class and fold, in the published layout."""
    source = sources.read_source(IMAGES, "isic2018")
    records, images = source.splits["train"], source.images
    assignments = published_assignments()
    lesions: dict[tuple[str, int], list[str]] = {}
    for record in records:
        key = record.dx, assignments[record.image_id].fold
        selected = lesions.setdefault(key, [])
        if record.lesion_id not in selected and len(selected) < lesions_per_class // 10:
            selected.append(record.lesion_id)
    kept = {lesion_id for selected in lesions.values() for lesion_id in selected}
    folder.mkdir()
    ids = {record.image_id for record in records if record.lesion_id in kept}
    for position, name in enumerate(IMAGE_ARCHIVES):
        with zipfile.ZipFile(folder / name, "w") as archive:
            for image_id in sorted(ids)[position::2]:
                archive.writestr(f"{image_id}.jpg", images.read(image_id))
    with (IMAGES / METADATA_FILE).open(newline="") as file:
        rows = list(csv.reader(file))
    with (folder / METADATA_FILE).open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *(row for row in rows if row[1] in ids)])
