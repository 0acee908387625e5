"""What scripts and commands import and print when TensorFlow starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import keras
import pytest
from conftest import ROOT
from PIL import Image

from skincnn import startup
from skincnn.errors import describe_import_error

Run = tuple[Path, "subprocess.CompletedProcess[str]"]
UNUSED = (
    *("sklearn.cluster", "sklearn.covariance", "keras_tuner"),
    *("skincnn.training", "skincnn.reporting.plots"),
)
"""Modules that only other commands need."""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_commands_start_tensorflow_before_they_import_the_api() -> None:
    """Otherwise, TensorFlow prints its messages."""
    paths = [path for path in (ROOT / "skincnn/cli").glob("*.py") if path.stem != "common"]
    texts = [text for path in paths if "from skincnn.api" in (text := path.read_text())]
    assert len(texts) >= 3
    assert all("    common.load_tensorflow(" in text for text in texts)


def test_a_path_that_does_not_exist_is_an_error_before_tensorflow_is_imported() -> None:
    commands = ("evaluate", "report", "compare", "export", "predict", "serve")
    run_python(
        "import sys\n"
        "from skincnn.cli.main import run\n"
        f"for name in {commands}:\n"
        "    sys.argv[1:] = ['missing'] + ['x.jpg'] * (name == 'predict')\n"
        "    try:\n"
        "        run(name)\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 2\n"
        "assert 'tensorflow' not in sys.modules"
    )


@pytest.mark.slow
def test_api_prints_no_messages_of_tensorflow(tmp_path: Path) -> None:
    done = run_python(
        "import skincnn\n"
        "config = skincnn.Config().replace(**{'model.weights': 'none', "
        "'model.backbone': 'small_cnn', 'train.scenario': 'from_scratch'})\n"
        "model = skincnn.build_model(config, num_classes=2)\n"
        "model.predict(__import__('numpy').zeros((1, 96, 96, 3)), verbose=0)"
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("model", ["export/skincnn/1", "model.keras"])
def test_prediction_imports_no_modules_of_other_commands(
    model: str, run: Run, tmp_path: Path
) -> None:
    path, image = run[0] / model, tmp_path / "image.jpg"
    Image.new("RGB", (600, 450), (200, 150, 140)).save(image)
    done = run_python(
        f"import sys; sys.argv = ['skincnn predict', {str(path)!r}, {str(image)!r}]\n"
        "from skincnn.cli.predict import command; command()\n"
        f"print([x for x in {UNUSED} if x in sys.modules], file=sys.stderr)"
    )
    assert done.stderr.endswith("[]\n")


@pytest.mark.parametrize(
    "code",
    [
        "sys.frozen = True",
        "sys.executable = ''",
        "sys.executable = None",
        "sys.executable = '/usr/bin/uwsgi'",
        "sys.executable = '/missing/python3'",
        "os.close(2)",
        "os.close(1); os.close(2)",
    ],
)
def test_messages_are_not_filtered_if_python_cannot_be_started(code: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            f"import os, sys; from skincnn import startup; {code}\n"
            "with startup._without_noise():\n"
            "    assert startup._start_filter() is None",
        ],
        **{"stderr": subprocess.DEVNULL, "timeout": 30},
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("tuning.py", ["-m", "skincnn", "tune", "--help"], 2),
        ("tuning/__init__.py", ["-m", "skincnn", "tune", "--help"], 2),
        ("tfds_ham10000/__init__.py", ["-m", "skincnn", "datasets"], 2),
        ("tfds_ham10000.py", ["-c", "import skincnn; skincnn.train"], 1),
        ("tuning.py", ["-m", "skincnn", "train", "--help"], 0),
    ],
)
def test_a_module_that_hides_a_package_is_named(
    name: str, arguments: list[str], code: int, tmp_path: Path
) -> None:
    """Python searches the working directory first."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == code, done.stderr
    hiding = str(path).removesuffix("/__init__.py")
    package = name.removesuffix("/__init__.py").removesuffix(".py")
    message = f"{hiding} hides the package {package} of skincnn"
    assert (message in done.stderr.splitlines()[-1]) if code else not done.stderr


