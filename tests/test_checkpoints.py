"""Tests of checkpoints: damaged ones are skipped, those of other runs are rejected."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import keras_tuner as kt
import numpy as np
import pytest

from skincnn.config import Config, ModelConfig
from skincnn.errors import DataError
from skincnn.training import checkpoints
from skincnn.training.checkpoints import (
    Checkpoints,
    Progress,
    assign,
    describe_changes,
    versions,
    weights_path,
)
from skincnn.training.setup import TrainingSetup
from tuning.config import SearchConfig
from tuning.workdir import make_fingerprint

FINGERPRINT = {"data": {"train": "abc"}, "versions": {"keras": "3"}}


def save(folder: Path, epoch: int, step: int = 0, best_epoch: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    weights_path(folder, best_epoch).touch()
    variables = {
        "model": [keras.Variable(np.full((2, 3), epoch, "float32")) for _ in range(12)],
        "optimizer": [keras.Variable(step, dtype="int32")],
    }
    progress = Progress(
        epoch, step, history=[{"epoch": 1, "loss": 0.1}], best_epoch=best_epoch
    )
    Checkpoints(folder, FINGERPRINT).save(progress, variables)


def loaded_epoch(folder: Path) -> int | None:
    checkpoint = Checkpoints(folder, FINGERPRINT).load()
    return None if checkpoint is None else checkpoint[0].epoch


def test_load_returns_what_was_saved(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nothing", FINGERPRINT).load() is None
    save(tmp_path, 3, 7)
    checkpoint = Checkpoints(tmp_path, FINGERPRINT).load()
    assert checkpoint is not None
    progress, arrays = checkpoint
    assert progress == Progress(3, 7, history=[{"epoch": 1, "loss": 0.1}], best_epoch=1)
    np.testing.assert_array_equal(arrays["model"], np.full((12, 2, 3), 3))
    assert int(arrays["optimizer"][0]) == 7
    Checkpoints(tmp_path, FINGERPRINT).remove(best_epoch=1)
    assert [path.name for path in tmp_path.iterdir()] == ["best-00001.weights.h5"]


def test_the_last_two_checkpoints_and_their_weights_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 12):
        save(tmp_path, epoch, best_epoch=epoch)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-00010.weights.h5",
        "best-00011.weights.h5",
        "checkpoint-00010-0000000.json",
        "checkpoint-00010-0000000.npz",
        "checkpoint-00011-0000000.json",
        "checkpoint-00011-0000000.npz",
    ]
    save(tmp_path, 11, step=5, best_epoch=11)
    assert loaded_epoch(tmp_path) == 11
    Checkpoints(tmp_path, FINGERPRINT).remove(best_epoch=11)
    assert [path.name for path in tmp_path.iterdir()] == ["best-00011.weights.h5"]


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_checkpoint_is_skipped(
    suffix: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / f"checkpoint-00002-0000000{suffix}"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
    else:
        path.unlink()
    assert loaded_epoch(tmp_path) == 1
    warned = "checkpoint-00002-0000000 is damaged" in capsys.readouterr().err
    # A checkpoint whose .json file was never written is incomplete, not damaged.
    assert warned == ((suffix, damage) != (".json", "missing"))
    # Without an undamaged checkpoint, training starts from the beginning.
    (tmp_path / "checkpoint-00001-0000000.npz").write_bytes(b"")
    assert loaded_epoch(tmp_path) is None


def test_a_git_lfs_pointer_is_not_renamed(tmp_path: Path) -> None:
    """`git lfs pull` downloads the content to the same path."""
    save(tmp_path, 1)
    names = sorted(tmp_path.iterdir())
    path = tmp_path / "checkpoint-00001-0000000.npz"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"npz is a Git LFS pointer.*git lfs pull$"):
        loaded_epoch(tmp_path)
    assert sorted(tmp_path.iterdir()) == names


@pytest.mark.parametrize("damaged", [".npz", ".json"])
def test_damaged_checkpoints_do_not_replace_later_ones(
    damaged: str, tmp_path: Path
) -> None:
    for epoch in (8, 9):
        save(tmp_path, epoch, best_epoch=epoch)
        (tmp_path / f"checkpoint-{epoch:05d}-0000000{damaged}").write_bytes(b"")
    assert loaded_epoch(tmp_path) is None
    for epoch in (1, 2, 3):
        save(tmp_path, epoch, best_epoch=min(epoch, 2))
        assert loaded_epoch(tmp_path) == epoch
    names = {path.name for path in tmp_path.iterdir()}
    assert {name for name in names if name.startswith("damaged")} == {
        f"damaged-checkpoint-0000{epoch}-0000000{suffix}"
        for epoch in (8, 9)
        for suffix in (".npz", ".json")
    }
    assert {name for name in names if name.startswith("best")} == {"best-00002.weights.h5"}
    # The previous checkpoint is kept, too, although a damaged one is newer than it.
    (tmp_path / "checkpoint-00003-0000000.npz").write_bytes(b"")
    assert loaded_epoch(tmp_path) == 2
    save(tmp_path, 3, step=1, best_epoch=2)
    (tmp_path / "checkpoint-00003-0000001.npz").write_bytes(b"")
    assert loaded_epoch(tmp_path) == 2
    Checkpoints(tmp_path, FINGERPRINT).remove(best_epoch=2)
    assert [path.name for path in tmp_path.iterdir()] == ["best-00002.weights.h5"]


def test_another_fingerprint_is_rejected(tmp_path: Path) -> None:
    save(tmp_path, 1)
    other = Checkpoints(tmp_path, {**FINGERPRINT, "versions": {"keras": "4"}})
    with pytest.raises(
        DataError, match=r"software or devices: versions.keras '3' \(now '4'\)"
    ):
        other.load()


@pytest.fixture
def keras_hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replaces KerasHub by an empty module of version 0.32.0."""
    module = SimpleNamespace(__version__="0.32.0")
    monkeypatch.setitem(sys.modules, "keras_hub", module)
    return module


