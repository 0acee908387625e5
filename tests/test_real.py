"""A few hundred real pictures through the commands that a user types.

The pictures lie beside the project and are not part of it. SKINCNN_SHARED names another
place; where there is none, these tests are skipped by name.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_script
from source_files import IMAGE_ARCHIVES, METADATA_FILE
from test_run import check_export

from tfds_ham10000 import sources
from tfds_ham10000.folds import assign_folds

SHARED = Path(os.environ.get("SKINCNN_SHARED", ROOT.parent / "shared"))
PICTURES = SHARED / "ham10000-200x150"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not PICTURES.is_dir(),
        reason="the real pictures (ham10000-200x150) are not beside the project",
    ),
]


def test_the_published_counts_hold() -> None:
    source = sources.read_source(PICTURES, "isic2018")
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
    folds = assign_folds(records)
    sizes = Counter((record.dx, folds[record.lesion_id]) for record in records)
    for dx in counts:
        of_class = [sizes[dx, fold] for fold in range(10)]
        assert max(of_class) - min(of_class) <= 1


def test_published_weights_are_loaded_from_a_path() -> None:
    import keras

    from skincnn.model.backbones import build_backbone

    path = SHARED / "keras_home" / "models" / "mobilenet_7_5_224_tf_no_top.h5"
    theirs = keras.applications.MobileNet(
        alpha=0.75, include_top=False, weights=str(path), input_shape=(224, 224, 3)
    )
    ours = build_backbone("mobilenet", 0.75, str(path))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_real_pictures_go_the_whole_way(tmp_path: Path) -> None:
    manual_dir = tmp_path / "manual"
    write_subset(manual_dir, lesions_per_class=30)
    data_dir, workdir = tmp_path / "data", tmp_path / "run"
    built = run_script(
        "prepare_data.py",
        *("--config", "isic2018", "--manual-dir", manual_dir, "--data-dir", data_dir),
    )
    assert built.returncode == 0, built.stderr
    home = tmp_path / "keras_home"
    shutil.copytree(SHARED / "keras_home", home)
    trained = run_script(
        "train.py",
        "cpu",
        *("--workdir", workdir, "--data-dir", data_dir),
        *("--data.image-size", 96, "--train.small-image-size", 64),
        *("--train.head-epochs", 3, "--train.epochs", 6, "--train.small-epochs", 2),
        *("--data.batch-size", 16, "--optimizer.ema", 0.9),
        KERAS_HOME=str(home),
    )
    assert trained.returncode == 0, trained.stderr
    assert "MADE-UP" not in trained.stdout
    assert "MADE-UP" not in (workdir / "report.html").read_text()
    report = json.loads((workdir / "report.json").read_text())
    assert report["audit"]["num_shared_lesions"] == 0
    # Chance is 1/7; nine epochs on 230 pictures with ImageNet weights are far above.
    assert report["splits"]["val"]["metrics"]["balanced_accuracy"]["value"] > 0.3
    check_export(workdir, data_dir, tmp_path)


def write_subset(folder: Path, lesions_per_class: int) -> None:
    """Writes the first lesions of each class in the published layout."""
    source = sources.read_source(PICTURES, "isic2018")
    records, images = source.splits["train"], source.images
    lesions: dict[str, list[str]] = {}
    for record in records:
        of_class = lesions.setdefault(record.dx, [])
        if record.lesion_id not in of_class and len(of_class) < lesions_per_class:
            of_class.append(record.lesion_id)
    chosen = [r for r in records if r.lesion_id in lesions[r.dx]]
    folder.mkdir()
    ids = {record.image_id for record in chosen}
    for position, name in enumerate(IMAGE_ARCHIVES):
        with zipfile.ZipFile(folder / name, "w") as archive:
            for image_id in sorted(ids)[position::2]:
                archive.writestr(f"{image_id}.jpg", images.read(image_id))
    with (PICTURES / METADATA_FILE).open(newline="") as file:
        rows = list(csv.reader(file))
    with (folder / METADATA_FILE).open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *(row for row in rows if row[1] in ids)])
