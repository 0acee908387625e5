"""Atomic writes, checks of paths, and hashes."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.mistakes import Mistakes
from skincnn.files import (
    json_sha256,
    locked,
    open_npz,
    remove,
    replacing,
    require_writable_file,
    sha256,
    write_json,
    write_text,
)
from skincnn.inference.load import load_model
from skincnn.inference.ood import FeatureGaussian
from skincnn.inference.predictions import read_predictions
from skincnn.inference.run_dir import MODEL_FILE, RUN_FILE, read_run_info
from skincnn.serving.predictor import load_predictor
from tests.run_dirs import make_info


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_processes_with_the_same_id_write_to_different_temporary_files(
    tmp_path: Path,
) -> None:
    """Containers that share a volume may use the same process IDs."""
    path = tmp_path / "report.json"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_require_writable_file(tmp_path: Path) -> None:
    require_writable_file(tmp_path / "new/folder/a.csv", "--output")
    (tmp_path / "a.csv").touch()
    require_writable_file(tmp_path / "a.csv", "--output")
    for path in (tmp_path, tmp_path / "a.csv/b.csv", Path("/dev/null")):
        with pytest.raises(ConfigError, match="--output must be"):
            require_writable_file(path, "--output")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_mounted_file_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renaming another file to it would fail, after all work was done."""
    (tmp_path / "a.csv").touch()
    (tmp_path / "link.csv").symlink_to("a.csv")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "a.csv")
    for name in ("a.csv", "link.csv"):
        with pytest.raises(ConfigError, match=r"mount point\. Mount its directory"):
            require_writable_file(tmp_path / name, "--output")


def test_an_existing_file_keeps_its_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = []
    monkeypatch.setattr(os, "chown", lambda _, *owner: owners.append(owner))
    path = tmp_path / "secret.csv"
    path.touch()
    for mode in (0o600, 0o640, 0o444, 0o664):
        path.chmod(mode)
        with replacing(path) as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
            temporary.write_text(oct(mode))
        assert path.read_text() == oct(mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert set(owners) == {(-1, os.getgid()), (os.getuid(), -1)}


def test_a_file_system_may_refuse_to_change_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ZFS with restricted access-control lists."""
    path = tmp_path / "a.csv"
    path.touch()

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", refuse)
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("target", ["disk/old", "disk/missing", "other/missing"])
def test_the_target_of_a_link_is_replaced(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, links = tmp_path / "disk", tmp_path / "read_only"
    disk.mkdir()
    links.mkdir()
    (disk / "old").touch()
    (links / "x.csv").symlink_to(f"../{target}")
    (links / "y.csv").symlink_to("x.csv")
    monkeypatch.setattr(os, "access", lambda path, _: path != links)
    require_writable_file(links / "y.csv", "--output")
    with pytest.raises(ConfigError, match="must be a writable directory"):
        require_writable_file(links / "z.csv", "--output")
    with replacing(links / "y.csv") as temporary:
        assert temporary.parent == (tmp_path / target).parent  # the same file system
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
    assert (tmp_path / target).read_text() == "new"
    assert (links / "x.csv").is_symlink()
    assert sorted(path.name for path in links.iterdir()) == ["x.csv", "y.csv"]


def test_a_link_to_a_directory_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.csv").symlink_to("folder")
    with pytest.raises(ConfigError, match="not a regular file"):
        require_writable_file(tmp_path / "x.csv", "--output")
    with pytest.raises(OSError, match="directory"):
        write_text(tmp_path / "x.csv", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "x.csv"]
    assert not list((tmp_path / "folder").iterdir())


def test_nan_is_not_valid_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_json_sha256_ignores_the_order_of_keys(tmp_path: Path) -> None:
    values = {"a": [1, 2.5], "b": None}
    (tmp_path / "x").write_text(json.dumps(values))
    expected = sha256(tmp_path / "x")
    assert json_sha256(values) == json_sha256(dict(reversed(values.items()))) == expected


def test_only_the_content_of_a_linked_directory_is_removed(tmp_path: Path) -> None:
    (tmp_path / "disk/a").mkdir(parents=True)
    (tmp_path / "disk/a/b").touch()
    (tmp_path / "logs").symlink_to(tmp_path / "disk")
    (tmp_path / "broken").symlink_to("missing")
    for name in ("logs", "broken", "missing"):
        remove(tmp_path / name)
    assert (tmp_path / "logs").is_symlink()
    assert not any((tmp_path / "disk").iterdir())
    remove(tmp_path / "disk")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs"]


def test_a_renamed_directory_does_not_hide_an_error(tmp_path: Path) -> None:
    def rename_and_fail() -> None:
        with locked(tmp_path / "run"):
            (tmp_path / "run").rename(tmp_path / "other")
            raise ConfigError("the error")

    with pytest.raises(ConfigError, match="the error"):
        rename_and_fail()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("ood.npz", FeatureGaussian.read),
        ("test.mistakes.npz", Mistakes.read),
        ("test.csv", read_predictions),
        (RUN_FILE, lambda path: read_run_info(path.parent)),
        (MODEL_FILE, lambda path: load_model(path.parent, make_info())),
        ("skincnn.tflite.json", lambda path: load_predictor(path.with_suffix(""))),
    ],
)
def test_a_git_lfs_pointer_is_named(
    name: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    """A clone without `git lfs pull` has such files in place of the run's."""
    path = tmp_path / name
    (tmp_path / "skincnn.tflite").write_bytes(b"x")
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    )
    with pytest.raises(DataError, match=rf"{name} is a Git LFS pointer.*git lfs pull$"):
        read(path)


def test_other_content_of_an_npz_file_is_rejected(tmp_path: Path) -> None:
    """The advice of NumPy, to allow pickle, would execute code in the file."""
    np.save(tmp_path / "array.npy", np.zeros(3))
    for content in (b"text", b"PK\3\4", (tmp_path / "array.npy").read_bytes()):
        (tmp_path / "x.npz").write_bytes(content)
        with (
            pytest.raises(DataError, match=r"x\.npz is not a valid \.npz file\. Fix it\.$"),
            open_npz(tmp_path / "x.npz", "Fix it."),
        ):
            pass
