"""The server of scripts/serve.py, as the page, a stranger and a browser meet it."""

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

from skincnn import serving
from skincnn.errors import Terminated
from skincnn.serving.images import MAX_BYTES
from skincnn.serving.web import app

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio is not installed"
)


def test_without_gradio_the_error_says_how_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name)
    )
    done = run_here("serve.py", run[0])
    assert done.returncode == 2
    assert done.stderr.startswith("error: The page needs gradio.")
    assert "make demo" in done.stderr


def test_windows_is_told_where_the_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # importing it is an error there
    for name in ("demo", "guard", "uploads"):
        monkeypatch.delitem(sys.modules, f"skincnn.serving.{name}", raising=False)
        monkeypatch.delattr(serving, name, raising=False)
    done = run_here("serve.py", "runs/x")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: The page needs Linux or macOS")
    assert "WSL" in done.stderr
    assert "Linux or macOS" in run_here("serve.py", "--help").stdout


@needs_gradio
def test_a_port_that_cannot_be_had_is_refused(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        done = run_here("serve.py", run[0], "--port", taken)
    assert done.returncode == 2
    assert f"--port {taken} cannot be had: Address already in use" in done.stderr
    done = run_here("serve.py", run[0], "--port", 70000)
    assert done.returncode == 2
    assert "--port must be 0..65535. Received: 70000." in done.stderr


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_ends_it_though_what_it_raised_was_lost(
    number: int, ends: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")  # which it sets
    monkeypatch.setattr(app, "build_app", lambda *arguments: None)
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: self.handle_exit(number, None)
    )
    with pytest.raises(ends), app.listen(0) as listening:
        app.serve(None, Path("model"), listening)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests, each of which must leave it as it was; Ctrl-C ends it."""
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
            made = Server(process, line.split()[1], folder, errors)
            yield made
            ends_with_ctrl_c(made)
        finally:
            process.kill()


def ends_with_ctrl_c(server: Server) -> None:
    """It takes its folder along, whatever is in it, and waits for no page that is open."""
    assert server.upload(b"x").json() == server.uploads()
    heartbeat = f"{server.url}/gradio_api/heartbeat/abc"
    with requests.get(heartbeat, stream=True, timeout=60):
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 130
    assert server.errors.read_text() == "interrupted\n"
    assert not list(server.folder.glob("skincnn-page-*"))


@needs_gradio
def test_the_server_gives_no_more_than_the_page(server: Server) -> None:
    page = requests.get(server.url, timeout=60)
    assert page.ok
    assert "default-src 'self'" in page.headers["content-security-policy"]
    named = requests.get(server.url, headers={"Host": "elsewhere.org"}, timeout=60)
    assert named.status_code == 400
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


@needs_gradio
def test_an_upload_has_its_limit(server: Server) -> None:
    assert server.upload(bytes(MAX_BYTES + 1)).status_code == 413
    assert server.uploads() == []


@needs_gradio
def test_no_file_but_an_upload_is_read_copied_or_fetched(
    server: Server, tmp_path: Path
) -> None:
    picture = tmp_path / "elsewhere.jpg"
    picture.write_bytes(jpeg())
    (uploaded,) = server.upload(b"x").json()
    (folder,) = server.folder.glob("skincnn-page-*")
    before = sorted(folder.rglob("*"))
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        port = elsewhere.getsockname()[1]
        paths = [
            str(picture),
            f"{uploaded}/../../../../{tmp_path.name}/elsewhere.jpg",
            os.path.relpath(picture, folder),
            os.path.relpath(picture, ROOT),
            f"{folder}/a/../../x/{picture}",
            f"http://127.0.0.1:{port}/x.jpg",
            f"file://{picture}",
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
    assert "could not be read" in text_of(server.ask(uploaded))
    assert server.answers()


@needs_gradio
def test_the_same_picture_in_many_tabs_is_answered_in_each(server: Server) -> None:
    names = [f"{number}.jpg" for number in range(8)] + ["same.jpg"] * 4
    everybody = threading.Barrier(len(names))

    def drop_here(name: str) -> str:
        (path,) = server.upload(b"the same", name).json()
        everybody.wait(60)
        return text_of(server.ask(path, name))

    with ThreadPoolExecutor(len(names)) as pool:
        said = list(pool.map(drop_here, names))
    for name, one in zip(names, said, strict=True):
        assert one.startswith(f"{name} This file could not be read"), one
    assert server.uploads() == []


@needs_gradio
def test_an_upload_is_answered_once(server: Server) -> None:
    (path,) = server.upload(b"x").json()
    assert "could not be read" in text_of(server.ask(path))
    assert "The upload is not there any more." in text_of(server.ask(path))
    link = f"{server.url}/gradio_api/deep_link?session_hash={threading.get_ident()}"
    assert requests.get(link, timeout=60).status_code == 405
    assert server.uploads() == [], "Gradio stores no fields either"


@needs_gradio
def test_nothing_is_left_of_an_upload_that_was_cut_off(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 20000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="files"; filename="x.jpg"\r\n\r\n'
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode() + bytes(15_000_000))
    assert server.answers()
    assert server.uploads() == []


@needs_gradio
@pytest.mark.parametrize("name", ["..", "/etc/passwd", "a" * 500 + ".jpg", "<b>.", "~"])
def test_a_strange_name_is_shown_and_no_more(name: str, server: Server) -> None:
    (path,) = server.upload(b"x", name).json()
    assert server.uploads() == [path]
    assert text_of(server.ask(path, name)).startswith(f"{name} This file could not")
    assert server.uploads() == []


@needs_gradio
def test_pages_of_other_addresses_can_send_nothing(server: Server) -> None:
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
        assert "could not be read" in text_of(server.ask(path))


@needs_gradio
def test_what_is_no_upload_is_refused(server: Server) -> None:
    address = f"{server.url}/gradio_api/upload"
    for files in ({"other": b"x"}, [("files", b"x"), ("files", b"y")]):
        assert requests.post(address, files=files, timeout=60).status_code == 400
    for fields in ({"files": "x"}, b"--b"):
        assert requests.post(address, data=fields, timeout=60).status_code == 400
    assert server.uploads() == []


@needs_gradio
def test_what_is_no_question_is_refused_in_words(server: Server) -> None:
    (path,) = server.upload(b"x").json()
    file = file_data(path)
    questions: list[dict[str, Any]] = [
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
    for question in questions:
        refused = server.join(**question)
        assert refused.status_code == 400, question
        assert "A question is the JSON that the page sends" in refused.json()["detail"]
    for sent, status in ((b"{", 400), (b"[" * 60_000, 400), (b" " * 70_000, 413)):
        address = f"{server.url}/gradio_api/queue/join"
        assert requests.post(address, data=sent, timeout=10).status_code == status
    assert "could not be read" in text_of(server.ask(path))


@contextlib.contextmanager
def highest_memory(pid: int) -> Iterator[list[int]]:
    """Yields a list that gets the process's memory: at first, and the most there was."""
    process, done = psutil.Process(pid), threading.Event()
    seen = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    measured: list[int] = []
    try:
        yield measured
    finally:
        done.set()
        thread.join()
        measured += [seen[0], max(seen)]


def drop(page: Any, path: Path) -> str:
    """Returns what the page says of a file."""
    page.set_input_files("input[type=file]", path)
    answer = page.locator(".answer", has_text=path.name)
    answer.wait_for(timeout=60_000)
    return text_of(answer.inner_html())


@needs_gradio
def test_the_page_in_a_browser(browser: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(jpeg())
    (tmp_path / "text.jpg").write_text("this is text")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    page = browser.new_page(viewport={"width": 400, "height": 800})
    asked_for: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda one: one.type == "error" and faults.append(one.text))
    page.goto(server.url)
    page.get_by_role("heading", level=1).wait_for(timeout=60_000)
    assert "Not a medical device." in page.inner_text("body")
    assert "synthetic pictures" in page.inner_text("body")

    said = drop(page, tmp_path / "good.jpg")
    assert "melanoma mel malignant" in said
    assert page.locator(".answer img").count() == 2
    assert page.evaluate(
        "[...document.querySelectorAll('.answer img')].every(one => one.naturalWidth == 64)"
    )
    assert server.uploads() == []
    assert "could not be read" in drop(page, tmp_path / "text.jpg")
    with highest_memory(server.process.pid) as memory:
        assert "could not be read" in drop(page, tmp_path / "huge.png")
    assert memory[1] - memory[0] < 100e6
    # And it goes on.
    assert "melanoma mel malignant" in drop(page, tmp_path / "good.jpg")

    assert server.uploads() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    kept = "[localStorage.length, sessionStorage.length, document.cookie.length]"
    assert page.evaluate(kept) == [0, 0, 0], "the browser keeps nothing"
    assert page.evaluate("indexedDB.databases()") == []
    elsewhere = [url for url in asked_for if not url.startswith((server.url, "data:"))]
    assert elsewhere == []
    assert faults == []
    assert server.errors.read_text() == ""
    page.close()
