"""Which settings of the user's environment take effect, and the startup of TensorFlow.

A setting of Keras, matplotlib or Pillow that other projects of the user need must neither
stop this package nor change its results. docs/guides/platforms.md lists what takes effect.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from skincnn import preconditions
from skincnn.errors import ConfigError, describe_import_error
from skincnn.interruption import STREAMS, LenientStream
from skincnn.paths import to_path
from skincnn.write_errors import describe_cause

BACKENDS = ("tensorflow", "jax")
"""Keras backends with which this package works."""
KERAS_SETTINGS = {
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
    "max_epochs": None,
    "max_steps_per_epoch": None,
}
"""Names and values in `keras.config` that this package requires: the defaults of Keras.
The precision of training is `train.precision`."""
OMITTED = (
    *("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "TF_XLA_FLAGS"),
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION",
)
"""Variables that commands remove. They would change the trained model (`train.jit` selects
whether XLA compiles it), or select an implementation that Protocol Buffers lack today."""
LIBRARY_FLAG = "--xla_gpu_cuda_data_dir"
"""The flag in XLA_FLAGS that commands with TensorFlow keep: where libraries of CUDA are."""
MODULE_SETTINGS = (
    ("PIL.Image", "MAX_IMAGE_PIXELS", 1024**3 // 4 // 3),
    ("PIL.ImageFile", "LOAD_TRUNCATED_IMAGES", False),
    ("tensorflow.python.data.ops.debug_mode", "DEBUG_MODE", False),
)
"""Module, name and required value of other settings: their defaults. The limit of pixels of
this package is `image_decoding.MAX_PIXELS` of `tfds_ham10000`."""
LIMITS = (
    "Also check the directories HOME and TMPDIR, and the limits that `ulimit -a` prints."
)
NOISE = (
    "All log messages before absl::InitializeLog"
    "|oneDNN custom operations are on"
    "|failed call to cuInit.*CUDA_ERROR_NO_DEVICE"
    "|TensorFlow binary is optimized"
    "|To enable the following instructions"
    "|computation_placer already registered"
    "|Unable to register cu(FFT|DNN|BLAS) factory"
    "|mkdir -p failed for path .*matplotlib"
    "|Matplotlib (created a temporary cache directory|is building the font cache)"
)
"""Pattern of messages at the startup of TensorFlow and Keras that require no action.
Those of Matplotlib, which Keras imports, concern its cache in the home directory."""
NO_DRIVER_NOISE = r"Could not find cuda drivers|failed call to cuInit.*\(303\)"
"""Pattern of messages that require no action without an NVIDIA driver. 303 is the number of
the error that a library of the driver cannot be loaded."""
DRIVER = "/dev/nvidiactl"
"""A file that exists if Linux, or a container, has a driver of NVIDIA."""
LIBRARY_WARNINGS = {
    "__array__ implementation doesn't accept a copy keyword": DeprecationWarning,
    r"(currentThread|getName)\(\) is deprecated": DeprecationWarning,
    ".*joblib will operate in serial mode": UserWarning,
    r"\w+\.__init__ got an unexpected keyword argument '___pyct": DeprecationWarning,
    "Explicitly requested dtype int64 requested in ShapeDtypeStruct": UserWarning,
}
"""Patterns and categories of warnings that require no action, of Keras, KerasTuner, joblib
(of scikit-learn, without /dev/shm), gast (of TensorFlow, with Python 3.13) and JAX 0.12.
They would end a program that raises warnings as errors. setup.cfg has the same patterns."""
SECONDS_TO_FILTER = 5
"""Maximum time in which the last messages of `load_tensorflow` are filtered."""
_lock = threading.Lock()
_num_inside = 0
"""Number of blocks of `own_settings` that are being executed, in all threads."""
_restore = contextlib.ExitStack()
"""Restores the settings of the user when the last of these blocks ends."""
_FILTER = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin.buffer:
    if not re.search(sys.argv[1].encode(), line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


def set_command_environment() -> None:
    """Replaces settings of Keras, matplotlib, tqdm and XLA in the environment of a command.

    Subprocesses inherit the environment. Only the variable KERAS_BACKEND selects a backend,
    not the file keras.json, because that file applies to all projects of the user.
    """
    os.environ["MPLBACKEND"] = "agg"
    os.environ["MATPLOTLIBRC"] = os.devnull
    os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
    os.environ["KERAS_NNX_ENABLED"] = "false"
    for name in os.environ.copy():
        is_style = name.startswith("TQDM_") and name != "TQDM_DISABLE"
        if is_style or name in OMITTED:
            del os.environ[name]
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        # Flags for the XLA of JAX can be unknown to that of TensorFlow, which would exit.
        flags = os.environ.pop("XLA_FLAGS", "").split()
        if kept := [flag for flag in flags if flag.startswith(LIBRARY_FLAG)]:
            os.environ["XLA_FLAGS"] = " ".join(kept)


def ignore_missing_plot_backend() -> None:
    """Removes MPLBACKEND from the environment if matplotlib does not have this backend.

    Otherwise the import of matplotlib, and therefore of Keras, would fail. A notebook sets
    the variable to a backend that other environments lack.
    """
    backend = os.environ.get("MPLBACKEND")
    if not backend or "matplotlib" in sys.modules:
        return
    del os.environ["MPLBACKEND"]
    import matplotlib

    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = backend
        os.environ["MPLBACKEND"] = backend


@functools.cache
def load_tensorflow() -> None:
    """Imports TensorFlow and Keras, and initializes the devices.

    Messages that require no action are hidden; see `NOISE`. If the backend of Keras is not
    TensorFlow, the GPUs are hidden from TensorFlow.

    Raises:
        ConfigError: TensorFlow or Keras cannot be imported (see also
            `preconditions.require_unforked` and `require_machine`), KERAS_HOME cannot be
            used (see `skincnn.paths.to_path`), or the backend of Keras is none of
            `BACKENDS`.
    """
    preconditions.require_unforked()
    preconditions.require_machine()
    _set_keras_home()
    for pattern, category in LIBRARY_WARNINGS.items():
        warnings.filterwarnings("ignore", pattern, category)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # Network drives without locks would reject weights. `files.locked` locks the directory.
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
    with _without_noise():
        backend = _import_keras()
        import tensorflow as tf

        if backend != "tensorflow":
            # TensorFlow then only reads images, and must not allocate GPU memory.
            tf.config.set_visible_devices([], "GPU")
        tf.config.list_logical_devices()
    # Retracing is expected here, because input shapes and models vary.
    tf.get_logger().addFilter(
        lambda record: "triggered tf.function retracing" not in record.getMessage()
    )
    # TFDS prints a traceback if its import fails, in addition to the error of skincnn.
    tfds = os.path.join("tensorflow_datasets", "__init__.py")
    logging.getLogger("absl").addFilter(lambda record: not record.pathname.endswith(tfds))


def set_keras(settings: dict[str, object]) -> dict[str, object]:
    """Sets values in `keras.config`, and returns the previous values."""
    from keras import config

    previous = {name: getattr(config, name)() for name in settings}
    for name, value in settings.items():
        getattr(config, f"set_{name}")(value)
    return previous


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Applies the settings of this package inside the block, and restores the user's.

    Keras has `KERAS_SETTINGS`, other modules `MODULE_SETTINGS`, and matplotlib its
    defaults, except the backend, which this package does not use. TensorFlow compiles
    functions. Standard streams may be closed, or lack `flush`. These settings belong to
    the process: of several threads, the first applies them, and the last restores those of
    the user. See also `_thread_settings`. The functions and methods in `skincnn.__all__`
    that run TensorFlow or draw figures are decorated with `own_settings`.

    Raises:
        ConfigError: This process was forked after TensorFlow was initialized, TensorFlow
            does not execute eagerly, or a strategy of `tf.distribute` is in scope.
    """
    global _num_inside, _restore
    preconditions.require_unforked()
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and not tensorflow.executing_eagerly():
        raise ConfigError(
            "TensorFlow must execute eagerly. Remove "
            "tf.compat.v1.disable_eager_execution() and tf.compat.v1.disable_v2_behavior() "
            "from the program, and call this function outside tf.Graph and tf.function."
        )
    if tensorflow is not None and tensorflow.distribute.has_strategy():
        raise ConfigError(
            "This function was called in the scope of a tf.distribute strategy. Call it "
            "outside the scope: `train.devices` distributes the training."
        )
    with _lock:
        if not _num_inside:
            _restore = _apply_settings()
        _num_inside += 1
    try:
        with _thread_settings():
            yield
    finally:
        with _lock:
            _num_inside -= 1
            if not _num_inside:
                _restore.close()


