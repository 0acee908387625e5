"""The TFDS builder test for every config, and `prepare_data`."""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from conftest import Prepare
from PIL import Image
from source_files import (
    METADATA_FILE,
    jpeg,
    make_image,
    make_rows,
    write_classes,
    write_dataverse,
    write_folder,
    write_isic2018,
    write_isic2019,
    write_table,
)
from tensorflow_datasets.core import shuffle
from test_sources import replace_member

from skincnn.data.datasets import class_names, open_dataset, prepare_dataset
from skincnn.errors import ConfigError, DataError
from tfds_ham10000 import Builder, demo, sources
from tfds_ham10000.configs import CONFIGS
from tfds_ham10000.folds import assign_images
from tfds_ham10000.image_decoding import normalize
from tfds_ham10000.records import CLASS_NAMES, ISIC2019_CLASS_NAMES

FOLDS = [f"fold_{fold}" for fold in range(10)]


def names_of(source: str, *, without_ham10000: bool = False) -> list[str]:
    return [
        config.name
        for config in CONFIGS
        if config.source == source and config.without_ham10000 == without_ham10000
    ]


class FromFiles:
    """Writes a layout before the TFDS test of the configs that are built from it."""

    DATASET_CLASS = Builder
    SKIP_CHECKSUMS = True

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = cls.folder.name
        cls.write(Path(cls.folder.name))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls.folder.cleanup()


@pytest.mark.slow
class TestIsic2018(FromFiles, tfds.testing.DatasetBuilderTestCase):
    BUILDER_CONFIG_NAMES_TO_TEST = names_of("isic2018")
    SPLITS = dict.fromkeys(FOLDS, 21) | {"validation_official": 7, "test_official": 7}

    @classmethod
    def write(cls, folder: Path) -> None:
        write_isic2018(folder, make_rows())
        write_isic2018(folder, make_rows(lesions=1, start=1000), "Validation")
        write_isic2018(folder, make_rows(lesions=1, start=2000), "Test")


@pytest.mark.slow
class TestIsic2019(FromFiles, tfds.testing.DatasetBuilderTestCase):
    BUILDER_CONFIG_NAMES_TO_TEST = names_of("isic2019")
    SPLITS = dict.fromkeys(FOLDS, 24)

    @classmethod
    def write(cls, folder: Path) -> None:
        write_isic2019(folder, make_rows(ISIC2019_CLASS_NAMES))


@pytest.mark.slow
class TestIsic2019WithoutHam10000(FromFiles, tfds.testing.DatasetBuilderTestCase):
    BUILDER_CONFIG_NAMES_TO_TEST = names_of("isic2019", without_ham10000=True)
    SPLITS = dict.fromkeys(FOLDS, 24)

    @classmethod
    def write(cls, folder: Path) -> None:
        rows = make_rows(ISIC2019_CLASS_NAMES, lesions=21)
        for row in rows:
            if not row["lesion_id"].endswith("_20"):
                row["lesion_id"] = row["lesion_id"].replace("HAM", "BCN")
        write_isic2019(folder, rows)


@pytest.mark.slow
class TestOwn(FromFiles, tfds.testing.DatasetBuilderTestCase):
    """The class folders also contain a table of the images."""

    BUILDER_CONFIG_NAMES_TO_TEST = [*names_of("folder"), *names_of("table")]  # noqa: RUF012
    SPLITS = dict.fromkeys(FOLDS, 3) | {"test_official": 2}

    @classmethod
    def write(cls, folder: Path) -> None:
        splits = {
            "Train": make_rows(("a", "b"), lesions=10),
            "Test": make_rows(("a", "b"), lesions=1, start=500),
        }
        for split, rows in splits.items():
            write_classes(folder / split, rows)
        rows = [{**row, "split": split} for split in splits for row in splits[split]]
        for row in rows:
            row["lesion_id"] += row["split"]
        write_table(folder / "labels.csv", rows, tuple(rows[0]))