@pytest.mark.parametrize("name", ["keras", "tensorflow"])
def test_a_module_that_hides_a_dependency_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    path.touch()
    command = [sys.executable, "-c", "import skincnn; skincnn.load"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    message = f"{path} hides the package {name}, because Python finds it first"
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["random", "numbers"])
def test_a_module_that_hides_one_of_python_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    path.touch()
    command = [sys.executable, "-m", "skincnn", "predict", "x", "x.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"{name} from {path}" in done.stderr


@pytest.mark.parametrize(
    ("file", "content", "code", "message"),
    [
        (
            *("typing_extensions.py", "", "from skincnn.cli.main import main; main()"),
            r"error: \w+ cannot .* typing_extensions from {file}[,.] .* -m pip check",
        ),
        (
            *("promise.py", "1 / 0"),
            "import sys; sys.argv[1:] = ['prepare-data', '--config', 'x']\n"
            "from skincnn.cli.main import main; main()",
            r"error: promise cannot be imported: ZeroDivisionError: .*{file}[,.] ",
        ),
        (
            *("pydantic/__init__.py", "", "import skincnn; skincnn.Config"),
            r"ConfigError: pydantic cannot .*: cannot import .* pydantic from {file}\. ",
        ),
        (
            *("scipy/__init__.py", "1 / 0", "import skincnn; skincnn.metrics"),
            r"ConfigError: scipy cannot .*: ZeroDivisionError: .* scipy from {file}\. ",
        ),
        (
            *("tensorflow/__init__.py", "import nowhere", "import skincnn; skincnn.load"),
            r"ConfigError: TensorFlow and Keras cannot .* 'nowhere'\. .* from {file}\. ",
        ),
        (
            *("_bz2.py", "raise ImportError('missing', name='_bz2')"),
            *(
                "import skincnn; skincnn.load",
                "built without the module _bz2.*libbz2-dev ",
            ),
        ),
    ],
)
def test_a_package_that_cannot_be_imported_is_named(
    file: str, content: str, code: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    done = subprocess.run(
        [sys.executable, "-c", code],
        **{"capture_output": True, "text": True, "cwd": ROOT},
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert done.returncode == (2 if message.startswith("error") else 1)
    pattern = message.replace("{file}", re.escape(str(path)))
    assert re.search(pattern, done.stderr.splitlines()[-1]), done.stderr
    assert message.startswith("error") == ("Traceback" not in done.stderr)


@pytest.mark.parametrize(
    "code", ["from skincnn.errors import missing", "import json; json.loads('x')"]
)
def test_other_errors_are_not_described_as_errors_of_an_import(code: str) -> None:
    with pytest.raises((ImportError, ValueError)) as info:
        exec(code, {"__name__": "skincnn.module"})
    assert describe_import_error(info.value) == ""


def test_the_packages_are_imported_from_a_zip_archive(tmp_path: Path) -> None:
    """As by the workers of Spark, which receive a wheel."""
    with zipfile.ZipFile(tmp_path / "skincnn.zip", "w") as archive:
        for package in ("skincnn", "tfds_ham10000", "tuning"):
            for path in (ROOT / package).rglob("*.*"):
                archive.write(path, path.relative_to(ROOT))
    done = run_python(
        f"import sys; sys.path.insert(0, {str(tmp_path / 'skincnn.zip')!r})\n"
        "from skincnn.cli.help.choices import choices\n"
        "from skincnn.data.label_maps import published_taxonomies\n"
        "from tfds_ham10000 import folds\n"
        "assert published_taxonomies() and len(folds.judged_pairs())\n"
        "assert folds.published_assignments()\n"
        "print(choices('optimizer.name'), folds.__file__)"
    )
    assert done.stdout == f"{{}} {tmp_path / 'skincnn.zip/tfds_ham10000/folds.py'}\n"


def test_warnings_of_libraries_do_not_end_a_program_that_raises_warnings(
    tmp_path: Path,
) -> None:
    setup = (ROOT / "setup.cfg").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        startup.load_tensorflow.__wrapped__()
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.save_weights(tmp_path / "model.weights.h5")
    for pattern, category in startup.LIBRARY_WARNINGS.items():
        assert f"ignore:{pattern}:{category.__name__}" in setup


def test_a_process_of_another_thread_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has inherited standard error while messages were filtered."""
    monkeypatch.setattr(startup, "SECONDS_TO_FILTER", 0.1)
    with startup._without_noise():
        process = subprocess.Popen(["sleep", "60"])
    try:
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_standard_error_may_be_an_object_without_flush() -> None:
    """As of notebooks and programs that copy their output to a file."""
    done = run_python(
        "import sys\n"
        "class Tee:\n"
        "    def write(self, text): print(text)\n"
        "    def close(self): pass\n"  # absl closes it at the end
        "sys.stderr = Tee()\n"
        "from skincnn.interruption import prepare_to_stop\n"
        "from skincnn.startup import load_tensorflow\n"
        "load_tensorflow()\n"
        "prepare_to_stop()\n"
        "sys.stderr.flush()"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_weights_are_written_without_a_lock(tmp_path: Path) -> None:
    """Some network drives do not support locks."""
    done = run_python(
        "import fcntl, os, pathlib\n"
        "os.environ.pop('HDF5_USE_FILE_LOCKING', None)\n"
        "from skincnn.startup import load_tensorflow\n"
        "load_tensorflow()\n"
        "import h5py\n"
        f"path = pathlib.Path({str(tmp_path / 'weights.h5')!r})\n"
        "with path.open('wb') as file:\n"
        "    fcntl.flock(file, fcntl.LOCK_EX)\n"
        "    h5py.File(path, 'w').close()"
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_the_packages_can_be_imported_again() -> None:
    """Spyder does so when a script is run again. TFDS has registered the builder before."""
    done = run_python(
        "import sys\n"
        "for _ in range(2):\n"
        "    import skincnn, tfds_ham10000, tensorflow_datasets as tfds\n"
        "    skincnn.load, skincnn.train\n"
        "    assert tfds.builder_cls('ham10000') is tfds_ham10000.Builder\n"
        "    for name in list(sys.modules):\n"
        "        if name.split('.')[0] in ('skincnn', 'tfds_ham10000'):\n"
        "            del sys.modules[name]"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_serial_mode_of_joblib_prints_no_warning() -> None:
    """Without /dev/shm, joblib cannot create a semaphore."""
    done = run_python(
        "import _multiprocessing\n"
        "def fail(*args, **kwargs): raise OSError(38, 'Function not implemented')\n"
        "_multiprocessing.SemLock = fail\n"
        "from skincnn.startup import load_tensorflow\n"
        "load_tensorflow()\n"
        "import joblib._multiprocessing_helpers\n"
        "print(joblib._multiprocessing_helpers.mp)"
    )
    assert (done.stdout, done.stderr) == ("None\n", "")
