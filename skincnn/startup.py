"""Starts TensorFlow, and hides its startup messages that require no action."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator

NOISE = re.compile(
    rb"All log messages before absl::InitializeLog"
    rb"|oneDNN custom operations are on"
    rb"|Could not find cuda drivers"
    rb"|failed call to cuInit"
    rb"|TensorFlow binary is optimized"
    rb"|To enable the following instructions"
    rb"|computation_placer already registered"
    rb"|Unable to register cu(FFT|DNN|BLAS) factory"
)
"""Messages that TensorFlow prints at startup and that require no action."""


@functools.cache
def load_tensorflow() -> None:
    """Imports TensorFlow and initializes its devices, hiding messages that match `NOISE`.

    Standard error is buffered during the import, and the other messages are written
    afterward. With a Keras backend other than TensorFlow, the GPUs are hidden from
    TensorFlow.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    with _without_noise():
        import tensorflow as tf

        if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
            # TensorFlow then only reads images, and must not allocate GPU memory.
            tf.config.set_visible_devices([], "GPU")
        tf.config.list_logical_devices()
    # Retracing is expected here, because input shapes and models vary.
    tf.get_logger().addFilter(
        lambda record: "triggered tf.function retracing" not in record.getMessage()
    )


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    # The lines come from C++ and bypass sys.stderr, so the file descriptor is redirected.
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as buffer:
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            buffer.seek(0)
            for line in buffer:
                if not NOISE.search(line):
                    os.write(2, line)
