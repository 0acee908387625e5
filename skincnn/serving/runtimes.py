"""Copies of a network for phones and other runtimes: LiteRT and ONNX."""

from __future__ import annotations

import importlib.util
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from skincnn.errors import ConfigError

Floats = npt.NDArray[np.float32]
Inputs = Mapping[str, Floats]
"""`images` [batch, size, size, 3] in 0..255, and `metadata` where the network is told."""
Outputs = dict[str, Floats]
"""`logits` [batch, num_classes] and `distance` [batch]."""
Ask = Callable[[Inputs], Outputs]
BATCH_SIZE = 32


@dataclass(frozen=True)
class Runtime:
    """A form of a network that is a single file.

    Attributes:
        suffix: How the file's name ends.
        write: Writes a network, made by `fixed_size`, to a file; the inputs are some on
            which it may be calibrated.
        open: Returns what answers, from a file.
        tolerance: The largest difference in probability from the network; None where
            that is a matter of the picture, and classes alone are held.
        packages: What has to be installed (`pip install skincnn[export]`).
    """

    suffix: str
    write: Callable[[keras.Model, Inputs, Path], None]
    open: Callable[[Path], Ask]
    tolerance: float | None
    packages: tuple[str, ...]


def fixed_size(model: keras.Model, size: int) -> keras.Model:
    """Returns the model for square pictures of one size, as runtimes want it."""
    inputs = {"images": keras.Input((size, size, 3), name="images")}
    asked: Any = inputs["images"]
    if isinstance(model.input, dict):
        told = model.input["metadata"].shape[1:]
        inputs["metadata"] = keras.Input(told, name="metadata")
        asked = inputs
    return keras.Model(inputs, model(asked, training=False))


def require(format_name: str, runtime: Runtime) -> None:
    """Checks that a runtime's packages are installed.

    Raises:
        ConfigError: They are not.
    """
    missing = [name for name in runtime.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--formats {format_name} needs {', '.join(missing)}. "
            "Install: pip install -e .[export]"
        )


def batches(inputs: Inputs) -> Iterator[Inputs]:
    """Yields the inputs in parts of `BATCH_SIZE`."""
    for start in range(0, len(inputs["images"]), BATCH_SIZE):
        yield {name: values[start : start + BATCH_SIZE] for name, values in inputs.items()}


def _write_litert(**options: Any) -> Callable[[keras.Model, Inputs, Path], None]:
    def write(model: keras.Model, inputs: Inputs, path: Path) -> None:
        model.export(str(path), format="litert", verbose=False, **options)

    return write


def _write_litert_int8(model: keras.Model, inputs: Inputs, path: Path) -> None:
    """Weights and activations of 8 bits, in the ranges that pictures give them."""

    def representative() -> Iterator[list[Floats]]:
        for row in range(len(inputs["images"])):
            yield [inputs[name][row : row + 1] for name in sorted(inputs)]

    _write_litert(
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=representative,
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
    )(model, inputs, path)


def _open_litert(path: Path) -> Ask:
    from ai_edge_litert.interpreter import Interpreter

    # Held by the function: its signatures do not keep it alive.
    interpreter = Interpreter(str(path), num_threads=os.cpu_count())
    signature = interpreter.get_signature_runner()
    one_at_a_time = threading.Lock()  # it has one memory for all that it computes

    def ask(inputs: Inputs) -> Outputs:
        with one_at_a_time:
            found = signature(**inputs)
            return {name: np.array(values) for name, values in found.items()}

    ask.interpreter = interpreter  # type: ignore[attr-defined]
    return ask


def _write_onnx(model: keras.Model, inputs: Inputs, path: Path) -> None:
    model({name: values[:1] for name, values in inputs.items()})  # Keras asks for a call
    with warnings.catch_warnings():
        # Of the converter, about NumPy.
        warnings.simplefilter("ignore", FutureWarning)
        model.export(str(path), format="onnx", verbose=False)


def _open_onnx(path: Path) -> Ask:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]

    def ask(inputs: Inputs) -> Outputs:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return ask


LITERT, ONNX = ("ai_edge_litert",), ("onnx", "onnxruntime", "tf2onnx")
RUNTIMES = {
    "litert": Runtime(".tflite", _write_litert(), _open_litert, 1e-4, LITERT),
    "litert_float16": Runtime(
        "_float16.tflite",
        _write_litert(
            optimizations=[tf.lite.Optimize.DEFAULT],
            target_spec={"supported_types": [tf.float16]},
        ),
        _open_litert,
        None,
        LITERT,
    ),
    "litert_int8": Runtime("_int8.tflite", _write_litert_int8, _open_litert, None, LITERT),
    "onnx": Runtime(".onnx", _write_onnx, _open_onnx, 1e-4, ONNX),
}