def _apply_settings() -> contextlib.ExitStack:
    """Applies the settings of this package; closing the result restores the user's."""
    with contextlib.ExitStack() as stack:
        if "keras" in sys.modules:
            stack.callback(set_keras, set_keras(KERAS_SETTINGS))
        for module_name, name, value in MODULE_SETTINGS:
            if module := sys.modules.get(module_name):
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)
        if tf := sys.modules.get("tensorflow"):
            run_eagerly = tf.config.run_functions_eagerly
            stack.callback(run_eagerly, tf.config.functions_run_eagerly())
            run_eagerly(False)
            if jit := tf.config.optimizer.get_jit():
                stack.callback(tf.config.optimizer.set_jit, jit)
                tf.config.optimizer.set_jit(False)
            ops: Any = sys.modules["tensorflow.python.framework.ops"]
            if ops.is_auto_dtype_conversion_enabled():  # in which Keras cannot train
                mode = ops.get_dtype_conversion_mode()
                stack.callback(setattr, ops, "_dtype_conversion_mode", mode)
                ops._dtype_conversion_mode = ops.PromoMode.LEGACY
        for name in STREAMS:
            stream = getattr(sys, name)
            lacks_flush = stream is not None and not hasattr(stream, "flush")
            if lacks_flush or getattr(stream, "closed", False):
                stack.callback(setattr, sys, name, stream)
                setattr(sys, name, LenientStream(stream))
        if "matplotlib" in sys.modules:
            import matplotlib

            stack.enter_context(matplotlib.rc_context())
            matplotlib.rcdefaults()
        return stack.pop_all()


