"""Atomic writes, checks of paths, and hashes."""

import json
from pathlib import Path

import pytest

from skincnn.errors import ConfigError
from skincnn.files import (
    json_sha256,
    replacing,
    require_writable_file,
    sha256,
    write_json,
    write_text,
)


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


def test_require_writable_file(tmp_path: Path) -> None:
    require_writable_file(tmp_path / "new/folder/a.csv", "--output")
    (tmp_path / "a.csv").touch()
    require_writable_file(tmp_path / "a.csv", "--output")
    for path in (tmp_path, tmp_path / "a.csv/b.csv", Path("/dev/null")):
        with pytest.raises(ConfigError, match="--output must be"):
            require_writable_file(path, "--output")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_nan_is_not_valid_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_json_sha256_ignores_the_order_of_keys(tmp_path: Path) -> None:
    values = {"a": [1, 2.5], "b": None}
    (tmp_path / "x").write_text(json.dumps(values))
    expected = sha256(tmp_path / "x")
    assert json_sha256(values) == json_sha256(dict(reversed(values.items()))) == expected
