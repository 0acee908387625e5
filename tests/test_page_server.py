"""The server of scripts/serve.py: requests by the page, by others and by a browser."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from conftest import ROOT, jpeg, run_here
from page_server import Server, file_data, text_of
from PIL import Image

from skincnn.errors import Terminated
from skincnn.serving import web
from skincnn.serving.images import MAX_BYTES
from skincnn.serving.web import app

Run = tuple[Path, "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def gradio() -> None:
    """Skips a test if Gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed")


def test_without_gradio_the_error_explains_the_installation(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name)
    )
    done = run_here("serve.py", run[0])
    assert done.returncode == 2
    assert done.stderr.startswith("error: The page requires Gradio.")
    assert "make demo" in done.stderr


def test_on_windows_the_error_names_the_supported_systems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # The import fails on Windows.
    for name in ("app", "guard", "uploads"):
        monkeypatch.delitem(sys.modules, f"skincnn.serving.web.{name}", raising=False)
        monkeypatch.delattr(web, name, raising=False)
    done = run_here("serve.py", "runs/x")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: The page requires Linux or macOS")
    assert "WSL" in done.stderr
    assert "Linux, macOS" in run_here("serve.py", "--help").stdout


@pytest.mark.usefixtures("gradio")
def test_an_unavailable_port_is_rejected(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        done = run_here("serve.py", run[0], "--port", taken)
    assert done.returncode == 2
    assert f"--port {taken} is not available: Address already in use" in done.stderr
    done = run_here("serve.py", run[0], "--port", 70000)
    assert done.returncode == 2
    assert "--port must be in 0..65535. Received: 70000." in done.stderr


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_stops_the_server_if_uvicorn_returns(
    number: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")  # `serve` sets them.
    monkeypatch.setattr(app, "build_app", lambda *arguments: None)
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: self.handle_exit(number, None)
    )
    with pytest.raises(error), app.listen(0) as listener:
        app.serve(None, Path("model"), listener)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(
    gradio: None, run: Run, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Starts a server for all tests, which must not change it; Ctrl-C stops it."""
    folder = tmp_path_factory.mktemp("page")
    errors = folder.with_suffix(".log")
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(ROOT / "scripts/serve.py"), str(run[0]), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("page  http://127.0.0.1:"), errors.read_text()
            server = Server(process, line.split()[1], folder, errors)
            yield server
            check_ctrl_c(server)
        finally:
            process.kill()


def check_ctrl_c(server: Server) -> None:
    """Checks that the server deletes its directory without waiting for open pages."""
    assert server.upload(b"x").json() == server.uploads()
    heartbeat = f"{server.url}/gradio_api/heartbeat/abc"
    with requests.get(heartbeat, stream=True, timeout=60):
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 130
    assert server.errors.read_text() == "interrupted\n"
    assert not list(server.folder.glob("skincnn-page-*"))


def test_the_server_serves_only_the_page(server: Server) -> None:
    page = requests.get(server.url, timeout=60)
    assert page.ok
    assert "default-src 'self'" in page.headers["content-security-policy"]
    rebound = requests.get(server.url, headers={"Host": "elsewhere.org"}, timeout=60)
    assert rebound.status_code == 400
    info = requests.get(f"{server.url}/gradio_api/info", timeout=60).json()
    assert info == {"named_endpoints": {}, "unnamed_endpoints": {}}
    listening = psutil.Process(server.process.pid).net_connections("inet")
    assert {one.laddr.ip for one in listening if one.status == "LISTEN"} == {"127.0.0.1"}
    for path in (
        "/openapi.json",
        "/docs",
        "/monitoring/summary",
        "/gradio_api/runs",
        f"/gradio_api/file={ROOT / 'setup.cfg'}",
    ):
        assert not requests.get(f"{server.url}{path}", timeout=60).ok, path
    recording = requests.post(
        f"{server.url}/gradio_api/process_recording", files={"video": b"x"}, timeout=60
    )
    assert recording.status_code == 405


def test_an_upload_has_a_size_limit(server: Server) -> None:
    assert server.upload(bytes(MAX_BYTES + 1)).status_code == 413
    assert server.uploads() == []


def test_only_uploads_are_read_and_no_file_is_copied_or_downloaded(
    server: Server, tmp_path: Path
) -> None:
    image = tmp_path / "elsewhere.jpg"
    image.write_bytes(jpeg())
    (uploaded,) = server.upload(b"x").json()
    (folder,) = server.folder.glob("skincnn-page-*")
    before = sorted(folder.rglob("*"))
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        port = elsewhere.getsockname()[1]
        paths = [
            str(image),
            f"{uploaded}/../../../../{tmp_path.name}/elsewhere.jpg",
            os.path.relpath(image, folder),
            os.path.relpath(image, ROOT),
            f"{folder}/a/../../x/{image}",
            f"http://127.0.0.1:{port}/x.jpg",
            f"file://{image}",
            "/dev/zero",
            "/etc/passwd",
            "",
            "\0",
        ]
        for path in paths:
            file = file_data(path)
            for data in (
                [file],
                [[file]],
                [{"a": file}],
                [{**file_data(uploaded), **file}],
            ):
                assert server.join(data).status_code == 400, (path, data)
            hidden = [{**file_data(uploaded), "url": path, "more": file}, file]
            assert server.join(hidden).status_code == 400, path
        elsewhere.settimeout(0.1)
        with pytest.raises(TimeoutError):
            elsewhere.accept()
    assert sorted(folder.rglob("*")) == before
    assert "not a readable image" in text_of(server.predict(uploaded))
    assert server.is_working()


def test_equal_uploads_in_many_tabs_each_get_a_prediction(server: Server) -> None:
    names = [f"{number}.jpg" for number in range(8)] + ["same.jpg"] * 4
    all_uploaded = threading.Barrier(len(names))

    def predict(name: str) -> str:
        (path,) = server.upload(b"the same", name).json()
        all_uploaded.wait(60)
        return text_of(server.predict(path, name))

    with ThreadPoolExecutor(len(names)) as pool:
        texts = list(pool.map(predict, names))
    for name, text in zip(names, texts, strict=True):
        assert text.startswith(f"{name} This file is not a readable image"), text
    assert server.uploads() == []


def test_an_upload_can_be_predicted_once(server: Server) -> None:
    (path,) = server.upload(b"x").json()
    assert "not a readable image" in text_of(server.predict(path))
    assert "The upload no longer exists." in text_of(server.predict(path))
    link = f"{server.url}/gradio_api/deep_link?session_hash={threading.get_ident()}"
    assert requests.get(link, timeout=60).status_code == 405
    assert server.uploads() == [], "Gradio does not store the fields"


def test_an_interrupted_upload_leaves_no_file(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 20000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="files"; filename="x.jpg"\r\n\r\n'
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode() + bytes(15_000_000))
    assert server.is_working()
    assert server.uploads() == []


@pytest.mark.parametrize("name", ["..", "/etc/passwd", "a" * 500 + ".jpg", "<b>.", "~"])
def test_an_unusual_file_name_is_only_shown(name: str, server: Server) -> None:
    (path,) = server.upload(b"x", name).json()
    assert server.uploads() == [path]
    assert text_of(server.predict(path, name)).startswith(f"{name} This file is not")
    assert server.uploads() == []


def test_requests_from_other_sites_are_rejected(server: Server) -> None:
    port = server.url.rsplit(":", 1)[1]
    others = ("http://evil.example", "null", "", "http://127.0.0.1:1", f"{server.url}.org")
    for origin in others:
        assert server.upload(b"x", Origin=origin).status_code == 403, origin
        address = f"{server.url}/gradio_api/queue/join"
        sent = requests.post(address, data=b"", headers={"Origin": origin}, timeout=10)
        assert sent.status_code == 403, origin
    assert server.uploads() == []
    local = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    for headers in ({"Origin": server.url}, local):
        (path,) = server.upload(b"x", **headers).json()
        assert "not a readable image" in text_of(server.predict(path))


def test_an_invalid_upload_is_rejected(server: Server) -> None:
    address = f"{server.url}/gradio_api/upload"
    for files in ({"other": b"x"}, [("files", b"x"), ("files", b"y")]):
        assert requests.post(address, files=files, timeout=60).status_code == 400
    for fields in ({"files": "x"}, b"--b"):
        assert requests.post(address, data=fields, timeout=60).status_code == 400
    assert server.uploads() == []


def test_an_invalid_predict_request_is_explained(server: Server) -> None:
    (path,) = server.upload(b"x").json()
    file = file_data(path)
    requests_: list[dict[str, Any]] = [
        {"data": [file], "fn_index": 99},
        {"data": [file], "fn_index": None},
        {"data": [file], "session_hash": None},
        {"data": [file], "session_hash": "\ud800"},
        {"data": [file, "50"]},
        {"data": [{**file, "orig_name": 1}]},
        {"data": [None]},
        {"data": []},
        {"data": "x"},
    ]
    for request in requests_:
        response = server.join(**request)
        assert response.status_code == 400, request
        assert "must be a JSON object" in response.json()["detail"]
    for sent, status in ((b"{", 400), (b"[" * 60_000, 400), (b" " * 70_000, 413)):
        address = f"{server.url}/gradio_api/queue/join"
        assert requests.post(address, data=sent, timeout=10).status_code == status
    assert "not a readable image" in text_of(server.predict(path))


@contextlib.contextmanager
def highest_memory(pid: int) -> Iterator[list[int]]:
    """Yields a list that gets the initial and the maximum memory of a process."""
    process, done = psutil.Process(pid), threading.Event()
    samples = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(0.005):
            samples.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    measured: list[int] = []
    try:
        yield measured
    finally:
        done.set()
        thread.join()
        measured += [samples[0], max(samples)]


def drop(page: Any, path: Path) -> str:
    """Uploads a file and returns the text of its prediction."""
    page.set_input_files("input[type=file]", path)
    prediction = page.locator(".prediction", has_text=path.name)
    prediction.wait_for(timeout=60_000)
    return text_of(prediction.inner_html())


def test_the_page_in_a_browser(browser: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(jpeg())
    (tmp_path / "text.jpg").write_text("this is text")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    page = browser.new_page(viewport={"width": 400, "height": 800})
    urls: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda text: text.type == "error" and errors.append(text.text))
    page.goto(server.url)
    page.get_by_role("heading", level=1).wait_for(timeout=60_000)
    assert "Not a medical device." in page.inner_text("body")
    assert "synthetic images" in page.inner_text("body")

    assert "melanoma mel malignant" in drop(page, tmp_path / "good.jpg")
    assert page.locator(".prediction img").count() == 2
    assert page.evaluate(
        "[...document.querySelectorAll('.prediction img')]"
        ".every(image => image.naturalWidth == 64)"
    )
    assert server.uploads() == []
    assert "not a readable image" in drop(page, tmp_path / "text.jpg")
    with highest_memory(server.process.pid) as memory:
        assert "not a readable image" in drop(page, tmp_path / "huge.png")
    assert memory[1] - memory[0] < 100e6
    # The server continues to work.
    assert "melanoma mel malignant" in drop(page, tmp_path / "good.jpg")

    assert server.uploads() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    stored = "[localStorage.length, sessionStorage.length, document.cookie.length]"
    assert page.evaluate(stored) == [0, 0, 0], "the browser stores nothing"
    assert page.evaluate("indexedDB.databases()") == []
    assert [url for url in urls if not url.startswith((server.url, "data:"))] == []
    assert errors == []
    assert server.errors.read_text() == ""
    page.close()
