"""The requests and programs that export/README.md documents.

TensorFlow Serving is not installed: the requests are sent to the SavedModel itself.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from exports import CONFIG, make_rule, run_example, with_distance

from skincnn.classes import HAM10000
from skincnn.clinical_metadata import CLINICAL_FEATURES, encode_clinical_metadata
from skincnn.data.preprocessing_spec import describe_preprocessing
from skincnn.model.classifier import build_classifier
from skincnn.records import to_json
from skincnn.serving.export_info import (
    IMAGE_INPUTS,
    METADATA_INPUTS,
    ExportInfo,
    Preprocessing,
    render_usage,
)
from skincnn.serving.images import OK, UNREADABLE
from skincnn.serving.network import Network
from skincnn.serving.runtimes import RUNTIMES, with_fixed_size
from skincnn.serving.saved_model import write_saved_model

NAMES = tuple(lesion.name for lesion in HAM10000)
RULE = make_rule(*NAMES)
INFO = ExportInfo(
    format="onnx",
    synthetic=True,
    dataset="x",
    rule=RULE,
    variant="",
    logit_adjustment=(),
    ood_off="",
    attribution="",
    preprocessing=(
        Preprocessing(stored_longest_side=None, **describe_preprocessing(CONFIG.data)),
    ),
    inputs=IMAGE_INPUTS | METADATA_INPUTS,
    clinical_features=CLINICAL_FEATURES,
    models_sha256=("0" * 64,),
    predictions_sha256="0" * 64,
    files={},
)
MODEL = "skincnn_d4"
USAGE = render_usage(INFO, MODEL)
PNG = tf.io.encode_png(np.full((40, 50, 3), 99, np.uint8)).numpy()
ROW = pd.DataFrame({"age": [50], "sex": ["female"], "localization": ["back"]})
Call = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def network() -> Network:
    """Returns a network that requires clinical metadata."""
    model = replace(CONFIG.model, clinical_metadata=True)
    config = replace(CONFIG, model=model)
    return Network(with_distance(build_classifier(model, len(NAMES))), config)


@pytest.fixture(scope="module")
def call(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Returns a function that calls the default signature with arrays by name."""
    path = tmp_path_factory.mktemp("with_metadata") / "1"
    write_saved_model([network], RULE, path)
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]

    def predict(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in signature(**tensors).items()}

    return predict


def test_the_documented_rest_example_works(call: Call, tmp_path: Path) -> None:
    """`cat` receives the body in place of curl."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    (tmp_path / "x.jpg").write_bytes(PNG)
    (command,) = re.findall(r"\n    (printf '[^\n]*\n)", USAGE)
    command = command.replace("|", "| cat")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True)
    assert f"http://localhost:8501/v1/models/{MODEL}:predict" in USAGE
    (row,) = json.loads(done.stdout)["instances"]
    content = base64.b64decode(row["image_bytes"]["b64"])
    assert content == PNG
    np.testing.assert_allclose(row["metadata"], encode_clinical_metadata(ROW)[0])
    outputs = call(
        image_bytes=np.array([content, b"not an image"]),
        metadata=np.float32([row["metadata"]] * 2),
    )
    assert outputs["status"].tolist() == [OK.encode(), UNREADABLE.encode()]
    assert outputs["probabilities"][0].sum() == pytest.approx(1, abs=1e-5)
    assert [name.decode() for name in outputs["class_names"][0]] == list(NAMES)


@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_the_documented_examples_encode_the_clinical_metadata(
    name: str, network: Network, tmp_path: Path
) -> None:
    runtime = RUNTIMES[name]
    path = tmp_path / f"{MODEL}{runtime.suffix}"
    image = np.full((40, 50, 3), 99, np.uint8)
    inputs = {
        "images": np.float32([image[:32, :32]]),
        "metadata": encode_clinical_metadata(ROW),
    }
    model = with_fixed_size(network.model, 32, RULE.calibration_map)
    runtime.write(model, inputs, path)
    runtime.embed(path, to_json(INFO))
    printed = run_example(USAGE, path, image)
    assert list(printed) == list(NAMES)
    probabilities = model(inputs)["probabilities"][0]
    np.testing.assert_allclose(list(printed.values()), probabilities, atol=1e-5)
