"""TFDS's own test of a builder, for the published layout and the made-up pictures."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from conftest import jpeg, run_script, write_manual_dir
from test_sources import replace_member

from tfds_ham10000 import Builder, demo, sources
from tfds_ham10000.folds import place

FOLDS = [f"fold_{fold}" for fold in range(10)]


class TestPublishedLayout(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["isic2018"]  # noqa: RUF012
    SPLITS = dict.fromkeys(FOLDS, 21)
    SKIP_CHECKSUMS = True

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = str(write_manual_dir(Path(cls.folder.name) / "manual"))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls.folder.cleanup()


class TestMadeUp(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["demo_tiny"]  # noqa: RUF012
    EXAMPLE_DIR = str(Path(__file__).parent)
    SKIP_CHECKSUMS = True

    @classmethod
    def setUpClass(cls) -> None:
        records, _ = demo.make_dataset(300)
        places = place(records)
        cls.SPLITS = Counter(f"fold_{at.fold}" for at in places.values())
        super().setUpClass()


def prepare(
    config: str, data_dir: Path, *arguments: object
) -> subprocess.CompletedProcess[str]:
    return run_script(
        "prepare_data.py", "--config", config, "--data-dir", data_dir, *arguments
    )


def test_prepare_builds_once_and_says_where(manual_dir: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "built"
    first = prepare("isic2018", data_dir, "--manual-dir", manual_dir)
    assert first.returncode == 0, first.stderr
    assert f"is built: {data_dir}/ham10000/isic2018" in first.stdout
    assert "fold_9: 21 pictures" in first.stdout
    # What was built needs the published files no more, and is not built again.
    again = prepare("isic2018", data_dir)
    assert again.returncode == 0, again.stderr
    assert "Writing pictures" not in again.stderr
    assert "It was built before" in again.stdout
    assert "It was built before" not in first.stdout


def test_bytes_are_kept_and_missing_values_defined(
    manual_dir: Path, tmp_path: Path
) -> None:
    from skincnn.data.pipeline import prepare_dataset

    builder = prepare_dataset("isic2018", tmp_path, manual_dir)
    records, images = sources.read_ham10000(manual_dir)
    rows = builder.as_dataset(split="all", decoders={"image": tfds.decode.SkipDecoding()})
    stored = {row["image_id"].decode(): row for row in tfds.as_numpy(rows)}
    assert len(stored) == len(records)
    for record in records:
        row = stored[record.image_id]
        assert row["image"] == images.read(record.image_id)
        assert sources.CLASS_NAMES[row["label"]] == record.dx
        assert row["lesion_id"].decode() == record.lesion_id
        assert row["age"] == pytest.approx(record.age, nan_ok=True)


def test_a_damaged_picture_leaves_no_half_dataset(manual_dir: Path, tmp_path: Path) -> None:
    replace_member(manual_dir, "ISIC_0000004", jpeg()[:-200])
    done = prepare("isic2018", tmp_path, "--manual-dir", manual_dir)
    assert done.returncode == 3, done.stderr
    assert "1 picture(s) cannot be used: ISIC_0000004" in done.stderr
    assert not list(tmp_path.rglob("*.tfrecord*"))
    assert not list(tmp_path.rglob("incomplete*"))
    replace_member(manual_dir, "ISIC_0000004", jpeg())
    assert prepare("isic2018", tmp_path, "--manual-dir", manual_dir).returncode == 0


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        ("no manual dir", 3, "Expected: --manual-dir DIR"),
        ("missing folder", 3, "is not a folder"),
        ("no csv", 3, "lacks HAM10000_metadata.csv"),
        ("unknown config", 2, "Did you mean 'isic2018'"),
        ("data dir is a file", 2, "--data-dir must be a folder"),
        ("data dir is below a file", 2, "--data-dir must be a folder"),
    ],
)
def test_bad_input_ends_with_one_message_and_its_code(
    spoil: str, code: int, message: str, manual_dir: Path, tmp_path: Path
) -> None:
    data_dir = tmp_path / "built"
    config, arguments = "isic2018", ["--manual-dir", manual_dir]
    if spoil == "no manual dir":
        arguments = []
    elif spoil == "missing folder":
        arguments[1] = tmp_path / "nowhere"
    elif spoil == "no csv":
        (manual_dir / sources.METADATA_FILE).unlink()
    elif spoil == "unknown config":
        config = "isic2081"
    else:
        data_dir.write_text("")
        if spoil == "data dir is below a file":
            data_dir = data_dir / "deep"
    done = prepare(config, data_dir, *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not data_dir.is_dir()  # nothing half-written
