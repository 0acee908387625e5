"""Shared helpers: running scripts, a built dataset, and one small training run."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from source_files import jpeg as jpeg
from source_files import make_rows, write_dataverse

from skincnn.cli import common

ROOT = Path(__file__).parents[1]
Run = tuple[Path, "subprocess.CompletedProcess[str]"]
"""The run directory and the output of a training run; see `run`."""
Script = Callable[..., "subprocess.CompletedProcess[str]"]

common.load_tensorflow()
# So that each collection does not scan the objects of TensorFlow again.
gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the slow tests")


LONGEST = (
    "test_resume",
    "test_run",
    "test_tuning",
    "test_cross_validation",
    "test_evaluate",
    "test_features",
)
"""Test files that start first, so that no worker waits for a long test at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: Path(item.path).stem not in LONGEST)
    if not config.getoption("--run-slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: give --run-slow"))


@pytest.fixture(autouse=True)
def free_models(request: pytest.FixtureRequest) -> Iterator[None]:
    """Frees the large models of slow tests, which Python collects too late."""
    yield
    if "slow" in request.keywords:
        gc.collect()


def run_script(
    name: str, *arguments: object, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs a script or a package as a user would; `env` adds environment variables."""
    program = [ROOT / "scripts" / name] if name.endswith(".py") else ["-m", name]
    return subprocess.run(
        [sys.executable, *map(str, program), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        timeout=600,
    )


def run_here(
    name: str, *arguments: object, exit_code: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script in this process, to avoid importing TensorFlow again.

    Unlike in `run_script`, warnings are errors. Fails if the exit code is not `exit_code`.
    """
    before = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = [name, *map(str, arguments)]
    code: int | str | None = 0
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        contextlib.chdir(ROOT),
    ):
        try:
            if name.endswith(".py"):
                runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
            else:
                sys.modules.pop(f"{name}.__main__", None)  # runpy warns if it is imported
                runpy.run_module(name, run_name="__main__")
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            sys.argv, handler = before
            signal.signal(signal.SIGTERM, handler)
    assert exit_code in (None, int(code or 0)), err.getvalue()
    return subprocess.CompletedProcess(
        [name, *map(str, arguments)], int(code or 0), out.getvalue(), err.getvalue()
    )


@contextlib.contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Lets writing fail, as on a full disk, once a file has `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def read_timeless(workdir: Path) -> dict[str, object]:
    """Returns run.json and the results without durations and the hash of the model file.

    The parity results of exports are omitted, and so is the position of a result, because
    other tests score models on the same dataset.
    """
    paths = [workdir / "run.json", *sorted((workdir / "results").glob("*.json"))]
    timed = {"cost", "training_seconds", "sha256", "position"}
    return {
        path.name: {k: v for k, v in json.loads(path.read_text()).items() if k not in timed}
        for path in paths
        if not path.name.startswith("export.")
    }


def make_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """Returns a copy of a folder that `make` fills once for all pytest-xdist workers."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, done = shared / name, shared / f"{name}.done"
    with FileLock(shared / f"{name}.lock"):
        if not done.exists():
            make(folder)
            done.touch()
    return Path(shutil.copytree(folder, factory.mktemp("copy") / name))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of built datasets that contains demo_tiny."""
    from skincnn.data.datasets import prepare_dataset

    def build(path: Path) -> None:
        prepare_dataset("demo_tiny", path)

    return make_once(tmp_path_factory, "data", build)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Run:
    """The run directory and the output of `scripts/train.py` on demo_tiny."""

    def train(path: Path) -> None:
        workdir = path / "tiny run"
        done = train_tiny(workdir, data_dir)
        output = [text.replace(str(workdir), "{}") for text in (done.stdout, done.stderr)]
        (path / "output.json").write_text(json.dumps(output))

    folder = make_once(tmp_path_factory, "trained", train)
    workdir = folder / "tiny run"
    out, err = (
        text.replace("{}", str(workdir))
        for text in json.loads((folder / "output.json").read_text())
    )
    return workdir, subprocess.CompletedProcess(["train.py"], 0, out, err)


def train_tiny(workdir: Path, data_dir: Path) -> subprocess.CompletedProcess[str]:
    # Weight averaging, progressive resizing, and preprocessing and sampling that are not
    # the default. With the low BatchNorm momentum the moving statistics converge in few
    # steps; otherwise all predictions would be equal.
    flags = (
        "--data.datasets demo_tiny --data.image-size 64 --model.backbone small_cnn "
        "--model.width-multiplier 0.25 --train.epochs 3 --train.progressive-epochs 1 "
        "--train.progressive-image-size 32 --optimizer.ema-momentum 0.9 "
        "--evaluate.num-bootstrap 200 "
        "--data.resize-mode pad --data.crop-border True --data.color-constancy True "
        "--imbalance.strategy square_root_sampling --model.batch-norm-momentum 0.5"
    ).split()
    done = run_script("train.py", "--workdir", workdir, "--data-dir", data_dir, *flags)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path)
        yield opened
        opened.close()


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Disables `tf.function`, because tracing takes longer than a single step."""
    import tensorflow as tf

    from skincnn.model.augment import compile_augmentation

    monkeypatch.setattr(
        tf, "function", lambda function=None, **_: function or (lambda f: f)
    )
    compile_augmentation.cache_clear()
    yield
    compile_augmentation.cache_clear()


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the figures of reports, because drawing them takes most of the time."""
    monkeypatch.setattr("skincnn.reporting.report.draw_figures", lambda results: {})


@pytest.fixture
def manual_dir(tmp_path: Path) -> Path:
    """A directory in the published layout of HAM10000; each class has 30 images."""
    return write_dataverse(tmp_path / "manual é dir", make_rows())


Prepare = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def prepare() -> Prepare:
    """Runs `prepare_data.py` in this process with a config, a directory and more flags."""
    return lambda config, data_dir, *flags: run_here(
        "prepare_data.py", "--config", config, "--data-dir", data_dir, *flags
    )


def deny_listing(monkeypatch: pytest.MonkeyPatch, denied: Path) -> None:
    """Makes a directory unreadable, also for root."""
    scandir = os.scandir

    def deny(path: Path) -> object:
        if path == denied:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
