from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skincnn.data import cache
from skincnn.data.cache import Images, cached_images
from skincnn.errors import ConfigError

SHAPE = (3, 4, 5, 3)


class Fill:
    """Writes ascending numbers and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Images) -> None:
        self.calls += 1
        images[:] = np.arange(images.size, dtype=np.uint8).reshape(images.shape)


EXPECTED = np.arange(180, dtype=np.uint8).reshape(SHAPE)


@pytest.mark.parametrize("mode", ["auto", "memory", "disk"])
def test_every_cache_mode_returns_the_same_images(
    mode: cache.Cache, tmp_path: Path
) -> None:
    path, fill = tmp_path / "deep" / "x.npy", Fill()
    for _ in range(2):
        images = cached_images(path, SHAPE, fill, mode)
        np.testing.assert_array_equal(images, EXPECTED)
        assert images.ctypes.data % cache.ALIGNMENT == 0
    assert path.exists() == (mode == "disk")
    assert fill.calls == (1 if mode == "disk" else 2)
    assert not list(tmp_path.rglob(".tmp*"))


def test_another_cache_mode_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`cache` must be one of: .*'Memory'"):
        cached_images(tmp_path / "x.npy", SHAPE, Fill(), "Memory")  # type: ignore[arg-type]


def test_auto_uses_an_existing_file(tmp_path: Path) -> None:
    path, fill = tmp_path / "x.npy", Fill()
    cached_images(path, SHAPE, fill, "disk")
    np.testing.assert_array_equal(cached_images(path, SHAPE, fill, "auto"), EXPECTED)
    assert fill.calls == 1


def test_auto_writes_a_file_if_the_images_do_not_fit_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MEMORY_SHARE", 0.0)
    images = cached_images(tmp_path / "x.npy", SHAPE, Fill(), "auto")
    np.testing.assert_array_equal(images, EXPECTED)
    assert (tmp_path / "x.npy").is_file()


@pytest.mark.parametrize(
    ("prefix", "limit", "usage", "on_disk"),
    [
        ("memory.", ("max", "1000\n"), ("current", "900\n"), True),
        ("memory.", ("max", "1300\n"), ("current", "1000\n"), False),
        ("memory.", ("max", "max\n"), ("current", "900\n"), False),
        ("memory/memory.", ("limit_in_bytes", "1000\n"), ("usage_in_bytes", "900\n"), True),
    ],
)
def test_auto_obeys_the_memory_limit_of_a_container(
    prefix: str,
    limit: tuple[str, str],
    usage: tuple[str, str],
    on_disk: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "CGROUP", tmp_path)
    (tmp_path / "memory").mkdir()
    for name, text in (limit, usage, ("stat", "anon 7\ninactive_file 100\n")):
        (tmp_path / f"{prefix}{name}").write_text(text)
    cached_images(tmp_path / "x.npy", SHAPE, Fill(), "auto")
    assert (tmp_path / "x.npy").exists() == on_disk


@pytest.mark.parametrize(
    "damage",
    ["empty", "truncated", "too long", "other shape", "other type", "not an array"],
)
def test_a_damaged_or_mismatched_file_is_replaced(damage: str, tmp_path: Path) -> None:
    path, fill = tmp_path / "x.npy", Fill()
    cached_images(path, SHAPE, fill, "disk")
    content = path.read_bytes()
    if damage == "other shape":
        np.save(path, EXPECTED[:2])
    elif damage == "other type":
        np.save(path, EXPECTED.astype(np.int32))
    else:
        path.write_bytes(
            {
                "empty": b"",
                "truncated": content[:-1],
                "too long": content + b"x",
                "not an array": b"<html>" * 100,
            }[damage]
        )
    for _ in range(2):
        np.testing.assert_array_equal(cached_images(path, SHAPE, fill, "disk"), EXPECTED)
    assert fill.calls == 2


def test_writing_to_the_array_does_not_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    cached_images(path, SHAPE, Fill(), "disk")[:] = 0
    np.testing.assert_array_equal(cached_images(path, SHAPE, Fill(), "disk"), EXPECTED)


def test_an_interrupted_fill_leaves_no_files(tmp_path: Path) -> None:
    def fill(images: Images) -> None:
        images[0] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_images(tmp_path / "x.npy", SHAPE, fill, "disk")
    assert not list(tmp_path.iterdir())


def test_files_of_killed_processes_are_deleted_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / ".tmp-1-x.npy", tmp_path / ".tmp-2-x.npy"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cached_images(tmp_path / "x.npy", SHAPE, Fill(), "disk")
    assert not old.exists()
    assert new.exists()


FULL_DISK = f"""
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}))
from skincnn.data.cache import cached_images
cached_images(Path(sys.argv[1]), (9, 64, 64, 3), lambda images: images.fill(1), "disk")
"""


def test_a_full_disk_is_reported_before_an_image_is_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "x.npy")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ConfigError: The image cache" in done.stderr
    assert "--cache memory" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="could not be written"):
        cached_images(tmp_path / "file" / "x.npy", SHAPE, Fill(), "disk")
