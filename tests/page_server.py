"""Requests to the server of scripts/serve.py, as the page sends them."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import requests
from conftest import jpeg


def text_of(page: str) -> str:
    """Returns the visible text of HTML."""
    text = html.unescape(re.sub(r"<[^>]*>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")
    return " ".join(text.split())


@dataclasses.dataclass(frozen=True)
class Server:
    """A running scripts/serve.py; `folder` is its directory for temporary files."""

    process: subprocess.Popen[str]
    url: str
    folder: Path
    errors: Path

    def uploads(self) -> list[str]:
        """Returns the paths of the uploads on the disk."""
        (folder,) = self.folder.glob("skincnn-page-*")
        return [str(path) for path in folder.rglob("*") if path.is_file()]

    def upload(
        self, content: bytes, name: str = "x.jpg", **headers: str
    ) -> requests.Response:
        """Uploads a file without requesting a prediction."""
        return requests.post(
            f"{self.url}/gradio_api/upload",
            files={"files": (name, content)},
            headers=headers,
            timeout=60,
        )

    def join(self, data: Any, **others: Any) -> requests.Response:
        """Requests a prediction without waiting for it."""
        body = {"data": data, "fn_index": 0, "session_hash": "s", **others}
        return requests.post(f"{self.url}/gradio_api/queue/join", json=body, timeout=10)

    def predict(self, path: str, name: str = "x.jpg") -> str:
        """Returns the prediction for an upload, as HTML."""
        session = f"{threading.get_ident()}"
        assert self.join([file_data(path, name)], session_hash=session).ok
        url = f"{self.url}/gradio_api/queue/data?session_hash={session}"
        with requests.get(url, stream=True, timeout=60) as events:
            for line in events.iter_lines():
                event = json.loads(line.removeprefix(b"data: ") or b"{}")
                if event.get("msg") == "process_completed":
                    assert event["success"], event
                    return str(event["output"]["data"][1])
        raise AssertionError("no prediction")

    def is_working(self) -> bool:
        """Returns whether a valid image gets a prediction and its upload is deleted."""
        (path,) = self.upload(jpeg()).json()
        text = text_of(self.predict(path))
        return "melanoma mel malignant" in text and not self.uploads()


def file_data(path: str, name: str = "x.jpg") -> dict[str, Any]:
    """Returns the description of an upload that the page sends to the server."""
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def upload(folder: Path, content: bytes = b"x") -> dict[str, Any]:
    """Writes an upload, and returns its description as Gradio passes it on."""
    path = folder / "a1b2"
    path.write_bytes(content)
    return {"path": str(path), "orig_name": "x.jpg"}
