"""The documentation pages: links, and the commands and the Python code that they show."""

from __future__ import annotations

import configparser
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from conftest import ROOT, jpeg, run_here
from PIL import Image

import skincnn
from skincnn.cli import train, tune
from skincnn.cli.main import COMMANDS, arguments_of
from skincnn.config import Config
from skincnn.files import write_json

PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
PAGES = [page for page in PAGES if "_build" not in page.parts]
RESULTS = sorted((ROOT / "docs/results").rglob("*.csv"))
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
CELL = re.compile(r"```\{code-cell\} ipython3\n(?::tags:[^\n]*\n)?(.*?)```", re.DOTALL)
COMMAND = re.compile(
    r"(?:python scripts/([a-z_]+)\.py|(?:(?<![-\w/])|(?<=bin/))skincnn ([a-z][-a-z]+))"
    r"(?: (.*))?"
)
Run = tuple[Path, "subprocess.CompletedProcess[str]"]


def code_lines(path: Path) -> list[str]:
    """Returns the lines of code blocks and the inline code of a page.

    For a CSV file, returns the column `command`.

    Lines that end with a backslash are joined with the next one, and comments are removed.
    """
    text = path.read_text().replace("\\\n", " ")
    if path.suffix == ".csv":
        return [row.get("command", "") for row in csv.DictReader(text.splitlines())]
    fences = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.M | re.S)
    lines = "\n".join([*fences, *re.findall(r"^ {4}(.*)", text, re.M)]).splitlines()
    return [re.split(r"\s+#", line)[0].strip() for line in lines] + re.findall(
        r"`([^`\n]+)`", text
    )


def commands(paths: list[Path]) -> list[tuple[str, list[str]]]:
    """Returns the subcommand and arguments of each command.

    Commands without arguments, with placeholders or with custom parts are left out.
    """
    found = {
        ((script or name).replace("_", "-"), arguments)
        for path in paths
        for line in code_lines(path)
        for part in line.split("&&")
        for script, name, arguments in COMMAND.findall(part.strip())
        if arguments and not re.search(r"\.\.\.|\[|sN|[|>]|PRESET|my_\w+:", arguments)
    }
    return [(name, shlex.split(arguments)) for name, arguments in sorted(found)]


def parse(name: str, arguments: list[str]) -> None:
    """Parses the arguments of a subcommand, without running it."""
    if "--" in arguments:  # followed by the options of the Beam runner
        arguments = arguments[: arguments.index("--")]
    parsers = {"train": train.parse, "tune": tune.parse}
    code: object = 0
    try:
        parsers.get(name, lambda args: tyro.cli(arguments_of(name), args=args))(arguments)
    except SystemExit as end:  # after --help
        code = end.code
    assert not code, (name, arguments)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_changelog_and_citation_name_the_version() -> None:
    heading = re.compile(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", re.M)
    release = heading.search((ROOT / "CHANGELOG.md").read_text())
    assert release is not None
    citation = (ROOT / "CITATION.cff").read_text()
    cited = re.search(r'^version: (.+)\ndate-released: "(.+)"$', citation, re.M)
    assert cited is not None
    assert cited.groups() == release.groups()
    assert cited[1] == skincnn.__version__


def test_images_are_small() -> None:
    images = list((ROOT / "docs/images").iterdir())
    assert {image.suffix for image in images} == {".png"}
    assert max(image.stat().st_size for image in images) < 150_000


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


def test_files_that_code_and_pages_name_exist() -> None:
    sources = [
        path
        for folder in ("skincnn", "tuning", "tfds_ham10000", "scripts", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".j2", ".toml", ".md")
    ]
    for path in [*PAGES, *sources]:
        for name in re.findall(r"(?<![\w/])docs/[\w/.]*\w", path.read_text()):
            assert (ROOT / name).exists() or name == "docs/_build", f"{path}: {name}"


def test_commands_are_valid(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    write_json(config, Config().to_dict())
    found = commands([*PAGES, *RESULTS])
    assert len(found) > 120
    assert {name for name, _ in found} >= COMMANDS.keys() - {"make-folds", "datasets"}
    for name, arguments in found:
        parse(name, [str(config) if arg.endswith(".json") else arg for arg in arguments])


def test_targets_and_extras_exist() -> None:
    lines = [line for page in PAGES for line in code_lines(page)]
    makefile = (ROOT / "Makefile").read_text()
    targets = {name for line in lines for name in re.findall(r"^make ([a-z-]+)", line)}
    assert targets >= {"train", "test", "docs", "dist"}
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.M))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = re.findall(r"pip install [^\n]*\.\[([\w,]+)\]", "\n".join(lines))
    extras = {extra for names in lists for extra in names.split(",")}
    assert extras >= {"serve", "export"}
    assert extras <= set(setup["options.extras_require"])


def test_python_code_is_valid() -> None:
    fence = re.compile(
        r"^```(?:python|\{code-cell\}.*)\n(?::tags:.*\n)?((?s:.*?))^```", re.M
    )
    blocks = [block for page in PAGES for block in fence.findall(page.read_text())]
    assert len(blocks) > 30
    for block in blocks:
        if not block.startswith("%%bash"):
            compile(block, "page", "exec")


@pytest.mark.slow
def test_fast_commands_run(run: Run, tmp_path: Path, no_figures: None) -> None:
    """Runs the commands of the pages that only require a run directory and images."""
    workdir = shutil.copytree(run[0], tmp_path / "run")
    (tmp_path / "images").mkdir()
    for number in range(2):
        (tmp_path / f"images/{number}.jpg").write_bytes(jpeg(number))

    def place(argument: str) -> Path | str:
        if argument == "RUN" or re.fullmatch(r"runs/\w+(/export/\w+)?", argument):
            return workdir / ("export/skincnn" if "/export/" in argument else "")
        return tmp_path / argument if re.search(r"/$|\.csv$", argument) else argument

    ran = []
    for name, arguments in commands(PAGES):
        if name in ("predict", "report"):
            done = run_here(f"{name}.py", *map(place, arguments))
            assert done.returncode == 0, done.stderr
            ran.append(name)
    assert {*ran} == {"predict", "report"}


@pytest.mark.slow
def test_python_code_of_the_readme_runs(
    run: Run,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workdir = shutil.copytree(run[0], tmp_path / "run")
    text = (ROOT / "README.md").read_text()
    code = "".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.DOTALL))
    monkeypatch.chdir(tmp_path)
    opened = skincnn.load(workdir, data_dir)
    monkeypatch.setattr(skincnn, "load", lambda _: opened)
    data = skincnn.load_data(opened.config, data_dir)
    monkeypatch.setattr(skincnn, "load_data", lambda _: data)
    exec(code, {})
    assert [path.name for path in sorted((tmp_path / "images").iterdir())] == [
        f"{i}.jpg" for i in range(5)
    ]
    with Image.open(tmp_path / "map.png") as image:
        assert image.size[0] == 2 * opened.config.data.image_size
    output = capsys.readouterr().out
    assert "balanced_accuracy" in output
    assert "Name: predicted_class" in output
    assert str(workdir / "report.html") in output


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
    records = (tmp_path / "reference/results.html").read_text()
    assert "Number of bootstrap resamples" in records
