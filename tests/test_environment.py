"""Settings of the user's environment, and paths with unusual names."""

from __future__ import annotations

import errno
import inspect
import io
import json
import os
import pwd
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf
import tyro
from conftest import ROOT, run_here, run_script
from PIL import Image, ImageFile
from source_files import make_image
from tensorflow.python.data.ops import debug_mode
from tensorflow.python.framework import ops

import skincnn
from skincnn import preconditions, startup
from skincnn.cli import common, predict, prepare_data
from skincnn.config import DataConfig
from skincnn.data.datasets import built_datasets, prepare_dataset, read_rows
from skincnn.errors import ConfigError
from skincnn.files import require_writable_folder
from skincnn.inference.ood_images import read_ood_folder
from skincnn.paths import (
    MAX_NAME,
    MAX_PATH,
    plain_path,
    real_path,
    require_usable_path,
    to_path,
    unique_names,
)
from skincnn.progress import is_terminal
from skincnn.serving.runtimes import RUNTIMES
from skincnn.training.run import save_model

KERAS_JSON = {
    "nnx_enabled": True,
    "floatx": "float16",
    "epsilon": 0.1,
    "image_data_format": "channels_first",
    "backend": "nosuch",
}
SETTINGS = {
    "MPLBACKEND": "nosuch",
    "KERAS_MAX_EPOCHS": "none",
    "TQDM_NCOLS": "wide",
    "KERAS_MAX_STEPS_PER_EPOCH": "1",
    "KERAS_NNX_ENABLED": "true",
    "TF_XLA_FLAGS": "--nosuch",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "cpp",
    "PYTHONIOENCODING": "ascii",
    "TZ": "Asia/Kathmandu",
    "ALL_PROXY": "socks5h://127.0.0.1:9",
}
NOT_UTF8 = os.fsdecode(b"caf\xe9")


def run_code(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
    )


@pytest.mark.slow
def test_a_command_ignores_settings_for_other_projects(
    tmp_path: Path, run: tuple[Path, object]
) -> None:
    (tmp_path / "keras.json").write_text(json.dumps(KERAS_JSON))
    (tmp_path / "matplotlibrc").write_bytes(b"text.usetex: True\nfont.family: caf\xe9\n")
    folders = {"KERAS_HOME": str(tmp_path), "MATPLOTLIBRC": str(tmp_path)}
    image = tmp_path / "é.png"
    keras.utils.save_img(image, np.full((40, 40, 3), 200.0), scale=False)
    expected = run_here("predict.py", run[0], image)
    done = run_script("predict.py", run[0], image, **SETTINGS, **folders)
    assert done.returncode == 0, done.stderr
    row, *others = done.stdout.splitlines()[1:]
    assert not others
    assert row.replace(r"\xe9", "é") == expected.stdout.splitlines()[1]


def test_training_under_other_settings_gives_the_same_network(
    other_settings: None,
) -> None:
    config = skincnn.Config().replace(
        **{
            "data.image_size": 32,
            "model.backbone": "small_cnn",
            "model.weights": "none",
            "train.scenario": "from_scratch",
        }
    )
    model = skincnn.build_model(config, 3)
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model.output.dtype == "float32"
    assert {layer.data_format for layer in model._flatten_layers() if is_conv(layer)} == {
        "channels_last"
    }


