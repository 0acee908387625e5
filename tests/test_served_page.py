from __future__ import annotations

import contextlib
import dataclasses
import html
import importlib.util
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import requests
from conftest import ROOT, jpeg, run_here
from PIL import Image

from skincnn.classes import describe
from skincnn.config import DataConfig
from skincnn.errors import DataError
from skincnn.serving import demo
from skincnn.serving.answers import Rules
from skincnn.serving.page import (
    FAILED,
    Asked,
    answer_page,
    open_model,
    percent,
    reasons,
    render,
    tell_apart,
)
from skincnn.serving.pictures import MAX_BYTES
from skincnn.serving.predictor import Answers, Predictor

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
RULES = Rules(("mel", "nv"), 1.5, "90 % sensitivity", 0.3, 0.6)
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio is not installed"
)


@pytest.fixture(scope="module")
def asked(run: Run) -> Asked:
    return open_model(run[0])


def text_of(page: str) -> str:
    """What a reader sees of HTML."""
    bare = html.unescape(re.sub(r"<[^>]*>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")
    return " ".join(bare.split())


def found(malignant: float, distance: float, rules: Rules = RULES) -> dict[str, Any]:
    """An answer of two classes, by the rules of `answers.answer`."""
    unknown = distance > rules.limit
    return {
        "probabilities": np.array([malignant, 1 - malignant], np.float32),
        "distance": np.float32(distance),
        "unknown": np.bool_(unknown),
        "refer": np.bool_(unknown or malignant >= rules.threshold),
    }


@pytest.mark.parametrize(
    ("malignant", "distance", "expected"),
    [
        (0.5, 0.1, ["malignant class, 50.0 %, is above 30.0 %", "is within"]),
        (0.3, 0.1, ["malignant class, 30.0 %, is above 30.0 %", "is within"]),
        (0.2, 0.1, ["malignant class, 20.0 %, is below 30.0 %", "0.1, is within"]),
        (0.2999, 0.1, ["malignant class, 29.99 %, is below 30.00 %", "is within"]),
        (0.299998, 0.1, ["malignant class, 29.9998 %, is below 30.0000 %", "is within"]),
        (0.30002, 0.9, ["distance is 0.9", "30.002 %, is above 30.000 %"]),
        (0.2, 0.9, ["distance is 0.9, and 95 % of them lie within 0.6", "is below"]),
        (0.5, 0.9, ["distance is 0.9, and 95 % of them lie within 0.6", "is above"]),
    ],
)
def test_the_reasons_are_those_of_the_decision(
    malignant: float, distance: float, expected: list[str]
) -> None:
    said = [text_of(one) for one in reasons(found(malignant, distance), RULES)]
    assert len(said) == len(expected)
    for sentence, part in zip(said, expected, strict=True):
        assert part in sentence
    assert "chosen for 90 % sensitivity on validation" in " ".join(said)


def test_reasons_where_little_is_known_of_the_classes() -> None:
    nothing = dataclasses.replace(RULES, threshold=np.nan)
    assert reasons(found(0.5, 0.1, nothing), nothing)[0] == (
        "This model has no threshold for malignant lesions."
    )
    some = dataclasses.replace(RULES, class_names=("mel", "freckle"))
    for distance in (0.1, 0.9):
        said = text_of(" ".join(reasons(found(0.5, distance, some), some)))
        assert "The probability of a malignant class, 50.0 %, is above 30.0 %" in said


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, "0.0"), (1e-6, "< 0.1"), (0.1234, "12.3"), (0.99999, "> 99.9"), (1, "100.0")],
)
def test_no_probability_is_rounded_to_certainty(share: float, expected: str) -> None:
    assert percent(share).replace("\N{NO-BREAK SPACE}", " ") == f"{expected} %"


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.0003, 0.0005), "0.03 % 0.05 %"),
        ((0.99995, 0.9996), "> 99.99 % 99.96 %"),
        ((0.0, 0.0004), "0.0 % < 0.1 %"),
        ((1e-9, 1e-10), "< 0.1 % < 0.1 %"),
        ((0.5, 0.5), "50.0 % 50.0 %"),
    ],
)
def test_two_probabilities_are_told_apart(
    shares: tuple[float, float], expected: str
) -> None:
    assert text_of(" ".join(tell_apart(*shares)).replace("<", "&lt;")) == expected


