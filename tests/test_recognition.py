"""Only directories that this package has written are recognized, and replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from run_dirs import CONFIG, make_info, write_run_dir

import tuning.workdir
from skincnn.errors import ConfigError
from skincnn.evaluation import aggregate
from skincnn.files import write_json
from skincnn.inference.recognition import find_kind
from skincnn.records import write_record
from skincnn.training import run as training

OTHER_CONFIGS = {
    "unrelated": '{"name": "my other project"}',
    "empty": "{}",
    "incomplete": '{"data": {"image_size": 300}}',
    "list": "[]",
    "text": "precious",
}


def require_kept(folder: Path, message: str, *uses: Callable[[], object]) -> None:
    """Checks that each use raises an error and does not change the directory."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    for use in uses:
        with pytest.raises(ConfigError, match=message):
            use()
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("config", OTHER_CONFIGS.values(), ids=OTHER_CONFIGS)
def test_the_project_of_a_user_is_not_replaced(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    for name in ("run.json", "README.md", "checkpoints/mine.pt", "trials/1/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(config)
    (tmp_path / "fingerprint.json").write_text('{"sha256": "0"}')
    assert find_kind(tmp_path) == ""
    require_kept(
        tmp_path,
        r"contains .*\. (Use another --workdir|Expected a new directory)",
        lambda: training.check_workdir(tmp_path, CONFIG),
        lambda: training.check_workdir(tmp_path, CONFIG, overwrite=True),
        lambda: training.check_workdir(tmp_path, CONFIG, resume=True),
        lambda: aggregate.check_workdir(tmp_path),
        lambda: tuning.workdir.open_workdir(tmp_path, {}, overwrite=False),
        lambda: tuning.workdir.open_workdir(tmp_path, {}, overwrite=True),
    )


@pytest.mark.parametrize("name", [*aggregate.PRODUCTS, "run.json", "config.json"])
def test_an_aggregate_replaces_only_an_earlier_one(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "mine").mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"contains {name} but no ensemble"):
        aggregate.check_workdir(tmp_path)
    if name not in ("run.json", "config.json"):
        write_record(tmp_path / "run.json", make_info(kind="ensemble"))
        aggregate.check_workdir(tmp_path)


@pytest.mark.parametrize("evidence", ["run.json", "checkpoint", "config.json"])
def test_a_damaged_run_is_replaced(evidence: str, tmp_path: Path) -> None:
    """run.json of another version, and files of an unfinished run, are enough."""
    if evidence == "run.json":
        write_run_dir(tmp_path)
        write_json(tmp_path / "run.json", {"skincnn": "0.1", "kind": "run"})
    elif evidence == "checkpoint":
        (tmp_path / "checkpoints").mkdir()
        for suffix in ("json", "npz"):
            (tmp_path / f"checkpoints/checkpoint-00001-0000000.{suffix}").touch()
    write_json(tmp_path / "config.json", CONFIG.to_dict())
    if evidence != "config.json":
        (tmp_path / "config.json").write_text('{"data": ')
    training.check_workdir(tmp_path, CONFIG, overwrite=True)
    for use in (
        lambda: training.check_workdir(tmp_path, CONFIG),
        lambda: aggregate.check_workdir(tmp_path),
        lambda: tuning.workdir.open_workdir(tmp_path, {}, overwrite=True),
    ):
        require_kept(tmp_path, "contains a run", use)


def test_a_search_without_its_fingerprint_is_replaced(tmp_path: Path) -> None:
    write_json(tmp_path / "trials/a/config.json", CONFIG.to_dict())
    with pytest.raises(ConfigError, match=r"missing or damaged .*--overwrite"):
        tuning.workdir.open_workdir(tmp_path, {}, overwrite=False)
    tuning.workdir.open_workdir(tmp_path, {}, overwrite=True)
    assert not (tmp_path / "trials").exists()
