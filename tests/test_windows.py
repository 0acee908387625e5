"""The package under the rules of Windows; see `windows`. It was not run on Windows."""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from windows import windows_rules

from skincnn.data.cache import cached_images
from skincnn.errors import ConfigError
from skincnn.files import locked, write_text
from tuning.machines import rename_if_damaged

Run = tuple[Path, object]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with windows_rules(tmp_path):
        yield tmp_path


def test_the_rules_forbid_what_windows_forbids(folder: Path) -> None:
    path, other = folder / "x", folder / "y"
    path.write_bytes(b"content")
    other.mkdir()
    with path.open("rb") as file:
        with pytest.raises(OSError, match="read-only"):
            os.fsync(file.fileno())
        for forbidden in (path.unlink, lambda: path.replace(folder / "z")):
            with pytest.raises(PermissionError, match="in use"):
                forbidden()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with pytest.raises(PermissionError, match="in use"):
        path.unlink()
    mapped.close()
    with pytest.raises(FileExistsError):
        path.rename(other)
    (other / "a").write_text("a")
    with (other / "a").open(), pytest.raises(PermissionError, match="in use"):
        shutil.rmtree(other)
    with pytest.raises(PermissionError), (other / "a").open():
        os.rename(other, folder / "z")
    for name in ("a:b", "what?", "nul.txt", "end."):
        with pytest.raises(OSError, match="name of the file is not valid"):
            (folder / name).write_text("")
    path.replace(other / "a")
    shutil.rmtree(other)
    assert not any(folder.iterdir())


def test_files_are_replaced_and_locked(folder: Path) -> None:
    for text in ("old", "new"):
        write_text(folder / "x", text)
    (folder / "x").chmod(0o600)
    (folder / "link").symlink_to("x")
    write_text(folder / "link", "newest")
    assert (folder / "x").read_text() == "newest"
    (folder / "link").unlink()
    with locked(folder / "run"), pytest.raises(ConfigError), locked(folder / "run"):
        pass
    assert [path.name for path in folder.iterdir()] == ["x"]
    with (folder / "x").open(), pytest.raises(PermissionError, match="in use"):
        write_text(folder / "x", "newer")
    assert [path.name for path in folder.iterdir()] == ["x"]


def test_the_image_cache_is_written_again(folder: Path) -> None:
    shape = (2, 3, 4, 3)

    def fill(images: np.ndarray) -> None:
        images[:] = 7

    for content in (None, b"damaged"):
        if content is not None:
            (folder / "x.npy").write_bytes(content)
        images = cached_images(folder / "x.npy", shape, fill, "disk")
        assert (images == 7).all()
        del images


def test_damaged_directories_of_a_search_are_renamed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = folder / "keras_tuner"
    search.mkdir()
    (search / "oracle.json").write_text(json.dumps({})[:1])
    rename_if_damaged(search)
    assert "is damaged" in capsys.readouterr().err
    (renamed,) = folder.iterdir()
    assert renamed.name.startswith("keras_tuner.damaged-")
    assert (renamed / "oracle.json").exists()


@pytest.mark.slow
def test_commands_run_under_the_rules_of_windows(folder: Path, no_figures: None) -> None:
    data, workdir = folder / "data", folder / "runs/a b"
    flags = (
        "--data.datasets demo_tiny --data.image-size 32 --model.backbone small_cnn "
        "--model.width-multiplier 0.25 --train.epochs 2 --evaluate.num-bootstrap 200"
    ).split()
    where = ("--data-dir", data)
    train = ("train.py", "--workdir", workdir, *where, "--cache", "disk", *flags)
    (folder / "x.csv").write_text("old")
    for command in (
        ("prepare_data.py", "--config", "demo_tiny", *where),
        train,
        (*train, "--overwrite"),
        ("evaluate.py", workdir, *where, "--tta", "d4"),
        ("report.py", workdir),
        ("export.py", workdir, *where, "--formats", "saved_model", "litert", "onnx"),
        ("predict.py", workdir, *image(folder), "--output", folder / "x.csv"),
    ):
        done = run_here(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert (folder / "x.csv").read_text().count("\n") == 2


def image(folder: Path) -> list[Path]:
    from source_files import jpeg

    (folder / "x.jpg").write_bytes(jpeg())
    return [folder / "x.jpg"]
