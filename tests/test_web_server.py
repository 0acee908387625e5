"""The server of scripts/serve.py: its start and end, bad clients, and a browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from conftest import ROOT, Run, jpeg, run_here
from web_models import TOKEN, URL, make_model, serve_in_thread

from skincnn.errors import ConfigError, Terminated
from skincnn.interruption import TERMINATION
from skincnn.serving.web import server as web_server
from skincnn.serving.web.app import build_app

PREDICTION = re.compile(r"melanoma malignant (< |> )?[\d.]+ %")
PART = b'--b\r\nContent-Disposition: form-data; name="images"; filename="x.jpg"\r\n\r\n'
"""The headers of an image in a request from `head`."""


@dataclass(frozen=True)
class Server:
    """A running scripts/serve.py; `errors` is the file of its error messages."""

    process: subprocess.Popen[str]
    port: int
    errors: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def predict(self, content: bytes) -> dict[str, Any]:
        response = post(self.port, content)
        assert response.ok, response.text
        (prediction,) = response.json()["predictions"]
        return prediction


def post(port: int, content: bytes) -> requests.Response:
    """Requests the prediction of an image."""
    files = {"images": ("x.jpg", content)}
    return requests.post(f"http://127.0.0.1:{port}/v1/predict", files=files, timeout=60)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


@pytest.fixture(scope="module")
def server(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts a server for all tests, which must not change it; SIGTERM stops it."""
    errors = tmp_path_factory.mktemp("page") / "stderr"
    nowhere = "http://127.0.0.1:1"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        **dict.fromkeys(("HTTP_PROXY", "https_proxy", "ALL_PROXY"), nowhere),
        "FORWARDED_ALLOW_IPS": "*",
        "WEB_CONCURRENCY": "3",
        "UVICORN_PORT": "1",
    }
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(ROOT / "scripts/serve.py"), str(run[0]), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("page  http://127.0.0.1:"), errors.read_text()
            server = Server(process, int(line.split()[1].split(":")[-1]), errors)
            wait_until_ready(server)
            yield server
            check_drain(server)
        finally:
            process.kill()


def wait_until_ready(server: Server) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            if requests.get(f"{server.url}/readyz", timeout=10).ok:
                return
        time.sleep(0.1)
    raise AssertionError("not ready")


def check_drain(server: Server) -> None:
    """Checks that SIGTERM completes the requests in progress before the server ends."""
    body = PART + jpeg() + b"\r\n--b--\r\n"
    with connect(server.port) as connection:
        connection.sendall(head(server.port, len(body)) + body[:1000])
        requests.get(f"{server.url}/healthz", timeout=60)  # The server has the request.
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionError):  # refused or reset
            while True:  # until it no longer listens
                connect(server.port).close()
        connection.sendall(body[1000:])
        assert b"200 OK" in connection.recv(1000)
    assert server.process.wait(60) == 143
    assert server.errors.read_text() == "terminated\n"


def head(port: int, length: int) -> bytes:
    """Returns the headers of a request for predictions."""
    return (
        f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Length: {length}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    ).encode()


def test_wrong_arguments_are_errors(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        for flags, message in (
            (("--port", taken), f"--port {taken} is not available: Address already in use"),
            (("--port", 70000), "--port must be in 0..65535. Received: 70000."),
            (("--host", "0.0.0.0"), "--host 0.0.0.0: other computers can reach this"),
            (("--host", "x.invalid"), "--host x.invalid --port 8000 is not available"),
            (("--host", "é..b"), "this is not a valid name. Use an address of this"),
            (("--host", "192.0.2.1"), "Use an address of this computer as --host"),
            (("--port", 0, "--token", "xé\r\n"), "2 characters, 1 of them valid."),
        ):
            done = run_here("serve.py", run[0], *flags, exit_code=2)
            assert message in done.stderr
    monkeypatch.setattr("skincnn.cli.serve.PACKAGES", ("package_that_is_missing",))
    done = run_here("serve.py", run[0], exit_code=2)
    assert "requires package_that_is_missing. Install: pip install -e '.[ser" in done.stderr


def test_a_server_for_other_computers_says_what_it_exposes() -> None:
    with web_server.bind("0.0.0.0", 0) as listener:
        warning = web_server.check_token(listener, TOKEN)
    assert "other computers can reach this server" in warning
    assert "/v1/predict" in warning
    with web_server.bind("localhost", 0) as listener:
        # Otherwise, asyncio does not set TCP_NODELAY, and a response takes 40 ms longer.
        assert listener.proto == socket.IPPROTO_TCP
        assert web_server.check_token(listener, "") == ""
        with pytest.raises(ConfigError, match="18 characters, 16 of them valid"):
            web_server.check_token(listener, f"{TOKEN} \udce9")
        # It does not listen before the model is loaded.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.getsockname()[:2], timeout=10)


@pytest.mark.parametrize("number", [signal.SIGINT, *TERMINATION])
def test_a_signal_completes_the_request_in_progress(number: int) -> None:
    def never_called(*_: object) -> None:
        raise AssertionError

    app = build_app(make_model(lambda *_: os.kill(os.getpid(), number)))
    previous = signal.signal(number, never_called)
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, number, previous)
        listener = stack.enter_context(web_server.bind("127.0.0.1", 0))
        listener.listen()
        client = stack.enter_context(ThreadPoolExecutor(1))
        response = client.submit(post, listener.getsockname()[1], b"12345")
        with pytest.raises(KeyboardInterrupt) as caught:
            web_server.serve(app, listener)
    assert isinstance(caught.value, Terminated) == (number != signal.SIGINT)
    assert response.result().ok


