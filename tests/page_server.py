"""What is asked of the server of scripts/serve.py, as the page asks it."""

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
    """What a reader sees of HTML."""
    bare = html.unescape(re.sub(r"<[^>]*>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")
    return " ".join(bare.split())


@dataclasses.dataclass(frozen=True)
class Server:
    """What `scripts/serve.py` serves; `folder` is its folder for temporary files."""

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


def upload(folder: Path, content: bytes = b"x") -> dict[str, Any]:
    """What Gradio says of a file that was uploaded."""
    path = folder / "a1b2"
    path.write_bytes(content)
    return {"path": str(path), "orig_name": "x.jpg"}