def test_another_version_of_keras_hub_is_a_change_if_it_is_used(
    keras_hub: SimpleNamespace,
) -> None:
    backbones = "small_cnn", "keras_hub:dinov2_small"
    before = [versions(backbone) for backbone in backbones]
    keras_hub.__version__ = "0.33.0"
    changes = [
        describe_changes(old, versions(backbone))
        for old, backbone in zip(before, backbones, strict=True)
    ]
    assert changes == ["", "keras-hub '0.32.0' (now '0.33.0')"]


def test_versions_do_not_depend_on_the_metadata_of_distributions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """tensorflow-cpu has another name, and a failed upgrade leaves damaged metadata."""
    expected = {
        name: importlib.metadata.version(name) for name in versions() if name != "python"
    }
    monkeypatch.setattr(importlib.metadata, "version", lambda _: None)
    assert versions() == {**expected, "python": platform.python_version()}


@pytest.mark.parametrize("path", ["base", "choice", "none"])
def test_the_fingerprints_contain_the_version_of_keras_hub(
    path: str, keras_hub: SimpleNamespace
) -> None:
    used = "keras_hub:dinov2_small"
    config = Config(model=ModelConfig(backbone=used if path == "base" else "small_cnn"))
    setup = TrainingSetup.fingerprint.func(  # type: ignore[attr-defined]
        SimpleNamespace(
            tables={},
            config=config,
            devices=SimpleNamespace(precision="float32", names=("cpu:0",)),
            soft_labels=None,
            hash_modules=lambda names: {},
        )
    )
    assert ("keras-hub" in setup["versions"]) == (path == "base")
    hyperparameters = kt.HyperParameters()
    hyperparameters.Choice(
        "model.backbone", ["mobilenet", used] if path == "choice" else ["mobilenet"]
    )
    data: Any = SimpleNamespace(fingerprint=dict)
    search = make_fingerprint(config, [], hyperparameters, SearchConfig(), data)
    assert ("keras-hub" in search["versions"]) == (path != "none")


def test_variables_of_another_model_are_rejected() -> None:
    variable = keras.Variable(np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"shape \(2, 3\), received \(3, 2\)"):
        assign([variable], [np.zeros((3, 2))])
    with pytest.raises(DataError, match="Expected 1 variables, received 2"):
        assign([variable], [np.zeros((2, 3))] * 2)
    assign([variable], [np.ones((2, 3))])
    assert float(np.asarray(variable).sum()) == 6


def test_a_checkpoint_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading an untrusted checkpoint cannot run code."""
    save(tmp_path, 1)
    path = tmp_path / "checkpoint-00001-0000000"

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    np.savez(path.with_suffix(".npz"), **{"model.0": np.array([Code()])})
    monkeypatch.setattr(checkpoints, "sha256", lambda path: "")
    monkeypatch.setattr(checkpoints, "json_sha256", lambda content: "")
    content = json.loads(path.with_suffix(".json").read_text())
    content |= {"sha256": "", "own_sha256": ""}
    path.with_suffix(".json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"is not a valid \.npz file"):
        Checkpoints(tmp_path, FINGERPRINT).load()
    assert not (tmp_path / "executed").exists()
