"""The requests and programs that export/README.md documents.

TensorFlow Serving is not installed: the requests are sent to the SavedModel itself.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from exports import CONFIG, make_rule, run_example, with_distance
from run_dirs import make_info

from skincnn.classes import HAM10000
from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.files import write_text
from skincnn.model.classifier import build_classifier
from skincnn.records import to_json
from skincnn.serving.export import describe_export
from skincnn.serving.export_info import ExportInfo, render_usage
from skincnn.serving.export_spec import ExportSpec
from skincnn.serving.images import OK, UNREADABLE
from skincnn.serving.network import RunNetwork
from skincnn.serving.runtimes import RUNTIMES, with_fixed_size
from skincnn.serving.saved_model import write_saved_model

NAMES = tuple(lesion.name for lesion in HAM10000)
RULE = make_rule(*NAMES)
MODEL = "skincnn_d4"
IMAGE = np.full((40, 50, 3), 99, np.uint8)
PNG = tf.io.encode_png(IMAGE).numpy()
ROW = pd.DataFrame({"age": [50], "sex": ["female"], "localization": ["back"]})


@pytest.fixture(scope="module")
def network() -> RunNetwork:
    """Returns a network that requires clinical metadata."""
    model = replace(CONFIG.model, clinical_metadata=True)
    classifier = build_classifier(model, len(NAMES))
    return RunNetwork(with_distance(classifier), replace(CONFIG, model=model), make_info())


@pytest.fixture
def info(network: RunNetwork, tmp_path: Path) -> ExportInfo:
    spec = ExportSpec(workdir=tmp_path / "run")
    write_text(spec.predictions, "")
    return describe_export(spec, [network], RULE, "onnx")


def test_the_documented_rest_example_works(
    network: RunNetwork, info: ExportInfo, tmp_path: Path
) -> None:
    """`cat` receives the body in place of curl."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    (tmp_path / "x.jpg").write_bytes(PNG)
    usage = render_usage(info, MODEL)
    (command,) = re.findall(r"\n    (printf '[^\n]*\n)", usage)
    command = command.replace("|", "| cat")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True)
    assert f"http://localhost:8501/v1/models/{MODEL}:predict" in usage
    (row,) = json.loads(done.stdout)["instances"]
    content = base64.b64decode(row["image_bytes"]["b64"])
    assert content == PNG
    np.testing.assert_allclose(row["metadata"], encode_clinical_metadata(ROW)[0])
    write_saved_model([network], RULE, tmp_path / "1")
    model = tf.saved_model.load(str(tmp_path / "1"))
    outputs = model.signatures["serving_default"](
        image_bytes=tf.constant([content, b"not an image"]),
        metadata=tf.constant([row["metadata"]] * 2),
    )
    assert outputs["status"].numpy().tolist() == [OK.encode(), UNREADABLE.encode()]
    assert sum(outputs["probabilities"][0].numpy()) == pytest.approx(1, abs=1e-5)
    assert outputs["class_names"][0].numpy().tolist() == [name.encode() for name in NAMES]


@pytest.mark.parametrize("name", ["onnx", "litert"])
def test_the_documented_examples_encode_the_clinical_metadata(
    name: str, network: RunNetwork, info: ExportInfo, tmp_path: Path
) -> None:
    runtime = RUNTIMES[name]
    path = tmp_path / f"{MODEL}{runtime.suffix}"
    inputs = {
        "images": np.float32([IMAGE[:32, :32]]),
        "metadata": encode_clinical_metadata(ROW),
    }
    model = with_fixed_size(network.model, 32, RULE)
    runtime.write(model, inputs, path)
    runtime.embed(path, to_json(info))
    printed = run_example(render_usage(info, MODEL), path, IMAGE)
    assert list(printed) == list(NAMES)
    probabilities = model(inputs)["probabilities"][0]
    np.testing.assert_allclose(list(printed.values()), probabilities, atol=1e-5)