def test_models_are_written_if_the_clock_is_before_1980(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ZIP archive cannot store such dates."""
    config = skincnn.Config().replace(
        **{
            "data.image_size": 32,
            "model.backbone": "small_cnn",
            "model.weights": "none",
            "model.width_multiplier": 0.1,
            "train.scenario": "from_scratch",
        }
    )
    model = skincnn.build_model(config, 3)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(0))
    save_model(config, model, tmp_path / "model.keras")
    RUNTIMES["litert"].embed(tmp_path / "x.tflite", {"rule": {"class_names": ["a"]}})
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    for expected, received in zip(model.weights, loaded.weights, strict=True):
        assert np.array_equal(expected, received)
    assert zipfile.ZipFile(tmp_path / "x.tflite").read("labels.txt") == b"a\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.keras", "x.tflite"]


def is_conv(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.Conv2D)


@pytest.fixture
def other_settings() -> Iterator[None]:
    """Keras and matplotlib as a user may have set them; they must not change."""
    others = {
        "floatx": "float16",
        "epsilon": 0.1,
        "image_data_format": "channels_first",
        "max_epochs": 1,
        "max_steps_per_epoch": 1,
    }
    previous = startup.set_keras(others)
    style = {"text.usetex": True, "font.size": 30.0, "savefig.transparent": True}
    try:
        with matplotlib.rc_context(style):
            yield
            assert {name: matplotlib.rcParams[name] for name in style} == style
    finally:
        assert startup.set_keras(previous) == others


def test_figures_do_not_depend_on_the_users_style(
    run: tuple[Path, object], request: pytest.FixtureRequest
) -> None:
    comparison = skincnn.compare([run[0]], num_bootstrap=100)
    expected = np.asarray(comparison.plot())
    request.getfixturevalue("other_settings")
    assert np.array_equal(np.asarray(comparison.plot()), expected)


def test_the_last_of_several_threads_restores_the_settings(other_settings: None) -> None:
    first, second = startup.own_settings(), startup.own_settings()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert keras.config.floatx() == "float32"
    second.__exit__(None, None, None)


def code_in_child(function: Callable[[], object]) -> int:
    """Returns 2 if the function raises a ConfigError in a forked process, otherwise 0."""
    process = os.fork()
    if process == 0:
        try:
            function()
        except ConfigError as error:
            os._exit(2 * ("was forked after TensorFlow" in str(error)))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_named() -> None:
    """TensorFlow would wait forever for its threads."""
    assert code_in_child(startup.own_settings().__enter__) == 2
    assert code_in_child(startup.load_tensorflow.__wrapped__) == 2


def test_a_fork_of_a_program_that_initialized_tensorflow_itself_is_named() -> None:
    code = (
        "import os, sys, types\n"
        "from skincnn import startup\n"
        "context = types.SimpleNamespace(_initialized=True)\n"
        "module = types.SimpleNamespace(_context=context)\n"
        "sys.modules['tensorflow.python.eager.context'] = module\n"
        "if os.fork():\n"
        "    os.wait()\n"
        "else:\n"
        "    startup.load_tensorflow()"
    )
    assert (
        "ConfigError: TensorFlow cannot run in a process that was" in run_code(code).stderr
    )


def test_a_program_without_eager_execution_is_named() -> None:
    with (
        tf.Graph().as_default(),
        pytest.raises(ConfigError, match=r"must execute eagerly\. Remove tf\.compat\.v1"),
        startup.own_settings(),
    ):
        pass


def test_a_strategy_in_scope_is_named() -> None:
    with (
        tf.distribute.OneDeviceStrategy("CPU:0").scope(),
        pytest.raises(ConfigError, match=r"outside the scope: `train\.devices`"),
        startup.own_settings(),
    ):
        pass


def test_models_are_not_distributed_by_keras() -> None:
    users = keras.distribution.DataParallel(devices=["cpu:0"])
    with users.scope():
        with startup.own_settings():
            assert keras.distribution.distribution() is None
        assert keras.distribution.distribution() is users


class Writer:
    """A user's stream that only has the method `write`."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


def test_standard_streams_may_be_closed_or_only_have_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed, writer = io.StringIO(), Writer()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    monkeypatch.setattr(sys, "stdout", writer)
    with startup.own_settings():
        print("no error", file=sys.stderr)
        print("text", flush=True)
        assert not is_terminal(sys.stdout)
        assert not is_terminal(sys.stderr)
    assert (sys.stdout, sys.stderr, writer.text) == (writer, closed, "text\n")


def test_errors_of_numpy_are_the_default_and_then_those_of_the_user() -> None:
    with np.errstate(all="raise"):
        with startup.own_settings():
            assert np.float32(1e-30) * np.float32(1e-30) == 0
        with pytest.raises(FloatingPointError):
            np.float32(1e-30) * np.float32(1e-30)


def test_numbers_are_written_with_all_digits() -> None:
    """Print options of NumPy 1.13 would round them in the tables of pandas."""
    value = np.float32(0.16245858)
    with np.printoptions(legacy="1.13"):
        assert str(value) != "0.16245858"
        with startup.own_settings():
            assert str(value) == "0.16245858"


@pytest.fixture
def check_numerics() -> Iterator[None]:
    tf.debugging.enable_check_numerics()
    yield
    tf.debugging.disable_check_numerics()


def test_tensors_may_contain_nan_even_if_tensorflow_checks_them(
    check_numerics: None,
) -> None:
    nan = np.full(2, np.nan)
    with startup.own_settings():
        with startup.own_settings():
            assert np.isnan(tf.math.square(nan)).all()
        assert np.isnan(tf.function(tf.math.square)(nan)).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN elements: 2"):
        tf.math.square(nan)


def test_numbers_are_checked_afterward_only_if_they_were_before() -> None:
    with startup.own_settings():
        pass
    assert np.isnan(tf.math.square(np.nan))


def test_tensorflow_compiles_nothing_by_itself() -> None:
    set_jit = tf.config.optimizer.set_jit
    set_jit(True)
    try:
        with startup.own_settings():
            assert not tf.config.optimizer.get_jit()
        assert tf.config.optimizer.get_jit() == "autoclustering"
    finally:
        set_jit(False)


@pytest.mark.parametrize("mode", ["SAFE", "ALL"])
def test_types_are_converted_as_keras_expects(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = ops.PromoMode[mode]
    monkeypatch.setattr(ops, "_dtype_conversion_mode", users)
    with startup.own_settings():
        assert not ops.is_auto_dtype_conversion_enabled()
    assert ops.get_dtype_conversion_mode() == users


@pytest.fixture
def run_eagerly() -> Iterator[None]:
    tf.config.run_functions_eagerly(True)
    tf.data.experimental.enable_debug_mode()
    yield
    tf.config.run_functions_eagerly(False)
    debug_mode.toggle_debug_mode(False)


def test_functions_are_compiled_even_if_the_user_runs_them_eagerly(
    run_eagerly: None,
) -> None:
    def is_eager() -> tuple[bool, bool]:
        modes = set()

        def record(value: tf.Tensor) -> tf.Tensor:
            modes.add(tf.executing_eagerly())
            return value

        tf.function(record)(1)
        result = modes.pop()
        list(tf.data.Dataset.range(1).map(record))
        return result, True in modes

    with startup.own_settings():
        assert is_eager() == (False, False)
    assert is_eager() == (True, True)


@pytest.mark.parametrize("maximum", [1000, None])
def test_the_limit_of_pixels_is_that_of_the_package(
    run: tuple[Path, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    maximum: int | None,
) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "small.png")
    Image.new("1", (10_000, 5_001)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", maximum)
    status = skincnn.load(run[0]).predict(tmp_path)["status"]
    assert status[0] == "unreadable: 10000x5001, expected at most 50000000 pixels"
    assert status[1] == "ok"
    assert maximum == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", ["x.bmp", "x.gif", "x.tif"])
def test_truncated_images_are_unreadable(
    run: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    make_image().save(path)
    path.write_bytes(path.read_bytes()[:-300])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (status,) = skincnn.load(run[0]).predict(path)["status"]
    assert status.startswith("unreadable: cannot be decoded")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


READERS = {
    *("class_names", "info", "config", "history", "results", "predictions", "summary"),
    *("checklists", "to_frame", "to_markdown", "labels", "replace", "from_dict"),
    *("to_dict", "load", "preset", "compare", "path"),
}
"""Public functions that neither run TensorFlow nor draw a figure."""


def public_functions() -> Iterator[tuple[str, Any]]:
    for name in skincnn.__all__:
        value = getattr(skincnn, name)
        members = vars(value).items() if inspect.isclass(value) else [(name, value)]
        for member, function in members:
            function = getattr(function, "fget", None) or function
            if inspect.isfunction(function) and member[0] != "_":
                yield member, function


def test_public_functions_apply_the_settings_of_the_package() -> None:
    for name, function in public_functions():
        assert (name in READERS) != hasattr(function, "__wrapped__"), name


@pytest.mark.parametrize("script", ["train.py", "compare.py"])
def test_help_is_printed_if_python_omits_docstrings(script: str) -> None:
    done = run_script(script, "--help", PYTHONOPTIMIZE="2")
    assert done.returncode == 0, done.stderr
    assert "WORKDIR" in done.stdout.upper()
    assert "Arguments(" not in done.stdout


@pytest.mark.parametrize(("backend", "remains"), [("nosuch", None), ("svg", "svg")])
def test_only_a_missing_plot_backend_is_ignored(backend: str, remains: str | None) -> None:
    code = (
        "import os; from skincnn import startup; startup.ignore_missing_plot_backend()\n"
        "import matplotlib; print(os.environ.get('MPLBACKEND'))"
    )
    done = run_code(code, MPLBACKEND=backend)
    assert (done.returncode, done.stdout) == (0, f"{remains}\n"), done.stderr


@pytest.mark.parametrize(
    ("content", "env", "message"),
    [
        ("{}", {"KERAS_BACKEND": "nosuch"}, "Unable to import backend : nosuch"),
        ("[1]", {}, "keras.json: AttributeError"),
    ],
)
def test_an_unusable_setting_of_keras_is_one_line(
    content: str, env: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "keras.json").write_text(content)
    code = "from skincnn.cli import common, process; process.main(common.load_tensorflow)"
    done = run_code(code, KERAS_HOME=str(tmp_path), **env)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: Keras cannot be imported with KERAS_BACKEND=")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("backend", "kept"),
    [("", "--xla_gpu_cuda_data_dir=/x"), ("jax", "--nosuch --xla_gpu_cuda_data_dir=/x")],
)
def test_flags_for_the_xla_of_jax_do_not_end_commands_with_tensorflow(
    backend: str, kept: str
) -> None:
    code = (
        "import os; from skincnn import startup; startup.set_command_environment()\n"
        "print(os.environ['XLA_FLAGS'])"
    )
    flags = "--nosuch --xla_gpu_cuda_data_dir=/x"
    assert run_code(code, XLA_FLAGS=flags, KERAS_BACKEND=backend).stdout == f"{kept}\n"


def test_the_setting_for_nnx_is_named(tmp_path: Path) -> None:
    code = "import skincnn; skincnn.load"
    done = run_code(code, KERAS_HOME=str(tmp_path), KERAS_NNX_ENABLED="true")
    assert done.stderr.endswith("Unset KERAS_NNX_ENABLED, or delete the file.\n")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("-f 0", "No usable temporary directory found in"),
        ("-v 500000", "`ulimit -a`"),
    ],
)
def test_a_cause_other_than_the_settings_of_keras_is_named(
    limit: str, message: str
) -> None:
    code = "from skincnn.cli import common, process; process.main(common.load_tensorflow)"
    shell = ["sh", "-c", f'ulimit {limit}; exec "$0" -c "$1"', sys.executable, code]
    done = subprocess.run(shell, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: TensorFlow and Keras cannot be imported: ")
    assert message in done.stderr
    assert "keras.json" not in done.stderr


def test_a_container_without_proc_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow would abort the process."""
    monkeypatch.setattr(preconditions, "EXECUTABLE", "/nowhere/self/exe")
    with pytest.raises(ConfigError, match=r"^TensorFlow requires .*/proc: .*Mount it"):
        startup.load_tensorflow.__wrapped__()


@pytest.mark.parametrize(
    ("cpu_info", "is_rejected"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse4_2 aes\n", True),
        ("processor\t: 0\nflags\t\t: fpu sse4_2 avx\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        (None, False),
    ],
)
def test_a_cpu_without_avx_is_named(
    cpu_info: str | None, is_rejected: bool, tmp_path: Path
) -> None:
    """The import of TensorFlow would kill the process."""
    path = tmp_path / "cpuinfo"
    if cpu_info is not None:
        path.write_text(cpu_info)
    done = run_code(
        "import platform, skincnn; from skincnn import preconditions\n"
        "platform.machine = lambda: 'x86_64'\n"
        f"preconditions.CPU_INFO = {str(path)!r}\n"
        "preconditions._require_threads = lambda: exit('checked')\n"
        "skincnn.load"
    )
    assert done.returncode == 1
    error = 'errors.ConfigError: TensorFlow requires a CPU with AVX, .* "host", or use'
    assert re.search(error if is_rejected else "^checked$", done.stderr), done.stderr


def test_too_few_threads_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow would abort the process."""
    startup.load_tensorflow()
    start, before = threading.Thread.start, threading.active_count()

    def fail(thread: threading.Thread) -> None:
        if threading.active_count() == before + 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(ConfigError, match=r"can't start new thread\. The system"):
        startup.load_tensorflow.__wrapped__()
    assert threading.active_count() == before
    startup.load_tensorflow()  # is checked only once


def test_messages_are_shown_if_tensorflow_ends_the_process() -> None:
    code = (
        "import os; from skincnn.startup import _without_noise\n"
        "with _without_noise():\n"
        "    os.write(2, b'oneDNN custom operations are on\\nUnknown flag\\n')\n"
        "    os._exit(3)"
    )
    done = run_code(code)
    assert (done.returncode, done.stderr) == (3, "Unknown flag\n")


def test_output_does_not_depend_on_the_locale() -> None:
    code = "from skincnn.cli import process; process.main(lambda: print('é \\udce9 5 €'))"
    done = run_code(code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "\\xe9 \\udce9 5 \\u20ac\n")


def test_names_that_tensorflow_would_encode_differently_are_rejected(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from pathlib import Path; from skincnn.cli import process\n"
        "from skincnn.paths import require_usable_path\n"
        "process.main(lambda: require_usable_path(Path(sys.argv[1]), '--workdir'))"
    )
    env = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    for name, expected in (("a", 0), ("é", 2)):
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, env={**os.environ, **env})
        assert done.returncode == expected
    assert b"--workdir must be a path in ASCII" in done.stderr
    assert b"Set PYTHONUTF8=1" in done.stderr


def test_a_full_disk_of_standard_output_is_named() -> None:
    code = "from skincnn.cli import process; process.main(lambda: print('x', flush=True))"
    shell = ["sh", "-c", 'exec "$0" -c "$1" > /dev/full', sys.executable, code]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert done.returncode == 2
    start = "error: Standard output cannot be written: [Errno 28] No space left on device."
    assert done.stderr.startswith(start)
    assert done.stderr.count("\n") == 1


def test_too_little_address_space_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBLAS would wait forever."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 << 30, resource.RLIM_INFINITY))
    message = r"at least 5\.1 GB of .* Received: 3\.2 GB\. .*`ulimit -v unlimited`"
    with pytest.raises(ConfigError, match=message):
        preconditions.require_machine()


def test_memory_that_cannot_be_executed_is_named() -> None:
    """XLA would be killed when it compiles a function."""
    code = (
        "import ctypes; from skincnn.preconditions import require_executable_memory\n"
        "require_executable_memory()\n"
        "PR_SET_MDWE = 65\n"
        "print(ctypes.CDLL(None).prctl(PR_SET_MDWE, 1, 0, 0, 0), flush=True)\n"
        "require_executable_memory()"
    )
    done = run_code(code)
    if done.stdout != "0\n":
        pytest.skip("Linux 6.3 or later is required")
    assert "ConfigError: Training compiles functions, but this system" in done.stderr


def test_a_system_without_local_sockets_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio, on which the HTTP service is based, requires them."""
    preconditions.require_local_sockets()

    def socketpair() -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socketpair", socketpair)
    done = run_here("serve.py", "model")
    assert done.returncode == 2
    assert "error: The server requires local sockets (AF_UNIX), which" in done.stderr


def test_the_exit_code_is_correct_if_standard_error_is_full() -> None:
    code = (
        "from skincnn.cli import process; from skincnn.errors import ConfigError\n"
        "def command(): raise ConfigError('x')\n"
        "process.main(command)"
    )
    shell = ["sh", "-c", 'exec "$0" -c "$1" 2> /dev/full', sys.executable, code]
    assert subprocess.run(shell).returncode == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    code = (
        "import sys; from skincnn.cli import main, process; from skincnn import startup\n"
        "def command():\n"
        "    print('output'); print('error', file=sys.stderr); sys.stdin.read()\n"
        "    with startup._without_noise(): pass\n"
        "process.main(command)"
    )
    shell = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
    done = subprocess.run(shell, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "output\n")
    assert done.stderr == ("" if "2>&-" in closed else "error\n")


def test_a_deleted_current_directory_is_named(tmp_path: Path) -> None:
    code = (
        "import os; from skincnn.cli import process; os.mkdir('x'); os.chdir('x')\n"
        "os.rmdir('../x'); process.main(lambda: None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: The current directory was deleted.")


def test_home_directories_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    assert to_path("~/runs/a") == Path("/home/x/runs/a")
    assert to_path(Path("~")) == Path("/home/x")
    assert to_path("runs/~a") == Path("runs/~a")
    assert to_path("~nosuchuser/a") == Path("~nosuchuser/a")
    for value in (None, b"runs/a", {"wart": "mel"}, os.scandir):
        with pytest.raises(ConfigError, match=r"Expected a path.* Received: "):
            to_path(value)  # type: ignore[arg-type]
    assert skincnn.Run("~/runs/a").path == Path("/home/x/runs/a")
    with common.path_flags():
        arguments = tyro.cli(
            predict.Arguments,
            args="~/m x.jpg --output=~/o.csv --grad-cam ~/g --isic-csv ~/i.csv".split(),
        )
    assert [arguments.model, arguments.output, arguments.grad_cam, arguments.isic_csv] == [
        Path("/home/x") / name for name in ("m", "o.csv", "g", "i.csv")
    ]


def test_an_unknown_home_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container can run with a user ID that has no entry in /etc/passwd."""

    def fail(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", fail)
    for name in ("HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    message = "home directory is not known. Set the environment variable HOME, or .*--data"
    table = prepare_data.Arguments(config="table", table="~/x.csv")
    monkeypatch.setenv("KERAS_HOME", "~/.keras")  # Keras would not expand it
    for function in (
        lambda: to_path("~/runs"),
        lambda: to_path("~"),
        built_datasets,
        lambda: prepare_dataset("demo_tiny"),
        lambda: prepare_data._table_options(table),
        startup.load_tensorflow.__wrapped__,
    ):
        with pytest.raises(ConfigError, match=message):
            function()
    assert not list(tmp_path.iterdir())
    assert built_datasets(tmp_path / "data") == []
    assert to_path("~a") == Path("~a")


@pytest.mark.parametrize(
    ("caller", "home", "keras_home"),
    [
        ("import skincnn; skincnn.Run", {}, {}),
        ("cli.main.main()", {}, {"KERAS_HOME": ""}),
        ("import skincnn; skincnn.Run", {"HOME": "home"}, {"KERAS_HOME": ""}),
    ],
)
def test_keras_writes_no_files_to_the_current_directory(
    caller: str, home: dict[str, str], keras_home: dict[str, str], tmp_path: Path
) -> None:
    """A container can run with a user ID that has no entry in /etc/passwd."""
    for name in ("current", "home", "temporary"):
        (tmp_path / name).mkdir()
    paths = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")}
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "KERAS_HOME")}
    env |= {**keras_home, **paths, **{k: str(tmp_path / v) for k, v in home.items()}}
    code = (
        "import pwd, sys; pwd.getpwuid = {}.__getitem__\n"
        "sys.argv = 'skincnn datasets --data-dir x'.split()\n"
        f"from skincnn import cli; import skincnn.cli.main\n{caller}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        **{"capture_output": True, "text": True, "cwd": tmp_path / "current", "env": env},
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "current").iterdir())
    assert not list((tmp_path / "temporary").iterdir())
    assert (tmp_path / "home/.keras/keras.json").exists() == bool(home)


