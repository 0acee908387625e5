"""The code and the hardware that a run records."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from skincnn import __version__
from skincnn.evaluation.compared_runs import describe_provenance
from skincnn.inference import provenance
from skincnn.inference.run_dir import Provenance


def git(folder: Path, *arguments: str) -> str:
    me = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    command = ["git", "-C", folder, *me, *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def test_the_commit_and_changes_are_recorded(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message", "first")
    git(tmp_path, "tag", "--annotate", "v9", "--message", "a tag is not a commit")
    commit = git(tmp_path, "rev-parse", "--short=7", "HEAD").strip()
    assert provenance._commit(tmp_path) == commit
    (tmp_path / "notes.txt").touch()
    assert provenance._commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    assert provenance._commit(tmp_path) == f"{commit}-dirty"


def test_an_installed_package_records_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init")  # another checkout that contains the package
    (tmp_path / "venv").mkdir()
    assert provenance._commit(tmp_path / "venv") is None
    monkeypatch.setenv("PATH", "")  # no git
    assert provenance.provenance().code == f"skincnn {__version__}"


def test_the_processor_and_its_cores_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nproc = subprocess.run(["nproc"], capture_output=True, check=True, text=True)
    assert provenance.provenance().cores == int(nproc.stdout)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some  CPU\nprocessor\t: 1\n")
    monkeypatch.setattr(provenance, "CPUINFO", cpuinfo)
    assert provenance.provenance().processor == "Some CPU"
    cpuinfo.unlink()
    assert provenance.provenance().processor


def test_gpus_are_recorded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [SimpleNamespace(name="GPU:0"), SimpleNamespace(name="GPU:1")]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    details = {"GPU:0": {"device_name": "Some GPU"}, "GPU:1": {}}
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: details[gpu.name]
    )
    assert provenance._gpus() == ("Some GPU", "GPU:1")


@pytest.mark.parametrize(
    ("cores", "gpus", "description"),
    [
        (1, [], "abc, 1 core of Some CPU"),
        (8, [], "abc, 8 cores of Some CPU"),
        (8, ["Some GPU"] * 2, "abc, 2 x Some GPU"),
    ],
)
def test_provenance_is_described_in_a_line(
    cores: int, gpus: list[str], description: str
) -> None:
    provenance = Provenance(code="abc", processor="Some CPU", cores=cores, gpus=tuple(gpus))
    assert describe_provenance(provenance) == description
    assert describe_provenance(None) == ""
