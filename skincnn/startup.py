"""Which settings of the user's environment take effect, and the startup of TensorFlow.

A setting of Keras or matplotlib that other projects of the user need must neither stop this
package nor change its results. docs/guides/platforms.md lists what takes effect.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator

from skincnn.errors import ConfigError
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
LIMITS = (
    "Check the installation, the directories HOME and TMPDIR, and the limits that "
    "`ulimit -a` prints."
)
NOISE = (
    "All log messages before absl::InitializeLog"
    "|oneDNN custom operations are on"
    "|Could not find cuda drivers"
    "|failed call to cuInit"
    "|TensorFlow binary is optimized"
    "|To enable the following instructions"
    "|computation_placer already registered"
    "|Unable to register cu(FFT|DNN|BLAS) factory"
)
"""Pattern of messages that TensorFlow prints at startup and that require no action."""
_FILTER = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin.buffer:
    if not re.search(sys.argv[1].encode(), line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


def set_command_environment() -> None:
    """Replaces settings of Keras, matplotlib and tqdm in the environment of a command.

    Subprocesses inherit the environment. Only the variable KERAS_BACKEND selects a backend,
    not the file keras.json, because that file applies to all projects of the user.
    """
    os.environ["MPLBACKEND"] = "agg"
    os.environ["MATPLOTLIBRC"] = os.devnull
    os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"
    for name in os.environ.copy():
        is_style = name.startswith("TQDM_") and name != "TQDM_DISABLE"
        if is_style or name in ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH"):
            del os.environ[name]
    if "KERAS_HOME" in os.environ:  # otherwise, Keras makes a directory with the name ~
        os.environ["KERAS_HOME"] = os.path.expanduser(os.environ["KERAS_HOME"])


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

    Messages that match `NOISE` are hidden. With another Keras backend, the GPUs are hidden
    from TensorFlow.

    Raises:
        ConfigError: Keras cannot be imported with the user's settings, or its backend is
            none of `BACKENDS`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
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

    Keras has `KERAS_SETTINGS` and matplotlib its defaults, except the backend, which this
    package does not use. All public functions that build models or draw figures are
    decorated with it.
    """
    with contextlib.ExitStack() as stack:
        if "keras" in sys.modules:
            stack.callback(set_keras, set_keras(KERAS_SETTINGS))
        if "matplotlib" in sys.modules:
            import matplotlib

            stack.enter_context(matplotlib.rc_context())
            matplotlib.rcdefaults()
        yield


def _import_keras() -> str:
    """Imports TensorFlow, which may import Keras, and Keras; returns its backend."""
    backend = os.environ.get("KERAS_BACKEND") or "the backend in keras.json"
    fix = f"Set KERAS_BACKEND to one of: {', '.join(BACKENDS)} (pip install -e .[jax])"
    try:
        import tensorflow  # noqa: F401, I001

        import keras
    # The cause may be any error in a package that TensorFlow or Keras imports.
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(".:")
        if not _is_raised_by_settings(error):
            advice = describe_cause(error) or LIMITS
            text = f"TensorFlow and Keras cannot be imported: {cause}. {advice}"
            raise ConfigError(text) from error
        raise ConfigError(
            f"Keras cannot be imported with KERAS_BACKEND={backend} and the settings in "
            f"{_keras_json()}: {cause}. {fix}; you may delete the file."
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
    """Removes the lines that match `NOISE` from standard error inside the block.

    The lines come from C++ and bypass sys.stderr, so the file descriptor is redirected. The
    lines pass through another process, because TensorFlow may end this one: for example, it
    exits after it has printed that a flag in TF_XLA_FLAGS is unknown.
    """
    if sys.stderr is None:  # a program without a console
        yield
        return
    sys.stderr.flush()
    command = [sys.executable, "-I", "-S", "-c", _FILTER, NOISE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        original = os.dup(2)
        os.dup2(process.stdin.fileno(), 2)
        process.stdin.close()
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
