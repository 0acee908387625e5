"""Tests of built datasets with missing or damaged files: errors say what to do."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Prepare, run_here
from source_files import make_rows, write_classes

from skincnn.data.combined import open_datasets
from skincnn.data.datasets import (
    class_names,
    open_dataset,
    prepare_dataset,
    read_rows,
)
from skincnn.errors import DataError

Damage = Callable[[Path], object]
DAMAGES: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(9)),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\xfa" + path.read_bytes()),
    "other content": lambda path: path.write_bytes(b"{}"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the dataset "clinic", which has the labels x, y and zz."""
    folder = tmp_path_factory.mktemp("built")
    images = write_classes(folder / "images", make_rows(("x", "y", "zz"), lesions=4))
    prepare_dataset("folder", folder / "data", images, name="clinic")
    return folder / "data"


@pytest.fixture
def data_dir(built: Path, tmp_path: Path) -> Path:
    """A copy of `built`, whose files a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "data dir"))


def folder_of(data_dir: Path) -> Path:
    (folder,) = (data_dir / "ham10000" / "clinic").iterdir()
    return folder


def require_advice(error: pytest.ExceptionInfo[DataError], data_dir: Path) -> None:
    """Checks that the error names the directory, and the command that builds it again."""
    command = f"--config CONFIG --name clinic --manual-dir DIR --data-dir '{data_dir}'"
    assert str(error.value).endswith(f"skincnn prepare-data {command}")
    assert f"The dataset in {folder_of(data_dir)} cannot be read" in str(error.value)
    assert "delete that directory" in str(error.value)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["dataset_info.json", "build.json", "label.labels.txt"])
def test_damaged_metadata_are_data_errors(
    data_dir: Path, name: str, damage: Damage
) -> None:
    damage(folder_of(data_dir) / name)
    for use in (read_opened, read_prepared):
        with pytest.raises(DataError, match=re.escape(name)) as error:
            use(data_dir)
        require_advice(error, data_dir)


def read_opened(data_dir: Path) -> None:
    open_datasets(["clinic"], data_dir).read_table(range(10))


def read_prepared(data_dir: Path) -> None:
    builder = prepare_dataset("folder", data_dir, name="clinic")
    read_rows(builder, list(builder.info.splits))


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [*DAMAGES.values(), flip_bit], ids=[*DAMAGES, "bit"])
def test_damaged_images_are_data_errors(data_dir: Path, damage: Damage) -> None:
    damage(sorted(folder_of(data_dir).glob("*.tfrecord*"))[0])
    dataset = open_datasets(["clinic"], data_dir)
    with pytest.raises(DataError) as error:
        dataset.read_table(range(10))
    require_advice(error, data_dir)


def test_another_dataset_may_be_damaged(data_dir: Path) -> None:
    version = folder_of(data_dir).name
    damaged = data_dir / "ham10000" / "demo" / version / "dataset_info.json"
    damaged.parent.mkdir(parents=True)
    damaged.touch()
    assert class_names("clinic", data_dir) == ("x", "y", "zz")


def test_other_datasets_are_listed_if_one_is_damaged(data_dir: Path) -> None:
    version = folder_of(data_dir)
    shutil.copytree(version, data_dir / "ham10000" / "a_damaged" / version.name)
    shutil.copytree(version, data_dir / "ham10000" / "b_damaged" / version.name)
    for name in ("a_damaged", "b_damaged"):
        (data_dir / "ham10000" / name / version.name / "build.json").unlink()
    done = run_here("skincnn", "datasets", "--data-dir", data_dir)
    assert done.returncode == 3, done.stderr
    assert re.search(r"\nclinic\n.*\n  built: [1-9]", done.stdout)
    assert re.search(r"\nb_damaged\n.*\n  damaged\n", done.stdout)
    for name in ("a_damaged", "b_damaged"):
        problem = f"{name}/.* cannot be read: build.json.*--name {name}"
        assert re.search(problem, done.stderr)


def test_the_advice_repairs_a_dataset(
    tmp_path: Path, data_dir: Path, prepare: Prepare
) -> None:
    prepare_dataset("demo_tiny", data_dir)
    folder = Path(open_dataset("demo_tiny", data_dir).data_dir)
    (folder / "build.json").unlink()
    done = prepare("demo_tiny", data_dir)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    _, command = done.stderr.strip().split("as before: skincnn prepare-data ")
    _, config, *flags = shlex.split(command)
    shutil.rmtree(folder)
    assert (config, flags) == ("demo_tiny", ["--data-dir", str(data_dir)])
    assert prepare(config, data_dir).returncode == 0