def test_messages_about_the_cache_of_matplotlib_are_hidden(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = "from skincnn.startup import load_tensorflow; load_tensorflow()"
    done = run_code(
        code, HOME=str(tmp_path / "file"), MPLCONFIGDIR="", KERAS_HOME=str(tmp_path)
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_data_dir_in_the_home_directory_is_used(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(data_dir.parent))
    done = run_here(
        "prepare_data.py", "--config", "demo_tiny", f"--data-dir=~/{data_dir.name}"
    )
    assert done.returncode == 0, done.stderr
    assert f"is in {data_dir}/ham10000/demo_tiny/" in done.stdout
    assert not (ROOT / "~").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (NOT_UTF8, r"must be a path that is valid UTF-8.*caf\\xe9"),
        ("d" * (MAX_NAME + 1), "at most 255 bytes in each name"),
        ("/".join(["d" * 200] * (MAX_PATH // 200)), "must be a path of at most 3935 bytes"),
        ("gs://bucket/run", "Received the URL gs://bucket/run"),
    ],
)
@pytest.mark.parametrize("command", ["train.py", "prepare_data.py"])
def test_unusable_paths_are_rejected_before_any_work(
    name: str, message: str, command: str, tmp_path: Path
) -> None:
    path = name if "://" in name else tmp_path / name
    flags: dict[str, tuple[object, ...]] = {
        "train.py": ("--data.datasets", "demo_tiny", "--workdir", path),
        "prepare_data.py": ("--config", "demo_tiny", "--data-dir", path),
    }
    done = run_here(command, *flags[command])
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(ConfigError, match=message):
        require_usable_path(to_path(path), "--workdir")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gs://bucket/x", "DATA_DIR: expected a path on this computer. Received the URL"),
        (NOT_UTF8, "TFDS_DATA_DIR must"),
    ],
)
def test_the_default_data_dir_is_checked(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", value)
    for function in (built_datasets, lambda: prepare_dataset("demo_tiny")):
        with pytest.raises(ConfigError, match=message):
            function()


def test_a_dataset_in_a_directory_with_the_characters_of_patterns_is_built_once(
    tmp_path: Path,
) -> None:
    builder = prepare_dataset("demo_tiny", tmp_path / "[1] *?")
    written = Path(builder.data_dir, "build.json").stat().st_mtime_ns
    again = prepare_dataset("demo_tiny", tmp_path / "[1] *?")
    assert Path(again.data_dir, "build.json").stat().st_mtime_ns == written
    rows = read_rows(again, ["fold_0"])
    assert len(rows) == builder.info.splits["fold_0"].num_examples


def test_names_of_directories_are_unique(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "x/run", "y/run", "x/z/run", "y/z/run")]
    names = ["a", "x/run", "y/run", "x/z/run", "y/z/run"]
    assert unique_names(folders) == names
    assert unique_names([*folders[:2], folders[1]]) == ["a", "run", "run"]
    assert unique_names([Path("/run"), Path("/a/run")]) == ["/run", "a/run"]
    assert unique_names([]) == []


def test_links_that_lead_to_themselves_are_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert real_path(tmp_path / "a/..") == tmp_path.resolve()
    with pytest.raises(ConfigError, match="loop is not a directory"):
        read_ood_folder(loop, DataConfig())


def test_a_broken_symbolic_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to("unmounted")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("runs", "runs/a", "loop", "loop/a"):
        with pytest.raises(ConfigError, match="symbolic link to a missing directory"):
            require_writable_folder(tmp_path / name, "--workdir")
    (tmp_path / "unmounted").mkdir()
    require_writable_folder(tmp_path / "runs/a", "--workdir")


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (("compare.py", "nowhere"), "--output"),
        (("make_folds.py", "--manual-dir", "nowhere"), "--output"),
        (("make_folds.py", "--manual-dir", "nowhere"), "--search"),
        (("benchmarks", "input", "--only", "nothing"), "--output"),
    ],
)
def test_outputs_are_checked_before_any_work(
    command: tuple[str, ...], flag: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = run_here(*command, flag, tmp_path / "file" / "output")
    assert done.returncode == 2
    assert re.fullmatch(f"error: .*{flag} must be a directory.*\n", done.stderr)


@pytest.mark.parametrize("name", ["e [v2]", "a*b?", "a\nb", "a\\b", "é日本", NOT_UTF8])
def test_saved_models_are_read_in_directories_with_any_name(
    name: str, tmp_path: Path
) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.variable = tf.Variable(3.0)
    folder = tmp_path / name
    folder.mkdir()
    with plain_path(folder) as path:
        tf.saved_model.save(module, str(path / "model"))
    assert (folder / "model" / "saved_model.pb").is_file()
    with plain_path(folder / "model") as path:
        assert tf.saved_model.load(str(path)).variable.numpy() == 3


@pytest.mark.slow
def test_a_run_directory_may_have_brackets(
    run: tuple[Path, object], tmp_path: Path, data_dir: Path
) -> None:
    workdir = Path(shutil.copytree(run[0], tmp_path / "e [v2]"))
    path = skincnn.Run(workdir, data_dir).export()["saved_model"]
    assert path == workdir / "export" / "skincnn" / "2"
    table = skincnn.load(path).predict(np.full((40, 40, 3), 200, np.uint8))
    assert table["status"].tolist() == ["ok"]
