"""The saved state: whole or not used, and never mixed with another training's."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from skincnn.errors import DataError
from skincnn.training import state
from skincnn.training.state import (
    Progress,
    assign,
    load_state,
    remove_states,
    save_state,
    weights_path,
)

MADE_BY = {"data": {"train": "abc"}, "versions": {"keras": "3"}}


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
    save_state(folder, progress, variables, MADE_BY)


def epoch_found(folder: Path) -> int | None:
    found = load_state(folder, MADE_BY)
    return None if found is None else found[0].epoch


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    assert load_state(tmp_path / "nothing", MADE_BY) is None
    save(tmp_path, 3, 7)
    found = load_state(tmp_path, MADE_BY)
    assert found is not None
    assert found[0] == Progress(3, 7, history=[{"epoch": 1, "loss": 0.1}], best_epoch=1)
    np.testing.assert_array_equal(found[1]["model"], np.full((12, 2, 3), 3))
    assert int(found[1]["optimizer"][0]) == 7
    remove_states(tmp_path, best_epoch=1)
    assert [path.name for path in tmp_path.iterdir()] == ["best-00001.weights.h5"]


def test_the_last_two_states_and_their_weights_stay(tmp_path: Path) -> None:
    for epoch in range(1, 12):
        save(tmp_path, epoch, best_epoch=epoch)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-00010.weights.h5",
        "best-00011.weights.h5",
        "state-00010-0000000.json",
        "state-00010-0000000.npz",
        "state-00011-0000000.json",
        "state-00011-0000000.npz",
    ]
    save(tmp_path, 11, step=5, best_epoch=11)
    assert epoch_found(tmp_path) == 11
    remove_states(tmp_path, best_epoch=11)
    assert [path.name for path in tmp_path.iterdir()] == ["best-00011.weights.h5"]


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_the_state_before_a_damaged_one_is_used(
    suffix: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / f"state-00002-0000000{suffix}"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
    else:
        path.unlink()
    assert epoch_found(tmp_path) == 1
    said = "state-00002-0000000 is damaged" in capsys.readouterr().err
    # A state whose .json was never written is not a damaged one.
    assert said == ((suffix, damage) != (".json", "gone"))


def test_without_a_whole_state_training_begins_anew(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "state-00001-0000000.npz").write_bytes(b"")
    assert epoch_found(tmp_path) is None


def test_a_state_of_other_data_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(DataError, match="begun with another versions"):
        load_state(tmp_path, {**MADE_BY, "versions": {"keras": "4"}})


def test_variables_of_another_model_are_refused() -> None:
    variable = keras.Variable(np.zeros((2, 3)))
    with pytest.raises(DataError, match="shapes"):
        assign([variable], [np.zeros((3, 2))])
    assign([variable], [np.ones((2, 3))])
    assert float(np.asarray(variable).sum()) == 6


def test_a_state_is_plain_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is unpickled: a state from elsewhere cannot run code."""
    save(tmp_path, 1)
    path = tmp_path / "state-00001-0000000"
    np.savez(path.with_suffix(".npz"), **{"model.0": np.array([object()])})
    monkeypatch.setattr(state, "sha256", lambda path: "")
    monkeypatch.setattr(state, "_own_hash", lambda content: "")
    content = json.loads(path.with_suffix(".json").read_text())
    content |= {"sha256": "", "own_sha256": ""}
    path.with_suffix(".json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_state(tmp_path, MADE_BY)
