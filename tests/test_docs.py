"""The documentation pages: links, and the training commands that they show."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from skincnn.cli.train import parse

PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
RESULTS = sorted((ROOT / "docs/results").rglob("*.csv"))
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
CELL = re.compile(r"```\{code-cell\} ipython3\n(?::tags:[^\n]*\n)?(.*?)```", re.DOTALL)
COMMAND = re.compile(r"python scripts/train\.py ([a-z][^`#\n|\\$\[]*?)(?=\s*[`#\n|])")


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text()
    for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([\w-]*)\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        if heading:
            titles = re.findall("^#+ (.*)$", file.read_text(), re.M)
            anchors = [re.sub(r"[^\w -]", "", title).lower() for title in titles]
            assert heading in [anchor.replace(" ", "-") for anchor in anchors], heading


def test_training_commands_are_valid() -> None:
    commands = {
        command
        for path in (*PAGES, *RESULTS)
        for command in COMMAND.findall(path.read_text() + "\n")
    }
    assert len(commands) > 80
    for command in commands:
        if "sN" not in command:
            parse(shlex.split(command))


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_cells_of_a_tutorial_run(page: Path, tmp_path: Path) -> None:
    """The cells run in one process, as in a notebook; %%bash runs commands."""
    cells = CELL.findall(page.read_text())
    assert len(cells) > 5
    code = "import subprocess\n"
    for cell in cells:
        if cell.startswith("%%bash\n"):
            command = ["bash", "-e", "-c", cell.removeprefix("%%bash\n")]
            cell = f"subprocess.run({command!r}, check=True)\n"
        code += cell
    (tmp_path / "cells.py").write_text(code)
    command = [sys.executable, tmp_path / "cells.py"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="Sphinx is not installed (extra: docs)")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", ROOT / "docs", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ".719</strong>" in (tmp_path / "results/index.html").read_text()
