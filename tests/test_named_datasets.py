"""Named datasets of the user's own images, built with the command and trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from conftest import Prepare, run_here
from source_files import jpeg, make_rows, write_classes, write_folder, write_table

from skincnn.data.datasets import built_datasets, class_names, open_dataset
from skincnn.errors import ConfigError
from skincnn.inference.predictions import read_predictions
from skincnn.reporting.load import load_results
from tfds_ham10000 import demo


def write_patients(folder: Path) -> Path:
    """Writes images and a table of 12 patients, each with one lesion of each class."""
    rows = [
        {"File": f"{i}.jpg", "dx": "ab"[i % 2], "patient": i // 2, "lesion": i}
        for i in range(24)
    ]
    write_folder(folder, {f"{i}.jpg": jpeg(i) for i in range(24)})
    write_table(folder / "labels.csv", rows, tuple(rows[0]), separator=";")
    return folder


def test_own_datasets_with_different_names_are_side_by_side(
    tmp_path: Path, prepare: Prepare
) -> None:
    data_dir = tmp_path / "built"
    table = ("--name", "clinic_a", "--manual-dir", write_patients(tmp_path / "a"))
    done = prepare("table", data_dir, *table)
    assert done.returncode == 0, done.stderr
    assert f"is in {data_dir}/ham10000/clinic_a" in done.stdout
    assert "columns: image=File, label=dx, lesion_id=lesion, patient_id=patient" in (
        done.stdout
    )
    assert "classes: a, b\n  note: not known whether malignant: a, b." in done.stdout
    folder = write_classes(tmp_path / "b", make_rows(("x", "y", "z"), lesions=4))
    done = prepare("folder", data_dir, "--name", "clinic_b", "--manual-dir", folder)
    assert done.returncode == 0, done.stderr
    assert built_datasets(data_dir) == ["clinic_a", "clinic_b"]
    assert class_names("clinic_b", data_dir) == ("x", "y", "z")
    builder = open_dataset("clinic_a", data_dir)
    report = builder.read_report()
    assert (report.group_by, report.num_with_patient) == ("patient", 24)
    splits: dict[str, set[str]] = {}
    for split in builder.info.splits:
        for row in tfds.as_numpy(builder.as_dataset(split=split)):
            assert row["group_id"] == row["patient_id"]
            splits.setdefault(row["patient_id"].decode(), set()).add(split)
    assert all(len(folds) == 1 for folds in splits.values())
    assert len(splits) == 12
    done = prepare("table", data_dir, *table, "--group-by", "lesion")
    assert done.returncode == 2
    assert "was built with other table options" in done.stderr
    with pytest.raises(ConfigError, match=r"clinic_a, clinic_b, .*Did you mean 'clinic_a'"):
        open_dataset("clinic_aa", data_dir)


@pytest.mark.slow
def test_a_table_with_patients_is_trained_and_tested(
    tmp_path: Path, prepare: Prepare
) -> None:
    """Each patient has two lesions, often of different classes."""
    records, images = demo.make_dataset(300)
    lesions = sorted({record.lesion_id for record in records})
    patients = {lesion: f"P{i % (len(lesions) // 2)}" for i, lesion in enumerate(lesions)}
    rows = [
        {
            "image": record.image_id,
            "diagnosis": record.dx,
            "lesion_id": record.lesion_id,
            "patient_id": patients[record.lesion_id],
            "fitzpatrick": 1 + int(patients[record.lesion_id][1:]) % 2,
        }
        for record in records
    ]
    names = [row["image"] for row in rows]
    write_folder(tmp_path / "a", {f"{name}.jpg": images.read(name) for name in names})
    write_table(tmp_path / "a" / "labels.csv", rows, tuple(rows[0]))
    data_dir, workdir = tmp_path / "built", tmp_path / "run"
    flags = ("--name", "clinic_a", "--manual-dir", tmp_path / "a")
    done = prepare("table", data_dir, *flags)
    assert done.returncode == 0, done.stderr
    settings = (
        "--data.datasets clinic_a --data.image-size 32 --model.backbone small_cnn "
        "--model.width-multiplier 0.25 --train.epochs 1 --evaluate.num-bootstrap 100"
    ).split()
    done = run_here("train.py", "--workdir", workdir, "--data-dir", data_dir, *settings)
    assert done.returncode == 0, done.stderr
    assert "Lesions and patients are known: images are grouped by patient" in done.stdout
    results = load_results(workdir)
    audit, result = results.info.audit, results.headline
    assert audit.num_shared_lesions == audit.num_shared_patients == 0
    assert audit.num_shared_groups == 0
    assert result.unit == "patient"
    table = read_predictions(workdir / "predictions/test.csv")
    assert set(table["patient_id"]) <= set(patients.values())
    assert result.characteristics.num_patients == table["patient_id"].nunique()
    assert set(result.units) == {"lesion", "patient"}
    assert set(table["skin_type"]) == {"I", "II"}
    attributes = [(group.attribute, group.value) for group in result.subgroups]
    assert ("Fitzpatrick skin type", "II") in attributes
    card = (workdir / "README.md").read_text()
    assert "The Fitzpatrick skin type in the tables is the one that the dataset" in card


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("--columns label", 2, "--columns must be pairs field=column"),
        ("--columns label=dy", 2, "has no column 'dy'"),
        ("--label-map none.json", 2, "--label-map none.json cannot be read: No such file"),
        ("--name isic2018", 2, "must not be the name of another config"),
        ("--name Clinic-A", 2, "--name must consist of lower-case letters"),
        ("--columns age=dx", 3, "column 'dx': 24 invalid value(s): row 2: 'a', row 3: 'b'"),
    ],
)
def test_invalid_tables_and_flags_exit_with_one_message(
    flags: str, code: int, message: str, tmp_path: Path, prepare: Prepare
) -> None:
    data_dir, manual_dir = tmp_path / "built", write_patients(tmp_path / "a")
    done = prepare("table", data_dir, "--manual-dir", manual_dir, *flags.split())
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not data_dir.exists()
