"""Folders of runs that are torn: each is told in one line, before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import run_here

from skincnn.config import Config
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.errors import ConfigError
from skincnn.files import SCHEMA, write_json
from skincnn.inference.run_dir import METADATA_KEYS, read_history, read_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of a run, the model's being no model."""
    write_json(tmp_path / "config.json", Config().to_dict())
    known = {"schema": SCHEMA, "preprocessing": describe_preprocessing(Config().data)}
    write_json(tmp_path / "metadata.json", {**dict.fromkeys(METADATA_KEYS), **known})
    (tmp_path / "model.keras").write_text("")
    (tmp_path / "history.csv").write_text("epoch,loss\n1,0.5\n")
    return tmp_path


def test_a_whole_folder_is_read(folder: Path) -> None:
    metadata, config = read_run(folder)
    assert set(metadata) == {*METADATA_KEYS, "schema", "preprocessing"}
    assert config == Config()
    assert read_history(folder)["loss"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"class_names": ["mel"', "cannot be read"),
        ("[]", "must hold a JSON object"),
        ("null", "must hold a JSON object"),
        ('{"class_names": []}', "lacks synthetic, dataset, audit"),
    ],
)
def test_torn_metadata_are_refused(content: str, message: str, folder: Path) -> None:
    (folder / "metadata.json").write_text(content)
    with pytest.raises(ConfigError, match=f"metadata.json {message}.*train again"):
        read_run(folder)


@pytest.mark.parametrize("content", ["", "epoch,loss\n", "\n", "a,b\n1,2\n"])
def test_an_empty_history_is_refused(content: str, folder: Path) -> None:
    (folder / "history.csv").write_text(content)
    with pytest.raises(ConfigError, match=r"history\.csv .*train again"):
        read_history(folder)


def test_a_run_without_history_is_refused_before_it_is_asked(
    run: tuple[Path, object], data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir)
    (workdir / "history.csv").write_text("")
    (workdir / "predictions/test.csv").unlink()
    done = run_here("evaluate.py", workdir, "--data-dir", data_dir)
    assert done.returncode == 2, done.stderr
    assert "history.csv cannot be read" in done.stderr
    assert not (workdir / "predictions/test.csv").exists()
