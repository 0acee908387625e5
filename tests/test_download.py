"""Downloading from a local server with small archives."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import Prepare
from source_files import (
    COLUMNS,
    contents,
    make_rows,
    write_dataverse,
    write_table,
    write_zip,
)

from skincnn.model import backbones
from tfds_ham10000 import download
from tfds_ham10000.download import FILES
from tfds_ham10000.records import SourceError


class Server(http.server.ThreadingHTTPServer):
    """Serves files at the addresses that Dataverse uses.

    Attributes:
        files: The content at each address.
        fault: An address, and "truncated", "modified" or "forbidden"; or None.
        requested: The addresses of all requests.
    """

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.fault: tuple[str, str] | None = None
        self.requested: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        address = self.path.removeprefix("/")
        self.server.requested.append(address)
        content = self.server.files[address]
        fault = None
        if self.server.fault is not None and self.server.fault[0] == address:
            fault = self.server.fault[1]
        # Dataverse rejects some user agents.
        accepted = self.headers["User-Agent"].startswith("Mozilla/5.0")
        self.send_response(403 if fault == "forbidden" or not accepted else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "truncated":
            content = content[: len(content) // 2]
        elif fault == "modified":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves 105 training images and 7 images of the official test set."""
    folder = write_dataverse(tmp_path / "served", make_rows(lesions=10))
    test = make_rows(lesions=1, start=2000)
    images = {f"a/{name}.jpg": content for name, content in contents(test).items()}
    write_zip(folder / "ISIC2018_Task3_Test_Images.zip", images)
    write_table(folder / "ISIC2018_Task3_Test_GroundTruth.csv", test, COLUMNS)
    served = {file.address: (folder / file.name).read_bytes() for file in FILES}
    with Server(served) as server:
        publish(monkeypatch, f"http://127.0.0.1:{server.server_port}", served)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def publish(
    monkeypatch: pytest.MonkeyPatch, base_url: str, served: dict[str, bytes]
) -> None:
    """Replaces the published address and checksums by those of the served files."""
    monkeypatch.setattr(download, "BASE_URL", base_url)
    files = []
    for file in FILES:
        algorithm, _ = file.checksum.split(":")
        digest = hashlib.new(algorithm, served[file.address]).hexdigest()
        files.append(dataclasses.replace(file, checksum=f"{algorithm}:{digest}"))
    monkeypatch.setattr(download, "FILES", tuple(files))


def test_the_published_files_are_downloaded_once(
    server: Server, tmp_path: Path, prepare: Prepare
) -> None:
    data_dir = tmp_path / "built"
    done = prepare("isic2018", data_dir)
    assert done.returncode == 0, done.stderr
    assert "fold_9: " in done.stdout
    assert "test_official: 7 images" in done.stdout
    assert "Built from Harvard Dataverse" in done.stdout
    assert sorted(server.requested) == sorted(file.address for file in FILES)
    # Another variant does not need a second download.
    assert prepare("isic2018_256", data_dir).returncode == 0
    assert len(server.requested) == len(FILES)


@pytest.mark.parametrize(
    ("number", "fault", "message"),
    [
        (0, "truncated", "bytes read"),
        (0, "forbidden", "403 Client Error"),
        (0, "modified", "or differs from the published file: its checksum is not sha256:"),
        (4, "modified", "or differs from the published file: its checksum is not md5:"),
    ],
)
def test_a_failed_download_leaves_no_files_and_can_be_repeated(
    number: int, fault: str, message: str, server: Server, tmp_path: Path, prepare: Prepare
) -> None:
    data_dir = tmp_path / "built"
    server.fault = (FILES[number].address, fault)
    failed = prepare("isic2018", data_dir)
    assert failed.returncode == 3, failed.stderr
    assert message in failed.stderr
    assert "--manual-dir DIR" in failed.stderr
    assert "doi:10.7910/DVN/DBW86T" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list(data_dir.rglob("*.tfrecord*"))
    assert not list(data_dir.rglob("incomplete*"))
    assert not list(data_dir.rglob("*.part"))
    server.fault = None
    assert prepare("isic2018", data_dir).returncode == 0


def test_an_unavailable_network_is_reported(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(download, "BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(download, "MAX_RETRIES", 0)
    done = prepare("isic2018", tmp_path)
    assert done.returncode == 3, done.stderr
    assert "HAM10000_images_part_1.zip cannot be downloaded" in done.stderr
    assert "--manual-dir DIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", download.CA_VARIABLES)
def test_a_missing_file_of_certificates_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in download.CA_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "/none.pem")
    monkeypatch.setattr(download, "BASE_URL", "https://127.0.0.1:1")
    with pytest.raises(SourceError, match=rf"{name} does not .*: /none\.pem\. Correct"):
        download.fetch(tmp_path)


def test_the_package_for_socks_proxies_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(*args: object, **kwargs: object) -> None:
        raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")

    monkeypatch.setattr(requests.Session, "send", send)
    with pytest.raises(SourceError, match=r"support \(pip install 'requests\[socks\]'\)\."):
        download.fetch(tmp_path)


@pytest.fixture
def fips_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forbids MD5 for security, as OpenSSL does in FIPS mode."""
    new = hashlib.new

    def call(name: str, *content: bytes, usedforsecurity: bool = True) -> Any:
        if name == "md5" and usedforsecurity:
            raise ValueError("[digital envelope routines] unsupported")
        return new(name, *content, usedforsecurity=usedforsecurity)

    monkeypatch.setattr(hashlib, "new", call)
    monkeypatch.setattr(hashlib, "md5", functools.partial(call, "md5"))
    yield
    with pytest.raises(ValueError, match="digital envelope"):
        hashlib.md5()


@pytest.mark.usefixtures("server", "fips_mode")
def test_files_with_an_md5_checksum_are_verified_in_fips_mode(tmp_path: Path) -> None:
    assert any(file.checksum.startswith("md5:") for file in FILES)
    assert len(download.verify(tmp_path / "served")) == len(FILES)


@pytest.mark.usefixtures("fips_mode")
def test_datasets_are_built_in_fips_mode(tmp_path: Path, prepare: Prepare) -> None:
    done = prepare("demo_tiny", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("fips_mode")
def test_keras_verifies_weights_in_fips_mode() -> None:
    backbone = backbones.Backbone(lambda *_: hashlib.md5().name, backbones.UNSCALED)
    assert backbones._imagenet(backbone, "x", 1.0, 32) == "md5"


@pytest.mark.usefixtures("server")
def test_verify_rejects_modified_files(tmp_path: Path) -> None:
    folder = tmp_path / "served"
    assert download.verify(folder) == [file.name for file in FILES]
    (folder / FILES[4].name).write_text("image\n")
    with pytest.raises(ValueError, match=r"Test_GroundTruth\.csv differ\(s\) from"):
        download.verify(folder)
    with pytest.raises(ValueError, match="contains none of the files that Harvard"):
        download.verify(tmp_path)
