"""Runtimes other than TensorFlow: LiteRT (for phones) and ONNX Runtime."""

from __future__ import annotations

import functools
import json
import os
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from skincnn.errors import ConfigError, require_packages
from skincnn.lookup import look_up
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.network import LOGITS, OOD_DISTANCE

Floats = npt.NDArray[np.float32]
Inputs = Mapping[str, Floats]
"""`images` [batch, size, size, 3] in 0..255. A network with clinical metadata also requires
`metadata` [batch, len(CLINICAL_FEATURES)]."""
Outputs = dict[str, Floats]
"""`logits` [batch, num_classes]; `ood_distance` [batch], which is missing if the network
does not return it; and from a LiteRT or ONNX file, calibrated `probabilities` [batch,
num_classes]."""
Infer = Callable[[Inputs], Outputs]
Write = Callable[[keras.Model, Inputs, Path], None]


@dataclass(frozen=True)
class Runtime:
    """An inference runtime and its file format. A file contains a single network.

    Attributes:
        suffix: Suffix of the file name.
        write: Writes the model from `with_fixed_size` to a file. In the format
            "litert_int8", the inputs calibrate the quantization.
        tolerance: Maximum difference in probability from the Keras model; None (no limit)
            for formats with fewer than 32 bits.
        detects_ood: Whether the distances in a file are precise enough for OOD detection.
            If not, or if it is switched off, the file does not contain them.
        embed: Adds metadata, as JSON values by name, to a file. They include the class
            names of the rule.
        open: Loads a file and returns the inference function.
        packages: Required packages, which the extra `export` installs.
    """

    suffix: str
    write: Write
    tolerance: float | None = None
    detects_ood: bool = True
    _: KW_ONLY
    embed: Callable[[Path, Mapping[str, Any]], None]
    open: Callable[[Path], Infer]
    packages: tuple[str, ...]


def with_fixed_size(model: keras.Model, size: int, rule: DecisionRule) -> keras.Model:
    """Returns the model with a fixed image `size` in pixels, as the runtimes require.

    Calibrated `probabilities` are an additional output. Without OOD limit in the rule, the
    distances are no output.
    """
    shapes = {name: tensor.shape[1:] for name, tensor in model.input.items()}
    shapes["images"] = (size, size, 3)
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    outputs = model(inputs, training=False)
    # Softmax gives the same result for logits and for the logarithms of probabilities.
    bias = np.asarray(rule.calibration_map.bias, np.float32)
    calibrated = outputs[LOGITS] / rule.calibration_map.temperature + bias
    outputs["probabilities"] = ops.softmax(calibrated, axis=-1)
    if rule.max_distance is None:
        outputs.pop(OOD_DISTANCE, None)
    return keras.Model(inputs, outputs)


def find_runtime(format_name: str) -> Runtime:
    """Returns the runtime of a format.

    Raises:
        ConfigError: The format does not exist, or its packages are not installed.
    """
    runtime = look_up(RUNTIMES, format_name, "`formats` other than saved_model")
    require_packages(runtime.packages, f"The format {format_name}", "export")
    return runtime


def _write_litert(model: keras.Model, inputs: Inputs, path: Path, **options: Any) -> None:
    model.export(str(path), format="litert", verbose=False, **options)


_write_litert_int8_weights = functools.partial(
    _write_litert, optimizations=[tf.lite.Optimize.DEFAULT]
)
_write_litert_float16 = functools.partial(
    _write_litert_int8_weights, target_spec={"supported_types": [tf.float16]}
)


def _write_litert_int8(model: keras.Model, inputs: Inputs, path: Path) -> None:
    """Writes a LiteRT file with 8-bit weights and activations, calibrated on `inputs`."""

    def representative_dataset() -> Iterator[list[Floats]]:
        for row in range(len(inputs["images"])):
            yield [inputs[name][row : row + 1] for name in sorted(inputs)]

    _write_litert_int8_weights(
        model,
        inputs,
        path,
        representative_dataset=representative_dataset,
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
    )


def _embed_litert(path: Path, metadata: Mapping[str, Any]) -> None:
    """Appends a ZIP archive, as TensorFlow Lite metadata does for associated files.

    The files in it have a fixed date; see `skincnn.training.run.save_model`.
    """
    texts = {
        "labels.txt": labels_text(metadata["rule"]["class_names"]),
        "metadata.json": json.dumps(metadata, indent=2),
    }
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text)


def labels_text(class_names: Sequence[str]) -> str:
    """Returns the content of labels.txt: one class name per line, in the model's order."""
    return "".join(f"{name}\n" for name in class_names)


def _open_litert(path: Path) -> Infer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=os.cpu_count())
    signature = interpreter.get_signature_runner()
    lock = threading.Lock()  # All calls of an interpreter share its buffers.

    def infer(inputs: Inputs) -> Outputs:
        with lock:
            outputs = signature(**inputs)
            return {name: np.array(values) for name, values in outputs.items()}

    # A signature does not keep its interpreter alive.
    infer.interpreter = interpreter  # type: ignore[attr-defined]
    return infer


def _write_onnx(model: keras.Model, inputs: Inputs, path: Path) -> None:
    # Keras can export only a model that has been called.
    model({name: values[:1] for name, values in inputs.items()})
    with warnings.catch_warnings():
        # tf2onnx uses deprecated NumPy functions.
        warnings.simplefilter("ignore", FutureWarning)
        model.export(str(path), format="onnx", verbose=False)


def _embed_onnx(path: Path, metadata: Mapping[str, Any]) -> None:
    import onnx

    model = onnx.load(str(path))
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in metadata.items()
    }
    texts["class_names"] = json.dumps(metadata["rule"]["class_names"])
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, str(path))


def _open_onnx(path: Path) -> Infer:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path))
    except Exception as error:  # ONNX Runtime has one exception class for each error code.
        raise ConfigError(
            "ONNX Runtime cannot load this network as tf2onnx converted it: "
            f"{error}. Use another format, such as litert."
        ) from error
    names = [output.name for output in session.get_outputs()]

    def infer(inputs: Inputs) -> Outputs:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return infer


_litert = functools.partial(
    Runtime, embed=_embed_litert, open=_open_litert, packages=("ai_edge_litert",)
)
_onnx = functools.partial(
    Runtime, embed=_embed_onnx, open=_open_onnx, packages=("onnx", "onnxruntime", "tf2onnx")
)
RUNTIMES = {
    "litert": _litert(".tflite", _write_litert, 1e-4),
    "litert_float16": _litert("_float16.tflite", _write_litert_float16),
    "litert_int8_weights": _litert(
        "_int8_weights.tflite", _write_litert_int8_weights, detects_ood=False
    ),
    "litert_int8": _litert("_int8.tflite", _write_litert_int8, detects_ood=False),
    "onnx": _onnx(".onnx", _write_onnx, 1e-4),
}
"""Runtimes by the name of their format in --formats."""