def test_the_page_says_what_the_model_answers(asked: Asked) -> None:
    content = jpeg()
    answers = asked.predictor.ask([content], pd.DataFrame())
    page = answer_page(asked, content, "a <b> & c.jpg", {})
    said = text_of(page)
    assert "a <b> & c.jpg" in said
    probabilities = answers["probabilities"][0]
    described = describe(asked.predictor.class_names)
    best = asked.predictor.class_names[probabilities.argmax()]
    assert f"Most probable: {described[best].full_name}, " in said
    for name, probability in zip(asked.predictor.class_names, probabilities, strict=True):
        marked = " malignant" if described[name].malignant else ""
        number = text_of(percent(float(probability)))
        assert f"{described[name].full_name} {name}{marked} {number}" in said
    assert ("Refer to" in said) == bool(answers["refer"][0])
    assert page.count('<img src="data:image/png;base64,') == 2
    assert len(re.findall(r"<img [^>]*alt=\"[^\"]{20,}\"", page)) == 2


@pytest.mark.parametrize("unknown", [True, False])
@pytest.mark.parametrize("refer", [True, False])
def test_what_does_not_look_like_dermatoscopy_is_warned_of(
    unknown: bool, refer: bool, asked: Asked
) -> None:
    def ask(*given: Any) -> Answers:
        answers = asked.predictor.ask(*given)
        return {
            **answers,
            "unknown": np.array([unknown]),
            "refer": np.array([unknown or refer]),
        }

    predictor = dataclasses.replace(asked.predictor, ask=ask)
    page = answer_page(dataclasses.replace(asked, predictor=predictor), jpeg(), "x", {})
    said = text_of(page)
    assert ("This does not look like dermatoscopy" in said) == unknown
    assert ("It is unlike the pictures of validation" in said) == unknown
    assert ("Refer to somebody" in said) == (unknown or refer)
    assert ("Not referred" in said) == ("That is no all-clear" in said)
    assert ("Not referred" in said) == (not unknown and not refer)


def test_what_is_no_picture_is_said_to_be_none(asked: Asked) -> None:
    page = answer_page(asked, b"this is text", "text.jpg", {})
    said = text_of(page)
    assert "This file could not be read" in said
    assert "Not read: expected a JPEG, PNG" in said
    assert "at most 30,000,000 bytes and 50,000,000 pixels" in said
    assert "<img" not in page
    assert "%" not in said


def test_a_form_without_feature_maps_says_why_there_is_no_map(
    run: Run, asked: Asked
) -> None:
    other = open_model(run[0] / "export/skincnn")
    pages = [answer_page(one, jpeg(), "x.jpg", {}) for one in (asked, other)]
    assert "No map. Grad-CAM needs the feature maps of a run" in text_of(pages[1])
    pictures = [re.findall(r'src="([^"]+)"', page) for page in pages]
    assert pictures[0][:1] == pictures[1], "the same picture as the model sees it"


def test_a_model_that_is_told_of_patients_gets_the_fields(tmp_path: Path) -> None:
    told: list[dict[Any, Any]] = []

    def ask(contents: Any, patients: pd.DataFrame) -> Answers:
        told.append(patients.to_dict("records")[0])
        return {"status": np.array([b"not read"]), "class_name": np.array([b""])}

    predictor = Predictor("keras", RULES, DataConfig(), False, True, ask)
    answer = demo.answering(Asked(predictor, None, ""), tmp_path)
    for patient in (("", None, None), (" 50", "female", "back")):
        assert "Not read." in answer(upload(tmp_path), *patient)[1]
    assert np.isnan(told[0].pop("age"))
    assert told == [
        {"sex": "unknown", "localization": "unknown"},
        {"age": 50, "sex": "female", "localization": "back"},
    ]
    for age in ("-1", "121", "nan", "4.5"):
        said = text_of(answer(upload(tmp_path), age, "female", "back")[1])
        assert f"The age must be 0..120 whole years, or empty. Received: {age}." in said
    assert len(told) == 2


def test_a_fault_is_a_sentence_and_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(contents: Any, patients: pd.DataFrame) -> dict[str, Any]:
        raise RuntimeError("an inner matter")

    predictor = Predictor("keras", RULES, DataConfig(), False, False, ask)
    answer = demo.answering(Asked(predictor, None, ""), tmp_path)
    with caplog.at_level(logging.ERROR):
        page = answer(upload(tmp_path))[1]
    assert FAILED in text_of(page)
    assert "inner matter" not in page
    assert "an inner matter" in caplog.text, "for who runs the page"
    assert not list(tmp_path.iterdir())


