"""Progress bars on a terminal, and lines in a log file."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from source_files import jpeg

from skincnn.data.datasets import prepare_dataset
from skincnn.progress import ProgressBar, logged_step

CODE = """
from skincnn.data.datasets import prepare_dataset
from skincnn.progress import ProgressBar, logged_step
with logged_step("Building a dataset"):
    for _ in ProgressBar(range(300), desc="Reading images", unit="img"):
        pass
"""


def test_log_has_one_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    with logged_step("Building a dataset"):
        assert sum(ProgressBar(range(300), desc="Reading images", unit="img")) == 44850
    with ProgressBar(total=5, desc="Views", unit="view") as bar:
        bar.update(5)
    pattern = "Reading images: 300 img{0}Building a dataset{0}Views: 5 view{0}"
    assert re.fullmatch(pattern.format(r" in \d+ s\n"), capsys.readouterr().err)


class Tee:
    """A user's stream, which has only some methods of a file."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


@pytest.mark.parametrize("stream", [None, Tee()])
def test_a_stream_without_isatty_is_not_a_terminal(
    stream: Tee | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with logged_step("Building a dataset"):
        assert sum(ProgressBar(range(3), desc="Reading images", unit="img")) == 3
    assert stream is None or stream.text.count("\n") == 2


def test_terminal_has_a_bar() -> None:
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (24, 80))
    done = subprocess.run([sys.executable, "-c", CODE], stderr=writing)
    text = os.read(reading, 1 << 16).decode()
    os.close(writing)
    os.close(reading)
    assert done.returncode == 0
    assert "Reading images: 100%" in text
    assert " in 0 s" not in text


def test_a_dataset_is_built_without_a_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in pythonw: there are no standard streams."""
    images = tmp_path / "images"
    for index in range(20):
        path = images / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(index))
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    splits = prepare_dataset("folder", tmp_path / "data", images).info.splits
    assert sum(split.num_examples for split in splits.values()) == 20