@contextlib.contextmanager
def _thread_settings() -> Iterator[None]:
    """Permits underflow in NumPy and NaN (an unknown age) in tensors, in this thread.

    Numbers in files have all digits, unlike those of `legacy` print options. Only
    `train.devices` distributes models.
    """
    with contextlib.ExitStack() as stack:
        if numpy := sys.modules.get("numpy"):
            stack.enter_context(numpy.errstate(all="warn", under="ignore"))
            stack.enter_context(numpy.printoptions(legacy=False))
        if tf := sys.modules.get("tensorflow"):
            context = sys.modules["tensorflow.python.eager.context"].context()
            callbacks = list(context.op_callbacks)
            tf.debugging.disable_check_numerics()
            if context.op_callbacks != callbacks:
                stack.callback(tf.debugging.enable_check_numerics)
        if "keras" in sys.modules:
            from keras import distribution

            stack.callback(distribution.set_distribution, distribution.distribution())
            distribution.set_distribution(None)
        yield


def _set_keras_home() -> None:
    """Makes sure that Keras writes keras.json neither to a directory named ~ nor to "".

    Without a home directory, as for a user without an entry in /etc/passwd, KERAS_HOME is a
    temporary directory that is removed at the end of the process.
    """
    if home := os.environ.get("KERAS_HOME"):
        os.environ["KERAS_HOME"] = str(to_path(home, "KERAS_HOME"))
    elif os.path.expanduser("~") == "~":
        os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="keras-")
        atexit.register(shutil.rmtree, os.environ["KERAS_HOME"], ignore_errors=True)
    else:
        os.environ.pop("KERAS_HOME", None)  # "" would be the current directory


def _import_keras() -> str:
    """Imports TensorFlow, which may import Keras, and Keras; returns Keras's backend."""
    setting = os.environ.get("KERAS_BACKEND")
    backend = f"KERAS_BACKEND={setting}" if setting else "KERAS_BACKEND unset"
    fix = f"Set KERAS_BACKEND to one of: {', '.join(BACKENDS)} (pip install -e '.[jax]')"
    try:
        import tensorflow  # noqa: F401, I001

        import keras
    # The cause may be any error in a package that TensorFlow or Keras imports.
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(".:")
        if not _is_raised_by_settings(error):
            what, advice = "TensorFlow and Keras", describe_cause(error)
            text = f"{what} cannot be imported: {cause}. {advice}"
            if not advice:
                text = f"{describe_import_error(error, what)} {LIMITS}"
            raise ConfigError(text) from error
        if "NNX" in cause:
            fix = "Unset KERAS_NNX_ENABLED"
        raise ConfigError(
            f"Keras cannot be imported with {backend} and the settings in "
            f"{_keras_json()}: {cause}. {fix}, or delete the file."
        ) from error
    name: str = keras.config.backend()
    if name not in BACKENDS:
        raise ConfigError(f"The Keras backend {name} is not supported. {fix}.")
    return name


def _is_raised_by_settings(error: BaseException) -> bool:
    """Returns whether Keras raised an error when it read keras.json or loaded a backend.

    TensorFlow contains an earlier version of Keras, which reads the file, too.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return any(re.search(r"\bkeras\W(src\W)?backend\b", x.filename) for x in frames)


def _keras_json() -> str:
    folder = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    return os.path.join(os.path.expanduser(folder), "keras.json")


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Removes messages that require no action from standard error inside the block.

    Most of them come from C++ and bypass sys.stderr, so the file descriptor is redirected.
    All lines pass through another process, because TensorFlow may end this one: for
    example, if it does not find the symbols of its libraries.
    """
    process = _start_filter()
    if process is None:
        yield
        return
    assert process.stdin is not None
    original = os.dup(2)
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    try:
        yield
    finally:
        LenientStream(sys.stderr).flush()
        os.dup2(original, 2)
        os.close(original)
        # A process that another thread has started in the block keeps the pipe open. Its
        # messages are still filtered, but not waited for.
        try:
            process.wait(SECONDS_TO_FILTER)
        except subprocess.TimeoutExpired:
            threading.Thread(target=process.wait, daemon=True).start()


def _start_filter() -> subprocess.Popen[bytes] | None:
    """Starts the process that filters standard error; returns None if this is impossible.

    A program that contains Python, such as a frozen application or uWSGI, is not started:
    it would run itself instead of the filter.
    """
    name = os.path.basename(sys.executable or "").lower()
    if getattr(sys, "frozen", False) or not name.startswith("python"):
        return None
    if sys.stderr is None:  # a program without a console
        return None
    LenientStream(sys.stderr).flush()
    noise = NOISE if os.path.exists(DRIVER) else f"{NOISE}|{NO_DRIVER_NOISE}"
    command = [sys.executable, "-I", "-S", "-c", _FILTER, noise]
    try:
        os.fstat(2)  # otherwise, a pipe of the process could become standard error
        return subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
    except OSError:
        return None
