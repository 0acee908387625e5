"""Run directories: their content, and the errors for damaged ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import run_here
from run_dirs import make_info, write_run_dir

from skincnn.config import Config, DataConfig
from skincnn.errors import ConfigError
from skincnn.files import write_json
from skincnn.inference.run_dir import read_history, read_run
from skincnn.records import to_json
from skincnn.serving.predictor import load_predictor


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return write_run_dir(tmp_path / "run")


def require_one_line(workdir: Path, *expected: str) -> None:
    """Checks that the error is one line with the directory, the fix and these texts."""
    with pytest.raises(ConfigError) as caught:
        read_run(workdir)
    message = str(caught.value)
    assert str(workdir) in message
    assert "scripts/train.py" in message
    assert "\n" not in message
    for text in expected:
        assert text in message, message


def test_runs_one_level_below_are_named(workdir: Path) -> None:
    for read in (read_run, load_predictor):
        with pytest.raises(ConfigError, match=rf"the run\(s\) run\. Use .*{workdir}$"):
            read(workdir.parent)


def test_a_complete_directory_is_read(workdir: Path) -> None:
    assert read_run(workdir) == (make_info(), Config())
    assert read_history(workdir)["loss"].tolist() == [1.0, 0.6, 0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"class_names": ["mel"', "run.json cannot be read"),
        ("", "run.json cannot be read"),
        ("[]", "run.json must contain a JSON object. Received: list."),
        ("null", "run.json must contain a JSON object. Received: NoneType."),
        ("{}", "Expected schema_version 3. Received: None."),
        ('{"schema_version": 1}', "Expected schema_version 3. Received: 1."),
        ('{"schema_version": 3}', "run.json: `skincnn`: Field required."),
    ],
)
def test_a_damaged_run_file_is_rejected(content: str, message: str, workdir: Path) -> None:
    (workdir / "run.json").write_text(content)
    require_one_line(workdir, message, "train again with --overwrite")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": "red"}, "`extra`: Extra inputs are not permitted. Received: 'red'."),
        ({"best_epoch": "last"}, "`best_epoch`: Input should be a valid integer"),
        ({"kind": "fold"}, "`kind`: Input should be 'run', 'ensemble' or"),
        ({"audit": {"num_images": {}}}, "`audit.num_lesions`: Field required."),
    ],
)
def test_an_invalid_field_is_rejected(
    change: dict[str, object], message: str, workdir: Path
) -> None:
    write_json(workdir / "run.json", {**to_json(make_info()), **change})
    require_one_line(workdir, message)


@pytest.mark.parametrize("name", ["config.json", "run.json", "model.keras", "history.csv"])
def test_a_missing_file_is_rejected(name: str, workdir: Path) -> None:
    (workdir / name).unlink()
    require_one_line(workdir, f"contains no finished run: {name} is missing")


def test_the_layout_of_an_earlier_version_is_rejected(workdir: Path) -> None:
    (workdir / "run.json").rename(workdir / "metadata.json")
    require_one_line(workdir, "layout of an earlier version", "instead of run.json")


def test_a_different_preprocessing_is_rejected(workdir: Path) -> None:
    config = Config(data=DataConfig(crop_border=True))
    write_json(workdir / "config.json", config.to_dict())
    message = "run.json: the training images were preprocessed with {"
    require_one_line(workdir, message, "Expected {")


@pytest.mark.parametrize("content", ["", "epoch,loss\n", "\n", "a,b\n1,2\n"])
def test_an_empty_history_is_rejected(content: str, workdir: Path) -> None:
    (workdir / "history.csv").write_text(content)
    with pytest.raises(ConfigError, match=r"history\.csv .*train again"):
        read_history(workdir)


def test_a_run_without_history_is_rejected_before_any_prediction(
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


def test_a_trained_run_is_described(run: tuple[Path, object]) -> None:
    info, config = read_run(run[0])
    assert (info.kind, info.members) == ("run", ())
    assert info.synthetic
    assert info.class_counts.keys() == set(info.class_names)
    assert info.data_fingerprint.keys() >= {"val", "test"}
    assert config.data.datasets == ("demo_tiny",)
    values = json.loads((run[0] / "run.json").read_text())
    assert to_json(info) == values