@pytest.mark.slow
class TestDemo(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["demo_tiny"]  # noqa: RUF012
    EXAMPLE_DIR = str(Path(__file__).parent)
    SKIP_CHECKSUMS = True

    @classmethod
    def setUpClass(cls) -> None:
        records, _ = demo.make_dataset(300)
        assignments = assign_images(records)
        cls.SPLITS = Counter(f"fold_{a.fold}" for a in assignments.values())
        super().setUpClass()


def test_every_config_is_tested() -> None:
    tested = {
        name
        for case in (TestIsic2018, TestIsic2019, TestIsic2019WithoutHam10000, TestOwn)
        for name in case.BUILDER_CONFIG_NAMES_TO_TEST
    }
    # `demo` is `demo_tiny` with more images, which take a minute to render.
    assert tested | {"demo_tiny", "demo"} == {config.name for config in CONFIGS}


def test_prepare_data_builds_once_and_prints_the_folder(
    manual_dir: Path, tmp_path: Path, prepare: Prepare
) -> None:
    data_dir = tmp_path / "built"
    first = prepare("isic2018", data_dir, "--manual-dir", manual_dir)
    assert first.returncode == 0, first.stderr
    assert f"is in {data_dir}/ham10000/isic2018" in first.stdout
    assert re.search(rf"^Building ham10000/isic2018/.* in {data_dir}", first.stderr, re.M)
    assert "Downloading" not in first.stdout + first.stderr
    assert "fold_9: 21 images" in first.stdout
    assert "0 image(s) are not stored byte for byte" in first.stdout
    assert "missing values: dx_type 0, age 5, sex 0, localization 0" in first.stdout
    # A built dataset does not need the published files, and is not built again.
    again = prepare("isic2018", data_dir)
    assert again.returncode == 0, again.stderr
    assert "Writing images" not in again.stderr
    assert "already exists" in again.stdout
    assert "already exists" not in first.stdout
    assert "age 5" in again.stdout


def test_stored_examples_equal_the_source(manual_dir: Path, tmp_path: Path) -> None:
    builder = prepare_dataset("isic2018", tmp_path, manual_dir)
    source = sources.read_source(manual_dir, "isic2018")
    rows = builder.as_dataset(split="all", decoders={"image": tfds.decode.SkipDecoding()})
    stored = {row["image_id"].decode(): row for row in tfds.as_numpy(rows)}
    assert len(stored) == len(source.splits["train"])
    for record in source.splits["train"]:
        row = stored[record.image_id]
        assert row["image"] == source.images.read(record.image_id)
        assert CLASS_NAMES[row["label"]] == record.dx
        assert row["lesion_id"].decode() == record.lesion_id
        assert row["patient_id"] == b""
        assert row["age"] == pytest.approx(record.age, nan_ok=True)


def test_the_report_states_which_identifiers_are_known(tmp_path: Path) -> None:
    names = ["ISIC_0027419", "ISIC_0025030", "ISIC_0024306", *map(str, range(9))]
    members = {f"{i % 2}/{name}.jpg": jpeg(i) for i, name in enumerate(names)}
    members["1/copy of 8.jpg"] = members["1/8.jpg"]
    write_folder(tmp_path / "manual", members)
    builder = prepare_dataset("folder", tmp_path / "built", tmp_path / "manual")
    report = builder.read_report()
    assert (report.group_by, report.num_images) == ("lesion", 13)
    assert (report.num_with_lesion, report.num_with_patient) == (3, 0)
    assert report.near_duplicates == [("1/8", "1/copy of 8", "hash", 0)]
    rows = tfds.as_numpy(builder.as_dataset(split="all"))
    groups = {row["image_id"].decode(): row["group_id"].decode() for row in rows}
    assert groups["0/ISIC_0027419"] == groups["1/ISIC_0025030"] == "HAM_0000118"
    assert groups["1/8"] == groups["1/copy of 8"] == "image:1/8"


def test_near_duplicates_with_different_labels_are_reported(tmp_path: Path) -> None:
    write_folder(tmp_path / "manual", {f"{i % 2}/{i}.jpg": jpeg(i) for i in range(12)})
    make_image(3).save(tmp_path / "manual" / "0" / "x.jpg", quality=94)
    builder = prepare_dataset("folder", tmp_path / "built", tmp_path / "manual")
    assert builder.read_report().label_conflicts == [("0/x", "1/3", "0", "1")]
    assert builder.read_report().group_by == "image"


def test_class_names_of_a_built_folder_dataset(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match="'folder' has not been built"):
        class_names("folder", tmp_path / "built")
    manual_dir = write_classes(tmp_path / "manual", make_rows(("é b", "a"), lesions=10))
    prepare_dataset("folder", tmp_path / "built", manual_dir)
    with pytest.raises(ConfigError, match=r"was built from .*manual\. Received: .*other"):
        prepare_dataset("folder", tmp_path / "built", tmp_path / "other")
    manual_dir.rename(tmp_path / "gone")
    assert class_names("folder", tmp_path / "built") == ("a", "é b")
    builder = open_dataset("folder", tmp_path / "built")
    for row in tfds.as_numpy(builder.as_dataset(split="fold_3")):
        label = builder.info.features["label"].int2str(row["label"])
        assert row["image_id"].decode().startswith(f"{label}/")


def test_too_few_lesions_for_ten_folds_are_reported(
    tmp_path: Path, prepare: Prepare
) -> None:
    too_few = write_classes(tmp_path / "too few", make_rows(("a", "b"), lesions=1))
    done = prepare("folder", tmp_path / "built", "--manual-dir", too_few)
    assert done.returncode == 3, done.stderr
    assert "too few images for training, validation and testing" in done.stderr
    assert not list((tmp_path / "built").rglob("*.tfrecord*"))
    rows = [r for r in make_rows(("a", "b"), lesions=12) if r["lesion_id"] < "HAM_b_2"]
    enough = write_classes(tmp_path / "enough", rows)
    done = prepare("folder", tmp_path / "built", "--manual-dir", enough)
    assert done.returncode == 0, done.stderr
    assert "b has too few images for ten folds and is missing from fold_" in done.stdout


def test_a_damaged_image_leaves_no_partial_dataset(
    manual_dir: Path, tmp_path: Path, prepare: Prepare
) -> None:
    replace_member(manual_dir, "ISIC_0000004", jpeg()[:-200])
    done = prepare("isic2018", tmp_path, "--manual-dir", manual_dir)
    assert done.returncode == 3, done.stderr
    assert "1 image(s) are invalid: ISIC_0000004" in done.stderr
    assert not list(tmp_path.rglob("*.tfrecord*"))
    assert not list(tmp_path.rglob("incomplete*"))
    flags = ("--manual-dir", manual_dir, "--on-bad-image", "skip")
    skipped = prepare("isic2018", tmp_path, *flags)
    assert skipped.returncode == 0, skipped.stderr
    assert "skipped ISIC_0000004: cannot be decoded" in skipped.stdout
    sizes = [int(n) for n in skipped.stdout.split() if n.isdigit()][:10]
    assert sum(sizes) == 209


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("no manual dir", 3, "Use --manual-dir DIR"),
        ("missing folder", 3, "is not a directory"),
        ("no csv", 3, "lacks HAM10000_metadata"),
        ("other layout", 3, "Use --config isic2018"),
        ("modified file", 3, "HAM10000_metadata.csv differ(s) from the files that"),
        ("unknown config", 2, "Did you mean 'isic2018'"),
        ("data dir is a file", 2, "--data-dir must be a directory"),
        ("data dir is below a file", 2, "--data-dir must be a directory"),
    ],
)
def test_invalid_input_exits_with_one_message(
    fault: str, code: int, message: str, manual_dir: Path, tmp_path: Path, prepare: Prepare
) -> None:
    data_dir = tmp_path / "built"
    config, arguments = "isic2018", ["--manual-dir", manual_dir]
    if fault == "no manual dir":
        config, arguments = "isic2019", []
    elif fault == "missing folder":
        arguments[1] = tmp_path / "nowhere"
    elif fault == "no csv":
        (manual_dir / METADATA_FILE).unlink()
    elif fault == "other layout":
        config = "isic2019_256"
    elif fault == "modified file":
        arguments.append("--verify")
    elif fault == "unknown config":
        config = "isic2018x"
    else:
        data_dir.write_text("")
        if fault == "data dir is below a file":
            data_dir = data_dir / "deep"
    done = prepare(config, data_dir, *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not data_dir.is_dir()  # nothing was written


def read_all(builder: tfds.core.DatasetBuilder) -> list[tuple[object, ...]]:
    """Returns the examples of each fold in order."""
    return [
        (split, row["image_id"], row["group_id"], row["label"], row["image"].tobytes())
        for split in FOLDS
        for row in tfds.as_numpy(builder.as_dataset(split=split))
    ]


def test_files_in_the_default_manual_dir_are_used(tmp_path: Path) -> None:
    """Nothing is downloaded, because TFDS's default folder has all required files."""
    data_dir = tmp_path / "data"
    manual_dir = data_dir / "downloads" / "manual"
    manual_dir.parent.mkdir(parents=True)
    write_dataverse(manual_dir, make_rows(lesions=10))
    builder = prepare_dataset("isic2018", data_dir, manual_dir)
    assert builder.read_report().source == str(manual_dir)


def test_examples_and_folds_do_not_depend_on_the_layout(tmp_path: Path) -> None:
    rows = make_rows(lesions=10)
    built = []
    for write in (write_dataverse, write_isic2018):
        manual_dir = write(tmp_path / write.__name__, rows)
        builder = prepare_dataset("isic2018", manual_dir / "built", manual_dir)
        built.append(read_all(builder))
    assert built[0] == built[1]
    assert len(built[0]) == len(rows)


def test_a_downsized_variant_stores_downsized_images(
    manual_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset also opens from a folder that is not writable."""
    original = read_files(prepare_dataset("isic2018", tmp_path, manual_dir))
    monkeypatch.setattr(
        next(c for c in CONFIGS if c.name == "isic2018_256"), "longest_side", 20
    )
    prepare_dataset("isic2018_256", tmp_path, manual_dir)
    monkeypatch.setattr("os.access", lambda *_: False)
    stored = read_files(open_dataset("isic2018_256", tmp_path))
    assert stored.keys() == original.keys()
    for image_id, content in original.items():
        assert stored[image_id] == normalize(content, longest_side=20)
        with Image.open(io.BytesIO(stored[image_id])) as image:
            assert image.size == (20, 15)


def read_files(builder: tfds.core.DatasetBuilder) -> dict[bytes, bytes]:
    """Returns the stored file of each image."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    return {
        row["image_id"]: row["image"]
        for split in FOLDS
        for row in tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders))
    }


def test_sorting_a_split_on_disk_does_not_change_it(
    manual_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = prepare_dataset("isic2018", tmp_path / "memory", manual_dir)
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 10_000)
    on_disk = prepare_dataset("isic2018", tmp_path / "disk", manual_dir)
    assert read_all(in_memory) == read_all(on_disk)
    assert sorted(p.name for p in Path(in_memory.data_dir).iterdir()) == sorted(
        p.name for p in Path(on_disk.data_dir).iterdir()
    )


def test_a_builder_leaves_no_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Builder(config="demo", data_dir=tmp_path / "data")
    assert not list(tmp_path.glob("tmp*"))