def test_the_examples_of_the_guide_work(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    guide = (ROOT / "docs/guides/serving.md").read_text().replace(URL, server.url)
    section = guide.split("## HTTP service and web page")[1].split("\n## ")[0]
    for number, name in enumerate(("a.jpg", "b.jpg")):
        (tmp_path / name).write_bytes(jpeg(number))
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["a.jpg", "b.jpg"]
    if shutil.which("curl"):
        command = next(line for line in section.splitlines() if "curl -F" in line)
        called = subprocess.run(command.split(), capture_output=True, check=True)
        predictions = json.loads(called.stdout)["predictions"]
        for line, prediction in zip(lines, predictions, strict=True):
            assert line.endswith(prediction["explanation"])


def test_the_server_survives_bad_clients(server: Server) -> None:
    for sent in (
        b"\x16\x03\x01 not HTTP\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 100_000,
        head(server.port, 20_000_000) + PART + bytes(15_000_000),  # an interrupted upload
        head(server.port, 10) + b"--b",
    ):
        # The server may close the connection.
        with connect(server.port) as connection, contextlib.suppress(OSError):
            connection.sendall(sent)
    assert server.predict(b"not an image" * 2_000_000)["reason"] == "unreadable"
    assert post(server.port, bytes(30_000_001)).status_code == 413
    assert server.predict(jpeg())["status"] == "ok"
    listening = psutil.Process(server.process.pid).net_connections("inet")
    assert {one.laddr.ip for one in listening if one.status == "LISTEN"} == {"127.0.0.1"}
    assert server.errors.read_text() == ""


def choose(page: Any, *paths: Path) -> list[str]:
    """Chooses files on the page and returns the text of each prediction."""
    page.evaluate("document.querySelector('#predictions').replaceChildren()")
    page.set_input_files("#images", paths)
    articles = page.locator("#predictions article")
    articles.nth(len(paths) - 1).wait_for(timeout=60_000)
    assert articles.count() == len(paths)
    return [" ".join(text.split()) for text in articles.all_inner_texts()]


def test_the_page_in_a_browser(browser: Any, server: Server, tmp_path: Path) -> None:
    good, text = tmp_path / "good.jpg", tmp_path / "text.jpg"
    good.write_bytes(jpeg())
    text.write_text("this is text")
    page = browser.new_page(viewport={"width": 360, "height": 740})
    urls: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda text: text.type == "error" and errors.append(text.text))
    page.goto(server.url)
    page.get_by_role("heading", name="About this model").wait_for(timeout=60_000)
    body = page.inner_text("body")
    for part in ("Not a medical device.", "synthetic images", "Balanced accuracy", "SHA-"):
        assert part in body
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)

    (shown,) = choose(page, good)
    assert PREDICTION.search(shown)
    assert server.predict(good.read_bytes())["explanation"] in shown
    # The demo data have few lesions of each class.
    assert "therefore in every set: actinic" in shown
    assert page.evaluate(fits)
    # With the keyboard alone: choose another class, and show its heat map.
    select = page.get_by_label("Heat map (Grad-CAM) for")
    select.focus()
    page.keyboard.press("m")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    image = page.locator("figure img")
    image.wait_for(timeout=60_000)
    image.evaluate("image => image.decode()")
    assert image.evaluate("image => image.naturalWidth") == 128
    assert "heat map for mela" in image.get_attribute("alt")
    assert page.evaluate(fits)

    assert "not a readable image" in choose(page, text)[0]
    three = choose(page, good, text, good)
    assert ["not a readable image" in one for one in three] == [False, True, False]
    page.set_input_files("#images", [good] * 33)
    page.get_by_text("Choose at most 32 images at a time.").wait_for()

    stored = "[localStorage.length, sessionStorage.length, document.cookie.length]"
    assert page.evaluate(stored) == [0, 0, 0], "the browser stores nothing"
    assert [url for url in urls if not url.startswith((server.url, "blob:"))] == []
    assert errors == []
    page.close()


def test_the_page_asks_for_the_token_and_the_clinical_metadata(browser: Any) -> None:
    with serve_in_thread(make_model(clinical_metadata=True), TOKEN) as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}")
        token = page.get_by_label("Server token")
        token.fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("This token is not valid.").wait_for()
        token.fill(TOKEN)
        page.keyboard.press("Enter")
        page.get_by_label("Age in years").fill("50")
        page.get_by_label("Sex").select_option("female")
        file = {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": bytes(70)}
        page.set_input_files("#images", file)
        page.get_by_text("differs strongly").wait_for()
        page.get_by_label("Age in years").fill("500")
        page.set_input_files("#images", file)
        page.get_by_text("must be an age in years, 0 to 120").wait_for()
        page.close()