def test_what_was_uploaded_is_read_once_and_gone(tmp_path: Path) -> None:
    assert demo.take(upload(tmp_path, b"abc"), tmp_path) == (b"abc", "x.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "place", ["a/x.jpg", "a/b/x.jpg", "../x.jpg", "../outside/x.jpg", "none", "a"]
)
def test_nothing_else_is_read_or_deleted(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    path = folder / place
    (folder / "a/b").mkdir(parents=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_bytes(b"abc")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="not there any more"):
        demo.take({"path": str(path), "orig_name": "x.jpg"}, folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_of_made_up_pictures_says_so() -> None:
    for made_up in (True, False):
        said = text_of(render("start", made_up=made_up, classes=["a"], path="runs/x"))
        assert "Not a medical device." in said
        assert ("trained on made-up pictures" in said) == made_up


def test_without_gradio_the_error_says_how_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = run_here("demo.py", run[0])
    assert done.returncode == 2
    assert done.stderr.startswith("error: The page needs gradio.")
    assert "make demo" in done.stderr


@needs_gradio
def test_a_port_that_cannot_be_had_is_refused(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        done = run_here("demo.py", run[0], "--port", taken)
    assert done.returncode == 2
    assert f"--port {taken} cannot be had: Address already in use" in done.stderr
    done = run_here("demo.py", run[0], "--port", 70000)
    assert done.returncode == 2
    assert "--port must be 0..65535. Received: 70000." in done.stderr


@dataclasses.dataclass(frozen=True)
class Server:
    """What `scripts/demo.py` serves; `folder` is its folder for temporary files."""

    process: subprocess.Popen[str]
    url: str
    folder: Path
    errors: Path

    def uploads(self) -> list[str]:
        """The files that were uploaded and are there."""
        (folder,) = self.folder.glob("skincnn-page-*")
        return [str(path) for path in folder.rglob("*") if path.is_file()]

    def upload(
        self, content: bytes, name: str = "x.jpg", **headers: str
    ) -> requests.Response:
        """Uploads a file, about which nothing is asked."""
        return requests.post(
            f"{self.url}/gradio_api/upload",
            files={"files": (name, content)},
            headers=headers,
            timeout=60,
        )

    def join(self, data: Any, **others: Any) -> requests.Response:
        """Asks, and waits for no answer."""
        asked = {"data": data, "fn_index": 0, "session_hash": "s", **others}
        return requests.post(f"{self.url}/gradio_api/queue/join", json=asked, timeout=10)

    def ask(self, path: str, name: str = "x.jpg") -> str:
        """Returns what is said of an upload, as HTML."""
        session = f"{threading.get_ident()}"
        assert self.join([file_data(path, name)], session_hash=session).ok
        data = f"{self.url}/gradio_api/queue/data?session_hash={session}"
        with requests.get(data, stream=True, timeout=60) as events:
            for line in events.iter_lines():
                event = json.loads(line.removeprefix(b"data: ") or b"{}")
                if event.get("msg") == "process_completed":
                    assert event["success"], event
                    return str(event["output"]["data"][1])
        raise AssertionError("no answer")

    def answers(self) -> bool:
        """Whether a good picture is answered, and nothing is left of it."""
        (path,) = self.upload(jpeg()).json()
        return "melanoma mel malignant" in text_of(self.ask(path)) and not self.uploads()


def file_data(path: str, name: str = "x.jpg") -> dict[str, Any]:
    """An upload as the page tells the server of it."""
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def server(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests, each of which must leave it as it was; Ctrl-C ends it."""
    folder = tmp_path_factory.mktemp("page")
    errors = folder.with_suffix(".log")
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(ROOT / "scripts/demo.py"), str(run[0]), "--port", "0"],
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


def test_the_folder_of_a_server_that_was_killed_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import os, signal\n"
        "from skincnn.serving import demo\n"
        "with demo.make_folder() as folder:\n"
        "    (folder / 'x').write_text('an upload')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob("skincnn-page-*/x")
    other = tmp_path / "skincnn-page-of-mine"
    other.mkdir()
    link = tmp_path / "skincnn-page-12345678"
    link.symlink_to(other)
    with demo.make_folder() as first:
        assert not left.parent.exists()
        (first / "x").write_text("an upload")
        with demo.make_folder() as second:
            assert second != first
            assert (first / "x").exists(), "its server lives"
    assert sorted(tmp_path.glob("*skincnn-*")) == [link, other]


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
    assert "made-up pictures" in page.inner_text("body")

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


def upload(folder: Path, content: bytes = b"x") -> dict[str, Any]:
    """What Gradio says of a file that was uploaded."""
    path = folder / "a1b2"
    path.write_bytes(content)
    return {"path": str(path), "orig_name": "x.jpg"}
