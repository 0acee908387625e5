"""Tests of checkpoints: damaged ones are skipped, those of other runs are rejected."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from skincnn.errors import DataError
from skincnn.training import checkpoints
from skincnn.training.checkpoints import Checkpoints, Progress, assign, weights_path

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


def test_another_fingerprint_is_rejected(tmp_path: Path) -> None:
    save(tmp_path, 1)
    other = Checkpoints(tmp_path, {**FINGERPRINT, "versions": {"keras": "4"}})
    with pytest.raises(
        DataError, match=r"software or devices: versions.keras '3' \(now '4'\)"
    ):
        other.load()


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
    np.savez(path.with_suffix(".npz"), **{"model.0": np.array([object()])})
    monkeypatch.setattr(checkpoints, "sha256", lambda path: "")
    monkeypatch.setattr(checkpoints, "json_sha256", lambda content: "")
    content = json.loads(path.with_suffix(".json").read_text())
    content |= {"sha256": "", "own_sha256": ""}
    path.with_suffix(".json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="allow_pickle"):
        Checkpoints(tmp_path, FINGERPRINT).load()
